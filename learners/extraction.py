"""How a better policy is extracted from advantages: RECAP and what it is compared with.

Hop 8 of the tour: advantages -> what each step tells the policy (indicator) and how much it counts (weight). The four
methods share data, labels, thresholds, budget and code; they differ in these two arrays alone.

method      | indicator                           | weight                           | acts
recap       | positive / negative, 30 % dropped   | 1                                | conditioned on positive
awr         | none                                | min(exp(tau A), delta), mean 1   | unconditioned
filtered_bc | none                                | 1 where RECAP says positive, else 0 | unconditioned
bc          | none                                | 1                                | unconditioned
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from core.ids import EpisodeId
from core.labels import Indicator
from learners.batch import StepTable
from value_service.advantages import DemonstrationRule, IndicatorConfig, awr_weights, indicators, threshold


class Extraction(enum.Enum):
    """The methods."""

    RECAP = "recap"
    AWR = "awr"
    FILTERED_BC = "filtered_bc"
    BC = "bc"

    @property
    def is_conditioned(self) -> bool:
        """Whether the policy is told the indicator, in training and when it acts."""
        return self is Extraction.RECAP


@dataclass(frozen=True, kw_only=True)
class AwrConfig:
    """Advantage-weighted regression; defaults as in WVM, see ``value_service.advantages.awr_weights``."""

    temperature: float = 10.0
    clip: float = 2.0
    is_standardised: bool = False


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """How examples are judged."""

    method: Extraction = Extraction.RECAP
    indicator_dropout: float = 0.3
    """RECAP: the share of examples whose indicator is withheld, so that the policy also learns to act without."""
    is_negative_told: bool = True
    """RECAP: false trains negative examples without an indicator (RLinf's variant)."""
    indicator: IndicatorConfig = field(default_factory=IndicatorConfig)
    """What counts as positive; shared by RECAP and filtered BC."""
    awr: AwrConfig = field(default_factory=AwrConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.indicator_dropout <= 1:
            raise ConfigError(f"indicator_dropout is {self.indicator_dropout}; expected a number in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The two arrays in which the methods differ, and what to log of them."""

    indicator: NDArray[np.int8]
    """[R], values of core.labels.Indicator."""
    weight: NDArray[np.float32]
    """[R]."""
    metrics: Mapping[str, float]


def task_thresholds(table: StepTable, threshold_ids: Iterable[EpisodeId], positive_fraction: float) -> dict[str, float]:
    """epsilon_l of each task: the quantile of the advantages of the iteration's rollouts (pi*0.6, App. F).

    Args:
        table: all steps.
        threshold_ids: the iteration's rollouts. A task without any is judged by all of its episodes.
        positive_fraction: the share of those steps that is to be positive.

    Returns:
        Task -> threshold. A task in which nobody ever decided a step has none above minus infinity.
    """
    chosen = set(threshold_ids)
    is_eligible = table.is_learnable() & ~table.is_correction()
    is_chosen = np.array([e in chosen for e in table.episode_ids], bool)[table.episode]
    tasks = np.array(table.task)[table.episode]
    thresholds = {}
    for task in sorted(set(table.task)):
        of_task = is_eligible & (tasks == task)
        rows = of_task & is_chosen if (of_task & is_chosen).any() else of_task
        thresholds[task] = threshold(table.advantage[rows], positive_fraction) if rows.any() else -math.inf
    return thresholds


def judge(table: StepTable, thresholds: Mapping[str, float], config: ExtractionConfig) -> Judgement:
    """Decide what every step tells the policy and how much it counts.

    Args:
        table: all steps.
        thresholds: task -> epsilon_l; not used by AWR and BC.
        config: which method.
    """
    positive = _positive(table, thresholds, config.indicator.demonstrations)
    learnable = table.is_learnable()
    weight = learnable.astype(np.float32)
    indicator = np.full(len(positive), Indicator.ABSENT, np.int8)
    if config.method is Extraction.RECAP:
        indicator = positive
        if not config.is_negative_told:
            indicator = np.where(indicator == Indicator.NEGATIVE, np.int8(Indicator.ABSENT), indicator)
    elif config.method is Extraction.FILTERED_BC:
        weight = (positive == Indicator.POSITIVE).astype(np.float32)  # exactly RECAP's positives, forced ones included
    elif config.method is Extraction.AWR:
        awr = config.awr
        weight[learnable] = awr_weights(
            table.advantage[learnable], temperature=awr.temperature, clip=awr.clip, is_standardised=awr.is_standardised
        )
    return Judgement(indicator=indicator, weight=weight, metrics=_positive_fractions(table, positive))


def _positive(table: StepTable, thresholds: Mapping[str, float], demonstrations: DemonstrationRule) -> NDArray[np.int8]:
    """RECAP's indicator of every step, episode by episode."""
    parts = []
    for number, episode_id in enumerate(table.episode_ids):
        start = table.index.offset[episode_id]
        rows = slice(start, start + table.index.length[episode_id])
        parts.append(
            indicators(
                table.advantage[rows],
                thresholds[table.task[number]],
                table.source[rows],
                collection=table.collection[number],
                demonstrations=demonstrations,
            )
        )
    return np.concatenate(parts)


def _positive_fractions(table: StepTable, positive: NDArray[np.int8]) -> dict[str, float]:
    """Share of positives: of all steps, and by where they come from; and how many of the positives are corrections."""
    learnable, is_positive = table.is_learnable(), positive == Indicator.POSITIVE
    groups = {
        "all": learnable,
        "demonstration": learnable & table.is_demonstration(),
        "rollout": learnable & ~table.is_demonstration() & ~table.is_correction(),
        "correction": table.is_correction(),
    }
    fractions = {f"positive_fraction/{name}": float(is_positive[rows].mean()) for name, rows in groups.items() if rows.any()}
    fractions["correction_share_of_positive"] = float((groups["correction"] & is_positive).sum() / max(1, is_positive.sum()))
    return fractions
