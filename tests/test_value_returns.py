from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError
from core.experience import EpisodeEnd
from value_service.advantages import n_step_advantage
from value_service.returns import ReturnConfig, ReturnForm, step_rewards, value_targets

settings.register_profile("no_deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no_deadline")

TERMINATED = [EpisodeEnd.SUCCESS, EpisodeEnd.FAILURE]
TRUNCATED = [EpisodeEnd.TIME_LIMIT, EpisodeEnd.OPERATOR_STOP, EpisodeEnd.FAULT]
OWN = ReturnConfig(form=ReturnForm.OWN_LENGTH)


def test_recap_success_by_hand():
    config = ReturnConfig(task_length_steps=80)
    target = value_targets(20, EpisodeEnd.SUCCESS, config)
    assert target.shape == (21,)
    assert target.dtype == np.float32
    assert target[0] == np.float32(-20 / 160)
    assert target[-1] == 0


def test_recap_failure_at_the_time_limit_spans_the_lower_half():
    target = value_targets(80, EpisodeEnd.FAILURE, ReturnConfig(task_length_steps=80))
    np.testing.assert_allclose(target, np.linspace(-1, -0.5, 81), atol=1e-6)


def test_viva_follows_equation_2_state_by_state():
    # States l = 1..L with L = 4: r_l = 1/L for l < L, r_L = 0 or 1; G_l = sum from l on; V = -G/2.
    for end, last in ((EpisodeEnd.SUCCESS, 0.0), (EpisodeEnd.FAILURE, 1.0)):
        rewards = [0.25, 0.25, 0.25, last]
        cost_to_go = [sum(rewards[state:]) for state in range(4)]
        np.testing.assert_allclose(value_targets(3, end, OWN), -np.array(cost_to_go) / 2, atol=1e-7)


def test_viva_success_does_not_depend_on_speed_but_recap_does():
    quick, slow = (value_targets(steps, EpisodeEnd.SUCCESS, ReturnConfig())[0] for steps in (10, 70))
    assert quick > slow + 0.3
    quick, slow = (value_targets(steps, EpisodeEnd.SUCCESS, OWN)[0] for steps in (10, 70))
    assert abs(quick - slow) < 0.05


@given(steps=st.integers(1, 80), end=st.sampled_from(TERMINATED), form=st.sampled_from(ReturnForm))
def test_outcomes_keep_their_halves_and_values_rise_to_the_end(steps, end, form):
    target = value_targets(steps, end, ReturnConfig(form=form))
    low, high = (-0.5, 0.0) if end is EpisodeEnd.SUCCESS else (-1.0, -0.5)
    assert (target >= low - 1e-6).all()
    assert (target <= high).all()
    assert target[-1] == high
    assert (np.diff(target) > 0).all()


@given(steps=st.integers(1, 80), end=st.sampled_from(TERMINATED), form=st.sampled_from(ReturnForm), ratio=st.floats(0, 4))
def test_rewards_sum_to_the_returns(steps, end, form, ratio):
    config = ReturnConfig(form=form, failure_cost_ratio=ratio)
    reward = step_rewards(steps, end, config)
    assert reward.dtype == np.float32
    to_go = np.cumsum(reward[::-1], dtype=np.float64)[::-1]
    np.testing.assert_allclose(value_targets(steps, end, config)[:-1], to_go, atol=1e-5)


@given(steps=st.integers(1, 300), end=st.sampled_from(TRUNCATED), form=st.sampled_from(ReturnForm))
def test_truncation_has_no_target_and_no_final_cost(steps, end, form):
    config = ReturnConfig(form=form)
    assert np.isnan(value_targets(steps, end, config)).all()
    reward = step_rewards(steps, end, config)
    assert (reward == reward[0]).all()
    np.testing.assert_array_equal(reward, step_rewards(steps, EpisodeEnd.SUCCESS, config))


@given(steps=st.integers(1, 500), end=st.sampled_from(TERMINATED), length=st.integers(1, 100), ratio=st.floats(0, 10))
def test_longer_than_the_task_is_clipped(steps, end, length, ratio):
    target = value_targets(steps, end, ReturnConfig(task_length_steps=length, failure_cost_ratio=ratio))
    assert (target >= -1).all()
    assert (target <= 0).all()


def test_no_negative_zero_at_success():
    assert not np.signbit(value_targets(5, EpisodeEnd.SUCCESS, ReturnConfig())[-1])


def test_each_task_has_its_own_length():
    config = ReturnConfig(task_length_steps=80, per_task_length_steps={"drawer": 113})
    assert value_targets(1, EpisodeEnd.SUCCESS, config, task="drawer")[0] == np.float32(-1 / 226)
    assert value_targets(1, EpisodeEnd.SUCCESS, config, task="can")[0] == np.float32(-1 / 160)
    assert config.describe("drawer") == "recap c_fail=1 t_ref=113"
    assert OWN.describe("drawer") == "viva own_length"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"task_length_steps": 0}, "0 steps"),
        ({"per_task_length_steps": {"drawer": -3}}, "drawer is -3"),
        ({"failure_cost_ratio": -1.0}, "-1.0"),
        ({"failure_cost_ratio": float("nan")}, "nan"),
    ],
)
def test_impossible_configurations_are_refused(bad, words):
    with pytest.raises(ConfigError, match=words):
        ReturnConfig(**bad)


@pytest.mark.parametrize("function", [step_rewards, value_targets])
def test_an_episode_without_steps_is_refused(function):
    with pytest.raises(ValueError, match="num_steps=0"):
        function(0, EpisodeEnd.SUCCESS, ReturnConfig())


def test_a_total_failure_is_worth_minus_one_throughout_and_its_rewards_add_up_to_that():
    config = ReturnConfig(task_length_steps=10, is_failure_total=True)
    assert value_targets(4, EpisodeEnd.FAILURE, config).tolist() == [-1.0] * 5
    assert step_rewards(4, EpisodeEnd.FAILURE, config)[-1] <= -1.0
    np.testing.assert_array_equal(
        value_targets(4, EpisodeEnd.SUCCESS, config), value_targets(4, EpisodeEnd.SUCCESS, ReturnConfig(task_length_steps=10))
    )
    value = np.full(5, -0.7, np.float32)
    advantage = n_step_advantage(value, step_rewards(4, EpisodeEnd.FAILURE, config), EpisodeEnd.FAILURE, 2)
    assert (advantage[-2:] < 0).all()


@pytest.mark.parametrize("form", ReturnForm)
@pytest.mark.parametrize("end", [EpisodeEnd.SUCCESS, EpisodeEnd.FAILURE])
def test_steps_in_which_a_robot_is_held_cost_nothing(form, end):
    config = ReturnConfig(task_length_steps=10, form=form)
    held = np.array([False, True, True, True, False])
    paused = value_targets(5, end, config, held=held)
    flowing = value_targets(2, end, config)
    np.testing.assert_array_equal(paused, flowing[[0, 1, 1, 1, 1, 2]])
    rewards = step_rewards(5, end, config, held=held)
    np.testing.assert_allclose(rewards[~held], step_rewards(2, end, config), rtol=1e-6)
    assert not rewards[held].any()


def test_held_must_name_every_step():
    with pytest.raises(ValueError, match=r"held has shape \(3,\); expected \(5,\)"):
        value_targets(5, EpisodeEnd.SUCCESS, ReturnConfig(), held=np.zeros(3, bool))
