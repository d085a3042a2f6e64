"""Batched environments: names and refusals without a simulator; on the CPU with one environment, against the scalar one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import ConfigError, NonFiniteError, SpecError
from envs import simpler
from envs.simpler.batched import make as batched_make
from envs.simpler.experts import make_expert
from envs.simpler.rules import PickProgress, judge_pick
from envs.simpler.task_env import SimplerTaskEnv

TASK = "google_robot_pick_standing_coke_can"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "google_robot_pick_coke_cam"}, "did you mean 'google_robot_pick_coke_can'"),
        ({"name": "google_robot_move_near"}, "not offered in batches yet; offered are google_robot_pick_coke_can"),
        ({"name": TASK, "num_envs": 0}, "expected at least 1"),
        ({"name": TASK, "num_envs": 2, "sim_backend": "physx_cpu"}, "num_envs=2 needs a CUDA device"),
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
    with pytest.raises(ConfigError, match="num_envs=64 needs a CUDA device"):
        simpler.make_vec(TASK, num_envs=64)


def test_each_environment_is_judged_by_itself():
    """Four episodes: lifted in the grasp, grasped only, held up against the table, thrown up after a grasp."""
    progress, last = PickProgress.start(4), None
    for step in range(7):
        progress, last = judge_pick(
            progress,
            is_grasped=torch.tensor([True, True, True, step < 3]),
            is_free=torch.tensor([step > 0, False, False, step == 2]),
            rise_m=torch.tensor([0.05, 0.0, 0.05, 0.05]),
            require_lifting=True,
            success_from_stats=True,
        )
    assert last.is_grasped_long.tolist() == [True, True, True, False]
    assert last.is_lifted.tolist() == [True, False, False, False]
    assert progress.significant_lifts.tolist() == [6, 0, 0, 1]
    assert last.success.tolist() == [True, False, False, False]


def test_a_lift_of_five_steps_counts_afterwards_only_if_statistics_do():
    for from_stats in (True, False):
        progress = PickProgress.start(1)
        for step in range(8):
            is_up = torch.tensor([step < 5])
            progress, verdict = judge_pick(
                progress,
                is_grasped=is_up,
                is_free=is_up,
                rise_m=0.03 * is_up,
                require_lifting=True,
                success_from_stats=from_stats,
            )
        assert bool(verdict.success) is from_stats


@pytest.fixture(scope="module")
def scalar():
    env = SimplerTaskEnv(TASK, render=False)
    yield env
    env.close()


@pytest.fixture(scope="module")
def batch():
    envs = simpler.make_vec(TASK, sim_backend="physx_cpu", obs_size=(64, 80), auto_reset=False)
    yield envs
    envs.close()


@pytest.fixture
def blind(batch, monkeypatch):
    """The same, for tests that do not look."""
    monkeypatch.setattr(batch.base_env, "is_rendering", False)
    return batch


@pytest.mark.sim
def test_equal_seeds_give_equal_episodes(scalar, blind):
    for seed, orientation in ((0, "upright"), (7, "lr_switch"), (3, "laid_vertically")):
        options = {"obj_init_options": {"orientation": orientation}}
        theirs, _ = scalar.gym_env.reset(seed=seed, options=options)
        ours, _ = blind.reset(seed=[seed], options=options)
        pose, (ours_p,), (ours_q,) = scalar.gym_env.scene.task_pose(), blind.base_env.obj.pose.p, blind.base_env.obj.pose.q
        np.testing.assert_allclose(ours_p, pose.p, atol=1e-5)
        np.testing.assert_allclose(ours_q, pose.q, atol=1e-5)
        assert float(blind.base_env.settled_height_m) == pytest.approx(scalar.gym_env.scene.settled_height_m, abs=1e-5)
        for group, key in (("agent", "qpos"), ("agent", "base_pose"), ("extra", "tcp_pose")):
            np.testing.assert_allclose(ours[group][key][0], theirs[group][key], atol=1e-5)


@pytest.mark.sim
def test_the_arm_moves_as_in_the_scalar_environment(scalar, blind):
    """Ten actions, one of them out of reach. Fingers that press on each other are chaotic, so they are not compared then."""
    random = np.random.default_rng(3)
    scalar.reset(seed=1)
    blind.reset(seed=[1])
    for step in range(10):
        action = np.append(random.normal(0, [0.03] * 3 + [0.08] * 3), [1.0, 0.0, -1.0][step % 3]).astype(np.float32)
        if step == 6:
            action[:3] = (1.0, 0.0, 1.0)
        theirs, *_ = scalar.gym_env.step(action)
        ours, *_ = blind.step(torch.from_numpy(action[None]))
        np.testing.assert_allclose(ours["agent"]["qpos"][0, :7], theirs["agent"]["qpos"][:7], atol=2e-3)
        np.testing.assert_allclose(ours["extra"]["tcp_pose"][0], theirs["extra"]["tcp_pose"], atol=2e-3)
        assert bool(blind.base_env.agent.controller.controllers["arm"].ik_failed[0]) is (step == 6)


@pytest.mark.sim
def test_past_its_limit_an_episode_ends_and_the_next_begins(blind, monkeypatch):
    monkeypatch.setattr(blind, "auto_reset", True)
    monkeypatch.setattr(blind.base_env, "max_episode_steps", 2)
    first, _ = blind.reset(seed=[0])
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
def test_a_scripted_grasp_succeeds(scalar, blind):
    """What the expert does in the scalar environment, replayed: the same verdicts, success among them."""
    scalar.reset(seed=5)
    blind.reset(seed=[5])
    expert = make_expert(TASK, "clean", np.random.default_rng(0))
    expert.reset(scalar)
    is_done = False
    for _ in range(40):
        action = expert.act().executed
        *_, terminated, _, theirs = scalar.gym_env.step(action)
        _, reward, is_done, _, ours = blind.step(torch.from_numpy(action[None]))
        assert bool(ours["is_grasped"]) is bool(theirs["is_grasped"])
        assert float(reward) == float(bool(is_done))
        assert bool(is_done) is terminated
        if terminated:
            break
    assert is_done


@pytest.mark.sim
def test_observations_have_an_image_with_the_photograph(batch):
    obs, info = batch.reset(seed=[0])
    image = obs["image"]["overhead_camera"]["rgb"]
    assert image.shape == (1, 64, 80, 3)
    assert image.dtype == torch.uint8
    photo = torch.from_numpy(batch.base_env._overlay._photo)
    share = (image[0] == photo).all(dim=-1).float().mean()
    assert 0.4 < share < 0.99  # the rest is robot and can
    assert batch.single_observation_space["image"]["overhead_camera"]["rgb"].shape == (64, 80, 3)
    assert batch.action_space.shape[-1] == 7
    assert not info["success"].any()


@pytest.mark.sim
def test_bad_actions_name_environment_index_and_limits(batch):
    batch.reset(seed=[0])
    with pytest.raises(SpecError, match=r"shape \(2, 7\); expected \(1, 7\)"):
        batch.step(torch.zeros(2, 7))
    for value, kind in ((float("nan"), NonFiniteError), (11.0, SpecError)):
        action = torch.zeros(1, 7)
        action[0, 2] = value
        with pytest.raises(kind, match=r"environment 0: action\[2\] \(dz\) is (nan|11) m; limits are \[-1.0, 1.0\]"):
            batch.step(action)
