"""Jerk-limited plans for many environments against Ruckig."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ruckig import InputParameter, Ruckig, Trajectory

from envs.simpler.batched.motion import plan_jerk_limited_batch, speed_change_s
from envs.simpler.motion import MotionLimits, plan_jerk_limited

ARM = MotionLimits(velocity_rad_s=1.5, acceleration_rad_s2=2.0, jerk_rad_s3=50.0)
GRIPPER = MotionLimits(velocity_rad_s=1.0, acceleration_rad_s2=7.0, jerk_rad_s3=50.0)
STEP_S = 1 / 513
share = st.floats(-1.0, 1.0, width=32)


def both(start, velocity, target, limits, *, num_steps=120, step_s=0.05):
    """Ours for all environments, and Ruckig's one by one: positions and velocities [N, K+1, D]."""
    ours = plan_jerk_limited_batch(*map(torch.from_numpy, (start, velocity, target)), limits, num_steps=num_steps, step_s=step_s)
    theirs = [
        plan_jerk_limited(*state, limits, num_steps=num_steps, step_s=step_s)
        for state in zip(start, velocity, target, strict=True)
    ]
    return ours, np.array([plan.position for plan in theirs]), np.array([plan.velocity for plan in theirs])


def assert_is_ruckigs(ours, position, velocity):
    """To rounding where a path cruises; where it is a weighted mean, the same end and nothing beyond a few milliradians."""
    is_cruise = ~ours.is_blended.numpy()[:, None]
    np.testing.assert_allclose(np.where(is_cruise, ours.position, position), position, atol=1e-6)
    np.testing.assert_allclose(np.where(is_cruise, ours.velocity, velocity), velocity, atol=1e-5)
    np.testing.assert_allclose(ours.position, position, atol=0.01)
    np.testing.assert_allclose(ours.position[:, -1], position[:, -1], atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(
    joints=st.lists(st.tuples(share, share, share), min_size=3, max_size=3),
    reach=st.sampled_from([1e-3, 0.03, 0.3, 2.0]),
    pace=st.sampled_from([0.0, 0.05, 1.0]),
    limits=st.sampled_from([ARM, GRIPPER]),
)
def test_any_state_is_planned_as_ruckig_plans_it(joints, reach, pace, limits):
    start, velocity, target = np.array(joints, dtype=np.float64).T[:, None]
    assert_is_ruckigs(*both(start, pace * limits.velocity_rad_s * velocity, start + reach * target, limits))


def test_random_states_are_planned_as_ruckig_plans_them():
    """What the arm meets: nine joints, moving, some near their targets. Durations as well."""
    random = np.random.default_rng(0)
    count, dim = 60, 9
    start = random.uniform(-1, 1, (count, dim))
    velocity = random.uniform(-0.5, 0.5, (count, dim)) * random.choice([0.0, 0.1, 1.0], (count, 1))
    target = start + random.normal(0, 0.3, (count, dim)) * random.choice([1e-3, 0.1, 1.0], (count, 1))
    ours, position, planned_velocity = both(start, velocity, target, ARM)
    assert_is_ruckigs(ours, position, planned_velocity)
    assert ours.is_blended.float().mean() < 0.02
    theirs_s = [ruckig_duration_s(*state) for state in zip(start, velocity, target, strict=True)]
    np.testing.assert_allclose(ours.duration_s, theirs_s, atol=1e-9)


def ruckig_duration_s(start, velocity, target):
    request, trajectory = InputParameter(len(start)), Trajectory(len(start))
    request.current_position, request.current_velocity, request.target_position = map(list, (start, velocity, target))
    request.max_velocity = [ARM.velocity_rad_s] * len(start)
    request.max_acceleration = [ARM.acceleration_rad_s2] * len(start)
    request.max_jerk = [ARM.jerk_rad_s3] * len(start)
    Ruckig(len(start)).calculate(request, trajectory)
    return trajectory.duration


def test_a_joint_with_a_little_too_much_time_still_keeps_the_limits_and_arrives():
    """The durations that no path with a cruise has: between braking at once and braking in two halves."""
    random = np.random.default_rng(1)
    count = 100
    speed = random.uniform(0.2, 1.4, count)
    brake_s, halves_s = (k * speed_change_s(torch.from_numpy(speed / k), ARM).numpy() for k in (1, 2))
    duration_s = brake_s + random.uniform(0.05, 0.95, count) * (halves_s - brake_s)
    partner = ARM.acceleration_rad_s2 * (duration_s - ARM.acceleration_rad_s2 / ARM.jerk_rad_s3)  # brakes for that long
    is_possible = partner < ARM.velocity_rad_s
    speed, brake_s, duration_s, partner = (x[is_possible] for x in (speed, brake_s, duration_s, partner))
    target = np.stack([speed / 2 * brake_s + 0.3 * speed * (duration_s - brake_s), partner / 2 * duration_s], axis=1)
    velocity = np.stack([speed, partner], axis=1)
    ours, position, _ = both(np.zeros_like(target), velocity, target, ARM, num_steps=600, step_s=STEP_S)
    assert ours.is_blended[:, 0].float().mean() > 0.5
    assert_is_ruckigs(ours, position, np.asarray(ours.velocity))
    np.testing.assert_allclose(ours.duration_s, duration_s, atol=1e-9)
    assert ours.velocity.abs().max() <= ARM.velocity_rad_s + 1e-9
    acceleration = torch.diff(ours.velocity, dim=1) / STEP_S
    assert acceleration.abs().max() <= ARM.acceleration_rad_s2 + 1e-6
    assert (torch.diff(acceleration, dim=1) / STEP_S).abs().max() <= ARM.jerk_rad_s3 + 1e-3


def test_environments_do_not_mix():
    start, velocity, target = torch.rand(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = plan_jerk_limited_batch(start, velocity, target, ARM, num_steps=171, step_s=STEP_S)
    for i in range(4):
        alone = plan_jerk_limited_batch(
            start[i : i + 1], velocity[i : i + 1], target[i : i + 1], ARM, num_steps=171, step_s=STEP_S
        )
        torch.testing.assert_close(together.position[i], alone.position[0], rtol=0, atol=0)


def test_at_rest_at_the_target_nothing_moves():
    still = torch.full((2, 3), 0.3, dtype=torch.float64)
    plan = plan_jerk_limited_batch(still, torch.zeros_like(still), still, ARM, num_steps=20, step_s=STEP_S)
    assert (plan.position == 0.3).all()
    assert (plan.velocity == 0).all()
    assert plan.duration_s.tolist() == pytest.approx([0, 0], abs=1e-6)
