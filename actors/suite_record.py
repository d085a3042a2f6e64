"""One subject's evaluation of a suite on disk: what was asked for, what came of it; merged from several folders.

Beside hop 4 of the tour. A folder holds::

    suite.json       who was measured on what, which trials were asked for, which are left out and why
    trials/*.jsonl   outcomes, one line a trial (:mod:`actors.trial_log`)
    crashes.jsonl    trials whose environment crashed: begun again on a fresh worker, or given up
    evaluation.json, evaluation.md   the results (:mod:`actors.suite_report`)

It needs nothing but itself to be read: no simulator, no checkpoint, no asset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.trial_log import TrialLog, TrialOutcome
from core.durable import write_atomically
from core.errors import ConfigError

REQUEST_FILE, TRIALS_FOLDER, CRASHES_FILE = "suite.json", "trials", "crashes.jsonl"


@dataclass(frozen=True, kw_only=True)
class Crash:
    """A trial whose environment crashed."""

    key: str
    is_final: bool
    """True: again on a fresh worker, and given up; False: it went through on a fresh worker."""
    text: str


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Trials of a suite that this subject is not measured on."""

    task: str
    variant: str
    """Empty: all of the task's."""
    num_trials: int
    reason: str
    is_applicable: bool = True
    """False: the subject does not fit the task; True: the task, its code or its files are not here."""


@dataclass(frozen=True, kw_only=True)
class SuiteRequest:
    """What is measured; equal for every part of one evaluation except for ``planned``."""

    identity: Mapping[str, Any]
    """Who, on what: two folders belong together exactly when theirs are equal."""
    protocol: Mapping[str, Any]
    """``name``, ``title``, ``notes``, ``averages`` (name -> nested lists of tasks), ``tasks`` (name -> ``num_trials``,
    ``environment`` digest)."""
    planned: Mapping[str, bool]
    """Trial -> whether it is part of the averages; in the order of the protocol."""
    left_out: tuple[LeftOut, ...] = ()

    def write(self, folder: Path) -> None:
        """Into its file, in one step."""
        record = {
            "identity": self.identity,
            "protocol": self.protocol,
            "left_out": [vars(item) for item in self.left_out],
            "planned": dict(self.planned),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / REQUEST_FILE, (json.dumps(record, indent=1) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> SuiteRequest:
        """Back from the file.

        Raises:
            ConfigError: there is none.
        """
        file = folder / REQUEST_FILE
        if not file.exists():
            raise ConfigError(f"{folder} holds no evaluation of a suite ({REQUEST_FILE} is missing); give the folder of a --run")
        record = json.loads(file.read_text())
        left_out = tuple(LeftOut(**item) for item in record["left_out"])
        return cls(identity=record["identity"], protocol=record["protocol"], planned=record["planned"], left_out=left_out)


@dataclass(frozen=True, kw_only=True)
class SuiteRecord:
    """A request and all that came of it."""

    request: SuiteRequest
    outcomes: Mapping[str, TrialOutcome]
    """Trial -> how it ended; of planned ones only, in their order."""
    crashes: tuple[Crash, ...] = ()
    folders: tuple[str, ...] = field(default=())
    """Where it was read from."""

    @property
    def subject(self) -> str:
        """Who was measured."""
        return str(self.request.identity["subject"])

    @property
    def errors(self) -> tuple[Crash, ...]:
        """Trials that were given up and have no outcome: they count neither as solved nor as failed."""
        final = {crash.key: crash for crash in self.crashes if crash.is_final and crash.key in self.request.planned}
        return tuple(crash for key, crash in final.items() if key not in self.outcomes)

    @property
    def retried(self) -> tuple[str, ...]:
        """Trials that crashed once and have an outcome."""
        return tuple(dict.fromkeys(crash.key for crash in self.crashes if crash.key in self.outcomes))

    @property
    def num_missing(self) -> int:
        """Planned trials that were neither played nor given up."""
        return len(self.request.planned) - len(self.outcomes) - len(self.errors)

    @classmethod
    def read(cls, folder: Path) -> SuiteRecord:
        """From a run directory.

        Raises:
            ConfigError: it holds none.
            CorruptDataError: a line is damaged.
        """
        request = SuiteRequest.read(folder)
        played = TrialLog(folder / TRIALS_FOLDER).outcomes
        return cls(
            request=request,
            outcomes={key: played[key] for key in request.planned if key in played},
            crashes=tuple(read_crashes(folder)),
            folders=(folder.name,),
        )


def read_crashes(folder: Path) -> list[Crash]:
    """All that were noted; a last line that was not finished is not one."""
    file = folder / CRASHES_FILE
    if not file.exists():
        return []
    text = file.read_text()
    return [Crash(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def note_crash(folder: Path, crash: Crash) -> None:
    """Append one."""
    with (folder / CRASHES_FILE).open("a") as file:
        file.write(json.dumps(vars(crash)) + "\n")


def merge(records: Iterable[SuiteRecord]) -> list[SuiteRecord]:
    """Records of one subject become one; different subjects stay apart, in the order of their first.

    A trial that several folders have counts once, as the first of them has it.

    Raises:
        ConfigError: different suites, or one subject measured in different circumstances.
    """
    merged: dict[str, SuiteRecord] = {}
    for record in records:
        first = next(iter(merged.values()), record)
        _require_same(first.request.protocol["name"], record.request.protocol["name"], "suite", first, record)
        before = merged.get(record.subject)
        merged[record.subject] = record if before is None else _union(before, record)
    return list(merged.values())


def _union(a: SuiteRecord, b: SuiteRecord) -> SuiteRecord:
    for name in a.request.identity:
        _require_same(a.request.identity[name], b.request.identity.get(name), name, a, b)
    _require_same(a.request.protocol, b.request.protocol, "trials of the suite", a, b)
    left_out = dict.fromkeys((*a.request.left_out, *b.request.left_out))
    return SuiteRecord(
        request=SuiteRequest(
            identity=a.request.identity,
            protocol=a.request.protocol,
            planned={**a.request.planned, **b.request.planned},
            left_out=tuple(left_out),
        ),
        outcomes={**b.outcomes, **a.outcomes},
        crashes=tuple(dict.fromkeys((*a.crashes, *b.crashes))),
        folders=(*a.folders, *b.folders),
    )


def _require_same(a: Any, b: Any, what: str, of_a: SuiteRecord, of_b: SuiteRecord) -> None:
    if a != b:
        raise ConfigError(
            f"{', '.join(of_a.folders)} and {', '.join(of_b.folders)} cannot be merged: {what} is {_short(a)} in the one and "
            f"{_short(b)} in the other"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_record(record: SuiteRecord, folder: Path) -> None:
    """Make a merged record a run directory of its own.

    Raises:
        ConfigError: the folder holds an evaluation already.
    """
    if (folder / REQUEST_FILE).exists():
        raise ConfigError(f"{folder} holds an evaluation already; choose another --run for the merged one")
    record.request.write(folder)
    TrialLog(folder / TRIALS_FOLDER, "merged").extend(record.outcomes.values())
    for crash in record.crashes:
        note_crash(folder, crash)


def tasks_of(records: Sequence[SuiteRecord]) -> list[str]:
    """Of their suite, in its order."""
    return list(records[0].request.protocol["tasks"])
