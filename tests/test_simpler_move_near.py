"""Move near: upstream's grid, its success rule on states made by hand, its recorded run, and the expert."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from core.errors import AssetError, ConfigError
from envs import simpler
from envs.simpler import parity
from envs.simpler.expert_move_near import place_beside
from envs.simpler.expert_quality import expert_config
from envs.simpler.experts import demonstrate, make_expert
from envs.simpler.tasks import TASKS

# -- the expert, without a simulator ---------------------------------------------------------------------------------


def test_the_place_is_beside_the_target_and_on_the_way() -> None:
    place = place_beside(np.array([0.5, 0.0]), np.array([0.7, 0.0]), [])
    np.testing.assert_allclose(place, [0.63, 0.0], atol=1e-9)


def test_the_place_keeps_away_from_what_else_stands_there() -> None:
    target, start, other = np.array([0.5, 0.0]), np.array([0.7, 0.0]), np.array([0.66, 0.02])
    place = place_beside(target, start, [other])
    assert np.linalg.norm(place - target) == pytest.approx(0.13)
    assert np.linalg.norm(place - other) > 0.165


# -- the grid --------------------------------------------------------------------------------------------------------

sim = pytest.mark.sim


@sim
def test_the_grid_is_upstreams() -> None:
    from envs.simpler.move_near import NUM_EPISODES, arrangement

    assert NUM_EPISODES == 60
    found = arrangement(13, "v1")
    assert found.model_ids == ("baked_opened_7up_can_v2", "baked_apple_v2", "baked_sponge_v2")
    assert (found.source, found.target) == (0, 2)
    assert found.xy_m == ((-0.33, 0.04), (-0.33, 0.34), (-0.13, 0.19))
    assert found.densities == (None, 200.0, None)
    last = arrangement(59, "v0")
    assert last.model_ids == ("orange", "baked_opened_pepsi_can", "baked_opened_redbull_can")
    assert (last.source, last.target) == (2, 1)
    assert last.xy_m[0] == (-0.13, 0.04)
    assert {arrangement(e, "plain").model_ids for e in range(60)} >= {("opened_7up_can", "apple", "sponge")}
    assert len({(a.model_ids, a.xy_m, a.source, a.target) for a in (arrangement(e, "v1") for e in range(60))}) == 60
    with pytest.raises(ConfigError, match="episode_id=60; move near has episodes 0 to 59"):
        arrangement(60, "v1")


@sim
def test_without_distractor_two_objects_remain() -> None:
    from envs.simpler.move_near import arrangement

    found = arrangement(16, "plain", no_distractor=True)  # pair 4: third object near the first
    assert found.model_ids == ("sponge", "opened_7up_can")
    assert (found.source, found.target) == (0, 1)
    assert found.xy_m == ((-0.13, 0.19), (-0.33, 0.04))


# -- the scene -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    env = simpler.make("google_robot_move_near", assets="builtin", obs_size=(64, 80), urdf_version="")
    yield env
    env.close()


def arrange(env: Any, **places: tuple[float, float]) -> dict[str, Any]:
    """Put objects of episode 13 (move 7up can near sponge) at xy, as high as they stood; returns the verdict of one step."""
    import sapien

    from envs.simpler.bodies import stop

    for name, xy in places.items():
        index = ["can", "apple", "sponge"].index(name)
        actor = env.scene.episode_objs[index]
        actor.set_pose(sapien.Pose([*xy, env.scene.settled_m[index, 2]], actor.pose.sp.q))
        stop(actor)
    info: dict[str, Any] = env.step(np.zeros(7))[4]
    return info


@sim
def test_reset_reports_what_upstream_reports(env: Any) -> None:
    obs, info = env.reset(seed=0, options={"obj_init_options": {"episode_id": 13}})
    assert env.get_language_instruction() == "move 7up can near sponge"
    assert info["episode_id"] == 13
    assert info["episode_source_obj_name"] == "baked_opened_7up_can_v2"
    assert info["episode_target_obj_name"] == "baked_sponge_v2"
    assert info["episode_model_scales"] == [1.0, 1.0, 1.0]
    assert info["rgb_overlay_path"] == "builtin:google_move_near_real_eval_1"
    assert info["backend"] == "native"
    half = -0.09 / 2  # yaw pi, turned by -0.09
    np.testing.assert_allclose(obs["agent"]["base_pose"][:3], [0.35, 0.21, 0.07905], atol=1e-6)
    np.testing.assert_allclose(obs["agent"]["base_pose"][3:], [-np.sin(half), 0, 0, np.cos(half)], atol=1e-6)
    _, _, terminated, _, step_info = env.step(np.zeros(7))
    stats = step_info["episode_stats"]
    assert not terminated
    assert stats == {key: step_info[key] for key in stats}
    assert [key for key, value in stats.items() if value] == ["all_obj_keep_height", "is_closest_to_tgt"]


@sim
def test_episodes_are_drawn_as_upstream_draws_them(env: Any) -> None:
    for seed in (3, 4):
        assert env.reset(seed=seed)[1]["episode_id"] == np.random.RandomState(seed).randint(60)


@sim
def test_success_needs_all_of_upstreams_conditions(env: Any) -> None:
    options = {"obj_init_options": {"episode_id": 13}}  # can (-0.33, 0.04), apple (-0.33, 0.34), sponge (-0.13, 0.19)
    env.reset(seed=0, options=options)
    beside = arrange(env, can=(-0.13, 0.06))
    assert beside["success"]
    assert beside["moved_correct_obj"]

    env.reset(seed=0, options=options)
    far = arrange(env, can=(-0.40, 0.10))
    assert (far["moved_correct_obj"], far["near_tgt_obj"], far["success"]) == (True, False, False)

    env.reset(seed=0, options=options)
    by_the_target = arrange(env, sponge=(-0.33, 0.18))
    assert (by_the_target["near_tgt_obj"], by_the_target["moved_wrong_obj"], by_the_target["success"]) == (True, True, False)

    env.reset(seed=0, options=options)
    nearer_to_apple = arrange(env, can=(-0.13, 0.03), apple=(-0.20, 0.00))
    assert (nearer_to_apple["near_tgt_obj"], nearer_to_apple["is_closest_to_tgt"]) == (True, False)
    assert not nearer_to_apple["success"]

    env.reset(seed=0, options=options)
    off_the_table = arrange(env, can=(-0.13, 0.06), apple=(0.6, 0.7))
    for _ in range(2):
        off_the_table = env.step(np.zeros(7))[4]
    assert not off_the_table["all_obj_keep_height"]
    assert not off_the_table["success"]


@sim
def test_the_limit_of_nearness_is_upstreams(env: Any) -> None:
    """Half diagonals of both boxes, turned as upstream turns them, and 10 cm."""
    env.reset(seed=0, options={"obj_init_options": {"episode_id": 13}})
    can = np.hypot(0.066, 0.066) / 2  # standing: its size vector becomes (0.066, -0.066, 0.123)
    sponge = np.hypot(-0.10, 0.07) / 2
    assert env.scene.reach_m == pytest.approx(can + sponge, abs=1e-3)


@sim
def test_the_recorded_run_replays() -> None:
    try:
        record = parity.find_traces() / "move_near_v1_rand.json"
        env = simpler.make("google_robot_move_near", assets="upstream", urdf_version="")
    except AssetError as error:
        pytest.skip(str(error))
    row = parity.compare(record, env)
    assert row["arm_max_rad_first10"] < 2e-3
    assert row["object_mass_rel"] < 0.01
    assert row["object_center_m"] < 1e-4
    assert row["image_mean_abs"] < 0.1
    assert row["success_ours"] == row["success_upstream"]
    from envs.simpler.native import rigid_body

    recorded = json.loads(record.read_text())["init"]["actors"]
    for actor in env.scene.episode_objs:
        assert rigid_body(actor).mass == pytest.approx(recorded[actor.name]["mass"], rel=0.01), actor.name
    env.close()


# -- the expert ------------------------------------------------------------------------------------------------------


@sim
def test_the_expert_moves_can_fruit_and_sponge() -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    task = "google_robot_move_near_v0"
    env = SimplerTaskEnv(task, assets="builtin", render=False)
    outcomes = {}
    for episode_id in (13, 21, 28, 36):
        expert = make_expert(task, expert_config("clean"), np.random.default_rng(0))
        episode = demonstrate(env, expert, seed=0, options={"obj_init_options": {"episode_id": episode_id}}, to_the_end=True)
        outcomes[env.instruction] = episode.is_success
    env.close()
    assert all(outcomes.values()), outcomes
    assert TASKS[task].max_episode_steps == 80
