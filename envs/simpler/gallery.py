"""A picture of every task's reset, for ``docs/simpler.md``::

    python -m envs.simpler.gallery --out docs/images/simpler
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from tqdm import tqdm

from core.errors import RecapError
from envs.simpler.gym_env import make
from envs.simpler.tasks import ENVIRONMENTS, find_task

_OF_FULL_SIZE = 0.5
"""Half of the benchmark's 640x512 (Google robot) and 640x480 (WidowX): enough to see, small enough to ship."""


def render_reset(task: str, assets: str, seed: int) -> np.ndarray:
    """The policy's view after a reset: uint8 [H, W, 3]."""
    full = (512, 640) if task.startswith("google") else (480, 640)
    env = make(task, assets=assets, obs_size=tuple(int(side * _OF_FULL_SIZE) for side in full))
    try:
        obs, _ = env.reset(seed=seed)
        (camera,) = obs["image"]
        image: np.ndarray = np.asarray(obs["image"][camera]["rgb"])
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
    parser.add_argument("--seed", type=int, default=0, help="of every reset; default: 0")
    parser.add_argument("--tasks", nargs="+", default=ENVIRONMENTS, metavar="NAME", help="default: all")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        for task in tqdm(options.tasks, unit="task"):
            image = render_reset(find_task(task).name, options.assets, options.seed)
            imageio.imwrite(options.out / f"{task}.jpg", image, quality=80)
    except (RecapError, OSError) as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
