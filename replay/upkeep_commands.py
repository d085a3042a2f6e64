"""``python -m replay repair|gc|migrate``: the command line of a store's upkeep. Nothing is changed without ``--apply``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from core.command import whole
from core.errors import ConfigError
from replay.episode_store import EpisodeStore, EpisodeStoreConfig, ImageEncoding
from replay.garbage import collect_garbage
from replay.label_store import LabelStore
from replay.migrate import MigrationReport, migrate_episodes, migrate_labels
from replay.progress import episode_progress
from replay.repair import repair_store
from replay.store_command import add_store_command

LABELS_FOLDER = "labels"
_MEGABYTE = 1e6


def add_upkeep_commands(commands: Any) -> None:
    """Add the parsers; each sets ``run``."""
    repair = add_store_command(
        commands, "repair", _repair, help="keep what is whole, put the damaged aside, restore logs (nobody may be at work)"
    )
    repair.add_argument("--apply", action="store_true", help="do it; without, only say what would be done")
    garbage = add_store_command(commands, "gc", _garbage, help="remove what crashes left behind, and old labels")
    garbage.add_argument("--apply", action="store_true", help="do it; without, only say what would be removed")
    garbage.add_argument("--labels", type=Path, help="the label store (default: STORE/labels if there is one)")
    garbage.add_argument("--labels-before", type=whole(0), default=0, metavar="V", help="remove labels of value versions below V")
    migrate = add_store_command(
        commands, "migrate", _migrate, help="copy into a new store under the present schema version; goes on if interrupted"
    )
    migrate.add_argument("target", type=Path, metavar="TARGET", help="the new store's folder; made if there is none")
    migrate.add_argument("--image-encoding", choices=[e.value for e in ImageEncoding], help="default: that of each episode")
    migrate.add_argument("--labels", type=Path, help="a label store to copy too, to TARGET/labels")


def _repair(options: argparse.Namespace, console: Console) -> int:
    report = repair_store(options.store, is_dry=not options.apply)
    if options.json:
        console.print_json(data=asdict(report))
        return 0
    for line in report.done:
        console.print(line, markup=False)
    console.print(f"{report.num_kept} episodes whole, {report.num_recovered} of them recovered, {report.num_lost} put aside")
    _say_if_dry(options, console, is_needed=bool(report.done))
    return 0


def _garbage(options: argparse.Namespace, console: Console) -> int:
    labels = options.labels or options.store / LABELS_FOLDER
    report = collect_garbage(
        options.store,
        labels=labels if labels.exists() else None,
        labels_before=options.labels_before,
        is_dry=not options.apply,
    )
    if options.json:
        console.print_json(data=asdict(report))
        return 0
    for line in [*report.removed, *(f"left alone: {reason}" for reason in report.skipped)]:
        console.print(line, markup=False)
    verb = "removed" if options.apply else "to remove"
    console.print(f"{len(report.removed) or 'no'} folders {verb}, {report.num_bytes / _MEGABYTE:.1f} MB")
    _say_if_dry(options, console, is_needed=bool(report.removed))
    return 0


def _migrate(options: argparse.Namespace, console: Console) -> int:
    if options.target.resolve() == options.store.resolve():
        raise ConfigError(f"{options.target} is the store itself; episodes are never rewritten: name another folder")
    source = EpisodeStore(options.store)
    report = MigrationReport()
    for encoding in ImageEncoding:
        ids = [episode_id for episode_id in source.episode_ids() if _encoding(options, source, episode_id) is encoding]
        if ids:
            target = EpisodeStore(options.target, "migrated", EpisodeStoreConfig(image_encoding=encoding))
            with episode_progress("copying", is_shown=not options.json) as told:
                migrate_episodes(source, target, ids, report, told)
            target.close()
    if options.labels:
        if not options.labels.exists():
            raise ConfigError(f"no label store at {options.labels}")
        migrate_labels(LabelStore(options.labels), LabelStore(options.target / LABELS_FOLDER), source.episode_ids(), report)
    if options.json:
        console.print_json(data=asdict(report))
    else:
        console.print(f"{report.num_copied} episodes copied, {report.num_known} were there, {report.num_labels} labels copied")
    return 0


def _encoding(options: argparse.Namespace, source: EpisodeStore, episode_id: Any) -> ImageEncoding:
    return ImageEncoding(options.image_encoding) if options.image_encoding else source.info(episode_id).image_encoding


def _say_if_dry(options: argparse.Namespace, console: Console, *, is_needed: bool) -> None:
    if is_needed and not options.apply:
        console.print("Nothing was changed; add --apply to do it.")
