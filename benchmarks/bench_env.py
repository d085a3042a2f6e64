"""How many environment steps a second does SIMPLER's pick task make, with and without rendering?"""

from __future__ import annotations

import statistics
import time

import numpy as np

from benchmarks.report import write_report
from core.errors import AssetError
from envs.simpler.task_env import SimplerTaskEnv

TASK = "google_robot_pick_standing_coke_can"
STEPS = 40
REPEATS = 3


def main() -> None:
    """One process, random small motions, a reset every 40 steps."""
    rows = []
    for assets in ("builtin", "upstream"):
        try:
            rows += [
                _row(assets, "no rendering", image=(128, 160), render=False),
                _row(assets, "128x160", image=(128, 160), render=True),
                _row(assets, "512x640", image=(512, 640), render=True),
            ]
        except AssetError as error:
            print(f"{assets} assets: skipped ({error})")
    write_report(
        "env",
        question="Environment steps per second of SIMPLER pick standing coke can, one process",
        headings=("assets", "image", "steps/s (median)", "ms a step", "reset ms"),
        rows=rows,
        notes=(
            f"{REPEATS} episodes of {STEPS} steps with small random motions (171 physics steps each); the median over episodes.",
            "Rendering includes colour, segmentation, overlay and the copy to a uint8 array.",
            "For comparison, the reference measured upstream (SAPIEN 2, 640x512, its second camera included) at about 3 steps/s "
            "on such a machine.",
        ),
    )


def _row(assets: str, what: str, *, image: tuple[int, int], render: bool) -> tuple[str, ...]:
    env = SimplerTaskEnv(TASK, assets=assets, image_height_px=image[0], image_width_px=image[1], render=render)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    steps_s, resets_s = [], []
    for seed in range(REPEATS):
        started_s = time.perf_counter()
        env.reset(seed=seed)
        reset_s = time.perf_counter()
        for _ in range(STEPS):
            env.step(np.append(rng.normal(0, [0.02] * 3 + [0.05] * 3), 0.0).astype(np.float32))
        resets_s.append(reset_s - started_s)
        steps_s.append((time.perf_counter() - reset_s) / STEPS)
    env.close()
    step_s = statistics.median(steps_s)
    return assets, what, f"{1 / step_s:.1f}", f"{1000 * step_s:.1f}", f"{1000 * statistics.median(resets_s):.0f}"


if __name__ == "__main__":
    main()
