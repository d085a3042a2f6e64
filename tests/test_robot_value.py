"""The console's value curve: the N-step advantage of what was done a look-ahead ago, anew in every episode."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from actors.robot_value import LiveAdvantage
from core.errors import ConfigError
from core.experience import EpisodeEnd, Observation
from core.windows import WindowSpec
from value_service.advantages import n_step_advantage


class Curve:
    """V is what the state says."""

    window_spec = WindowSpec()

    def predict(self, windows):
        assert windows.instruction == ("push",)
        return SimpleNamespace(value=windows.state[:, 0, 0])


def seen(value, time_s):
    return Observation(images={"front": np.zeros((2, 2, 3), np.uint8)}, state=np.array([value], np.float32), time_s=time_s)


def live(**changes):
    options = {"lookahead_s": 0.6, "control_hz": 5.0, "step_cost": 0.01, "threshold": 0.05, **changes}
    return LiveAdvantage(Curve(), **options)


def test_it_is_the_labels_advantage_one_look_ahead_late():
    value = np.random.default_rng(0).uniform(-1, 0, 12).astype(np.float32)
    curve = live()
    points = [curve(seen(v, 0.2 * t), "push") for t, v in enumerate(value)]
    assert [point.value for point in points] == pytest.approx(value.tolist())
    assert [point.advantage for point in points[:3]] == [None] * 3
    labels = n_step_advantage(value, np.full(11, -0.01, np.float32), EpisodeEnd.TIME_LIMIT, 3)
    assert [point.advantage for point in points[3:]] == pytest.approx(labels[:9].tolist(), abs=1e-6)
    assert {point.threshold for point in points} == {0.05}


def test_another_episode_begins_anew():
    curve = live()
    for t in range(5):
        curve(seen(-0.5, 0.2 * t), "push")
    assert curve(seen(-0.9, 10.0), "push").advantage is None
    assert curve(seen(-0.9, 0.0), "push").advantage is None  # a clock that was set back, too


def test_a_model_that_needs_the_past_is_refused():
    class Past(Curve):
        window_spec = WindowSpec(image_offsets=(-4, 0))

    with pytest.raises(ConfigError, match="the present alone"):
        LiveAdvantage(Past(), lookahead_s=1.0, control_hz=5.0, step_cost=0.01, threshold=None)
