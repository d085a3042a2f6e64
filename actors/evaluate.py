"""How often a policy, or a player without one, solves a task: fixed seeds, parallel workers, resumable per episode.

Hops 1 to 4 of the tour without learning. Run it again to continue, or with more episodes; equal seeds meet equal initial
states, so that two policies can be compared on the same ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.collection import Purpose, complete, evaluation_seeds, outcomes
from actors.episode_video import imagine_along, write_episode_video
from actors.outcomes import SuccessSummary, summarise
from actors.rollout_runner import PlayerKind
from checkpoints.directory import read_manifest
from cluster.parts import Parts, open_parts
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from configs.build import load_policy, software_version
from configs.command_line import make_parser, run_command
from configs.load import load_config, read_config, write_config
from configs.schema import ExperimentConfig
from core.errors import ConfigError
from core.experience import Collection
from core.ids import EpisodeId
from envs.make import task_of
from learners.display import Display
from learners.run_directory import RunDirectory, write_json


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is measured."""

    name: str
    player: PlayerKind
    policy: PolicyCheckpoint | None = None

    @classmethod
    def of(cls, checkpoint: str) -> Subject:
        """A policy checkpoint, or a player by name.

        Raises:
            ConfigError: if nothing is named.
            CheckpointError: if it is neither a known player nor a checkpoint.
        """
        players = {kind.value: kind for kind in PlayerKind if kind is not PlayerKind.POLICY}
        if checkpoint in players:
            return cls(name=checkpoint, player=players[checkpoint])
        if not checkpoint:
            raise ConfigError(f"nothing to evaluate: set checkpoint=PATH, or one of {', '.join(players)}")
        version = int(read_manifest(Path(checkpoint))["version"])
        name = "_".join(Path(checkpoint).absolute().parts[-3:])
        return cls(name=name, player=PlayerKind.POLICY, policy=PolicyCheckpoint.of(version, checkpoint))


def evaluate(config: ExperimentConfig, run_path: Path, *, display: Display | None = None) -> SuccessSummary:
    """Measure ``config.evaluation.checkpoint`` on the fixed seeds; writes ``evaluation.json`` and videos into the run directory.

    Raises:
        ConfigError: if the run directory was used for something else.
        SpecError: if the checkpoint was made for another environment.
    """
    run, display, subject = RunDirectory(run_path), display or Display(), Subject.of(config.evaluation.checkpoint)
    config = replace(config, players=replace(config.players, player=subject.player))
    with run.locked():
        _remember(config, run)
        with open_parts(config, run=run.name, stores=(run.replay,), labels=run.labels) as parts:
            ids = _play(config, run, parts, subject, display)
            rows = outcomes(parts.store, ids)
            summary = summarise(rows)
            record = {
                "subject": subject.name,
                "checkpoint": config.evaluation.checkpoint,
                "family": config.env.family,
                "task": task_of(config.env),
                "asset_set": config.env.assets,
                "software_version": software_version(),
                **summary.to_json(),
                "episodes": [
                    {"seed": row.seed, "success": row.is_success, "success_once": row.is_success_once, "steps": row.num_steps}
                    for row in rows
                ],
            }
            write_json(run.path / "evaluation.json", record)
            _write_videos(config, run, parts, subject, ids)
    display.say(f"{subject.name} on {task_of(config.env)} ({config.env.assets} assets)")
    display.say(f"success {summary.text} (Wilson 95 %); at any time {100 * summary.success_once:.0f} %")
    display.say(f"mean length {summary.mean_steps:.1f} steps; results in {run.path}")
    return summary


def _play(config: ExperimentConfig, run: RunDirectory, parts: Parts, subject: Subject, display: Display) -> list[EpisodeId]:
    version = subject.policy.version if subject.policy else -1
    purpose = Purpose(run=run.name, collection=Collection.EVALUATION, policy_version=version)
    seeds = evaluation_seeds(config.evaluation.first_seed, config.evaluation.num_episodes)

    def play(missing: list[int]) -> Any:
        specs = [EpisodeSpec(seed=seed, collection=purpose.collection) for seed in missing]
        return parts.pool.collect(specs, policy=subject.policy)

    with display.bar("evaluate", len(seeds), "episodes") as advance:
        return complete(parts.store, purpose, seeds, play, on_count=advance)


def _write_videos(config: ExperimentConfig, run: RunDirectory, parts: Parts, subject: Subject, ids: Sequence[EpisodeId]) -> None:
    policy = load_policy(Path(subject.policy.path)) if subject.policy and config.tracking.num_videos else None
    for episode_id in ids[: config.tracking.num_videos]:
        episode = parts.store.read(episode_id)
        outcome = "success" if episode.is_success else "failure"
        path = run.videos / f"seed_{episode.provenance.seed}_{outcome}.mp4"
        if not path.exists():
            imagination = imagine_along(policy, episode, every_steps=config.rollout.replan_steps) if policy else None
            write_episode_video(path, episode, imagination=imagination, title=f"{subject.name}: ")


def _remember(config: ExperimentConfig, run: RunDirectory) -> None:
    """A run directory serves one subject; only the number of episodes and the workers may change."""
    if run.config_file.exists():
        before = read_config(run.config_file)
        evaluation = replace(config.evaluation, num_episodes=before.evaluation.num_episodes)
        if replace(config, evaluation=evaluation, execution=before.execution, tracking=before.tracking) != before:
            raise ConfigError(f"{run.path} holds an evaluation with another configuration; choose another --run")
    write_config(config, run.config_file)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(
        "actors.evaluate",
        """
        Measure a policy on fixed seeds: success with its Wilson 95 % interval, mean length, videos. Run again to continue.

        examples:
          python -m actors.evaluate --env simpler_google checkpoint=weights/simpler_google/policy episodes=50
          python -m actors.evaluate --env simpler_google checkpoint=expert episodes=20 --json
        """,
        ["env", "evaluation", "players", "rollout", "execution", "tracking", "store"],
    )
    parser.add_argument("--run", metavar="DIR", help="the run directory (default: runs/evaluate_TASK_SUBJECT)")
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object and nothing else")
    options = parser.parse_args(arguments)

    def command() -> None:
        config = load_config(options.config, options.overrides, family=options.env)
        subject = Subject.of(config.evaluation.checkpoint)
        run_path = Path(options.run or Path("runs") / f"evaluate_{task_of(config.env)}_{subject.name}")
        evaluate(config, run_path, display=Display(quiet=options.json))
        if options.json:
            print(json.dumps(json.loads((run_path / "evaluation.json").read_text())))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
