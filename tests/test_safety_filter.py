from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from scipy.spatial.transform import Rotation

from core.errors import ConfigError
from robot_drivers import poses
from robot_drivers.driver import Pose
from robot_drivers.limits import Box, read_robot_config
from robot_drivers.safety_filter import AlongTwist, Brake, Clip, SafetyFilter, ToGoal, UnsafeError

CONFIG = Path(__file__).parent.parent / "configs/robots/fake.yaml"
LIMITS = dataclasses.replace(
    read_robot_config(CONFIG).arms[0].limits, keep_out=(Box(low_m=(0.33, -0.05, 0.05), high_m=(0.45, 0.05, 0.28)),)
)
PERIOD_S = 0.01
HOME = Pose(position_m=np.array(LIMITS.home_position_m), quaternion_wxyz=np.array(LIMITS.home_quaternion_wxyz))
JUNK = st.floats(allow_nan=True, allow_infinity=True, width=32)
ACTION = st.lists(st.one_of(st.floats(-0.5, 0.5), st.floats(-0.05, 0.05), JUNK), min_size=7, max_size=7)
TWIST = st.lists(st.one_of(st.floats(-1, 1), JUNK), min_size=6, max_size=6)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("action"), ACTION, st.integers(1, 30)),
        st.tuples(st.just("twist"), TWIST, st.integers(1, 30)),
        st.tuples(st.just("brake"), st.just([]), st.integers(1, 10)),
    ),
    min_size=1,
    max_size=12,
)


def play(moves, limits=LIMITS, lag=0.5, start=HOME):
    """Every commanded state under a stream of moves; the arm follows with a lag."""
    safety = SafetyFilter(limits, PERIOD_S)
    commanded, measured, states = safety.start(start), start, []
    states.append(commanded)
    for kind, values, num_ticks in moves:
        if kind == "action":
            commanded, _ = safety.compose(commanded, values, measured=measured)
        motion = {"action": ToGoal(), "brake": Brake()}.get(kind) or AlongTwist(twist=np.array(values))
        for _ in range(num_ticks):
            commanded, _ = safety.tick(commanded, motion, measured=measured)
            translation, rotation = poses.delta(measured, commanded.pose)
            measured = poses.moved(measured, translation_m=lag * translation, rotation_rad=lag * rotation)
            states.append(commanded)
    return states


def assert_within_limits(states, limits=LIMITS):
    positions = np.array([state.pose.position_m for state in states])
    assert np.isfinite(positions).all()
    assert (positions >= np.array(limits.box.low_m) - 1e-9).all()
    assert (positions <= np.array(limits.box.high_m) + 1e-9).all()
    for box in limits.keep_out:
        inside = (positions > np.array(box.low_m)).all(axis=1) & (positions < np.array(box.high_m)).all(axis=1)
        assert not inside.any()
    axes = Rotation.from_quat([state.pose.quaternion_wxyz for state in states], scalar_first=True).apply(limits.tool_axis)
    assert np.arccos(np.clip(axes @ np.array(limits.cone_axis), -1, 1)).max() <= limits.cone_half_angle_rad + 1e-6
    speed, acceleration, jerk = (np.diff(positions, n, axis=0) / PERIOD_S**n for n in (1, 2, 3))
    for value, limit in (
        (speed, limits.max_linear_speed_m_s),
        (acceleration, limits.max_linear_acceleration_m_s2),
        (jerk, limits.max_linear_jerk_m_s3),
    ):
        assert np.linalg.norm(value, axis=1).max(initial=0.0) <= limit * (1 + 1e-5) + 1e-6
    turns = np.array([poses.delta(before.pose, after.pose)[1] for before, after in itertools.pairwise(states)])
    assert np.linalg.norm(turns, axis=1).max(initial=0.0) / PERIOD_S <= limits.max_angular_speed_rad_s * (1 + 1e-6)
    spin = np.array([state.velocity[3:] for state in states])
    for n, limit in ((1, limits.max_angular_acceleration_rad_s2), (2, limits.max_angular_jerk_rad_s3)):
        assert np.linalg.norm(np.diff(spin, n, axis=0), axis=1).max(initial=0.0) / PERIOD_S**n <= limit * (1 + 1e-5) + 1e-6


@settings(max_examples=40, deadline=None)
@given(moves=MOVES, lag=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_no_stream_leaves_box_cone_or_limits_or_enters_a_keep_out_box(moves, lag):
    assert_within_limits(play(moves, lag=lag))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_full_speed_into_every_wall_ends_at_the_wall(axis, sign):
    limits = dataclasses.replace(LIMITS, keep_out=())
    twist = [0.0] * 6
    twist[axis] = 5.0 * sign
    states = play([("twist", twist, 500)], limits)
    assert_within_limits(states, limits)
    wall = (limits.box.high_m if sign > 0 else limits.box.low_m)[axis]
    assert states[-1].pose.position_m[axis] == pytest.approx(wall, abs=2e-3)


def test_a_twist_into_a_wall_still_slides_along_it():
    limits = dataclasses.replace(LIMITS, keep_out=())
    states = play([("twist", [0.0, 0.0, -0.1, 0, 0, 0], 300), ("twist", [0.0, 0.1, -0.1, 0, 0, 0], 150)], limits)
    assert states[-1].pose.position_m[2] == pytest.approx(limits.box.low_m[2], abs=2e-3)
    assert states[-1].pose.position_m[1] == pytest.approx(0.14, abs=0.02)


def test_motion_stops_before_a_keep_out_box_and_leaves_again():
    states = play([("twist", [0.0, 0.0, -0.2, 0, 0, 0], 60), ("twist", [0.3, 0.0, 0.0, 0, 0, 0], 200)])
    assert_within_limits(states)
    assert states[-1].pose.position_m[0] < 0.33
    away = play([("twist", [-0.1, 0.0, 0.0, 0, 0, 0], 30)], start=states[-1].pose)
    assert away[-1].pose.position_m[0] < states[-1].pose.position_m[0] - 0.01


def test_turning_against_the_cone_stays_inside_and_comes_back():
    states = play([("twist", [0, 0, 0, 2.0, 0, 0], 200)])
    assert_within_limits(states)
    tilt = np.linalg.norm(poses.delta(HOME, states[-1].pose)[1])
    assert tilt == pytest.approx(LIMITS.cone_half_angle_rad, abs=0.02)
    back = play([("twist", [0, 0, 0, -0.5, 0, 0], 50)], start=states[-1].pose)
    assert np.linalg.norm(poses.delta(HOME, back[-1].pose)[1]) < tilt - 0.1


def test_small_actions_sum_up_on_commanded_poses():
    action = [0.01, -0.005, 0.004, 0.0, 0.0, 0.05, 1.0]
    final = play([("action", action, 20)] * 8 + [("action", [0.0] * 6 + [1.0], 60)], lag=0.3)[-1].pose
    wanted = poses.moved(HOME, translation_m=8 * np.array(action[:3]), rotation_rad=8 * np.array(action[3:6]))
    translation, rotation = poses.delta(final, wanted)
    assert np.linalg.norm(translation) < 1e-6
    assert np.linalg.norm(rotation) < 1e-6


def test_an_arm_that_does_not_follow_is_not_run_away_from():
    states = play([("action", [0.03, 0, 0, 0, 0, 0, 1], 20)] * 10, dataclasses.replace(LIMITS, keep_out=()), lag=0.0)
    assert states[-1].pose.position_m[0] - HOME.position_m[0] == pytest.approx(LIMITS.max_lead_m, abs=1e-6)
    states = play([("twist", [0.2, 0, 0, 0, 0, 0], 200)], dataclasses.replace(LIMITS, keep_out=()), lag=0.0)
    assert states[-1].pose.position_m[0] - HOME.position_m[0] < LIMITS.max_lead_m + 0.05


@pytest.mark.parametrize(
    ("action", "clip"),
    [
        ([0.01, 0, 0, 0, 0, 0, 0.5], Clip.NONE),
        ([math.nan, 0, 0, 0, 0, 0, 0.5], Clip.NOT_FINITE),
        ([0, 0, 0, 0, 0, 0, math.inf], Clip.NOT_FINITE),
        ([0.0] * 6, Clip.SHAPE),
        ([[0.0] * 7], Clip.SHAPE),
        ([0.035, 0, 0, 0, 0, 0, 0.5], Clip.STEP),
        ([0, 0, 0, 0.2, 0, 0, 0.5], Clip.STEP),
        ([0, 0, 0, 0, 0, 0, 1.5], Clip.GRIPPER),
        ([1.0, 0, 0, 0, 0, 0, -0.5], Clip.STEP | Clip.GRIPPER),
    ],
)
def test_what_was_clipped_is_said(action, clip):
    safety = SafetyFilter(LIMITS, PERIOD_S)
    before = safety.start(HOME)
    after, found = safety.compose(before, action, measured=HOME)
    assert found == clip
    if clip & (Clip.NOT_FINITE | Clip.SHAPE):
        assert after is before


def test_goals_beyond_box_lead_and_cone_are_brought_back_and_named():
    safety = SafetyFilter(LIMITS, PERIOD_S)
    edge = Pose(position_m=np.array([0.54, 0.2, 0.4]), quaternion_wxyz=HOME.quaternion_wxyz)
    after, clip = safety.compose(safety.start(edge), [0.03, 0, 0, 0, 0, 0, 1], measured=edge)
    assert clip == Clip.BOX
    assert after.goal.position_m[0] == pytest.approx(0.55, abs=1e-4)
    behind = Pose(position_m=np.array([0.48, 0.2, 0.4]), quaternion_wxyz=HOME.quaternion_wxyz)
    after, clip = safety.compose(safety.start(edge), [0.0] * 7, measured=behind)
    assert clip == Clip.LEAD
    assert after.goal.position_m[0] == pytest.approx(0.52)
    tilted = poses.moved(HOME, translation_m=np.zeros(3), rotation_rad=np.array([0.58, 0, 0]))
    after, clip = safety.compose(safety.start(tilted), [0, 0, 0, 0.1, 0, 0, 1], measured=tilted)
    assert clip == Clip.CONE
    assert np.linalg.norm(poses.delta(HOME, after.goal)[1]) == pytest.approx(0.6, abs=0.003)


@pytest.mark.parametrize(
    ("pose", "complaint"),
    [
        (Pose(position_m=np.array([0.1, 0, 0.3]), quaternion_wxyz=HOME.quaternion_wxyz), r"outside its box \[0\.15"),
        (Pose(position_m=np.array([0.15 - 0.004, 0, 0.3]), quaternion_wxyz=HOME.quaternion_wxyz), r"outside its box \[0\.15"),
        (Pose(position_m=np.array([0.4, 0, 0.2]), quaternion_wxyz=HOME.quaternion_wxyz), "inside the keep-out box"),
        (Pose(position_m=np.array([0.335, 0, 0.2]), quaternion_wxyz=HOME.quaternion_wxyz), "inside the keep-out box"),
        (Pose(position_m=HOME.position_m, quaternion_wxyz=np.array([1.0, 0, 0, 0])), r"tilted by 3\.14 rad"),
    ],
)
def test_motion_does_not_begin_outside_the_limits(pose, complaint):
    with pytest.raises(UnsafeError, match=complaint):
        SafetyFilter(LIMITS, PERIOD_S).start(pose)


BEYOND = {
    "box": ([0.15 - 0.002, 0.0, 0.3], [0, 0, 0], [0.1, 0, 0, 0, 0, 0]),
    "a corner of it": ([0.15 - 0.002, 0.25 + 0.002, 0.3], [0, 0, 0], [0.1, -0.1, 0, 0, 0, 0]),
    "keep-out": ([0.33 + 0.002, 0.0, 0.2], [0, 0, 0], [-0.1, 0, 0, 0, 0, 0]),
    "cone": (HOME.position_m, [0.605, 0, 0], [0, 0, 0, -0.5, 0, 0]),
    "cone, at its margin": (HOME.position_m, [0.5995, 0, 0], [0, 0, 0, -0.5, 0, 0]),
}


def beyond(limit):
    position, turn, inwards = BEYOND[limit]
    pose = Pose(position_m=np.array(position), quaternion_wxyz=HOME.quaternion_wxyz)
    return poses.moved(pose, translation_m=np.zeros(3), rotation_rad=np.array(turn)), inwards


def excess(pose, limits=LIMITS):
    """How far beyond its limits a pose is: box [m], keep-out [m], cone [rad]; 0 inside."""
    p = pose.position_m
    box = np.maximum(np.array(limits.box.low_m) - p, p - np.array(limits.box.high_m)).max()
    [kept_out] = limits.keep_out
    depth = np.minimum(p - np.array(kept_out.low_m), np.array(kept_out.high_m) - p).min()
    axis = poses.direction(pose, limits.tool_axis)
    tilt = math.acos(min(1.0, float(axis @ np.array(limits.cone_axis)))) - limits.cone_half_angle_rad
    return np.maximum([box, depth, tilt], 0)


@pytest.mark.parametrize("limit", BEYOND)
def test_an_arm_that_rests_just_beyond_a_limit_can_be_brought_back(limit):
    start, inwards = beyond(limit)
    states = play([("twist", [-x for x in inwards], 30), ("twist", inwards, 60)], start=start)
    moved = poses.delta(start, states[-1].pose)
    assert np.linalg.norm(np.concatenate(moved)) > 0.02
    assert excess(states[-1].pose).max() == 0
    assert max(excess(state.pose).max() for state in states) <= excess(start).max() + 1e-6


@settings(max_examples=30, deadline=None)
@given(limit=st.sampled_from(list(BEYOND)), moves=MOVES)
def test_no_stream_takes_an_arm_further_beyond_a_limit_than_it_stood(limit, moves):
    start, _ = beyond(limit)
    furthest = np.maximum(excess(start), [0, 0, 0])
    for state in play(moves, start=start):
        assert (excess(state.pose) <= furthest + 1e-6).all()


@settings(max_examples=10, deadline=None)
@given(moves=MOVES)
def test_a_recorded_stream_gives_the_same_bits_again(moves):
    first, again = play(moves), play(moves)
    for before, after in zip(first, again, strict=True):
        assert before.pose.position_m.tobytes() == after.pose.position_m.tobytes()
        assert before.pose.quaternion_wxyz.tobytes() == after.pose.quaternion_wxyz.tobytes()
        assert before.velocity.tobytes() == after.velocity.tobytes()


ROTATION = st.lists(st.floats(-3, 3), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) < 3.1)


@given(first=ROTATION, second=ROTATION)
def test_poses_compose_as_scipys_rotations_do(first, second):
    start = poses.moved(HOME, translation_m=np.ones(3), rotation_rad=np.array(first))
    end = poses.moved(start, translation_m=np.zeros(3), rotation_rad=np.array(second))
    wanted = (
        Rotation.from_rotvec(second) * Rotation.from_rotvec(first) * Rotation.from_quat(HOME.quaternion_wxyz, scalar_first=True)
    )
    found = Rotation.from_quat(end.quaternion_wxyz, scalar_first=True)
    assert (found * wanted.inv()).magnitude() < 1e-7
    np.testing.assert_allclose(poses.delta(start, end)[1], second, atol=1e-6)
    np.testing.assert_allclose(poses.direction(end, (0.0, 0.6, 0.8)), wanted.apply([0.0, 0.6, 0.8]), atol=1e-9)


def leaves(tree, prefix=""):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        path = f"{prefix}{key}"
        yield path
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            yield from leaves(value, f"{path}.")


TREE = OmegaConf.to_container(OmegaConf.load(CONFIG))


def test_a_config_without_any_one_of_its_keys_is_refused_by_that_key(tmp_path):
    keys = [key for key in leaves(TREE) if key != "arms.0"]
    assert len(keys) > 35
    for key in keys:
        broken = OmegaConf.to_container(OmegaConf.load(CONFIG))
        *folders, last = key.split(".")
        node = broken
        for folder in folders:
            node = node[int(folder) if isinstance(node, list) else folder]
        del node[last]
        OmegaConf.save(OmegaConf.create(broken), tmp_path / "robot.yaml")
        with pytest.raises(ConfigError, match=rf"(?m)^  {key}: Field required"):
            read_robot_config(tmp_path / "robot.yaml")


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("lease_ttl_s", 5, "lease_ttl_s is 5"),
        ("tick_hz", 3, "expected 20 to 1000"),
        ("control_hz", 200, "at most tick_hz"),
        ("turbo", True, "turbo: Unexpected"),
        ("arms", [], "expected one or more"),
        ("watchdog.late_fraction", 2, "at most 1"),
        ("watchdog.stale_state_s", 0, "more than 0"),
        ("arms.0.limits.max_linear_speed_m_s", -1, "more than 0"),
        ("arms.0.limits.max_linear_speed_m_s", ".inf", "finite"),
        ("arms.0.limits.max_linear_speed_m_s", "fast", "valid number"),
        ("arms.0.limits.box.low_m", [1, 1, 1], "low below high"),
        ("arms.0.limits.cone_axis", [0, 0, -2], "length 2"),
        ("arms.0.limits.max_tracking_error_m", 0.06, "not below max_lead_m"),
    ],
)
def test_nonsense_in_a_config_is_refused(tmp_path, key, value, complaint):
    broken = OmegaConf.load(CONFIG)
    OmegaConf.update(broken, key, float("inf") if value == ".inf" else value, force_add=True) if "0" not in key else None
    if "0" in key:
        node = broken.arms[0]
        *folders, last = key.split(".")[2:]
        for folder in folders:
            node = node[folder]
        node[last] = float("inf") if value == ".inf" else value
    OmegaConf.save(broken, tmp_path / "robot.yaml")
    with pytest.raises(ConfigError, match=complaint):
        read_robot_config(tmp_path / "robot.yaml")


def test_every_robots_configuration_is_accepted():
    configs = {path.stem: read_robot_config(path) for path in sorted(CONFIG.parent.glob("*.yaml"))}
    assert len(configs["fake_bimanual"].arms) == 2
    assert len({config.name for config in configs.values()}) == len(configs), "a name is also that of the socket"


def test_the_digest_of_a_config_follows_its_limits():
    config = read_robot_config(CONFIG)
    assert config.digest == read_robot_config(CONFIG).digest
    assert dataclasses.replace(config, lease_ttl_s=0.2).digest != config.digest
