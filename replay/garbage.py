"""Frees what nobody can read any more: leftovers of crashes, and labels under value versions that are not used again.

Experience is never garbage: a committed episode stays.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ConfigError, CorruptDataError
from replay.append_log import read_log, require_undamaged
from replay.episode_log import log_files, parse_entry
from replay.episode_writer import hold_writer_name
from replay.label_store import label_versions
from replay.schema import EPISODES_FOLDER, LOG_SUFFIX, STAGING_FOLDER


@dataclass
class GarbageReport:
    """What was removed, or would be."""

    removed: list[str] = field(default_factory=list)
    num_bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    """Writers that were left alone, and why."""


def collect_garbage(root: Path, *, labels: Path | None = None, labels_before: int = 0, is_dry: bool = False) -> GarbageReport:
    """Remove staged files and folders that no log names, and old labels.

    Args:
        root: of an ``EpisodeStore``; writers that are at work are left alone.
        labels: of a ``LabelStore``.
        labels_before: labels under smaller value versions are removed; they can be made again.
        is_dry: only say what would be removed.

    Raises:
        ConfigError: if ``labels_before`` is given without ``labels``.
    """
    if labels_before > 0 and labels is None:
        raise ConfigError(f"labels before value version {labels_before} are to be removed, but no label store is given")
    report = collect_leftovers(root, is_dry=is_dry)
    if labels is not None:
        for version in label_versions(labels):
            if version < labels_before:
                _remove(labels / f"v{version:08d}", report, is_dry=is_dry)
    return report


def collect_leftovers(root: Path, *, is_dry: bool = False) -> GarbageReport:
    """Remove what writers that died left behind: staged files, and folders that no log names.

    A writer is dead when the lock of its name is free; it is held meanwhile, so that a writer of that name cannot begin.

    Args:
        root: of an ``EpisodeStore``; writers that are at work are left alone.
        is_dry: only say what would be removed.
    """
    report = GarbageReport()
    for path in log_files(root):
        name = path.name.removesuffix(LOG_SUFFIX)
        try:
            with hold_writer_name(root, name):
                part = read_log(path)
                require_undamaged(part, remedy="Run `python -m replay repair` first")
                committed = {parse_entry(record, name, what=str(path)).folder(root) for record in part.records}
                folders = [folder for folder in (root / EPISODES_FOLDER / name).glob("*/") if folder not in committed]
                for folder in sorted([*folders, *(root / STAGING_FOLDER / name).glob("*/")]):
                    _remove(folder, report, is_dry=is_dry)
        except (ConfigError, CorruptDataError) as error:
            report.skipped.append(f"writer {name}: {error}")
    return report


def _remove(folder: Path, report: GarbageReport, *, is_dry: bool) -> None:
    report.removed.append(str(folder))
    report.num_bytes += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if not is_dry:
        shutil.rmtree(folder)
