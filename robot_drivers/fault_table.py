"""Measures what ends motion, how fast, how far an arm still goes: ``python -m robot_drivers.fault_table --out FILE.md``.

Every cause is rehearsed (:mod:`robot_drivers.rehearsal`) so many times. Every reaction is kept in a file of records as soon as it
was measured: a run that is interrupted, or was refused by a busy computer, goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.command import EXIT_FAILED, run_command, whole
from core.errors import CorruptDataError, RecapError
from robot_drivers.limits import read_robot_config
from robot_drivers.rehearsal import OPERATOR_CAUSES, SPEED_M_S, SUBJECTS, BusyError, Reaction, rehearse
from robot_drivers.states import State

CAUSES = (*OPERATOR_CAUSES, "freeze", "drop", "delay:0.5", "partial", "split", "junk", "collision", "singularity", "estop")
_ATTEMPTS = 5
Records = dict[tuple[str, str], list[Reaction]]
"""By subject and cause."""


def read_records(path: Path) -> Records:
    """What was measured so far; nothing where there is no file.

    Raises:
        CorruptDataError: if a line is no reaction.
    """
    found: Records = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
        try:
            fields = json.loads(line)
            reaction = Reaction(
                state=State(fields["state"]),
                stopped_by=str(fields["stopped_by"]),
                **{name: _number(fields[name]) for name in ("noticed_s", "told_s", "standing_s", "path_m")},
            )
            found.setdefault((fields["subject"], fields["cause"]), []).append(reaction)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(f"{path}, line {number} is no reaction ({error!r}): {line[:80]!r}; remove it") from None
    return found


def append_record(path: Path, subject: str, cause: str, reaction: Reaction) -> None:
    """Keep one reaction; JSON has no NaN, so what did not happen is null."""
    fields: dict[str, Any] = {"subject": subject, "cause": cause} | {
        name: None if isinstance(value, float) and math.isnan(value) else value for name, value in vars(reaction).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(fields, allow_nan=False) + "\n")


def fill(
    records: Records,
    *,
    subjects: Iterable[str],
    causes: Iterable[str],
    rounds: int,
    measure: Callable[[str, str], Reaction],
    keep: Callable[[str, str, Reaction], None],
) -> list[str]:
    """Measure what is missing; one round of everything, then the next, so that what was measured is even.

    Args:
        records: so far; added to.
        subjects: arms.
        causes: of each.
        rounds: of each cause.
        measure: takes subject and cause.
        keep: is given every reaction.

    Returns:
        What could not be measured, in words.
    """
    missing = []
    pairs = [(subject, cause) for subject in subjects for cause in causes]
    for round_ in range(rounds):
        for subject, cause in pairs:
            done = records.setdefault((subject, cause), [])
            if len(done) > round_:
                continue
            try:
                reaction = _patiently(measure, subject, cause)
            except RecapError as error:
                missing.append(f"{subject}, {cause}, round {round_ + 1}: {error}")
                continue
            done.append(reaction)
            keep(subject, cause, reaction)
    return missing


def _patiently(measure: Callable[[str, str], Reaction], subject: str, cause: str) -> Reaction:
    """A computer that is too busy to keep its ticks gets a few more chances; the supervisor rightly holds on it."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return measure(subject, cause)
        except BusyError:
            continue
    return measure(subject, cause)


def latencies(records: Records) -> str:
    """As Markdown: how long after the cause each arm stood, over all subjects and rounds."""
    lines = [
        "| cause | rounds | arm stood after: least | median | 95 % | most | path, median | most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cause in dict.fromkeys(cause for _, cause in records):
        reactions = [r for (_, other), found in records.items() if other == cause for r in found]
        standing = np.array([1000 * r.standing_s for r in reactions if not math.isnan(r.standing_s)])
        if standing.size:
            low, middle, high, most = np.percentile(standing, [0, 50, 95, 100])
            path = np.array([1000 * r.path_m for r in reactions if not math.isnan(r.standing_s)])
            lines.append(
                f"| {cause} | {standing.size} | {low:.0f} ms | {middle:.0f} ms | {high:.0f} ms | {most:.0f} ms "
                f"| {np.median(path):.1f} mm | {path.max():.1f} mm |"
            )
    return "\n".join(lines)


def table(subject: str, records: Records) -> str:
    """As Markdown: what each cause led to at one arm; medians, and the worst in brackets."""
    lines = [
        f"| {subject}: cause | becomes | noticed after | what stopped the arm | told after | arm stood after | path |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, cause), reactions in records.items():
        if name == subject and reactions:
            states = "/".join(sorted({reaction.state.value for reaction in reactions}))
            num_on = sum(math.isnan(reaction.standing_s) for reaction in reactions)
            goes_on = "" if num_on == 0 else "goes on" if num_on == len(reactions) else f"{num_on} of {len(reactions)} went on; "
            standing = _spread([1000 * r.standing_s for r in reactions], "ms")
            stoppers = sorted({reaction.stopped_by or "-" for reaction in reactions})
            columns = (
                _spread([1000 * r.noticed_s for r in reactions], "ms"),
                " / ".join(stoppers),
                _spread([1000 * r.told_s for r in reactions], "ms"),
                goes_on + (standing if num_on < len(reactions) else ""),
                _spread([1000 * r.path_m for r in reactions if not math.isnan(r.standing_s)], "mm", digits=1),
            )
            lines.append(f"| {cause} | {states} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def report(records: Records, command: str) -> str:
    """Latencies of all subjects, then a table for each, with what they were measured on."""
    parts = [
        f"Measured by `{command}` on {os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}: an "
        f"operator drives at {1000 * SPEED_M_S:.0f} mm/s, then the cause happens. Times are the emulated arm's own, which looks "
        "at its motion every 10 ms. Emulator, driver and supervisor share one process.",
        latencies(records),
    ]
    parts += [table(subject, records) for subject in dict.fromkeys(subject for subject, _ in records)]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if something could not be measured; what was is kept and published all the same."""
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.fault_table", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--config", type=Path, default=Path("configs/robots/fake.yaml"), help="whose watchdogs and limits are used"
    )
    parser.add_argument("--subjects", nargs="+", choices=sorted(SUBJECTS), default=sorted(SUBJECTS))
    parser.add_argument("--causes", nargs="+", choices=CAUSES, default=CAUSES)
    parser.add_argument("--rounds", type=whole(1), default=5, help="of each cause")
    parser.add_argument("--records", type=Path, default=Path("runs/fault_table.jsonl"), help="reactions are kept here")
    parser.add_argument("--out", type=Path, help="write the report to this file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    config = read_robot_config(options.config)
    records = read_records(options.records)
    missing = fill(
        records,
        subjects=options.subjects,
        causes=options.causes,
        rounds=options.rounds,
        measure=lambda subject, cause: rehearse(subject, config, cause),
        keep=lambda subject, cause, reaction: append_record(options.records, subject, cause, reaction),
    )
    text = report(records, f"python -m robot_drivers.fault_table --rounds {options.rounds}")
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)
    for line in missing:
        print(f"not measured: {line}", file=sys.stderr)
    return EXIT_FAILED if missing else 0


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _spread(values: Sequence[float], unit: str, *, digits: int = 0) -> str:
    """Median and worst of those that happened, as "12 (15) ms"."""
    happened = [value for value in values if not math.isnan(value)]
    return f"{np.median(happened):.{digits}f} ({max(happened):.{digits}f}) {unit}" if happened else "-"


if __name__ == "__main__":
    sys.exit(main())
