"""Makes a damaged store readable again: what is whole stays, what is not is put aside, never deleted.

Only for a store that nobody reads or writes: logs are replaced, which a reader that follows them would take for damage.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.durable import flush, write_atomically
from core.errors import RecapError
from core.ids import parse_episode_id
from replay.append_log import encode_line, read_log
from replay.episode_log import LogEntry, log_files, parse_entry
from replay.episode_writer import hold_writer_name
from replay.schema import EPISODES_FOLDER, LOG_SUFFIX, METADATA_FILE, group_metadata, root_metadata, to_json_bytes
from replay.verify import Report, episode_damage

QUARANTINE_FOLDER = "quarantine"


@dataclass
class RepairReport:
    """What was done, or would be; one line each."""

    done: list[str] = field(default_factory=list)
    num_kept: int = 0
    """Episodes that can be read."""
    num_lost: int = 0
    """Episodes that were put aside."""
    num_recovered: int = 0
    """Whole episodes whose log line was damaged."""


def repair_store(root: Path, *, is_dry: bool = False) -> RepairReport:
    """Repair the logs and metadata of an ``EpisodeStore``.

    Damaged episodes go to ``quarantine/<writer>/<id>``, the log as it was to ``quarantine/<writer>.log``. A log with a
    damaged line gets back the lines of all episodes of its writer whose every byte is as their metadata say.

    Args:
        root: of the store.
        is_dry: only say what would be done.

    Raises:
        ConfigError: if a writer is at work.
    """
    report = RepairReport()
    _restore_metadata(root / EPISODES_FOLDER / METADATA_FILE, root_metadata(), report, is_dry=is_dry)
    for path in log_files(root):
        writer = path.name.removesuffix(LOG_SUFFIX)
        with hold_writer_name(root, writer):
            _repair_writer(root, path, writer, report, is_dry=is_dry)
    return report


def _repair_writer(root: Path, path: Path, writer: str, report: RepairReport, *, is_dry: bool) -> None:
    part = read_log(path)
    if part.records:
        _restore_metadata(root / EPISODES_FOLDER / writer / METADATA_FILE, group_metadata({}), report, is_dry=is_dry)
    kept: list[dict[str, Any]] = []
    bad: list[Path] = []
    for record in part.records:
        entry = _entry(record, writer, path)
        damage = ["the log's line is no episode"] if entry is None else _damage(root, entry)
        if not damage:
            kept.append(record)
            continue
        report.num_lost += 1
        report.done.append(f"writer {writer}: put aside: {damage[0]}")
        if entry is not None and entry.folder(root).exists():
            bad.append(entry.folder(root))
    if part.damage:
        known = {record["episode_id"] for record in kept} | {folder.name for folder in bad}
        for record in _whole(root, writer, known):
            kept.append(record)
            report.num_recovered += 1
            report.done.append(f"writer {writer}: episode {record['episode_id']} is whole; its log line is written again")
    report.num_kept += len(kept)
    if part.torn_bytes:
        report.done.append(f"writer {writer}: {part.torn_bytes} bytes of a torn line cut off")
    is_changed = part.damage or part.torn_bytes or len(kept) != len(part.records)
    if is_changed and not is_dry:
        _replace_log(root, path, kept, bad)


def _entry(record: Mapping[str, Any], writer: str, path: Path) -> LogEntry | None:
    try:
        return parse_entry(record, writer, what=str(path))
    except RecapError:
        return None


def _damage(root: Path, entry: LogEntry) -> list[str]:
    return list(episode_damage(entry.folder(root), entry.group_sha256, Report()))


def _whole(root: Path, writer: str, known: set[str]) -> list[dict[str, Any]]:
    found = []
    for metadata in sorted((root / EPISODES_FOLDER / writer).glob(f"*/{METADATA_FILE}")):
        name = metadata.parent.name
        if name in known:
            continue
        try:
            entry = LogEntry(
                episode_id=parse_episode_id(name), writer=writer, group_sha256=hashlib.sha256(metadata.read_bytes()).hexdigest()
            )
        except ValueError:
            continue
        if not _damage(root, entry):
            found.append({"episode_id": entry.episode_id, "group_sha256": entry.group_sha256})
    return found


def _replace_log(root: Path, path: Path, kept: list[dict[str, Any]], bad: list[Path]) -> None:
    quarantine = root / QUARANTINE_FOLDER
    quarantine.mkdir(exist_ok=True)
    shutil.copy2(path, _free(quarantine / path.name))
    write_atomically(path, b"".join(encode_line(record) for record in kept))
    for folder in bad:  # the log first: what it names must never be missing
        target = _free(quarantine / folder.parent.name / folder.name)
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    flush(quarantine)


def _free(path: Path) -> Path:
    """``path``, or with a number where something lies there from an earlier repair."""
    number = 0
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _restore_metadata(path: Path, expected: dict[str, Any], report: RepairReport, *, is_dry: bool) -> None:
    content = to_json_bytes(expected, what=str(path))
    if path.exists() and path.read_bytes() == content:
        return
    report.done.append(f"{path} is written again")
    if not is_dry:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
