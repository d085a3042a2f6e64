"""``python -m replay inspect|verify|stats|repair|gc|migrate|export|import STORE``: a store from the outside."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from core.command import run_command, whole
from core.errors import ConfigError
from core.ids import EpisodeId
from replay.episode_store import EpisodeStore
from replay.exchange_commands import add_exchange_commands, find_episode
from replay.interventions import intervention_stats
from replay.progress import episode_progress
from replay.schema import EPISODES_FOLDER, STEP_ARRAYS, EpisodeInfo
from replay.stats import GroupStats, store_stats
from replay.store_command import add_store_command
from replay.upkeep_commands import LABELS_FOLDER, add_upkeep_commands
from replay.verify import verify_episodes, verify_labels

_MEGABYTE = 1e6
_EXAMPLES = """
examples:
  python -m replay inspect runs/demo/replay
  python -m replay inspect runs/demo/replay 3c6e0d
  python -m replay verify runs/demo/replay
  python -m replay repair runs/demo/replay --apply
  python -m replay gc runs/demo/replay --labels runs/demo/labels --labels-before 3
  python -m replay export runs/demo/replay runs/demo_lerobot --collection rollout
  python -m replay import runs/foreign/replay some_lerobot_data_set --task pick_can
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 1 where verify found damage, else as :func:`core.command.run_command` says."""
    options = _parser().parse_args(arguments)

    def command() -> int:
        if options.needs_store and not (options.store / EPISODES_FOLDER).is_dir():
            raise ConfigError(
                f"no replay store at {options.store}: the folder {EPISODES_FOLDER} is missing; a run's store is RUN/replay"
            )
        status: int = options.run(options, Console())
        return status

    return run_command(command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m replay",
        description="Look into a replay store, keep it in order, bring data in and out.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = add_store_command(commands, "inspect", _inspect, help="list the episodes, or show one")
    inspect.add_argument("episode", nargs="?", metavar="EPISODE", help="how an episode's id begins: show it in full")
    inspect.add_argument("--limit", type=whole(0), default=50, help="list so many of the last episodes (default: 50; 0: all)")
    verify = add_store_command(
        commands, "verify", _verify, help="check every byte; exit status 1 and a list if anything is damaged"
    )
    verify.add_argument("--labels", type=Path, help="a label store to check too (default: STORE/labels if there is one)")
    stats = add_store_command(commands, "stats", _stats, help="count episodes, steps and successes by task and collection")
    stats.add_argument("--interventions", action="store_true", help="count takeovers and minutes by checkpoint instead")
    add_upkeep_commands(commands)
    add_exchange_commands(commands)
    return parser


def _inspect(options: argparse.Namespace, console: Console) -> int:
    store = EpisodeStore(options.store)
    ids = store.episode_ids()
    if options.episode:
        return _inspect_one(store, find_episode(ids, options.episode), options.json, console)
    shown = ids[-options.limit :] if options.limit else ids
    infos = [store.info(episode_id) for episode_id in shown]
    if options.json:
        console.print_json(data=[_summary(info) for info in infos])
        return 0
    table = Table(title=f"{options.store}: {len(shown)} of {len(ids)} episodes", box=SIMPLE)
    for column in ("episode", "collection", "end"):
        table.add_column(column, no_wrap=True)
    table.add_column("task", overflow="ellipsis", no_wrap=True)
    for column in ("steps", "human", "policy", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for info in infos:
        table.add_row(
            info.episode_id[:12],
            info.provenance.collection.value,
            info.end.value,
            info.provenance.task,
            str(info.num_steps),
            str(info.num_human_steps),
            _version_range(info.policy_version_min, info.policy_version_max),
            f"{info.num_bytes / _MEGABYTE:.2f}",
        )
    console.print(table)
    return 0


def _inspect_one(store: EpisodeStore, episode_id: EpisodeId, as_json: bool, console: Console) -> int:
    info = store.info(episode_id)
    if as_json:
        console.print_json(data=_summary(info))
        return 0
    facts = Table(title=f"episode {episode_id}", show_header=False)
    for name, value in _summary(info).items():
        facts.add_row(name, value if isinstance(value, str) else json.dumps(value))
    console.print(facts)
    arrays = Table(title="arrays")
    for column in ("name", "type", "shape"):
        arrays.add_column(column)
    for camera in info.env_spec.cameras:
        shape = (info.num_steps + 1, camera.height_px, camera.width_px, 3)
        arrays.add_row(f"images/{camera.name}", f"uint8 ({info.image_encoding.value})", str(shape))
    for name, schema in STEP_ARRAYS.items():
        arrays.add_row(name, schema.dtype, str(schema.shape(info.num_steps, info.env_spec)))
    console.print(arrays)
    return 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    with episode_progress("checking", is_shown=not options.json) as told:
        report = verify_episodes(options.store, told)
    labels = options.labels or options.store / LABELS_FOLDER
    if labels.exists():
        found = verify_labels(labels)
        report.num_labels = found.num_labels
        report.num_bytes += found.num_bytes
        report.damage += found.damage
        report.notes += found.notes
    elif options.labels:
        raise ConfigError(f"no label store at {options.labels}")
    if options.json:
        console.print_json(data=asdict(report))
        return 1 if report.damage else 0
    table = Table("", "found", title=f"verify {options.store}")
    for kind, messages, style in (("damaged", report.damage, "red"), ("note", report.notes, "dim")):
        for message in messages:
            table.add_row(kind, message, style=style)
    if table.row_count:
        console.print(table)
    console.print(
        f"{report.num_episodes} episodes, {report.num_labels} labels, {report.num_bytes / _MEGABYTE:.1f} MB: "
        f"{len(report.damage)} damaged, {len(report.notes)} notes"
    )
    if report.damage:
        console.print(f"`python -m replay repair {options.store}` says what can be kept.", soft_wrap=True)
    return 1 if report.damage else 0


def _stats(options: argparse.Namespace, console: Console) -> int:
    store = EpisodeStore(options.store)
    if options.interventions:
        return _interventions(store, options, console)
    groups = store_stats(store.info(episode_id) for episode_id in store.episode_ids())
    if options.json:
        console.print_json(data=[group.to_json() for group in groups])
        return 0
    table = Table(title=f"{options.store}: {len(store)} episodes", box=SIMPLE)
    table.add_column("task, assets, collection", overflow="fold")
    for column in ("episodes", "steps", "length", "success", "human", "policy", "MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups:
        key = group.key
        table.add_row(f"{key.env}/{key.task}, {key.asset_set}, {key.collection}", *_numbers(group))
    console.print(table)
    return 0


def _interventions(store: EpisodeStore, options: argparse.Namespace, console: Console) -> int:
    rows = intervention_stats(store, store.episode_ids())
    if options.json:
        console.print_json(data=[row.to_json() for row in rows])
        return 0
    table = Table(title=f"{options.store}: who acted, by checkpoint", box=SIMPLE)
    table.add_column("task, checkpoint", overflow="fold")
    for column in ("played", "alone", "takeovers", "per min", "policy min", "human"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        counts = (row.num_episodes, row.num_autonomous_successes, row.num_interventions)
        minutes = (f"{row.policy_minutes:.1f}", f"{row.human_fraction:.1%}")
        table.add_row(f"{row.key.env}/{row.key.task}, {row.key.checkpoint}", *map(str, counts), f"{row.per_minute:.2f}", *minutes)
    console.print(table)
    return 0


def _numbers(group: GroupStats) -> tuple[str, ...]:
    return (
        str(group.num_episodes),
        str(group.num_steps),
        f"{group.num_steps / group.num_episodes:.1f}",
        f"{group.num_successes / group.num_episodes:.1%}",
        str(group.num_human_steps),
        _version_range(group.policy_version_min, group.policy_version_max),
        f"{group.num_bytes / _MEGABYTE:.1f}",
    )


def _summary(info: EpisodeInfo) -> dict[str, Any]:
    summary = asdict(info)
    summary["end"] = info.end.value
    summary["image_encoding"] = info.image_encoding.value
    summary["provenance"]["collection"] = info.provenance.collection.value
    del summary["files"]
    return summary


def _version_range(low: int, high: int) -> str:
    if high < 0:
        return "–"
    return str(low) if low == high else f"{low}–{high}"


if __name__ == "__main__":
    sys.exit(main())
