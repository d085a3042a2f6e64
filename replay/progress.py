"""A progress bar over episodes, on standard error and only where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def episode_progress(what: str, *, is_shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to be called with (episodes done, episodes in all).

    Args:
        what: is being done, for example ``"checking"``.
        is_shown: false where output is for programs.
    """
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"), TimeRemainingColumn())
    is_hidden = not (is_shown and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=is_hidden) as progress:
        bar = progress.add_task("episodes", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
