"""A run's folder: what was asked for, what is done, what was measured. Survives a kill at any moment.

runs/NAME/
  config.yaml            the resolved configuration
  journal.jsonl          one line a finished phase, with its result; a phase in it is never done again
  metrics.jsonl          one line a measurement; also in tensorboard/
  events.jsonl           one line an episode, labelling, learner step, warning; see docs/observability.md
  replay/  labels/       experience, and what the value models say of it
  checkpoints/           policy_000, value_001, ...; published.json names the newest policy
  train_state/           of the phase in progress
  videos/  learning_curve.png  summary.json  report.html
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import ConfigError, CorruptDataError, StorageFullError


class RunDirectory:
    """Paths of a run, and the journal of its phases.

    Invariant: a phase is in the journal exactly when it finished and its result is on disk.
    """

    def __init__(self, path: Path) -> None:
        """Open or create; another process must not be working on it, see :meth:`locked`."""
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.replay = self.path / "replay"
        self.labels = self.path / "labels"
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.tensorboard = self.path / "tensorboard"
        self.metrics_file = self.path / "metrics.jsonl"
        self._journal_file = self.path / "journal.jsonl"
        self._journal = {row["phase"]: row for row in read_json_lines(self._journal_file)}

    @property
    def name(self) -> str:
        """The folder's own name; part of the provenance of every episode."""
        return self.path.name

    def policy(self, version: int) -> Path:
        """Where a policy version is."""
        return self.checkpoints / f"policy_{version:03d}"

    def value(self, version: int) -> Path:
        """Where a value version is."""
        return self.checkpoints / f"value_{version:03d}"

    def train_state(self, phase: str) -> Path:
        """Where the train states of a phase are."""
        return self.path / "train_state" / phase.replace("/", "_")

    def forget_train_states(self, first_iteration: int) -> None:
        """Have fits in progress begin again, those of that iteration and of later ones."""
        for folder in self.path.glob("train_state/*"):
            if int(folder.name.split("_")[0]) >= first_iteration:
                shutil.rmtree(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            ConfigError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ConfigError(f"{self.path} is in use by another process; wait for it or choose another run") from None
            self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """What an earlier life was writing when it was killed; all of it has such a name until it is whole."""
        for folder in (self.path, self.checkpoints, *self.path.glob("train_state/*")):
            for left in folder.glob(".*.partial"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def once(self, phase: str, work: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Do a phase, or take its result from the journal.

        Args:
            phase: for example ``"002/label"``.
            work: does it and returns a JSON-like result; must itself continue what an interruption left half done.

        Returns:
            The result, with ``wall_s``.
        """
        if phase not in self._journal:
            started_s = time.perf_counter()
            result = dict(work())
            row = {"phase": phase, "result": {**result, "wall_s": round(time.perf_counter() - started_s, 3)}}
            append_json_line(self._journal_file, row)
            self._journal[phase] = row
        return self.result(phase)

    def amend(self, phase: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Replace parts of the result of a phase that is done; the line that is added counts."""
        row = {"phase": phase, "result": {**self.result(phase), **changes}}
        append_json_line(self._journal_file, row)
        self._journal[phase] = row
        return self.result(phase)

    def is_done(self, phase: str) -> bool:
        """Whether the journal holds the phase."""
        return phase in self._journal

    def result(self, phase: str) -> dict[str, Any]:
        """The result of a phase that is done.

        Raises:
            ConfigError: if it is not.
        """
        if phase not in self._journal:
            raise ConfigError(f"run {self.path} has not finished phase {phase}; let it finish first (--resume {self.path})")
        return dict(self._journal[phase]["result"])

    def publish(self, version: int) -> None:
        """Name the policy that actors play from now on; replaced in one step."""
        write_json(self.checkpoints / "published.json", {"version": version, "policy": self.policy(version).name})

    def published(self) -> int:
        """The version that actors play; 0 before anything was published."""
        file = self.checkpoints / "published.json"
        return int(json.loads(file.read_text())["version"]) if file.exists() else 0


def write_json(path: Path, record: Any) -> None:
    """Write a JSON file so that a reader sees the old or the new one, never a part."""
    with _full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.{os.getpid()}.partial")
        staging.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
        staging.replace(path)


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line and wait until it is on disk."""
    with _full_disk_named(path), path.open("a") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All lines; a last one without its line end (the writer was killed while writing it) is cut off and forgotten.

    Raises:
        CorruptDataError: if any other line is not JSON.
    """
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        with path.open("r+") as file:
            file.truncate(len(whole.encode()))
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise CorruptDataError(f"{path}, line {number}: not JSON ({error}); delete that line to go on without it") from None
    return rows


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFullError(errno.ENOSPC, f"disk full while writing {path}; free space, then resume the run") from error
        raise
