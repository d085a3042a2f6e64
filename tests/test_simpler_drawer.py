"""Drawers: reset options, upstream's success rules on states made by hand, recorded runs, and the experts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from core.errors import AssetError, ConfigError
from envs import simpler
from envs.simpler import parity
from envs.simpler.builtin import BuiltinAssets
from envs.simpler.expert_base import Pose
from envs.simpler.expert_drawer import looking_into_cabinet, where_the_arm_reaches
from envs.simpler.expert_quality import expert_config
from envs.simpler.experts import demonstrate, make_expert
from envs.simpler.standpoints import STANDPOINTS

sim = pytest.mark.sim
HOLD = np.zeros(7, dtype=np.float32)

# -- without a simulator -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pitch_deg", [0.0, 25.0, 60.0])
def test_the_tool_looks_into_the_cabinet(pitch_deg: float) -> None:
    axes = looking_into_cabinet(np.deg2rad(pitch_deg)).as_matrix()
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    assert np.rad2deg(np.arcsin(-axes[2, 2])) == pytest.approx(pitch_deg)
    assert axes[0, 2] < 0.0
    np.testing.assert_allclose(np.abs(axes[:, 1]), [0.0, 1.0, 0.0], atol=1e-12)


def test_the_arm_stays_within_the_drawer() -> None:
    facing = Pose.of(np.array([0.9, 0.0, 0.6, 0.0, 0.0, 0.0, 1.0])).rotation
    for sideways_m, expected in ((-0.2, 0.0), (0.2, 0.27), (-0.6, -0.27), (-0.1, 0.1)):
        assert where_the_arm_reaches(Pose(np.array([0.9, sideways_m, 0.6]), facing)) == pytest.approx(expected)


# -- the scene -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opening() -> Iterator[Any]:
    env = simpler.make("google_robot_open_drawer", assets="builtin", obs_size=(64, 80), urdf_version="")
    yield env
    env.close()


@sim
@pytest.mark.parametrize("overlay_id", ["a0", "b1", "c2"])
def test_the_robot_stands_where_the_photograph_was_taken(opening: Any, overlay_id: str) -> None:
    obs, info = opening.reset(seed=0, options={"overlay_id": overlay_id})
    standpoint = STANDPOINTS[overlay_id]
    np.testing.assert_allclose(obs["agent"]["base_pose"][:3], [standpoint.x, standpoint.y, 0.07905], atol=1e-6)
    assert info["rgb_overlay_path"] == f"builtin:open_drawer_{overlay_id}"
    assert (info["station_name"], info["light_mode"], info["disable_bad_material"]) == ("mk_station_recolor", "simple", True)
    np.testing.assert_allclose(opening.scene.drawer_positions, 0.0, atol=1e-6)


@sim
def test_an_unknown_standpoint_is_refused(opening: Any) -> None:
    with pytest.raises(ConfigError, match="overlay_id='d0'; known are a0, a1"):
        opening.reset(seed=0, options={"overlay_id": "d0"})


@sim
def test_seeds_draw_drawer_and_standpoint(opening: Any) -> None:
    drawn = [(opening.reset(seed=seed)[1]["drawer_id"], opening.scene.overlay_name) for seed in range(8)]
    again = [(opening.reset(seed=seed)[1]["drawer_id"], opening.scene.overlay_name) for seed in range(8)]
    assert drawn == again
    assert {drawer for drawer, _ in drawn} == {"top", "middle", "bottom"}
    random = np.random.RandomState(3)
    assert drawn[3][0] == random.choice(["top", "middle", "bottom"])
    assert drawn[3][1] == f"open_drawer_{list(STANDPOINTS)[random.choice(9)]}"


@sim
def test_open_means_fifteen_centimetres(opening: Any) -> None:
    for position_m, is_open in ((0.145, False), (0.155, True)):
        opening.reset(seed=0, options={"obj_init_options": {"cabinet_init_qpos": position_m}})
        _, _, terminated, _, info = opening.step(HOLD)
        assert (terminated, bool(info["success"])) == (is_open, is_open)
        assert info["episode_stats"]["qpos"] == f"{position_m:.3f}"
    named = opening.get_language_instruction().split()[1]
    others = {"top": [0.0, 0.3, 0.3], "middle": [0.3, 0.0, 0.3], "bottom": [0.3, 0.3, 0.0]}[named]
    opening.reset(seed=0, options={"obj_init_options": {"cabinet_init_qpos": others}})
    assert not opening.step(HOLD)[4]["success"], "another drawer does not count"


@sim
def test_closed_means_five_centimetres() -> None:
    env = simpler.make("google_robot_close_middle_drawer", assets="builtin", render=False)
    given = {"obj_init_options": {"cabinet_init_qpos": 0.045}}
    env.reset(seed=0)
    np.testing.assert_allclose(env.scene.drawer_positions, [0.0, 0.2, 0.0], atol=1e-6)
    assert not env.step(HOLD)[4]["success"]
    env.reset(seed=0, options=given)
    assert env.step(HOLD)[4]["success"]
    assert given == {"obj_init_options": {"cabinet_init_qpos": 0.045}}
    env.close()


@sim
def test_the_recorded_runs_replay() -> None:
    try:
        record = parity.find_traces() / "open_top_drawer_script.json"
        colour = json.loads(record.read_text())["init"]["urdf_version"]
        env = simpler.make("google_robot_open_top_drawer", assets="upstream", urdf_version=colour)
    except AssetError as error:
        pytest.skip(str(error))
    row = parity.compare(record, env)
    env.close()
    assert row["arm_max_rad_first10"] < 2e-3
    assert row["object_mass_rel"] < 1e-3
    assert row["image_mean_abs"] < 0.5
    assert row["object_max_m"] < 2e-3, "the drawer"
    assert row["success_ours"] == row["success_upstream"]


# -- placing ---------------------------------------------------------------------------------------------------------


@sim
def test_placing_has_two_subtasks() -> None:
    import sapien

    from envs.simpler.bodies import stop

    env = simpler.make("google_robot_place_apple_in_closed_top_drawer", assets="builtin", render=False)
    env.reset(seed=0)
    assert env.get_language_instruction() == "open top drawer"
    assert not env.is_final_subtask()
    env.scene.drawer_positions = np.array([0.2, 0.0, 0.0])
    drawer = env.scene.drawer_pose()
    env.scene.obj.set_pose(drawer * sapien.Pose([0.2, 0.0, 0.02]))
    stop(env.scene.obj)
    first = env.step(HOLD)[4]
    assert first["episode_stats"]["is_drawer_open"]
    assert first["episode_stats"]["has_contact"] == 1
    assert not first["success"], "not before the second subtask"
    env.advance_to_next_subtask()
    assert env.get_language_instruction() == "place apple into top drawer"
    assert env.is_final_subtask()
    assert env.step(HOLD)[4]["success"]
    env.scene.drawer_positions = np.array([0.04, 0.0, 0.0])
    assert not env.step(HOLD)[4]["success"], "the drawer must stay open"
    env.close()


# -- the experts -----------------------------------------------------------------------------------------------------


@sim
@pytest.mark.parametrize("task", ["google_robot_open_top_drawer", "google_robot_close_drawer"])
def test_the_expert_opens_and_closes(task: str) -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    env = SimplerTaskEnv(task, assets="builtin", render=False)
    episode = demonstrate(env, make_expert(task, expert_config("clean"), np.random.default_rng(0)), seed=0)
    env.close()
    assert episode.is_success
    assert episode.num_steps < 80
    assert episode.annotations["intervals"] == []


@sim  # the pictures are painted at first use, which takes seconds
def test_every_standpoint_has_a_picture() -> None:
    for name in STANDPOINTS:
        picture = BuiltinAssets().overlay(f"open_drawer_{name}")
        assert picture.shape == (512, 640, 3)
        assert picture.std() > 10.0
