from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from model_toys import ENV_SPEC

from core.errors import CheckpointError, NonFiniteError, SpecError
from core.specs import ActionSpec
from models.normalization import ActionNormalizer, Normalization, RangeNormalizer, StateNormalizer

numbers = st.floats(-1e3, 1e3, width=32)


@given(hnp.arrays(np.float32, (20, 3), elements=numbers))
def test_unnormalize_inverts_normalize(actions):
    normalizer = ActionNormalizer.fit(actions)
    back = normalizer.unnormalize(normalizer.normalize(actions))
    # Relative to the largest number in play: float32 keeps 24 bits of (value - centre).
    np.testing.assert_allclose(back, actions, rtol=0, atol=3e-7 * max(1.0, float(np.abs(actions).max())))


def test_quantiles_become_minus_one_and_one():
    actions = np.linspace(-3, 5, 1001, dtype=np.float32)[:, None]
    normalizer = ActionNormalizer.fit(actions)
    low, high = np.quantile(actions, [0.01, 0.99])
    np.testing.assert_allclose(normalizer.normalize(np.float32([[low], [high]])), [[-1], [1]], atol=1e-6)
    assert normalizer.normalize(np.float32([[5.0]])) > 1, "what lies outside is not clipped"


def test_states_use_minimum_and_maximum():
    states = np.float32([[0, 1], [10, 3], [4, 2]])
    assert StateNormalizer.fit(states).normalize(states).tolist() == [[-1, -1], [1, 1], [pytest.approx(-0.2), 0]]


def test_constant_entry_is_shifted_not_stretched():
    actions = np.full((50, 1), 0.25, np.float32)
    normalizer = ActionNormalizer.fit(actions)
    assert normalizer.normalize(actions[:1]).tolist() == [[0.0]]
    assert normalizer.normalize(np.float32([[0.26]])) == pytest.approx(0.01, abs=1e-6)
    assert normalizer.unnormalize(np.float32([[0.0]])) == pytest.approx(0.25)


def test_rare_command_is_not_blown_up():
    actions = np.zeros((1000, 1), np.float32)
    actions[:5] = 1.0  # the 99 % quantile is 0 as well
    normalized = ActionNormalizer.fit(actions).normalize(actions)
    assert set(np.unique(normalized)) == {-1.0, 1.0}


def test_json_round_trip_is_exact():
    rng = np.random.default_rng(0)
    fitted = Normalization.fit(rng.normal(size=(100, 7)).astype(np.float32), rng.normal(size=(90, 8)).astype(np.float32))
    assert Normalization.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_wrong_width_is_refused():
    normalizer = RangeNormalizer(low=(0.0, 0.0), high=(1.0, 1.0))
    with pytest.raises(SpecError, match=r"\(4, 3\).*2 entries"):
        normalizer.normalize(np.zeros((4, 3), np.float32))
    with pytest.raises(SpecError, match="2 entries"):
        normalizer.unnormalize(np.zeros((3,), np.float32))


def test_statistics_of_another_robot_are_refused():
    other = Normalization.fit(np.zeros((2, 7), np.float32), np.zeros((2, 8), np.float32))
    with pytest.raises(SpecError, match=r"\(7, 8\).*\(3, 4\)"):
        other.require_spec(ENV_SPEC)


@pytest.mark.parametrize("actions", [np.zeros((0, 3), np.float32), np.zeros(3, np.float32)])
def test_nothing_to_fit_is_refused(actions):
    with pytest.raises(SpecError, match=r"expected \[N, D\]"):
        ActionNormalizer.fit(actions)


def test_nan_is_refused_with_its_place():
    actions = np.zeros((5, 2), np.float32)
    actions[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match=r"actions\[3, 1\] is nan"):
        ActionNormalizer.fit(actions)


@pytest.mark.parametrize(
    "record", [{}, {"low": [0.0]}, {"low": [0.0], "high": [1.0, 2.0]}, {"low": [2.0], "high": [1.0]}, {"low": 0, "high": 1}]
)
def test_damaged_record_is_refused(record):
    with pytest.raises(CheckpointError, match="normalisation record"):
        RangeNormalizer.from_json(record)


def test_record_without_states_is_refused():
    with pytest.raises(CheckpointError, match="state"):
        Normalization.from_json({"action": {"low": [0.0], "high": [1.0]}})


def test_a_command_that_no_demonstration_gave_is_within_range():
    spec = ActionSpec(names=("dx", "gripper"), units=("m", "1"), low=(-1.0, -1.0), high=(1.0, 1.0), control_hz=3.0)
    demonstrated = np.stack([np.linspace(0, 0.1, 100), np.repeat([0.0, 1.0], 50)], axis=1).astype(np.float32)
    normalizer = ActionNormalizer.fit(demonstrated, spec)
    assert normalizer.low[1] == -1.0
    assert normalizer.high[1] == 1.0
    assert normalizer.high[0] == pytest.approx(0.099)
