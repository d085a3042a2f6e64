"""How many environment steps a second do SIMPLER's tasks make, and what do physics and rendering take of a step?"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from benchmarks.report import write_report
from core.errors import AssetError
from envs.simpler.assets import load_asset_set
from envs.simpler.task_env import SimplerTaskEnv

MEASURED = (
    ("google_robot_pick_standing_coke_can", "builtin"),
    ("google_robot_pick_standing_coke_can", "upstream"),
    ("google_robot_move_near", "builtin"),
    ("google_robot_open_top_drawer", "builtin"),
    ("google_robot_place_apple_in_closed_top_drawer", "builtin"),
    ("widowx_spoon_on_towel", "builtin"),
    ("widowx_put_eggplant_in_basket", "builtin"),
)
POLICY_SIZE_PX, UPSTREAM_SIZE_PX = (128, 160), (512, 640)
STEPS = 40
REPEATS = 3

_barrier: multiprocessing.synchronize.Barrier


def main() -> None:
    """One and two processes, random small motions, a reset every 40 steps."""
    rows: list[tuple[str, ...]] = []
    for task, assets in MEASURED:
        try:
            load_asset_set(assets)
        except AssetError as error:
            print(f"{task}, {assets}: skipped ({error})")
            continue
        rows += _rows(task, assets)
    write_report(
        "env",
        question="Environment steps per second of SIMPLER tasks",
        headings=(
            "task",
            "assets",
            "image",
            "steps/s",
            "steps/s, two processes",
            "physics ms",
            "image ms",
            "image share",
            "reset ms",
        ),
        rows=rows,
        notes=(
            f"{REPEATS} episodes of {STEPS} steps with small random motions; the median over episodes. Two processes begin each "
            "episode together; their rates are added.",
            "Physics: a step of the same environment without an image, controller and success rule included. Image: the rest of "
            "a step with one: colour, segmentation, overlay, the copy to a uint8 array, and what rendering costs physics.",
            "One process renders with a software rasteriser that uses all cores, which is why two processes are less than twice "
            "as fast at the larger size.",
            "For comparison: upstream (SAPIEN 2, 640x512, its second camera included) makes 5.4 steps/s on pick coke can, "
            "by the project's reference measurement on another machine of this kind.",
        ),
    )


def _rows(task: str, assets: str) -> list[tuple[str, ...]]:
    physics_s, _ = _seconds(task, assets, None, num_processes=1)
    rows: list[tuple[str, ...]] = []
    for size_px in (POLICY_SIZE_PX, UPSTREAM_SIZE_PX):
        alone_s, reset_s = _seconds(task, assets, size_px, num_processes=1)
        both_s, _ = _seconds(task, assets, size_px, num_processes=2)
        image_s = max(alone_s - physics_s, 0.0)
        times = (f"{1000 * physics_s:.1f}", f"{1000 * image_s:.1f}", f"{image_s / alone_s:.0%}", f"{1000 * reset_s:.0f}")
        rows.append((task, assets, "{}x{}".format(*size_px), f"{1 / alone_s:.1f}", f"{2 / both_s:.1f}", *times))
        print(*rows[-1], flush=True)
    return rows


def _seconds(task: str, assets: str, size_px: tuple[int, int] | None, *, num_processes: int) -> tuple[float, float]:
    """Medians over episodes and processes: seconds a step, seconds a reset."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(num_processes)
    with ProcessPoolExecutor(num_processes, context, initializer=_remember, initargs=(barrier,)) as pool:
        found = [pool.submit(partial(_measure, task, assets, size_px)) for _ in range(num_processes)]
        episodes = [episode for future in found for episode in future.result()]
    return statistics.median(step_s for step_s, _ in episodes), statistics.median(reset_s for _, reset_s in episodes)


def _remember(barrier: multiprocessing.synchronize.Barrier) -> None:
    global _barrier
    _barrier = barrier


def _measure(task: str, assets: str, size_px: tuple[int, int] | None) -> list[tuple[float, float]]:
    """In a process of its own: seconds a step and a reset, of each episode."""
    image = {"render": False} if size_px is None else {"image_height_px": size_px[0], "image_width_px": size_px[1]}
    env = SimplerTaskEnv(task, assets=assets, **image)
    rng = np.random.default_rng(os.getpid())
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    episodes = []
    for seed in range(REPEATS):
        started_s = time.perf_counter()
        env.reset(seed=seed)
        reset_s = time.perf_counter() - started_s
        _barrier.wait()
        started_s = time.perf_counter()
        for _ in range(STEPS):
            env.step(np.append(rng.normal(0, [0.02] * 3 + [0.05] * 3), 0.0).astype(np.float32))
        episodes.append(((time.perf_counter() - started_s) / STEPS, reset_s))
    env.close()
    return episodes
