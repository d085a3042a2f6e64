"""Batched environments: what is refused, seeds and options, and on the CPU with one and three what a user of the batch sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import ConfigError, NonFiniteError, SpecError
from envs import simpler
from envs.simpler.batched import make as batched_make
from envs.simpler.task_env import SimplerTaskEnv

TASK = "google_robot_open_drawer"
"""The quickest to build: nothing has to fall first."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "google_robot_pick_coke_cam"}, "did you mean 'google_robot_pick_coke_can'"),
        (
            {"name": "google_robot_place_in_closed_drawer"},
            "not offered in batches; families that are: pick, move_near, drawer, put_on",
        ),
        ({"name": TASK, "num_envs": 0}, "expected at least 1"),
        ({"name": TASK, "sim_backend": "physx_tpu"}, "known are auto, physx_cuda, physx_cpu"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        simpler.make_vec(**arguments)


def test_without_a_gpu_the_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(batched_make, "has_gpu", lambda: False)
    with pytest.raises(ConfigError, match="needs a CUDA device that torch can use, and there is none"):
        simpler.make_vec(TASK, num_envs=64, sim_backend="physx_cuda")
    with pytest.raises(ConfigError, match=r"num_envs=64 needs a CUDA device .* sim_backend='physx_cpu' runs them one after"):
        simpler.make_vec(TASK, num_envs=64)


@pytest.fixture(scope="module")
def batch():
    envs = simpler.make_vec(TASK, sim_backend="physx_cpu", obs_size=(64, 80), auto_reset=False)
    yield envs
    envs.close()


@pytest.fixture(scope="module")
def three():
    envs = simpler.make_vec(TASK, num_envs=3, sim_backend="physx_cpu", obs_size=(8, 8), render=False)
    yield envs
    envs.close()


@pytest.fixture
def blind(batch, monkeypatch):
    """The same, for tests that do not look."""
    monkeypatch.setattr(batch.base_env, "is_rendering", False)
    return batch


@pytest.mark.sim
def test_seeds_are_one_each_or_counted_up():
    from envs.simpler.batched.scene import expand_seeds

    assert expand_seeds(5, 3) == expand_seeds(np.int64(5), 3) == [5, 6, 7]
    assert expand_seeds([9, 2], 2) == [9, 2]
    with pytest.raises(SpecError, match="2 seeds for 3 environments"):
        expand_seeds([9, 2], 3)


@pytest.mark.sim
def test_options_are_for_all_or_one_each():
    from envs.simpler.batched.scene import per_environment

    assert per_environment(None, [3, 4], "episode_id") == [3, 4]
    assert per_environment(7, [3, 4], "episode_id") == [7, 7]
    assert per_environment("a0", ["b1", "c2"], "overlay_id") == ["a0", "a0"]
    assert per_environment([7, 8], [3, 4], "episode_id") == [7, 8]
    with pytest.raises(ConfigError, match="episode_id has 3 values; expected one, or 2"):
        per_environment([7, 8, 9], [3, 4], "episode_id")


@pytest.mark.sim
def test_options_are_taken_apart_for_environments_in_turn():
    from envs.simpler.batched.serial import option_of_one

    options = {"overlay_id": ["a0", "b1"], "obj_init_options": {"init_xy": [0.1, 0.2], "orientation": "upright"}}
    shared = {"init_xy": [0.1, 0.2], "orientation": "upright"}
    assert option_of_one(options, 1, 2) == {"overlay_id": "b1", "obj_init_options": shared}
    assert option_of_one({"init_xy": [[0.1, 0.2], [0.3, 0.4]]}, 1, 2) == {"init_xy": [0.3, 0.4]}
    with pytest.raises(ConfigError, match="overlay_id has 2 values; expected one, or 3"):
        option_of_one(options, 0, 3)


@pytest.mark.sim
def test_environments_stand_apart_by_more_than_their_stages_reach():
    from envs.simpler.assets import Box, Stage
    from envs.simpler.batched.scene import _spacing_m

    assert _spacing_m(Stage(name="none")) == 5.0
    wide = Stage(name="wide", boxes=(Box(half_size=(3.0, 1.0, 0.1), center=(-1.0, 0.0, 0.0)),), position=(0.5, 0.0, 0.0))
    assert _spacing_m(wide) == 2 * (4.0 + 0.5) + 2.0


@pytest.mark.sim
def test_each_photograph_is_behind_its_own_environments():
    from envs.simpler.batched.overlay import BatchedOverlay

    photos = [np.full((4, 6, 3), value, dtype=np.uint8) for value in (10, 200)]
    overlay = BatchedOverlay(photos, height_px=2, width_px=3, device=torch.device("cpu"))
    overlay.keep({2, 5})
    rendered = torch.full((3, 2, 3, 3), 77, dtype=torch.uint8)
    segmentation = torch.tensor([[0, 2, 3], [5, 6, 99]]).expand(3, -1, -1)
    image = overlay.apply(rendered, segmentation, torch.tensor([1, 0, 1]))
    assert image.dtype == torch.uint8
    assert image[0, :, :, 0].tolist() == [[200, 77, 200], [77, 200, 200]]
    assert image[1, :, :, 0].tolist() == [[10, 77, 10], [77, 10, 10]]


@pytest.mark.sim
def test_observations_have_an_image_with_the_photograph(batch):
    for place in ("a0", "c2"):
        obs, _ = batch.reset(seed=[0], options={"overlay_id": place})
        image = obs["image"]["overhead_camera"]["rgb"]
        assert image.shape == (1, 64, 80, 3)
        assert image.dtype == torch.uint8
        scene = batch.base_env
        photo = scene._overlay.photos[scene.starts.standpoints.index(place)]
        share = (image[0] == photo).all(dim=-1).float().mean()
        assert 0.2 < share < 0.99  # the rest is robot and cabinet
    assert batch.single_observation_space["image"]["overhead_camera"]["rgb"].shape == (64, 80, 3)
    assert batch.action_space.shape[-1] == 7


@pytest.mark.sim
def test_bad_input_names_environment_index_and_limits(blind):
    blind.reset(seed=[0])
    with pytest.raises(SpecError, match=r"shape \(2, 7\); expected \(1, 7\)"):
        blind.step(torch.zeros(2, 7))
    for value, kind in ((float("nan"), NonFiniteError), (11.0, SpecError)):
        action = torch.zeros(1, 7)
        action[0, 2] = value
        with pytest.raises(kind, match=r"environment 0: action\[2\] \(dz\) is (nan|11) m; limits are \[-1.0, 1.0\]"):
            blind.step(action)
    with pytest.raises(ConfigError, match="overlay_id='z9'; known are a0, a1"):
        blind.reset(seed=[0], options={"overlay_id": "z9"})
    with pytest.raises(SpecError, match="2 seeds for 1 environments"):
        blind.reset(seed=[0, 1])


@pytest.mark.sim
def test_past_its_limit_an_episode_ends_and_the_next_begins(blind, monkeypatch):
    monkeypatch.setattr(blind, "auto_reset", True)
    monkeypatch.setattr(blind.base_env, "max_episode_steps", 2)
    first, _ = blind.reset(seed=[0], options={"overlay_id": "a0"})
    action = torch.tensor([[0.05, 0.0, 0.05, 0.0, 0.0, 0.0, 1.0]])
    *_, truncated, _ = blind.step(action)
    assert not truncated.any()
    obs, _, terminated, truncated, info = blind.step(action)
    assert truncated.all()
    assert not terminated.any()
    moved = info["final_observation"]["agent"]["qpos"] - first["agent"]["qpos"]
    assert moved[:, :7].abs().max() > 0.02
    torch.testing.assert_close(obs["agent"]["qpos"], first["agent"]["qpos"], rtol=0, atol=1e-6)
    assert blind.base_env.elapsed_steps.tolist() == [0]
    before, *_ = blind.step(torch.zeros(1, 7))  # the plans of the last episode are forgotten, the fingers' target too
    torch.testing.assert_close(before["agent"]["qpos"], first["agent"]["qpos"], rtol=0, atol=1e-3)


@pytest.mark.sim
def test_episodes_go_on_as_the_scalar_environments_do(blind):
    """Without a seed the next episode is another one, and the same other one."""
    scalar = SimplerTaskEnv(TASK, render=False)
    scalar.gym_env.reset(seed=4)
    blind.reset(seed=4)
    places = set()
    for _ in range(4):
        theirs, _ = scalar.gym_env.reset()
        ours, _ = blind.reset()
        places.add(tuple(theirs["agent"]["base_pose"]))
        np.testing.assert_allclose(ours["agent"]["base_pose"][0], theirs["agent"]["base_pose"], atol=1e-6)
        assert blind.unwrapped.language_instructions() == [scalar.gym_env.get_language_instruction()]
    assert len(places) > 1
    scalar.close()


@pytest.mark.sim
def test_three_environments_are_three_scalar_ones(three):
    """Equal seeds, starts and instructions; equal arms after different actions; and refused actions name the environment."""
    scalar = SimplerTaskEnv(TASK, render=False)
    random = np.random.default_rng(0)
    actions = np.clip(random.normal(0, 0.04, (4, 3, 7)), -0.2, 0.2).astype(np.float32)
    obs, _ = three.reset(seed=11)
    instructions = three.unwrapped.language_instructions()
    assert obs["agent"]["qpos"].shape == (3, 11)
    starts, steps = obs["agent"]["base_pose"], [three.step(torch.from_numpy(action)) for action in actions]
    for env in range(3):
        theirs, _ = scalar.gym_env.reset(seed=11 + env)
        np.testing.assert_allclose(starts[env], theirs["agent"]["base_pose"], atol=1e-6)
        assert instructions[env] == scalar.gym_env.get_language_instruction()
        for action, (ours, reward, terminated, truncated, info) in zip(actions, steps, strict=True):
            theirs, _, is_done, _, their_info = scalar.gym_env.step(action[env])
            np.testing.assert_allclose(ours["agent"]["qpos"][env], theirs["agent"]["qpos"], atol=2e-3)
            assert reward.shape == terminated.shape == truncated.shape == (3,)
            assert float(info["qpos"][env]) == pytest.approx(float(their_info["qpos"]), abs=1e-4)
            assert bool(terminated[env]) is is_done
    scalar.close()
    bad = torch.zeros(3, 7)
    bad[2, 1] = 99.0
    with pytest.raises(SpecError, match=r"environment 2: action\[1\] \(dy\) is 99 m"):
        three.step(bad)


@pytest.mark.sim
def test_one_of_three_can_begin_anew(three):
    three.reset(seed=[1, 2, 3])
    lift = torch.tensor([[0.0, 0.0, 0.05, 0.0, 0.0, 0.0, 0.0]]).expand(3, -1)
    before, *_ = three.step(lift)
    obs, _ = three.reset(seed=[8], options={"env_idx": torch.tensor([1]), "overlay_id": ["c2"]})
    assert three.base_env.elapsed_steps.tolist() == [1, 0, 1]
    for env in (0, 2):
        torch.testing.assert_close(obs["agent"]["qpos"][env], before["agent"]["qpos"][env], rtol=0, atol=0)
    assert obs["agent"]["base_pose"][1, 0] == pytest.approx(0.865)
    three.base_env.scenes[0].max_episode_steps = 2
    after, _, _, truncated, info = three.step(lift)  # the first one's time is up, the others go on
    assert truncated.tolist() == [True, False, False]
    assert info["_final_observation"].tolist() == [True, False, False]
    assert three.base_env.elapsed_steps.tolist() == [0, 1, 2]
    torch.testing.assert_close(info["final_observation"]["agent"]["qpos"][2], after["agent"]["qpos"][2], rtol=0, atol=0)
    assert (info["final_observation"]["agent"]["qpos"][0] - after["agent"]["qpos"][0]).abs().max() > 0.01
