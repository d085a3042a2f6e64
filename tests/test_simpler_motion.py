"""Jerk-limited plans: limits, end points, continuity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import NonFiniteError
from envs.simpler.motion import MotionLimits, plan_jerk_limited

LIMITS = MotionLimits(velocity_rad_s=1.5, acceleration_rad_s2=2.0, jerk_rad_s3=50.0)
STEP_S = 1 / 513
joint = st.floats(-1.0, 1.0)


@settings(max_examples=30, deadline=None)
@given(start=st.tuples(joint, joint, joint), velocity=st.tuples(joint, joint, joint), target=st.tuples(joint, joint, joint))
def test_a_plan_keeps_its_limits_and_arrives(start, velocity, target):
    plan = plan_jerk_limited(np.array(start), np.array(velocity), np.array(target), LIMITS, num_steps=2600, step_s=STEP_S)
    assert plan.position.shape == plan.velocity.shape == (2601, 3)
    np.testing.assert_allclose(plan.position[0], start, atol=1e-9)
    np.testing.assert_allclose(plan.velocity[0], velocity, atol=1e-9)
    np.testing.assert_allclose(plan.position[-1], target, atol=1e-6)
    np.testing.assert_allclose(plan.velocity[-1], 0, atol=1e-6)
    assert np.abs(plan.velocity).max() <= LIMITS.velocity_rad_s + 1e-6
    assert np.abs(np.diff(plan.velocity, axis=0)).max() <= LIMITS.acceleration_rad_s2 * STEP_S + 1e-6
    np.testing.assert_allclose(np.diff(plan.position, axis=0) / STEP_S, plan.velocity[:-1], atol=2.0 * STEP_S + 1e-6)


def test_joints_arrive_together():
    plan = plan_jerk_limited(np.zeros(2), np.zeros(2), np.array([0.5, 0.05]), LIMITS, num_steps=1000, step_s=STEP_S)
    arrival = [int(np.argmax(np.abs(plan.position[:, i] - target) < 1e-9)) for i, target in enumerate((0.5, 0.05))]
    assert abs(arrival[0] - arrival[1]) <= 2


def test_past_its_end_a_plan_stays():
    plan = plan_jerk_limited(np.zeros(1), np.zeros(1), np.array([1e-4]), LIMITS, num_steps=171, step_s=STEP_S)
    assert plan.position[-1] == pytest.approx(1e-4)
    assert (plan.position[60:] == plan.position[60]).all()


def test_a_diverged_simulation_is_named():
    with pytest.raises(NonFiniteError, match=r"no joint path from position \[0.3\].*nan.*reset the environment"):
        plan_jerk_limited(np.array([0.3]), np.array([np.nan]), np.array([0.5]), LIMITS, num_steps=5, step_s=STEP_S)
