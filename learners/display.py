"""What a person watching a run sees: a bar with a rate for whatever takes long, one table an iteration."""

from __future__ import annotations

import threading
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


_MAX_COLUMNS = 6


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

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        """``console``: where to; standard output by default. ``quiet``: nowhere."""
        self.console = console or Console(quiet=quiet)
        self._has_no_bar = threading.Lock()
        if not self.console.is_terminal and console is None:
            self.console.width = 140  # a log file has no width, and rich would guess 80

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        """A progress bar, or one line where there is no terminal or another bar; gives the function that moves it."""
        if not self.console.is_terminal or not self._has_no_bar.acquire(blocking=False):
            yield self._line(title, total, unit)
            return
        try:
            with self._bar(title, total, unit) as advance:
                yield advance
        finally:
            self._has_no_bar.release()

    @contextmanager
    def _bar(self, title: str, total: int, unit: str) -> Iterator[Advance]:
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
                progress.update(task, completed=done, note=note)
                if is_first:
                    progress.update(task, found=done)
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
        """The table: one column an iteration; of a long run the start and the last few."""
        shown = rows if len(rows) <= _MAX_COLUMNS else [rows[0], *rows[1 - _MAX_COLUMNS :]]
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("")
        for row in shown:
            table.add_column("start" if row["iteration"] == 0 else f"iteration {row['iteration']}", justify="right")
        for is_end_of_section, name, cell in LINES:
            table.add_row(name, *(cell(row) for row in shown), end_section=is_end_of_section)
        self.console.print(table)


def _number(key: str, form: str, unit: str = "") -> Callable[[Mapping[str, Any]], str]:
    """A cell that shows one number; a dash where it was not measured."""
    return lambda row: "-" if row.get(key) is None else f"{format(row[key], form)}{unit}"


def _seconds(phase: str, parts: Mapping[str, str]) -> Callable[[Mapping[str, Any]], str]:
    """A cell that shows how long a phase took, and what it waited for."""

    def cell(row: Mapping[str, Any]) -> str:
        if phase not in row["wall_s"]:
            return "-"
        shares = [f"{name} {row[key]:.0f}" for name, key in parts.items() if row.get(key) is not None]
        return f"{row['wall_s'][phase]:.0f} s" + (f" ({', '.join(shares)})" if shares else "")

    return cell


LINES: tuple[tuple[bool, str, Callable[[Mapping[str, Any]], str]], ...] = (
    (False, "success, Wilson 95 %", lambda row: row.get("success_text", "-")),
    (False, "mean length, steps", _number("mean_steps", ".1f")),
    (True, "episodes collected", _number("num_collected", "d")),
    (False, "positive fraction", _number("positive_fraction", ".0%")),
    (False, "value loss", _number("value_loss", ".4f")),
    (False, "corr(V, time), successes", _number("value_time_correlation", ".2f")),
    (False, "corr(V, return)", _number("value_return_correlation", ".2f")),
    (False, "corr(A, progress)", _number("advantage_progress_correlation", ".2f")),
    (False, "policy loss", _number("policy_loss", ".4f")),
    (True, "loss when told wrong", _number("indicator_effect", "+.1%")),
    (False, "environment steps/s", _number("env_steps_per_s", ".1f")),
    (False, "learner steps/s", _number("learner_steps_per_s", ".1f")),
    (True, "policy age of rollouts", _number("policy_age_mean", ".2f", " versions")),
    (False, "time: collect", _seconds("collect", {"env": "collect_env_s", "policy": "collect_policy_s"})),
    (False, "time: fit value", _seconds("fit_value", {"data": "fit_value_data_s"})),
    (False, "time: label", _seconds("label", {})),
    (False, "time: update policy", _seconds("update_policy", {"data": "update_policy_data_s"})),
    (False, "time: evaluate", _seconds("evaluate", {"env": "evaluate_env_s", "policy": "evaluate_policy_s"})),
)
"""(last of its section, name, cell). What stands in parentheses is summed over the workers, of which there are several."""
