from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core.errors import ConfigError, NonFiniteError, SpecError
from core.experience import Collection, EpisodeEnd, Source
from core.labels import Indicator
from value_service.advantages import (
    AdvantageConfig,
    DemonstrationRule,
    Estimator,
    IndicatorConfig,
    awr_weights,
    estimate_advantage,
    filtered_bc_weights,
    gae_advantage,
    indicators,
    is_learnable,
    n_step_advantage,
    threshold,
)
from value_service.returns import ReturnConfig, step_rewards, value_targets

settings.register_profile("no_deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no_deadline")

ENDS = list(EpisodeEnd)
unit = st.floats(-1, 0, width=32)


@st.composite
def episodes(draw):
    """Values [T+1], rewards [T], end."""
    steps = draw(st.integers(1, 30))
    value = draw(hnp.arrays(np.float32, steps + 1, elements=unit))
    end = draw(st.sampled_from(ENDS))
    return value, step_rewards(steps, end, ReturnConfig(task_length_steps=30)), end


def n_step_reference(value, reward, end, lookahead):
    """The definition, one step at a time."""
    steps, advantages = len(reward), []
    for t in range(steps):
        stop = min(t + lookahead, steps)
        a = sum(float(reward[k]) for k in range(t, stop)) - float(value[t])
        if t + lookahead < steps or not end.is_terminated:
            a += float(value[stop])
        advantages.append(a)
    return advantages


@given(episode=episodes(), lookahead=st.integers(1, 40))
def test_n_step_is_its_definition(episode, lookahead):
    found = n_step_advantage(*episode, lookahead)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, n_step_reference(*episode, lookahead), atol=1e-5)


@given(steps=st.integers(1, 30), end=st.sampled_from([EpisodeEnd.SUCCESS, EpisodeEnd.FAILURE]), lookahead=st.integers(1, 40))
def test_the_true_value_function_leaves_no_advantage(steps, end, lookahead):
    # With V = the Monte-Carlo return nothing is better than expected. At the end of a failure this holds because the last
    # reward already contains the outcome and V(o_T) is not added again.
    config = ReturnConfig(task_length_steps=30)
    advantage = n_step_advantage(value_targets(steps, end, config), step_rewards(steps, end, config), end, lookahead)
    np.testing.assert_allclose(advantage, 0, atol=1e-6)


@given(episode=episodes())
def test_looking_to_the_end_is_the_return_minus_the_value(episode):
    value, reward, end = episode
    to_go = np.cumsum(reward[::-1], dtype=np.float64)[::-1] + (value[-1] if end.bootstraps() else 0)
    np.testing.assert_allclose(n_step_advantage(value, reward, end, len(reward)), to_go - value[:-1], atol=1e-5)
    np.testing.assert_array_equal(n_step_advantage(value, reward, end, len(reward)), n_step_advantage(value, reward, end, 10**9))


def test_truncation_bootstraps_where_failure_pays():
    value, steps, config = np.full(4, -0.4, np.float32), 3, ReturnConfig(task_length_steps=10)
    cost = 1 / 20
    expected = {
        EpisodeEnd.SUCCESS: -cost + 0.4,
        EpisodeEnd.FAILURE: -cost - 0.5 + 0.4,
        EpisodeEnd.TIME_LIMIT: -cost,
        EpisodeEnd.OPERATOR_STOP: -cost,
        EpisodeEnd.FAULT: -cost,
    }
    for end, last in expected.items():
        advantage = n_step_advantage(value, step_rewards(steps, end, config), end, 1)
        np.testing.assert_allclose(advantage, [-cost, -cost, last], atol=1e-6)


@given(episode=episodes())
def test_gae_ends_are_one_step_and_all_steps(episode):
    reward = episode[1]
    np.testing.assert_allclose(gae_advantage(*episode, 0.0), n_step_advantage(*episode, 1), atol=1e-5)
    np.testing.assert_allclose(gae_advantage(*episode, 1.0), n_step_advantage(*episode, len(reward)), atol=1e-4)


@given(episode=episodes(), lam=st.floats(0, 1))
def test_gae_is_the_mix_of_n_step_estimates(episode, lam):
    # Eq. (16) of the GAE paper: (1 - lambda) sum lambda^(n-1) A^(n), the tail beyond the end being the last estimate.
    _, reward, _ = episode
    steps = len(reward)
    mixed = sum((1 - lam) * lam ** (n - 1) * n_step_advantage(*episode, n).astype(float) for n in range(1, steps + 1))
    mixed = mixed + lam**steps * n_step_advantage(*episode, steps).astype(float)
    np.testing.assert_allclose(gae_advantage(*episode, lam), mixed, atol=1e-4)


def test_the_lookahead_is_in_seconds():
    value, reward = np.linspace(-1, 0, 101, dtype=np.float32), np.full(100, -0.005, np.float32)
    for hz, steps in ((3.0, 3), (50.0, 50), (0.1, 1)):
        found = estimate_advantage(value, reward, EpisodeEnd.SUCCESS, AdvantageConfig(lookahead_s=1.0), control_hz=hz)
        np.testing.assert_array_equal(found, n_step_advantage(value, reward, EpisodeEnd.SUCCESS, steps))
    forever = estimate_advantage(value, reward, EpisodeEnd.FAILURE, AdvantageConfig(lookahead_s=math.inf), control_hz=3.0)
    np.testing.assert_array_equal(forever, n_step_advantage(value, reward, EpisodeEnd.FAILURE, 100))


def test_the_estimator_is_chosen_by_the_configuration():
    value, reward = np.linspace(-1, 0, 11, dtype=np.float32), np.full(10, -0.05, np.float32)
    config = AdvantageConfig(estimator=Estimator.GAE, gae_lambda=0.5)
    found = estimate_advantage(value, reward, EpisodeEnd.SUCCESS, config, control_hz=3.0)
    np.testing.assert_array_equal(found, gae_advantage(value, reward, EpisodeEnd.SUCCESS, 0.5))


@pytest.mark.parametrize(
    ("value", "reward"), [(np.zeros(3), np.zeros(3)), (np.zeros(1), np.zeros(0)), (np.zeros((2, 1)), np.zeros(1))]
)
def test_lengths_that_do_not_fit_are_refused(value, reward):
    for call in (
        lambda: n_step_advantage(value, reward, EpisodeEnd.SUCCESS, 1),
        lambda: gae_advantage(value, reward, EpisodeEnd.SUCCESS, 1),
    ):
        with pytest.raises(SpecError, match="expected"):
            call()


def test_a_lookahead_of_no_step_is_refused():
    with pytest.raises(SpecError, match="lookahead_steps is 0"):
        n_step_advantage(np.zeros(2), np.zeros(1), EpisodeEnd.SUCCESS, 0)


@pytest.mark.parametrize(
    ("config", "bad"),
    [
        (AdvantageConfig, {"lookahead_s": 0.0}),
        (AdvantageConfig, {"lookahead_s": math.nan}),
        (AdvantageConfig, {"gae_lambda": 1.5}),
        (IndicatorConfig, {"positive_fraction": -0.1}),
    ],
)
def test_impossible_configurations_are_refused(config, bad):
    with pytest.raises(ConfigError, match=str(next(iter(bad.values())))):
        config(**bad)


@given(
    advantage=hnp.arrays(np.float64, st.integers(1, 200), elements=st.floats(-1, 1), unique=True),
    fraction=st.floats(0, 1),
)
def test_the_threshold_selects_the_top_fraction(advantage, fraction):
    level = threshold(advantage, fraction)
    positive = advantage > level
    assert positive.sum() == math.floor(fraction * len(advantage) + 0.5)
    if positive.any() and not positive.all():
        assert advantage[positive].min() > advantage[~positive].max()


@given(
    advantage=hnp.arrays(np.float64, st.integers(1, 100), elements=st.sampled_from([-0.5, 0.0, 0.25])), fraction=st.floats(0, 1)
)
def test_ties_are_never_told_apart_and_never_add_positives(advantage, fraction):
    positive = advantage > threshold(advantage, fraction)
    assert positive.sum() <= math.floor(fraction * len(advantage) + 0.5)
    for number in np.unique(advantage):
        assert len(set(positive[advantage == number])) == 1


def test_with_all_advantages_equal_none_is_positive():
    advantage = np.full(10, 0.2)
    assert not (advantage > threshold(advantage, 0.4)).any()
    assert (advantage > threshold(advantage, 1.0)).all()


def test_the_threshold_does_not_reorder_its_input():
    advantage = np.array([0.3, -0.2, 0.1])
    threshold(advantage, 0.5)
    assert advantage.tolist() == [0.3, -0.2, 0.1]


def test_a_threshold_of_nothing_or_of_nan_is_refused():
    with pytest.raises(SpecError, match="at least one"):
        threshold(np.zeros(0), 0.4)
    with pytest.raises(SpecError, match=r"1\.5"):
        threshold(np.zeros(3), 1.5)
    with pytest.raises(NonFiniteError, match=r"advantage\[1\] is nan"):
        threshold(np.array([0.0, math.nan]), 0.4)


SOURCES = np.array([Source.POLICY, Source.HUMAN, Source.HOLD, Source.SCRIPTED], np.int8)


@pytest.mark.parametrize("collection", [Collection.ROLLOUT, Collection.EVALUATION])
def test_corrections_are_positive_whatever_their_advantage(collection):
    told = indicators(np.full(4, -0.9), 0.0, SOURCES, collection=collection)
    assert told.tolist() == [Indicator.NEGATIVE, Indicator.POSITIVE, Indicator.ABSENT, Indicator.NEGATIVE]
    assert told.dtype == np.int8


def test_demonstrations_are_computed_or_all_positive():
    advantage = np.array([-0.9, -0.9, 0.9, 0.9])
    computed = indicators(advantage, 0.0, SOURCES, collection=Collection.DEMONSTRATION)
    assert computed.tolist() == [Indicator.NEGATIVE, Indicator.NEGATIVE, Indicator.ABSENT, Indicator.POSITIVE]
    positive = indicators(advantage, 0.0, SOURCES, collection=Collection.DEMONSTRATION, demonstrations=DemonstrationRule.POSITIVE)
    assert positive.tolist() == [Indicator.POSITIVE, Indicator.POSITIVE, Indicator.ABSENT, Indicator.POSITIVE]


def test_the_rule_for_demonstrations_leaves_rollouts_alone():
    told = indicators(np.full(4, -0.9), 0.0, SOURCES, collection=Collection.ROLLOUT, demonstrations=DemonstrationRule.POSITIVE)
    assert told[0] == Indicator.NEGATIVE


def test_on_the_threshold_is_negative():
    told = indicators(np.array([0.1]), 0.1, np.array([Source.POLICY], np.int8), collection=Collection.ROLLOUT)
    assert told.tolist() == [Indicator.NEGATIVE]


def test_indicators_of_other_length_are_refused():
    with pytest.raises(SpecError, match=r"\(3,\)"):
        indicators(np.zeros(3), 0.0, SOURCES, collection=Collection.ROLLOUT)


def test_holding_teaches_nothing():
    assert is_learnable(SOURCES).tolist() == [True, True, False, True]


@given(
    advantage=hnp.arrays(np.float64, st.integers(1, 100), elements=st.floats(-50, 50)),
    temperature=st.floats(0.1, 100),
    clip=st.floats(0.5, 20),
    is_standardised=st.booleans(),
)
def test_awr_weights_are_finite_ordered_and_average_to_one(advantage, temperature, clip, is_standardised):
    weight = awr_weights(advantage, temperature=temperature, clip=clip, is_standardised=is_standardised)
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()
    assert weight.mean() == pytest.approx(1, rel=1e-4)
    order = np.argsort(advantage, kind="stable")
    assert (np.diff(weight[order]) >= -1e-6).all()


def test_awr_weights_are_the_formula():
    advantage = np.array([-0.2, 0.0, 0.05, 0.3])
    raw = np.minimum(np.exp(10 * advantage), 2)
    np.testing.assert_allclose(awr_weights(advantage), raw / raw.mean(), rtol=1e-6)
    standard = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    raw = np.minimum(np.exp(standard), 20)
    np.testing.assert_allclose(awr_weights(advantage, temperature=1, clip=20, is_standardised=True), raw / raw.mean(), rtol=1e-6)


def test_awr_weights_of_nothing_or_of_nan_are_refused():
    with pytest.raises(SpecError, match="0 advantages"):
        awr_weights(np.zeros(0))
    with pytest.raises(SpecError, match="clip -1"):
        awr_weights(np.zeros(2), clip=-1)
    with pytest.raises(NonFiniteError, match="inf"):
        awr_weights(np.array([math.inf]))


@given(advantage=hnp.arrays(np.float64, st.integers(1, 50), elements=st.floats(-1, 1)), fraction=st.floats(0, 1))
def test_filtered_cloning_keeps_what_recap_calls_positive(advantage, fraction):
    level = threshold(advantage, fraction)
    told = indicators(advantage, level, np.zeros(len(advantage), np.int8), collection=Collection.ROLLOUT)
    np.testing.assert_array_equal(filtered_bc_weights(advantage, level), told == Indicator.POSITIVE)


def test_filtered_cloning_refuses_nan():
    with pytest.raises(NonFiniteError, match="nan"):
        filtered_bc_weights(np.array([math.nan]), 0.0)
