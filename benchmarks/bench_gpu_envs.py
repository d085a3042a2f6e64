"""How many environment steps a second do the batched SIMPLER tasks make on a GPU, by the number of environments?

``python -m benchmarks.bench_gpu_envs --cpu`` tries the measurement itself out on any machine: few environments, one after the
other, nothing written.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.report import write_report
from core.command import run_command
from core.errors import ConfigError
from envs.simpler.batched.make import has_gpu, make_vec

TASKS = ("google_robot_pick_coke_can", "google_robot_move_near", "google_robot_open_drawer", "widowx_carrot_on_plate")
"""One a family."""
NUM_ENVS = (1, 64, 256, 1024)
IMAGE = (128, 128)
STEPS = 20
WARMUP = 3
GOAL = 1000.0
HEADINGS = (
    "task",
    "environments",
    "image",
    "env steps/s",
    "ms a step of all",
    "reset of all, ms",
    "made in, s",
    "GPU memory, GiB",
)


def main(arguments: Sequence[str] = ()) -> None:
    """Random small motions; one process a row, so that a size that does not fit spoils no other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gpu_envs", description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="try it out without a GPU: one and two environments, 2 steps")
    if parser.parse_args(arguments).cpu:
        for task in TASKS:
            for num_envs in (1, 2):
                _show(_row(task, num_envs, True, "physx_cpu", 2))
        return
    if not has_gpu():
        raise ConfigError(
            "gpu_envs measures physics and rendering on a CUDA device, and torch finds none on this machine; "
            "python -m benchmarks.bench_gpu_envs --cpu tries it out without one"
        )
    rows = [
        _row_of_its_own(task, num_envs, is_rendering) for task in TASKS for num_envs in NUM_ENVS for is_rendering in (False, True)
    ]
    write_report(
        "gpu_envs",
        question="Environment steps per second of SIMPLER in one batch on a GPU, one task of each family",
        headings=HEADINGS,
        rows=rows,
        notes=(
            f"{torch.cuda.get_device_name()}. {STEPS} steps with small random motions (171 physics steps each for the Google "
            f"robot, 100 for the WidowX) after {WARMUP} to warm up; goal: {GOAL:.0f} environment steps/s with "
            f"{IMAGE[0]}x{IMAGE[1]} images.",
            "Builtin assets. Rendering includes colour, segmentation and the photograph behind; images stay on the GPU.",
            "Made in: with the scene with one environment in which the objects fall. GPU memory: all that is in use on the "
            "device, rendering and PhysX included.",
        ),
    )


def _row_of_its_own(task: str, num_envs: int, is_rendering: bool) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_row, args=(sender, task, num_envs, is_rendering))
    process.start()
    sender.close()
    try:
        row: tuple[str, ...] = receiver.recv()
    except EOFError:
        process.join()
        row = (task, str(num_envs), _image(is_rendering), f"failed, exit status {process.exitcode}", "", "", "", "")
    process.join()
    _show(row)
    return row


def _show(row: Sequence[str]) -> None:
    """Say one row as it comes: the whole takes a while."""
    print(", ".join(f"{heading} {cell}" for heading, cell in zip(HEADINGS, row, strict=True)), flush=True)


def _send_row(sender: Any, task: str, num_envs: int, is_rendering: bool) -> None:
    sender.send(_row(task, num_envs, is_rendering, "physx_cuda", STEPS))


def _row(task: str, num_envs: int, is_rendering: bool, sim_backend: str, steps: int) -> tuple[str, ...]:
    made_from_s = _now_s()
    envs = make_vec(task, num_envs=num_envs, sim_backend=sim_backend, obs_size=IMAGE, auto_reset=False, render=is_rendering)
    envs.reset(seed=0)
    made_s = _now_s() - made_from_s
    random = torch.Generator(device=envs.device).manual_seed(0)
    scale = torch.tensor([0.02] * 3 + [0.05] * 3 + [0.0], device=envs.device)
    started_s = 0.0
    for step in range(WARMUP + steps):
        if step == WARMUP:
            started_s = _now_s()
        envs.step(scale * torch.randn(num_envs, 7, generator=random, device=envs.device))
    step_s = (_now_s() - started_s) / steps
    reset_from_s = _now_s()
    envs.reset(seed=1)
    reset_s = _now_s() - reset_from_s
    memory_gib = "-"
    if sim_backend == "physx_cuda":
        free, total = torch.cuda.mem_get_info()
        memory_gib = f"{(total - free) / 2**30:.1f}"
    envs.close()
    return (
        task,
        str(num_envs),
        _image(is_rendering),
        f"{num_envs / step_s:.3g}",
        f"{1000 * step_s:.0f}",
        f"{1000 * reset_s:.0f}",
        f"{made_s:.0f}",
        memory_gib,
    )


def _image(is_rendering: bool) -> str:
    return f"{IMAGE[0]}x{IMAGE[1]}" if is_rendering else "none"


def _now_s() -> float:
    """The time when the GPU, if there is one, has done what it was asked."""
    if has_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
