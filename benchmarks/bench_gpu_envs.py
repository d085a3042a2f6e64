"""How many environment steps a second does the batched pick task make on a GPU, by the number of environments?"""

from __future__ import annotations

import time

import torch

from benchmarks.report import write_report
from envs.simpler.batched.make import has_gpu, make_vec

TASK = "google_robot_pick_coke_can"
NUM_ENVS = (1, 64, 256, 1024)
IMAGE = (128, 128)
STEPS = 20
WARMUP = 3
GOAL = 1000.0


def main() -> None:
    """Random small motions, no resets; one process per run, environments built one size after the other."""
    if not has_gpu():
        raise SystemExit("error: gpu_envs measures physics and rendering on a CUDA device, and torch finds none on this machine")
    rows = [_row(num_envs, is_rendering) for num_envs in NUM_ENVS for is_rendering in (False, True)]
    write_report(
        "gpu_envs",
        question="Environment steps per second of SIMPLER pick coke can in one batch on a GPU",
        headings=("environments", "image", "env steps/s", "ms a step of all", "reset of all, ms", "GPU memory, GiB"),
        rows=rows,
        notes=(
            f"{torch.cuda.get_device_name()}. {STEPS} steps with small random motions (171 physics steps each) after {WARMUP} to "
            f"warm up; goal: {GOAL:.0f} environment steps/s with {IMAGE[0]}x{IMAGE[1]} images.",
            "Builtin assets. Rendering includes colour, segmentation and the photograph behind; images stay on the GPU.",
            "GPU memory is what the device has in use in all, rendering and PhysX included.",
        ),
    )


def _row(num_envs: int, is_rendering: bool) -> tuple[str, ...]:
    envs = make_vec(TASK, num_envs=num_envs, sim_backend="physx_cuda", obs_size=IMAGE, auto_reset=False, render=is_rendering)
    envs.reset(seed=0)
    random = torch.Generator(device=envs.device).manual_seed(0)
    scale = torch.tensor([0.02] * 3 + [0.05] * 3 + [0.0], device=envs.device)
    started_s = 0.0
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            started_s = _now_s()
        envs.step(scale * torch.randn(num_envs, 7, generator=random, device=envs.device))
    step_s = (_now_s() - started_s) / STEPS
    reset_from_s = _now_s()
    envs.reset(seed=1)
    reset_s = _now_s() - reset_from_s
    free, total = torch.cuda.mem_get_info()
    envs.close()
    image = f"{IMAGE[0]}x{IMAGE[1]}" if is_rendering else "none"
    return (
        str(num_envs),
        image,
        f"{num_envs / step_s:.0f}",
        f"{1000 * step_s:.0f}",
        f"{1000 * reset_s:.0f}",
        f"{(total - free) / 2**30:.1f}",
    )


def _now_s() -> float:
    """The time when the GPU has done what it was asked."""
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
