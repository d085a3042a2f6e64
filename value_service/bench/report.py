"""Tables of the bench, in Markdown and as a JSON record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from value_service.bench.laboratory import Measured
from value_service.bench.scoring import METRICS, Estimate, bootstrap, mean
from value_service.bench.truth import Split

_TITLES = {Split.TEST: "held-out episodes of trained tasks", Split.HELD_OUT: "the held-out task"}


def estimates(measured: Measured, split: Split) -> dict[str, Estimate]:
    """Mean and interval of every metric; the same resamples for every model, so that columns can be compared."""
    return {name: bootstrap(sums, np.random.default_rng(0)) for name, sums in measured.sums[split].items()}


def comparison_table(columns: Sequence[Measured], split: Split) -> str:
    """Metrics down, models across."""
    known = [estimates(column, split) for column in columns]
    rows = [["", *(column.variant for column in columns)], ["---"] * (len(columns) + 1)]
    rows += [[name, *(cell(of[name]) for of in known)] for name in METRICS]
    return _markdown(rows)


def ablation_table(rows: Sequence[tuple[str, Measured]], split: Split) -> str:
    """Variants down, metrics across; each row with the heading it belongs to."""
    table = [["", "", *METRICS], ["---"] * (len(METRICS) + 2)]
    before = ""
    for group, measured in rows:
        known = estimates(measured, split)
        table.append([group if group != before else "", measured.variant, *(cell(known[name]) for name in METRICS)])
        before = group
    return _markdown(table)


def training_table(columns: Sequence[Measured]) -> str:
    """What each model cost."""
    rows = [["model", "parameters", "episodes", "observations", "core time a training", "loss"], ["---"] * 6]
    for column in columns:
        if column.training:
            first, core_s = column.training[0], np.mean([record["core_s"] for record in column.training])
            rows.append(
                [
                    column.variant,
                    f"{first['num_parameters']:,}",
                    str(first["num_episodes"]),
                    f"{first['num_frames']:,}",
                    f"{core_s:.0f} s",
                    f"{first['loss']:.3f}",
                ]
            )
    return _markdown(rows)


def sections(of_robot: Mapping[str, Sequence[Measured]]) -> str:
    """Everything that was measured, a robot a section."""
    parts = []
    for robot, columns in of_robot.items():
        parts.append(f"## {robot}\n\n{training_table(columns)}")
        parts += [
            f"### {robot}: {title}\n\n{comparison_table(columns, split)}"
            for split, title in _TITLES.items()
            if all(split in column.sums for column in columns)
        ]
    legend = "\n".join(f"- **{name}**: {meaning}" for name, meaning in METRICS.items())
    return "\n\n".join([*parts, f"Mean [95 % bootstrap interval over episodes]; `/`: undefined.\n\n{legend}"]) + "\n"


def record(of_robot: Mapping[str, Sequence[Measured]]) -> dict[str, Any]:
    """The same as JSON, with every seed's means."""
    return {
        robot: {
            column.variant: {
                "training": [dict(training) for training in column.training],
                **{split.value: _split_record(column, split) for split in column.sums},
            }
            for column in columns
        }
        for robot, columns in of_robot.items()
    }


def cell(estimate: Estimate) -> str:
    """One entry of a table.

    Example:
        >>> cell(Estimate(mean=0.5, low=0.41, high=0.6, num_episodes=9, num_undefined=0))
        '0.50 [0.41, 0.60]'
    """
    if math.isnan(estimate.mean):
        return "/"
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _split_record(column: Measured, split: Split) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, estimate in estimates(column, split).items():
        found[name] = {
            "mean": _number(estimate.mean),
            "interval": [_number(estimate.low), _number(estimate.high)],
            "num_episodes": estimate.num_episodes,
            "num_undefined": estimate.num_undefined,
            "of_seed": [_number(mean(scores[split][name])) for scores in column.of_seed],
        }
    return found


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(float(value), 4)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
