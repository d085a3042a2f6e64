"""A picture of every task's reset, for ``docs/simpler.md``: ``python -m envs.simpler.gallery --out docs/images/simpler``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from core.command import run_command, whole
from envs.simpler.gym_env import make
from envs.simpler.tasks import ENVIRONMENTS, find_task

_GOOGLE_ROBOT_PX, _WIDOWX_PX = (256, 320), (240, 320)
"""Half of the benchmark's height and width: enough to see, small enough to ship."""


def render_reset(task: str, assets: str, seed: int) -> NDArray[np.uint8]:
    """The policy's view after a reset: uint8 [H, W, 3]."""
    env = make(task, assets=assets, obs_size=_GOOGLE_ROBOT_PX if task.startswith("google_robot") else _WIDOWX_PX)
    try:
        obs, _ = env.reset(seed=seed)
        (camera,) = obs["image"]
        image: NDArray[np.uint8] = np.asarray(obs["image"][camera]["rgb"])
        return image
    finally:
        env.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.simpler.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="NAME.jpg is written there for each task")
    parser.add_argument("--assets", default="builtin", choices=("builtin", "upstream"), help="default: builtin")
    parser.add_argument("--seed", type=whole(0), default=0, help="of every reset; default: 0")
    parser.add_argument("--tasks", nargs="+", default=ENVIRONMENTS, metavar="NAME", help="default: all")
    options = parser.parse_args(arguments)

    def command() -> None:
        options.out.mkdir(parents=True, exist_ok=True)
        for task in tqdm(options.tasks, unit="task"):
            image = render_reset(find_task(task).name, options.assets, options.seed)
            imageio.imwrite(options.out / f"{task}.jpg", image, quality=80)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
