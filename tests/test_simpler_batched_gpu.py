"""On a GPU: each environment of a batch against the scene with one environment on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import simpler
from envs.simpler.task_env import SimplerTaskEnv

NUM_ENVS = 4
TASKS = ("google_robot_pick_coke_can", "google_robot_move_near", "google_robot_close_drawer", "widowx_carrot_on_plate")


@pytest.mark.gpu
@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_environments_on_the_gpu_begin_and_move_as_scalar_ones(name):
    """Starts, arms after ten actions each of its own, and a partial reset that disturbs no other environment."""
    batch = simpler.make_vec(name, num_envs=NUM_ENVS, sim_backend="physx_cuda", obs_size=(64, 80), auto_reset=False)
    scalar = SimplerTaskEnv(name, render=False)
    arm = 7 if name.startswith("google") else 6
    random = np.random.default_rng(3)
    actions = random.normal(0, [0.03] * 3 + [0.08] * 3 + [0.0], (10, NUM_ENVS, 7)).astype(np.float32)
    first, _ = batch.reset(seed=20)
    first = {key: first["agent"][key].cpu().numpy() for key in ("qpos", "base_pose")}
    instructions = batch.unwrapped.language_instructions()
    for action in actions:
        last, *_ = batch.step(torch.from_numpy(action))
    (camera,) = last["image"].values()
    assert camera["rgb"].shape == (NUM_ENVS, 64, 80, 3)
    last_qpos = last["agent"]["qpos"].cpu().numpy()
    for env in range(NUM_ENVS):
        theirs, _ = scalar.gym_env.reset(seed=20 + env)
        assert instructions[env] == scalar.gym_env.get_language_instruction()
        for key, ours in first.items():
            np.testing.assert_allclose(ours[env], theirs["agent"][key], atol=1e-4)
        for action in actions:
            theirs, *_ = scalar.gym_env.step(action[env])
        np.testing.assert_allclose(last_qpos[env, :arm], theirs["agent"]["qpos"][:arm], atol=2e-3)

    again, _ = batch.reset(seed=[22], options={"env_idx": torch.tensor([1], device=batch.device)})
    again = again["agent"]["qpos"].cpu().numpy()
    np.testing.assert_allclose(again[1], first["qpos"][2], atol=1e-4)
    np.testing.assert_allclose(again[[0, 2, 3]], last_qpos[[0, 2, 3]], atol=1e-4)
    scalar.close()
    batch.close()
