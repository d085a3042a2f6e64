"""How often a policy, or a player without one, solves a task or a suite of tasks: fixed seeds, parallel workers, resumable.

Hops 1 to 4 of the tour without learning. Run it again to continue, or with more episodes; equal seeds meet equal initial
states, so that two policies can be compared on the same ones. Suites are played by :mod:`actors.suite`; this is the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from actors.collection import Purpose, complete, evaluation_seeds, outcomes
from actors.episode_video import imagine_along, write_episode_video
from actors.outcomes import SuccessSummary, summarise
from actors.subjects import Subject
from actors.suite import Selection, play_suite, software_versions
from actors.suite_record import SuiteRecord, merge, write_record
from actors.suite_report import compare, comparison_to_markdown, tabulate, to_markdown
from checkpoints.directory import read_manifest
from cluster.parts import Parts, open_parts
from cluster.rollout_host import EpisodeSpec
from configs.build import load_policy
from configs.command_line import make_parser
from configs.load import load_config, read_config, write_config
from configs.schema import ExperimentConfig
from core.command import run_command, whole
from core.errors import ConfigError
from core.experience import Collection
from core.ids import EpisodeId, digest
from envs.make import task_of
from envs.simpler.assets import load_asset_set
from envs.simpler.embodiment import EMBODIMENTS
from envs.simpler.protocols import SUITES, find_protocol
from envs.simpler.tasks import find_task
from learners.display import Display
from learners.run_directory import RunDirectory, write_json


def evaluate(config: ExperimentConfig, run_path: Path, *, display: Display | None = None) -> SuccessSummary:
    """Measure ``config.evaluation.checkpoint`` on the fixed seeds; writes ``evaluation.json`` and videos into the run directory.

    Raises:
        ConfigError: if the run directory was used for something else.
        SpecError: if the checkpoint was made for another environment.
    """
    run, display, subject = RunDirectory(run_path), display or Display(), Subject.of(config.evaluation.checkpoint)
    quality = subject.expert_quality or config.players.expert_quality
    config = replace(config, players=replace(config.players, player=subject.player, expert_quality=quality))
    with run.locked():
        _remember(config, run)
        with open_parts(config, run=run.name, stores=(run.replay,), labels=run.labels) as parts:
            ids = _play(config, run, parts, subject, display)
            rows = outcomes(parts.store, ids)
            summary, environment = summarise(rows), environment_record(config)
            record = {
                "subject": subject.name,
                "checkpoint": config.evaluation.checkpoint,
                "checkpoint_digest": digest(read_manifest(Path(subject.policy.path))) if subject.policy else None,
                "family": config.env.family,
                "task": task_of(config.env),
                "asset_set": config.env.assets,
                "environment": environment,
                "environment_digest": digest(environment),
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


def environment_record(config: ExperimentConfig) -> dict[str, Any]:
    """All that a success rate depends on but who is measured: equal records may be compared, other ones may not.

    Of an evaluation of one task; a suite's is :func:`actors.suite.environment_digest`.
    """
    env = config.env
    is_simpler = env.family in {robot.family for robot in EMBODIMENTS.values()}
    return {
        "family": env.family,
        "task": task_of(env),
        "image": f"{env.image_height_px} x {env.image_width_px} px",
        "assets": [env.assets, load_asset_set(env.assets).digest()] if is_simpler else "none",
        "backend": env.backend,
        "first_seed": config.evaluation.first_seed,
        "replan_steps": config.rollout.replan_steps,
        "is_stopped_on_success": config.players.is_evaluation_stopped_on_success,
        **software_versions(),
    }


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


# -- suites ----------------------------------------------------------------------------------------------------------


def evaluate_suite(config: ExperimentConfig, options: argparse.Namespace, display: Display) -> list[SuiteRecord]:
    """``--suite``: every subject that ``checkpoint`` lists, one after the other, each in its own run directory."""
    protocol = find_protocol(options.suite)
    selection = Selection(
        tasks=tuple(find_task(task).name for task in (options.tasks or "").split(",") if task),
        episodes_per_task=options.episodes_per_task,
        shard=_shard(options.shard),
    )
    strangers = [task for task in selection.tasks if task not in protocol.tasks]
    if strangers:
        raise ConfigError(f"--tasks {strangers[0]} is not in {protocol.name}, which has {', '.join(protocol.tasks)}")
    checkpoints = [name.strip() for name in config.evaluation.checkpoint.split(",")]
    runs = {name: _suite_run(options, config, Subject.of(name), is_one_of_many=len(checkpoints) > 1) for name in checkpoints}
    records = []
    for name, run_path in runs.items():
        of_one = replace(config, evaluation=replace(config.evaluation, checkpoint=name))
        records.append(play_suite(of_one, protocol, run_path, selection=selection, display=display))
    return records


def _suite_run(options: argparse.Namespace, config: ExperimentConfig, subject: Subject, *, is_one_of_many: bool) -> Path:
    if options.run:
        return Path(options.run) / subject.name if is_one_of_many else Path(options.run)
    return Path("runs") / f"{options.suite}_{config.env.assets}_{subject.name}"


def _shard(text: str | None) -> tuple[int, int]:
    part, _, of = (text or "1/1").partition("/")
    if not (part.isdigit() and of.isdigit() and 1 <= int(part) <= int(of)):
        raise ConfigError(f"--shard {text}: expected I/N with 1 <= I <= N, for example 2/3")
    return int(part), int(of)


def list_suites() -> str:
    """``--list``: names, how many trials each task has, how many of them are outside the averages."""
    lines = []
    for name in SUITES:
        protocol = find_protocol(name)
        lines += [f"{name}: {protocol.title}; {len(protocol.trials)} trials"]
        for task in protocol.tasks:
            trials = protocol.of_task(task)
            extra = sum(not trial.is_averaged for trial in trials)
            lines.append(f"  {task:<48} {len(trials):>4}" + (f"  ({extra} outside the averages)" if extra else ""))
    return "\n".join(lines)


def merge_runs(folders: Sequence[str], run: str | None) -> list[SuiteRecord]:
    """``--merge``: the parts of one evaluation become one; several subjects become one table."""
    records = merge(SuiteRecord.read(Path(folder)) for folder in folders)
    if run:
        folder = Path(run)
        if len(records) == 1:
            write_record(records[0], folder)
        write_json(folder / "evaluation.json", [tabulate(record) for record in records] if records[1:] else tabulate(records[0]))
        (folder / "evaluation.md").write_text(to_markdown(records))
    return records


# -- the command line ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "actors.evaluate",
        """
        Measure a policy on fixed seeds: success with its Wilson 95 % interval, mean length. Run again to continue.
        One task (with videos), or with --suite a published list of trials over many tasks. checkpoint is a policy's folder, or
        hold, random, expert, expert:QUALITY (clean, noisy, mixed); with --suite several, separated by commas.

        examples:
          python -m actors.evaluate --env simpler_google checkpoint=weights/simpler_google/policy episodes=50
          python -m actors.evaluate --env simpler_google checkpoint=expert episodes=20 --json
          python -m actors.evaluate --list
          python -m actors.evaluate --suite simpler_google_vm checkpoint=weights/simpler_google/policy
          python -m actors.evaluate --suite simpler_25 --episodes-per-task 10 checkpoint=hold,random --report table.md
          python -m actors.evaluate --suite simpler_google_vm --shard 1/2 --run runs/first_half checkpoint=expert:clean
          python -m actors.evaluate --merge runs/first_half runs/second_half --run runs/whole
          python -m actors.evaluate --compare runs/whole runs/other_policy
        """,
        ["env", "evaluation", "players", "rollout", "execution", "tracking", "store"],
    )
    parser.add_argument(
        "--run", metavar="DIR", help="the run directory (default: runs/evaluate_TASK_SUBJECT, runs/SUITE_ASSETS_SUBJECT)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON and nothing else")
    suites = parser.add_argument_group("suites")
    suites.add_argument("--suite", metavar="NAME", help="a published protocol: " + ", ".join(SUITES))
    suites.add_argument(
        "--list", action="store_true", help="say which suites there are, and how many trials of which task each has"
    )
    suites.add_argument(
        "--episodes-per-task",
        type=whole(1),
        metavar="N",
        help="a fixed draw of N of each task's trials (a smaller N's are among a larger's); more than there are: repeated",
    )
    suites.add_argument("--tasks", metavar="NAME,...", help="only these tasks of the suite")
    suites.add_argument("--shard", metavar="I/N", help="only the I-th of N parts, for several machines; --merge joins them")
    suites.add_argument(
        "--merge", nargs="+", metavar="DIR", help="join the run directories of one suite; with --run, write the result"
    )
    suites.add_argument("--compare", nargs=2, metavar="DIR", help="paired tests between two run directories of one suite")
    suites.add_argument("--report", metavar="FILE", help="also write the table, of all subjects, to this Markdown file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    display = Display(quiet=options.json)
    written = shlex.join(["python", "-m", "actors.evaluate", *(sys.argv[1:] if arguments is None else arguments)])

    def command() -> None:
        if options.list:
            print(list_suites())
        elif options.compare:
            comparison = compare(*(SuiteRecord.read(Path(folder)) for folder in options.compare))
            _show(options, comparison, comparison_to_markdown(comparison), written)
        elif options.merge:
            records = merge_runs(options.merge, options.run)
            _show(options, [tabulate(record) for record in records], to_markdown(records), written)
        elif options.suite:
            find_protocol(options.suite)
            config = load_config(options.config, options.overrides, family=options.env)
            records = evaluate_suite(config, options, display)
            _show(options, [tabulate(record) for record in records], to_markdown(records), written)
        else:
            _evaluate_task(options, display)

    return run_command(command)


def _show(options: argparse.Namespace, record: Any, text: str, command: str) -> None:
    if options.report:
        Path(options.report).parent.mkdir(parents=True, exist_ok=True)
        Path(options.report).write_text(f"{text.rstrip()}\n\nWritten on {date.today().isoformat()} by `{command}`.\n")
    print(json.dumps(record) if options.json else text)


def _evaluate_task(options: argparse.Namespace, display: Display) -> None:
    config = load_config(options.config, options.overrides, family=options.env)
    subject = Subject.of(config.evaluation.checkpoint)
    run_path = Path(options.run or Path("runs") / f"evaluate_{task_of(config.env)}_{subject.name}")
    evaluate(config, run_path, display=display)
    if options.json:
        print(json.dumps(json.loads((run_path / "evaluation.json").read_text())))


if __name__ == "__main__":
    sys.exit(main())
