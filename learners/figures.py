"""Pictures of a run: the learning curve, and methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"recap": "#1f6feb", "awr": "#d9822b", "filtered_bc": "#3a9d5d", "bc": "#8250a8", "start": "#666666"}


def learning_curve(path: Path, rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Success by iteration with its 95 % interval, value quality, and the losses.

    Args:
        path: of the PNG.
        rows: one an iteration, as ``Phases.summary`` makes them; rows without an evaluation are left out.
        losses: curve name -> (learner step, loss), for example ``{"policy 1": [...], "value 1": [...]}``.
    """
    figure = Figure(figsize=(12, 3.6), dpi=110, layout="constrained")
    draw_learning_curve(figure, rows, losses)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_learning_curve(
    figure: Figure, rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[tuple[int, float]]]
) -> None:
    """The three parts of :func:`learning_curve`, on a figure of any format."""
    left, middle, right = figure.subplots(1, 3)
    measured = [row for row in rows if "success" in row]
    success_curve(left, [row["iteration"] for row in measured], measured, "#1f6feb", "evaluation")
    left.set(xlabel="iteration", ylabel="success", ylim=(0, 1), title="Success on fixed seeds, Wilson 95 %")
    left.set_xticks([row["iteration"] for row in measured])
    for key, name, colour in (
        ("value_time_correlation", "V with time, successes", "#3a9d5d"),
        ("value_return_correlation", "V with return", "#d9822b"),
        ("advantage_progress_correlation", "A with progress", "#8250a8"),
    ):
        points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            middle.plot(*zip(*points, strict=True), marker="o", color=colour, label=name)
    middle.axhline(0, color="#bbbbbb", linewidth=0.8)
    middle.set_xticks([row["iteration"] for row in rows])
    middle.set(xlabel="iteration", ylabel="correlation", ylim=(-1.05, 1.05), title="Value quality on the rollouts")
    if middle.get_legend_handles_labels()[0]:
        middle.legend(fontsize=8, loc="lower right")
    plot_losses(right, losses)


def success_curve(axes: Axes, x: Sequence[float], rows: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    """Success with its interval at the positions ``x``."""
    success = np.array([row["success"] for row in rows])
    low, high = (np.array([row[key] for row in rows]) for key in ("success_low", "success_high"))
    bars = np.clip([success - low, high - success], 0, None)
    axes.errorbar(x, success, yerr=bars, marker="o", capsize=4, color=colour, label=label)
    axes.grid(axis="y", color="#eeeeee")


def plot_losses(axes: Axes, losses: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Smoothed loss curves on a logarithmic scale."""
    for name, points in losses.items():
        if points:
            steps, values = np.array(points).T
            axes.plot(steps, smoothed(values), linewidth=1.3, label=name)
    axes.set(xlabel="learner step", ylabel="loss", yscale="log", title="Losses (moving average)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def smoothed(values: np.ndarray[Any, np.dtype[Any]], width: int = 15) -> np.ndarray[Any, np.dtype[Any]]:
    """Mean over the last ``width`` values, fewer at the start; the same length."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - width)
    return (total[stop] - total[start]) / (stop - start)
