"""Tables of the bench, in Markdown and as a JSON record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.value_config import ValueKind
from value_service.bench.laboratory import Measured
from value_service.bench.scoring import METRICS, Estimate, bootstrap, bootstrap_difference, mean
from value_service.bench.truth import Split
from value_service.bench.variants import Variant

_SEED = 0
_BASELINE = "value_only"
"""What the others are compared with: sees one image and the instruction, and predicts nothing but the value."""
_TITLES = {Split.TEST: "held-out episodes of trained tasks", Split.HELD_OUT: "the held-out task"}


def estimates(measured: Measured, split: Split) -> dict[str, Estimate]:
    """Mean and interval of every metric; the same resamples for every model, so that columns can be compared."""
    return {name: bootstrap(sums, np.random.default_rng(_SEED)) for name, sums in measured.sums[split].items()}


def comparison_table(columns: Sequence[Measured], split: Split) -> str:
    """Metrics down, models across."""
    known = [estimates(column, split) for column in columns]
    rows = [["", *(column.variant for column in columns)], ["---"] * (len(columns) + 1)]
    rows += [[name, *(cell(of[name]) for of in known)] for name in METRICS]
    return _markdown(rows)


def difference_table(columns: Sequence[Measured], baseline: str, split: Split) -> str:
    """Metrics down; across, how far each model is above one of them, on the same episodes."""
    [base] = [column for column in columns if column.variant == baseline]
    others = [column for column in columns if column is not base]
    rows = [["", *(f"{column.variant} − {baseline}" for column in others)], ["---"] * (len(others) + 1)]
    for name in METRICS:
        found = [bootstrap_difference(column.sums[split][name], base.sums[split][name], _SEED) for column in others]
        rows.append([name, *(cell(estimate) + ("*" if is_clear(estimate) else "") for estimate in found)])
    return _markdown(rows)


def ablation_table(rows: Sequence[tuple[Variant, Measured]], split: Split) -> str:
    """Variants down, metrics across; a star where the paired interval of the difference from the model's base excludes 0."""
    table = [["", "", *METRICS], ["---"] * (len(METRICS) + 2)]
    base: dict[ValueKind, Measured] = {}
    group = ""
    for variant, measured in rows:
        of_base = base.setdefault(variant.model, measured).sums[split]
        cells = []
        for name, sums in measured.sums[split].items():
            star = "*" if is_clear(bootstrap_difference(sums, of_base[name], _SEED)) else ""
            value = mean(sums)
            cells.append("/" if math.isnan(value) else f"{value:.2f}{star}")
        table.append([variant.group if variant.group != group else "", variant.name, *cells])
        group = variant.group
    return _markdown(table)


def is_clear(difference: Estimate) -> bool:
    """Whether the interval of a difference excludes 0.

    Example:
        >>> is_clear(Estimate(mean=0.1, low=-0.01, high=0.2, num_episodes=9, num_undefined=0))
        False
    """
    return difference.low > 0 or difference.high < 0


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
        if _BASELINE in [column.variant for column in columns] and len(columns) > 2:
            parts.append(f"### {robot}: differences, {_TITLES[Split.TEST]}\n\n{difference_table(columns, _BASELINE, Split.TEST)}")
    legend = "\n".join(f"- **{name}**: {meaning}" for name, meaning in METRICS.items())
    return (
        "\n\n".join(
            [
                *parts,
                f"Mean [95 % bootstrap interval over episodes]; `/`: undefined; "
                f"`*`: the interval of the paired difference excludes 0.\n\n{legend}",
            ]
        )
        + "\n"
    )


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
