"""What a video policy imagined against what then happened: robot-motion similarity, side-by-side videos, a report.

Hops 1 and 2 of the tour, played open loop: at each look the policy draws its actions and the frames it expects of them, those
actions are executed to the last, and the frames that came are put beside the imagined ones. A control compares each imagined
clip with what came after another look of the same episode: a similarity that is no better than that says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as imageio
import numpy as np
import torch
from numpy.typing import NDArray

from actors.collection import evaluation_seeds
from actors.imagination_pages import contact_sheet, page
from actors.motion_similarity import MotionConfig, MotionSimilarity, Tracks, compare_tracks, motion_similarity, moving_foreground
from configs.build import load_policy
from configs.command_line import make_parser
from configs.load import load_config
from configs.schema import ExperimentConfig
from core.command import run_command
from core.errors import ConfigError
from envs.make import make_env, task_of
from envs.task_env import TaskEnv
from learners.display import Display

_SECONDS_A_LOOK = 1.5


@dataclass(frozen=True, kw_only=True)
class Look:
    """One draw of the policy, and what came of it."""

    t: int
    offsets: tuple[int, ...]
    """Environment steps from ``t`` of each frame; the first is 0."""
    real: NDArray[np.uint8]
    """[F, H, W, 3] in the model's size."""
    imagined: NDArray[np.uint8]
    """Like ``real``; the first is the present as the policy's codec shows it."""
    foreground: NDArray[np.bool_]
    """[H, W] of the present."""


@dataclass(frozen=True, kw_only=True)
class ImaginedEpisode:
    """One episode with all its looks."""

    seed: int
    instruction: str
    is_success: bool
    num_steps: int
    looks: tuple[Look, ...]


def play(env: TaskEnv, policy: Any, seed: int) -> ImaginedEpisode:
    """Play one episode, a whole chunk a look.

    Args:
        env: with a ``robot_mask``, that is the foreground; otherwise what differs from the episode's median image.
        policy: a ``VideoVla``.
        seed: of the environment; the policy's noise follows from it.

    Raises:
        ConfigError: if the policy's first imagined frame is beyond its last action.
    """
    offsets = compared_offsets(policy)
    observation, _ = env.reset(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    camera, instruction = policy.config.camera, env.instruction
    images, looks, masks, is_over, is_success = [observation.images[camera]], [], {}, False, False
    while not is_over:
        t = len(images) - 1
        if hasattr(env, "robot_mask"):
            masks[t] = env.robot_mask()
        [sample] = policy.sample([observation], [env.instruction], [generator])
        looks.append((t, sample))
        for action in sample.chunk.actions[: offsets[-1]]:
            observation, _, terminated, truncated, info = env.step(action)
            images.append(observation.images[camera])
            is_over, is_success = terminated or truncated, bool(info["success"])
            if is_over:
                break
    video = np.stack(images)
    moving = None if masks else moving_foreground(video)
    return ImaginedEpisode(
        seed=seed,
        instruction=instruction,
        is_success=is_success,
        num_steps=len(images) - 1,
        looks=tuple(
            _look(t, offsets, video, sample.present[camera], sample.frames[camera], masks[t] if moving is None else moving[t])
            for t, sample in looks
            if t + offsets[1] < len(video)
        ),
    )


def compared_offsets(policy: Any) -> tuple[int, ...]:
    """Those of the policy's frames that its own actions lead to: 0, then at most the action horizon.

    Raises:
        ConfigError: if there is no such frame but the present.
    """
    offsets = tuple(k for k in policy.window_spec.image_offsets if k <= policy.config.action_horizon)
    if len(offsets) < 2:
        raise ConfigError(
            f"the policy imagines frames {policy.window_spec.image_offsets} steps ahead and predicts "
            f"{policy.config.action_horizon} actions: none of its frames is what these lead to, so there is nothing to compare"
        )
    return offsets


def _look(
    t: int,
    offsets: tuple[int, ...],
    video: NDArray[np.uint8],
    present: NDArray[np.uint8],
    future: NDArray[np.uint8],
    mask: NDArray[np.bool_],
) -> Look:
    reached = tuple(k for k in offsets if t + k < len(video))
    imagined = np.concatenate([present[None], future])[: len(reached)]
    size = imagined.shape[2], imagined.shape[1]
    real = np.stack([cv2.resize(video[t + k], size, interpolation=cv2.INTER_AREA) for k in reached])
    foreground = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    return Look(t=t, offsets=reached, real=real, imagined=imagined, foreground=foreground)


@dataclass(frozen=True, kw_only=True)
class EpisodeReport:
    """An episode in numbers."""

    seed: int
    instruction: str
    is_success: bool
    num_steps: int
    num_looks: int
    similarity: float | None
    """Mean over the looks at which something moved."""
    control: float | None
    """The same, each imagined clip beside what came after the next look."""
    looks: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, episode: ImaginedEpisode, found: Sequence[MotionSimilarity], config: MotionConfig) -> EpisodeReport:
        """From the similarity of each look."""
        controls = []
        for k, one in enumerate(found):
            # Only clips of equal length: the last may be cut short.
            other = found[(k + 1) % len(found)]
            if len(found) > 1 and other.real.position.shape[1] == one.imagined.position.shape[1]:
                controls.append(_directions_alike(other.real, one.imagined, config))
        return cls(
            seed=episode.seed,
            instruction=episode.instruction,
            is_success=episode.is_success,
            num_steps=episode.num_steps,
            num_looks=len(found),
            similarity=_mean([one.similarity for one in found]),
            control=_mean(controls),
            looks=tuple(
                {
                    "t": look.t,
                    "similarity": one.similarity,
                    "pairs": one.num_pairs,
                    "moving_pairs": one.num_moving_pairs,
                    "real_motion": _median_length(one.real),
                    "imagined_motion": _median_length(one.imagined),
                }
                for look, one in zip(episode.looks, found, strict=True)
            ),
        )


def _directions_alike(real: Tracks, imagined: Tracks, config: MotionConfig) -> float | None:
    """Similarity of tracks that need not start together: the robot has moved on between two looks."""
    if not len(real.position) or not len(imagined.position):
        return None
    shift = real.position[:, 0].mean(axis=0) - imagined.position[:, 0].mean(axis=0)
    moved = Tracks(position=imagined.position + shift)
    return compare_tracks(real, moved, config).similarity


def _median_length(tracks: Tracks) -> float:
    """In image heights."""
    return float(np.median(np.linalg.norm(tracks.displacement[:, -1], axis=1))) if len(tracks.position) else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def report(config: ExperimentConfig, run: Path, display: Display) -> list[EpisodeReport]:
    """Play ``evaluation.num_episodes`` episodes and write report, videos and pictures into ``run``."""
    if not config.evaluation.checkpoint:
        raise ConfigError("nothing to look at: set checkpoint=PATH of a video policy")
    env = make_env(config.env)
    policy: Any = load_policy(Path(config.evaluation.checkpoint), env.env_spec)
    if not hasattr(policy, "sample"):
        raise ConfigError(f"{config.evaluation.checkpoint} is a {type(policy).__name__}, which imagines nothing")
    motion, reports = MotionConfig(), []
    (run / "videos").mkdir(parents=True, exist_ok=True)
    try:
        for seed in evaluation_seeds(config.evaluation.first_seed, config.evaluation.num_episodes):
            episode = play(env, policy, seed)
            found = [motion_similarity(look.real, look.imagined, look.foreground, motion) for look in episode.looks]
            reports.append(EpisodeReport.of(episode, found, motion))
            _draw(run, episode, found)
            display.say(_line(reports[-1]))
    finally:
        env.close()
    record = {
        "task": task_of(config.env),
        "checkpoint": config.evaluation.checkpoint,
        **summary(reports),
        "episodes": [vars(one) for one in reports],
    }
    (run / "imagination.json").write_text(json.dumps(record, indent=2) + "\n")
    (run / "imagination.md").write_text(to_markdown(record))
    return reports


def summary(reports: Sequence[EpisodeReport]) -> dict[str, Any]:
    """Means over episodes, of all, of those that succeeded and of those that did not."""
    groups = {
        "all": reports,
        "success": [one for one in reports if one.is_success],
        "failure": [one for one in reports if not one.is_success],
    }
    return {
        "similarity": {name: _mean([one.similarity for one in group]) for name, group in groups.items()},
        "control": _mean([one.control for one in reports]),
        "num_episodes": {name: len(group) for name, group in groups.items()},
    }


def to_markdown(record: dict[str, Any]) -> str:
    """The report as a table."""
    similar, counts = record["similarity"], record["num_episodes"]
    lines = [
        f"# Imagination against execution: {record['task']}",
        "",
        f"Checkpoint `{record['checkpoint']}`. Robot-motion similarity: 1 same directions, 0.5 unrelated, 0 opposite.",
        "",
        f"all episodes ({counts['all']}): {_text(similar['all'])}; successes ({counts['success']}): {_text(similar['success'])}; "
        f"failures ({counts['failure']}): {_text(similar['failure'])}; control, beside another look: {_text(record['control'])}",
        "",
        "| seed | instruction | outcome | looks | similarity | control | real motion | imagined motion |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in record["episodes"]:
        real, imagined = (_mean([look[f"{kind}_motion"] for look in one["looks"]]) for kind in ("real", "imagined"))
        outcome = "success" if one["is_success"] else "failure"
        lines.append(
            f"| {one['seed']} | {one['instruction']} | {outcome} | {one['num_looks']} | {_text(one['similarity'])} | "
            f"{_text(one['control'])} | {_text(real)} | {_text(imagined)} |"
        )
    return "\n".join([*lines, "", "Motion: median length of a point's way, in image heights, mean over looks.", ""])


def _draw(run: Path, episode: ImaginedEpisode, found: Sequence[MotionSimilarity]) -> None:
    if not episode.looks:
        return
    pages = [
        page(look.real, look.imagined, one, frame=frame, title=f"{episode.instruction}, t = {look.t} + {look.offsets[frame]}")
        for look, one in zip(episode.looks, found, strict=True)
        for frame in range(1, len(look.real))
    ]
    frames_a_look = max(1, len(pages) // len(episode.looks))
    imageio.mimwrite(
        run / "videos" / f"seed_{episode.seed}.mp4",
        pages,  # type: ignore[arg-type]  # a list of arrays is what it takes
        fps=frames_a_look / _SECONDS_A_LOOK,
        codec="libx264",
        quality=8,
        macro_block_size=2,
    )
    imageio.imwrite(run / f"seed_{episode.seed}.png", contact_sheet(pages[frames_a_look - 1 :: frames_a_look]))


def _line(one: EpisodeReport) -> str:
    outcome = "success" if one.is_success else "failure"
    scores = f"similarity {_text(one.similarity)}, control {_text(one.control)}"
    return f"seed {one.seed}: {outcome} after {one.num_steps} steps, {scores}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# -- the command line ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(
        "actors.imagination",
        """
        Compare what a video policy imagined with what its actions led to: robot-motion similarity, videos side by side.

        example:
          python -m actors.imagination --env simpler_google checkpoint=weights/simpler_google/policy episodes=4
        """,
        ["env", "evaluation"],
    )
    parser.add_argument("--run", metavar="DIR", default="runs/imagination", help="where to write (default: runs/imagination)")
    options = parser.parse_args(arguments)

    def command() -> None:
        config = load_config(options.config, options.overrides, family=options.env)
        display = Display()
        reports = report(config, Path(options.run), display)
        similar = summary(reports)["similarity"]["all"]
        display.say(f"similarity {_text(similar)} over {len(reports)} episodes; report in {options.run}")

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
