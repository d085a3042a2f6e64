"""What a person watching a run sees: a bar with a rate for whatever takes long, one table an iteration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Advance = Callable[..., None]
"""``advance(done, note="")``: the total done so far, and a short text behind the bar."""


_HEADINGS = (
    "",
    "success (95 %)",
    "episodes",
    "positive",
    "value loss",
    "corr V, time",
    "corr A, progress",
    "steps/s",
    "time",
)


class _RateColumn(ProgressColumn):
    """Units a second since this bar began here (what a resumed run found done is not counted)."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        done = task.completed - task.fields["found"]
        if not elapsed or done <= 0:
            return Text("")
        rate, unit = done / elapsed, task.fields["unit"]
        return Text(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{60 * rate:.1f} {unit}/min", style="cyan")


class Display:
    """Writes to a terminal; where there is none (a log file), bars become one line each."""

    def __init__(self, console: Console | None = None) -> None:
        """``console``: where to; standard output by default."""
        self.console = console or Console()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """A progress bar; gives the function that moves it."""
        if not self.console.is_terminal:
            yield self._line(title, total, unit)
            return
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        with progress:
            task = progress.add_task(title, total=total, unit=unit, note="", found=0)
            is_first = True

            def advance(done: int, note: str = "") -> None:
                nonlocal is_first
                progress.update(task, completed=done, note=note, **({"found": done} if is_first else {}))
                is_first = False

            yield advance

    def _line(self, title: str, total: int, unit: str) -> Advance:
        started_s, found = time.perf_counter(), -1

        def advance(done: int, note: str = "") -> None:
            nonlocal found
            found = done if found < 0 else found
            if done >= total:
                wall_s = time.perf_counter() - started_s
                self.say(f"{title}: {done} {unit} ({done - found} now, {wall_s:.1f} s) {note}".rstrip())

        return advance

    def iterations(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """The table: one row an iteration so far."""
        table = Table(title=title, title_justify="left", header_style="bold")
        for heading in (
            "",
            "success (95 %)",
            "episodes",
            "positive",
            "value loss",
            "corr V, time",
            "corr A, progress",
            "steps/s",
            "time",
        ):
            table.add_column(heading, justify="left" if heading in ("success (95 %)", "time") else "right", overflow="fold")
        for row in rows:
            table.add_row(*iteration_cells(row))
        self.console.print(table)


def iteration_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """An iteration's results as the table's cells; what was not measured is a dash.

    Args:
        row: as ``learners.phases.Phases.summary`` makes it.
    """

    def number(key: str, form: str) -> str:
        value = row.get(key)
        return "-" if value is None else format(value, form)

    time_cell = ", ".join(f"{part} {seconds:.0f}s" for part, seconds in row.get("wall_s", {}).items() if seconds >= 0.5)
    return (
        "start" if row["iteration"] == 0 else str(row["iteration"]),
        row.get("success_text", "-"),
        number("num_collected", "d"),
        number("positive_fraction", ".0%"),
        number("value_loss", ".4f"),
        number("value_time_correlation", ".2f"),
        number("advantage_progress_correlation", ".2f"),
        f"env {number('env_steps_per_s', '.1f')}, learner {number('learner_steps_per_s', '.1f')}",
        time_cell or "-",
    )
