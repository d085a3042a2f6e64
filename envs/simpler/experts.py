"""Scripted experts by task family: demonstrations with known quality, and the proof that each task can be solved.

Hop 1 of the tour, on the acting side. What they share is in :mod:`envs.simpler.expert_base`, how well they work in
:mod:`envs.simpler.expert_quality`; each family's own part is the module that :data:`EXPERTS` names.

Command line::

    python -m envs.simpler.experts --task google_robot_pick_standing_coke_can --quality mixed --episodes 5 --video look.mp4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.command import run_command, whole
from core.errors import ConfigError
from envs.simpler.expert_base import ScriptedExpert
from envs.simpler.expert_drawer import DrawerExpert
from envs.simpler.expert_move_near import MoveNearExpert
from envs.simpler.expert_pick import PickAnyExpert, PickExpert
from envs.simpler.expert_place_in_drawer import PlaceInDrawerExpert
from envs.simpler.expert_put_on import PutOnExpert
from envs.simpler.expert_quality import QUALITIES, ExpertConfig, expert_config
from envs.simpler.tasks import find_task

EXPERTS: Mapping[str, type[ScriptedExpert]] = MappingProxyType(
    {
        "pick": PickExpert,
        "pick_object": PickAnyExpert,
        "move_near": MoveNearExpert,
        "drawer": DrawerExpert,
        "place_in_drawer": PlaceInDrawerExpert,
        "put_on": PutOnExpert,
    }
)
"""Task family -> expert; a family's module adds its line here."""


def make_expert(task: str, quality: str | ExpertConfig, rng: np.random.Generator) -> ScriptedExpert:
    """The expert for a task.

    Args:
        task: a public SIMPLER name.
        quality: a name in :data:`envs.simpler.expert_quality.QUALITIES`, or a distribution of one's own.
        rng: of the flaws and the noise.

    Raises:
        ConfigError: unknown task or quality, or a family without an expert.
    """
    family = find_task(task).family
    if family not in EXPERTS:
        raise ConfigError(f"no scripted expert for {task!r}; families with one: {', '.join(EXPERTS)}")
    return EXPERTS[family](expert_config(quality) if isinstance(quality, str) else quality, rng)


# -- looking at it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstration:
    """One episode's outcome, for looking at."""

    seed: int
    is_success: bool
    num_steps: int
    annotations: Mapping[str, Any]
    frames: list[NDArray[np.uint8]]


def demonstrate(
    env: Any,
    expert: ScriptedExpert,
    *,
    seed: int,
    options: dict[str, Any] | None = None,
    keep_frames: bool = False,
    to_the_end: bool = False,
) -> Demonstration:
    """Let the expert act through one episode of a :class:`envs.simpler.task_env.SimplerTaskEnv`.

    Args:
        env: to act in.
        expert: of its task.
        seed: of the episode.
        options: of the reset.
        keep_frames: keep the images.
        to_the_end: go on after success until the time limit, and count the last step's verdict, as upstream's evaluation does.
    """
    observation, info = env.reset(seed=seed, options=options)
    expert.reset(env)
    frames, is_over = [], False
    while not is_over:
        if keep_frames:
            frames += list(observation.images.values())[:1]
        observation, _, terminated, truncated, info = env.step(expert.act().executed)
        is_over = truncated or (terminated and not to_the_end)
    annotations = expert.annotations()
    return Demonstration(seed, bool(info["success"]), annotations["num_steps"], annotations, frames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs.simpler.experts", description="Watch or measure the scripted expert.")
    parser.add_argument("--task", default="google_robot_pick_standing_coke_can")
    parser.add_argument("--assets", default="builtin", help="builtin or upstream")
    parser.add_argument("--quality", default="clean", help=", ".join(QUALITIES))
    parser.add_argument("--max-attempts", type=whole(1), help="override how often it tries")
    parser.add_argument("--episodes", type=whole(1), default=5)
    parser.add_argument("--seed", type=whole(0), default=0, help="of the first episode")
    parser.add_argument(
        "--to-the-end", action="store_true", help="count the last step before the time limit, not the first success"
    )
    parser.add_argument("--video", type=Path, help="write all episodes, one after the other, to this .mp4")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        config = expert_config(options.quality)
        if options.max_attempts is not None:
            config = replace(config, max_attempts=options.max_attempts)
        _show(options, config)

    return run_command(command)


def _show(options: argparse.Namespace, config: ExpertConfig) -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    size = {"image_height_px": 512, "image_width_px": 640} if options.video else {"render": False}
    env = SimplerTaskEnv(options.task, assets=options.assets, **size)
    shown: list[Demonstration] = []
    for seed in range(options.seed, options.seed + options.episodes):
        expert = make_expert(options.task, config, np.random.default_rng([seed, 1]))
        keep_frames = options.video is not None
        shown.append(demonstrate(env, expert, seed=seed, keep_frames=keep_frames, to_the_end=options.to_the_end))
        episode = shown[-1]
        flaws = ", ".join(f"{i['kind']} [{i['m']}, {i['n']})" for i in episode.annotations["intervals"]) or "-"
        outcome = "success" if episode.is_success else "failure"
        print(f"seed {seed}: {outcome} in {episode.num_steps} steps; grip {episode.annotations['grip']}; {flaws}")
    env.close()
    successes = sum(episode.is_success for episode in shown)
    mean_steps = np.mean([episode.num_steps for episode in shown])
    print(f"{options.task}, {options.assets}, {options.quality}: {successes}/{len(shown)} succeeded, mean {mean_steps:.1f} steps")
    if options.video:
        import imageio.v2 as imageio

        frames: list[Any] = [frame for episode in shown for frame in episode.frames]
        imageio.mimwrite(options.video, frames, fps=6, macro_block_size=16)
        print(f"wrote {options.video} ({len(frames)} frames)")


if __name__ == "__main__":
    sys.exit(main())
