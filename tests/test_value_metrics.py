from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from core.errors import NonFiniteError, SpecError
from core.experience import Source
from value_service.metrics import (
    KeyFrame,
    advantage_progress_correlation,
    calibration,
    event_responses,
    event_scores,
    hesitation_rmse,
    mean_defined,
    pearson,
    positive_fraction_by_source,
    progress_gains,
    retry_order_correlation,
    spearman,
    value_order_correlation,
)
from value_service.progress_label import Interval, progress_label

RISING, FALLING = np.linspace(-1, 0, 9), np.linspace(0, -1, 9)


@pytest.mark.parametrize("seed", range(3))
def test_correlations_agree_with_scipy_with_and_without_ties(seed: int):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=40), rng.normal(size=40)
    tied = np.round(a)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    assert spearman(tied, b) == pytest.approx(stats.spearmanr(tied, b)[0])


def test_voc_is_one_for_any_rise_and_minus_one_for_any_fall():
    assert value_order_correlation(RISING**3) == 1.0
    assert value_order_correlation(FALLING) == -1.0


@pytest.mark.parametrize("value", [np.full(9, -0.3), np.array([-0.3]), np.array([])])
def test_voc_of_a_constant_or_too_short_value_is_undefined(value: np.ndarray):
    assert np.isnan(value_order_correlation(value))


def test_voc_does_not_depend_on_the_order_in_which_a_sort_leaves_ties():
    levels = np.repeat([4.0, 3.0, 2.0, 1.0, 0.0], 6)  # 5 levels, falling
    assert value_order_correlation(levels) == pytest.approx(-0.98, abs=0.005)
    assert value_order_correlation(levels) == pytest.approx(-value_order_correlation(levels[::-1]))


def test_retry_voc_rewards_a_falling_value_within_the_retreat_only():
    value = np.array([0.0, 0.2, 0.9, 0.6, 0.3, 0.5, 1.0])
    assert retry_order_correlation(value, 2, 4) == 1.0
    assert retry_order_correlation(np.sort(value), 2, 4) == -1.0
    assert np.isnan(retry_order_correlation(np.full(7, 0.5), 2, 4))
    with pytest.raises(SpecError, match=r"interval 4\.\.2 of 7 values"):
        retry_order_correlation(value, 4, 2)


def test_hesitation_rmse_is_an_absolute_error_over_the_pause():
    pause = Interval(6, 10)
    label = progress_label(21, hesitations=[pause])
    assert hesitation_rmse(label, label, pause) == 0
    assert hesitation_rmse(label + 0.2, label, pause) == pytest.approx(0.2)  # flat but wrong
    outside = label.copy()
    outside[[0, 5, 11, 20]] += 5
    assert hesitation_rmse(outside, label, pause) == 0


def test_event_responses_follow_the_formula_in_both_directions():
    progress = np.array([0.2, 0.2, 0.4, 0.4, 0.1, 0.1])
    keys = [KeyFrame(t=2), KeyFrame(t=4, is_error=True), KeyFrame(t=4)]
    responses = event_responses(progress, keys, window_steps=2, floor=0.1)
    assert responses == pytest.approx([0.2 / 0.3, 0.3 / 0.5, -0.3 / 0.5])


def test_event_windows_are_cut_at_the_ends():
    progress = np.array([0.1, 0.5, 0.7])
    assert event_responses(progress, [KeyFrame(t=1)], window_steps=10, floor=0.0) == pytest.approx([5.0])


def test_event_scores_separate_milestones_from_errors_and_are_undefined_without_any():
    keys = [KeyFrame(t=1), KeyFrame(t=2), KeyFrame(t=3, is_error=True)]
    scores = event_scores(np.array([0.4, -0.2, 0.3]), keys)
    assert (scores.milestone_score, scores.milestone_detection_rate) == (pytest.approx(0.1), 0.5)
    assert (scores.error_score, scores.error_detection_rate) == (0.3, 1.0)
    assert (scores.num_milestones, scores.num_errors) == (2, 1)
    none = event_scores(np.array([0.4]), keys[:1])
    assert np.isnan(none.error_score)
    assert np.isnan(none.error_detection_rate)
    # A value that does not react has detected nothing.
    assert event_scores(np.zeros(1), keys[:1]).milestone_detection_rate == 0


def test_event_responses_refuse_what_they_cannot_judge():
    with pytest.raises(SpecError, match="lies outside an episode of 3"):
        event_responses(np.ones(3), [KeyFrame(t=3)], window_steps=2)
    with pytest.raises(SpecError, match="give progress in"):
        event_responses(np.array([-0.5, -0.4]), [KeyFrame(t=1)], window_steps=2)
    with pytest.raises(SpecError, match="2 responses for 1 key frames"):
        event_scores(np.zeros(2), [KeyFrame(t=1)])


def test_advantage_is_compared_with_the_progress_it_looks_ahead_to():
    rng = np.random.default_rng(0)
    progress = [np.cumsum(rng.normal(size=n)) for n in (12, 30)]
    exact = [0.1 * progress_gains(p, 3) - 0.02 for p in progress]
    assert advantage_progress_correlation(exact, progress, lookahead_steps=3) == pytest.approx(1.0)
    negated = [-a for a in exact]
    assert advantage_progress_correlation(negated, progress, lookahead_steps=3) == pytest.approx(-1.0)
    assert advantage_progress_correlation(exact, progress, lookahead_steps=1) < 0.9
    assert np.isnan(advantage_progress_correlation([], [], lookahead_steps=3))


def test_progress_gains_stop_at_the_end():
    assert progress_gains(np.array([0.0, 1.0, 3.0, 6.0]), 10).tolist() == [6.0, 5.0, 3.0]
    with pytest.raises(SpecError, match="expected at least 2 and 1"):
        progress_gains(np.array([1.0]), 1)


def test_positive_fraction_leaves_out_sources_without_steps():
    source = np.array([Source.POLICY, Source.POLICY, Source.HUMAN, Source.HOLD], np.int8)
    shares = positive_fraction_by_source(np.array([True, False, True, False]), source)
    assert shares == {"policy": 0.5, "human": 1.0, "hold": 0.0}


def test_calibration_of_a_perfect_and_of_a_hopeful_value():
    return_ = np.random.default_rng(0).uniform(-1, -0.2, 500)
    perfect = calibration(return_, return_)
    assert perfect.expected_error == pytest.approx(0, abs=1e-12)
    assert perfect.count.sum() == 500
    hopeful = calibration(return_ + 0.2, return_)
    assert hopeful.bias == pytest.approx(0.2)
    assert hopeful.expected_error == pytest.approx(0.2)


def test_calibration_counts_both_ends_and_leaves_empty_bins_undefined():
    result = calibration(np.array([-1.0, 0.0]), np.array([-1.0, -0.2]), num_bins=4)
    assert result.count.tolist() == [1, 0, 0, 1]
    assert np.isnan(result.mean_predicted[1])
    assert result.expected_error == pytest.approx(0.1)
    with pytest.raises(SpecError, match="all in"):
        calibration(np.array([0.5]), np.array([-0.5]))


def test_undefined_scores_are_counted_not_averaged():
    mean, num_defined, num_undefined = mean_defined([0.5, float("nan"), 1.0])
    assert (mean, num_defined, num_undefined) == (0.75, 2, 1)
    assert np.isnan(mean_defined([float("nan")]).mean)


def test_pairs_must_match_and_be_finite():
    with pytest.raises(SpecError, match=r"\(2,\) and \(3,\); expected pairs"):
        pearson(np.zeros(2), np.zeros(3))
    with pytest.raises(NonFiniteError, match=r"second array\[1\] is nan"):
        spearman(np.zeros(2), np.array([0.0, np.nan]))
