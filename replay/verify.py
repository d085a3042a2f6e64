"""Checks every byte of a store against what was committed, and names all that is wrong instead of stopping at the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import RecapError
from replay.append_log import read_log
from replay.durable import file_digest
from replay.episode_files import open_shard, read_info, shard_file
from replay.episode_log import LogEntry, log_files, parse_entry
from replay.label_store import label_files, label_versions, parse_record
from replay.schema import (
    EPISODES_FOLDER,
    LOG_SUFFIX,
    METADATA_FILE,
    STAGING_FOLDER,
    EpisodeInfo,
    group_metadata,
    root_metadata,
    to_json_bytes,
)

OnEpisode = Callable[[int, int], None]
"""Called with (episodes checked so far, episodes in all)."""


@dataclass
class Report:
    """What was found."""

    num_episodes: int = 0
    num_bytes: int = 0
    num_labels: int = 0
    damage: list[str] = field(default_factory=list)
    """What was committed and is not as it was: one message a damaged thing."""
    notes: list[str] = field(default_factory=list)
    """What a crash left behind; harmless."""


def verify_episodes(root: Path, on_episode: OnEpisode | None = None) -> Report:
    """Check logs, metadata, and every file of every committed episode.

    Args:
        root: of an ``EpisodeStore``.
        on_episode: told of progress.
    """
    report = Report()
    _check_metadata(root / EPISODES_FOLDER / METADATA_FILE, root_metadata(), report)
    entries: list[LogEntry] = []
    for path in log_files(root):
        writer = path.name.removesuffix(LOG_SUFFIX)
        part = read_log(path)
        report.damage.extend(part.damage)
        if part.torn_bytes:
            report.notes.append(f"{path}: {part.torn_bytes} bytes of a line that a crash tore, or that is being written")
        for record in part.records:
            try:
                entries.append(parse_entry(record, writer, what=str(path)))
            except RecapError as error:
                report.damage.append(str(error))
        if part.records:
            _check_metadata(root / EPISODES_FOLDER / writer / METADATA_FILE, group_metadata({}), report)
    for number, entry in enumerate(entries, start=1):
        report.num_episodes += 1
        report.damage.extend(episode_damage(entry.folder(root), entry.group_sha256, report))
        if on_episode is not None:
            on_episode(number, len(entries))
    committed = {entry.folder(root) for entry in entries}
    report.notes.extend(
        f"{folder}: no log names it; a crash left it, or it is being committed"
        for folder in sorted((root / EPISODES_FOLDER).glob("*/*/"))
        if folder not in committed
    )
    report.notes.extend(f"{folder}: left in staging" for folder in sorted((root / STAGING_FOLDER).glob("*/*")))
    return report


def verify_labels(root: Path) -> Report:
    """Check every line of every log of a ``LabelStore``."""
    report = Report()
    for version in label_versions(root):
        for path in label_files(root, version):
            part = read_log(path)
            report.damage.extend(part.damage)
            if part.torn_bytes:
                report.notes.append(f"{path}: {part.torn_bytes} bytes of a line that a crash tore, or that is being written")
            for record in part.records:
                try:
                    parse_record(record, version, what=str(path))
                    report.num_labels += 1
                except RecapError as error:
                    report.damage.append(str(error))
            report.num_bytes += path.stat().st_size
    return report


def _check_metadata(path: Path, expected: dict[str, object], report: Report) -> None:
    if not path.exists():
        report.damage.append(f"{path} is missing; other Zarr programs cannot open the store without it")
    elif path.read_bytes() != to_json_bytes(expected, what=str(path)):
        report.damage.append(f"{path} does not hold what this version writes: {expected}")


def episode_damage(folder: Path, group_sha256: str, report: Report) -> Iterator[str]:
    """Check every file of an episode.

    Args:
        folder: the episode's group.
        group_sha256: of its metadata, as the log says.
        report: gets the bytes that were read, and notes.

    Returns:
        One message a damaged thing.
    """
    try:
        info = read_info(folder, group_sha256)
    except RecapError as error:
        yield str(error)
        return
    for name, expected in info.files.items():
        path = folder / name
        if not path.exists():
            yield f"episode {info.episode_id}: {name} is missing"
            continue
        found = file_digest(path)
        report.num_bytes += found.num_bytes
        if found != expected:
            yield (
                f"episode {info.episode_id}: {name} has {found.num_bytes} bytes, sha256 {found.sha256[:16]}...; "
                f"expected {expected.num_bytes} bytes, sha256 {expected.sha256[:16]}...{_where(folder, info, name)}"
            )
    stray = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - set(info.files) - {METADATA_FILE}
    report.notes.extend(f"episode {info.episode_id}: {name} does not belong to it" for name in sorted(stray))


def _where(folder: Path, info: EpisodeInfo, name: str) -> str:
    """Which frames are hit, where the file is a shard."""
    for camera in info.env_spec.cameras:
        if name == shard_file(info, camera.name):
            try:
                frames = open_shard(folder, info, camera.name).damaged_frames()
            except RecapError as error:
                return f": {error}"
            return f": camera {camera.name}, frames {frames}"
    return ""
