"""Thresholds, indicators and weights of the four methods on steps whose right answer is plain to see."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.errors import ConfigError, SpecError
from core.experience import Collection, Source
from core.ids import EpisodeId
from core.labels import Indicator
from core.windows import WindowSpec
from learners.batch import StepIndex, StepTable, ValueBatches
from learners.extraction import Extraction, ExtractionConfig, judge, task_thresholds
from learners.value_quality import value_quality
from value_service.advantages import DemonstrationRule, IndicatorConfig

A, B, C = (EpisodeId(digit * 32) for digit in "abc")


class Store:
    """Episode a: a demonstration; b: a rollout whose last step a human took over; c: a rollout with a hold step."""

    advantages = {A: [0.9, -0.9], B: [0.1, 0.2, -0.5], C: [0.3, 0.4, 5.0]}  # noqa: RUF012
    sources = {  # noqa: RUF012
        A: [Source.SCRIPTED] * 2,
        B: [Source.POLICY, Source.POLICY, Source.HUMAN],
        C: [Source.POLICY, Source.POLICY, Source.HOLD],
    }

    def steps(self, episode_id: EpisodeId) -> Any:
        return SimpleNamespace(source=np.array(self.sources[episode_id], np.int8))

    def info(self, episode_id: EpisodeId) -> Any:
        collection = Collection.DEMONSTRATION if episode_id == A else Collection.ROLLOUT
        return SimpleNamespace(provenance=SimpleNamespace(task="lift", collection=collection))


@pytest.fixture
def table() -> StepTable:
    return StepTable.build(Store(), [A, B, C], lambda e: SimpleNamespace(advantage=np.array(Store.advantages[e], np.float32)))


def test_the_threshold_is_a_quantile_of_this_iterations_own_decisions(table: StepTable) -> None:
    # Eligible: 0.1, 0.2 of b and 0.3, 0.4 of c; the correction (-0.5), the hold step (5.0) and the demonstration are not.
    assert task_thresholds(table, [B, C], 0.5) == {"lift": pytest.approx(0.2)}
    assert task_thresholds(table, [C], 0.5) == {"lift": pytest.approx(0.3)}
    assert task_thresholds(table, [C], 1.0) == {"lift": -math.inf}


def test_without_rollouts_of_a_task_all_its_episodes_decide(table: StepTable) -> None:
    # Eligible: 0.9, -0.9, 0.1, 0.2, 0.3, 0.4: the top third is above 0.3.
    assert task_thresholds(table, [], 1 / 3) == {"lift": pytest.approx(0.3)}


def test_recap_tells_and_weighs_all_alike(table: StepTable) -> None:
    found = judge(table, {"lift": 0.2}, ExtractionConfig(method=Extraction.RECAP))
    positive, negative, absent = Indicator.POSITIVE, Indicator.NEGATIVE, Indicator.ABSENT
    assert found.indicator.tolist() == [positive, negative, negative, negative, positive, positive, positive, absent]
    assert found.weight.tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    assert found.metrics["positive_fraction/rollout"] == 0.5
    assert found.metrics["positive_fraction/correction"] == 1.0
    assert found.metrics["positive_fraction/demonstration"] == 0.5
    assert found.metrics["correction_share_of_positive"] == 0.25


def test_negatives_may_be_withheld_and_demonstrations_positive_by_decree(table: StepTable) -> None:
    config = ExtractionConfig(is_negative_told=False, indicator=IndicatorConfig(demonstrations=DemonstrationRule.POSITIVE))
    found = judge(table, {"lift": 0.2}, config)
    assert found.indicator.tolist() == [1, 1, -1, -1, 1, 1, 1, -1]


def test_the_other_methods_tell_nothing(table: StepTable) -> None:
    for method in (Extraction.AWR, Extraction.FILTERED_BC, Extraction.BC):
        assert set(judge(table, {"lift": 0.2}, ExtractionConfig(method=method)).indicator.tolist()) == {-1}


def test_filtered_bc_keeps_exactly_recaps_positives(table: StepTable) -> None:
    kept = judge(table, {"lift": 0.2}, ExtractionConfig(method=Extraction.FILTERED_BC)).weight
    told = judge(table, {"lift": 0.2}, ExtractionConfig(method=Extraction.RECAP)).indicator
    assert kept.tolist() == (told == Indicator.POSITIVE).tolist()


def test_bc_counts_every_decision_alike_and_awr_by_advantage(table: StepTable) -> None:
    assert judge(table, {"lift": 0.2}, ExtractionConfig(method=Extraction.BC)).weight.tolist() == [1] * 7 + [0]
    weight = judge(table, {"lift": 0.2}, ExtractionConfig(method=Extraction.AWR)).weight
    assert weight[:7].mean() == pytest.approx(1.0)
    assert weight[7] == 0
    assert weight[0] == weight[2] > weight[4] > weight[1]  # the first two are clipped


def test_a_batch_finds_its_rows() -> None:
    index = StepIndex.build({A: 2, B: 3})
    assert index.rows([B, A, B], np.array([2, 1, 0])).tolist() == [4, 1, 2]
    with pytest.raises(SpecError, match=f"step 3 of episode {B}.*0..2"):
        index.rows([B], np.array([3]))
    with pytest.raises(SpecError, match="label it first"):
        index.rows([C], np.array([0]))


def test_value_targets_meet_their_windows() -> None:
    class Windows:
        def sample(self, n: int, spec: Any, *, rows: range) -> Any:
            return SimpleNamespace(windows=SimpleNamespace(episode_id=[A, B, A], t=np.array([1, 0, 0])))

    targets = {A: np.float32([-0.2, -0.1]), B: np.float32([-0.9])}
    found = [
        ValueBatches(Windows(), WindowSpec(value_offsets=offsets), targets, batch_size=3)  # type: ignore[arg-type]
        .draw(np.random.default_rng(0))
        .target
        for offsets in ((), (0, 1))
    ]
    assert found[0].tolist() == pytest.approx([-0.1, -0.9, -0.2])
    assert found[1] == pytest.approx(np.array([[-0.1, -0.1], [-0.9, -0.9], [-0.2, -0.1]])), "clipped at the episode's end"


def test_dropout_is_a_probability() -> None:
    with pytest.raises(ConfigError, match=r"indicator_dropout is 1\.5"):
        ExtractionConfig(indicator_dropout=1.5)


def _episode(value: list[float], advantage: list[float], progress: list[float], end: str, ret: float) -> tuple[Any, Any]:
    steps = len(advantage)
    returns = np.linspace(ret, ret + 0.1, steps, dtype=np.float32)
    label = SimpleNamespace(value=np.float32(value), advantage=np.float32(advantage), return_=returns)
    info = SimpleNamespace(
        end=SimpleNamespace(value=end),
        num_steps=steps,
        provenance=SimpleNamespace(annotations={"progress": progress}),
        env_spec=SimpleNamespace(action=SimpleNamespace(control_hz=1.0)),
    )
    return label, info


def test_value_quality_tells_a_good_value_from_its_reverse() -> None:
    good = _episode([-0.4, -0.3, -0.1, 0.0], [0.1, 0.2, 0.1], [0, 1, 3, 4], "success", -0.4)
    bad = _episode([-0.9, -0.9, -0.95, -1.0], [0.0, -0.1, -0.1], [0, 0.5, -0.5, -1.5], "failure", -0.9)
    found = value_quality([good[0], bad[0]], [good[1], bad[1]], lookahead_s=1.0)
    assert found["value_time_correlation"] == pytest.approx(1.0)
    assert found["value_return_correlation"] > 0.9
    assert found["advantage_progress_correlation"] > 0.9
    constant = _episode([-0.5] * 4, [0.0] * 3, [0, 1, 2, 3], "success", -0.4)
    assert value_quality([constant[0]], [constant[1]], lookahead_s=1.0) == {}  # undefined is left out, not 0
