"""Writes one benchmark's result as dated Markdown that names the machine, the command and the question."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


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
    table = Table(*headings, title=question, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [f"# {question}", "", f"`python -m benchmarks {name}`, {date}. {machine()}", ""]
    lines += ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *(f"- {note}" for note in notes), ""]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{date}-{name}.md"
    path.write_text("\n".join(lines))
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
