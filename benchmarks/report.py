"""Writes one benchmark's result as dated Markdown that names the machine, the command and the question."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question, its answer as a table, and how it was found."""

    question: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells as text."""
    notes: Sequence[str] = ()
    """One a line."""

    def show(self) -> None:
        """Print the table."""
        table = Table(*self.headings, title=self.question, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        Console().print(table)

    def markdown(self) -> list[str]:
        """Lines, without the question."""
        lines = ["| " + " | ".join(self.headings) + " |", "|" + "---|" * len(self.headings)]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        return [*lines, "", *(f"- {note}" for note in self.notes), *([""] if self.notes else [])]


def write_report(
    name: str, *, question: str, headings: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> Path:
    """Print a table and write it to ``results/DATE-NAME.md``.

    Args:
        name: of the benchmark, for example ``"env"``; the command is ``python -m benchmarks NAME``.
        question: what was to be found out.
        headings: of the columns.
        rows: cells as text.
        notes: how it was measured, one a line.
    """
    section = Section(question=question, headings=headings, rows=rows, notes=notes)
    section.show()
    return _write(name, question, f"python -m benchmarks {name}", section.markdown())


def write_sections(name: str, *, title: str, command: str, how: str, sections: Sequence[Section]) -> Path:
    """Write several tables to ``results/DATE-NAME.md``; whoever made them has shown them.

    Args:
        name: of the benchmark.
        title: what it is about.
        command: that measures it.
        how: what holds for all tables.
        sections: in order.
    """
    lines = [line for section in sections for line in (f"## {section.question}", "", *section.markdown())]
    return _write(name, title, command, [how, "", *lines])


def _write(name: str, title: str, command: str, lines: Sequence[str]) -> Path:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{date}-{name}.md"
    path.write_text("\n".join([f"# {title}", "", f"`{command}`, {date}. {machine()}", "", *lines]))
    return path


def machine() -> str:
    """The machine in one line."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor()
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, load {load:.1f} at the end, Python {platform.python_version()}."
    )


def median_s(call: Callable[[], object], *, repeats: int, warmup: int = 1) -> float:
    """Median wall time of one call, in seconds."""
    for _ in range(warmup):
        call()
    return statistics.median(timed_s(call) for _ in range(repeats))


def interleaved_medians_s(calls: Sequence[Callable[[], object]], *, repeats: int, warmup: int = 1) -> list[float]:
    """Median wall times of several calls that take turns, so that a drift of the machine's speed hits all alike."""
    for _ in range(warmup):
        for call in calls:
            call()
    rounds = [[timed_s(call) for call in calls] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def timed_s(call: Callable[[], object]) -> float:
    """Wall time of one call, in seconds."""
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
