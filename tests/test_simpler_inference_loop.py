"""Inference written for upstream, against its documented calls only, on one task of each family."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import envs.simpler as simpler_env
from envs.simpler import get_image_from_maniskill2_obs_dict
from envs.simpler.tasks import OFFERED_FAMILIES, TASKS

ONE_OF_EACH = {task.family: task.name for task in reversed(TASKS.values())}


class Policy:
    """A policy as upstream's evaluation drives it: an image and an instruction in, an action and a wish to stop out."""

    def __init__(self) -> None:
        self._random = np.random.RandomState(0)

    def reset(self, instruction: str) -> None:
        self.instruction, self._steps = instruction, 0

    def step(self, image: np.ndarray, instruction: str) -> tuple[dict[str, np.ndarray], bool]:
        assert image.dtype == np.uint8
        if instruction != self.instruction:
            self.reset(instruction)
        self._steps += 1
        action = {
            "world_vector": self._random.uniform(-0.02, 0.02, 3),
            "rot_axangle": self._random.uniform(-0.05, 0.05, 3),
            "gripper": np.array([self._random.choice([-1.0, 0.0, 1.0])]),
        }
        return action, self._steps == 3


def evaluate(env: Any, policy: Policy, max_steps: int) -> dict[str, Any]:
    """The loop of upstream's evaluator: a wish to stop ends the last stage, and only begins the next one before it."""
    obs, _ = env.reset()
    instruction = env.get_language_instruction()
    policy.reset(instruction)
    instructions, images = [instruction], [get_image_from_maniskill2_obs_dict(env, obs)]
    is_final_subtask = env.is_final_subtask()
    predicted_terminated = done = truncated = False
    info: dict[str, Any] = {}
    while not (predicted_terminated or truncated or len(images) > max_steps):
        action, wants_to_stop = policy.step(images[-1], instruction)
        predicted_terminated = wants_to_stop
        if predicted_terminated and not is_final_subtask:
            predicted_terminated = False
            env.advance_to_next_subtask()
        obs, _, done, truncated, info = env.step(
            np.concatenate([action["world_vector"], action["rot_axangle"], action["gripper"]])
        )
        new_instruction = env.get_language_instruction()
        if new_instruction != instruction:
            instruction = new_instruction
            instructions.append(instruction)
        is_final_subtask = env.is_final_subtask()
        images.append(get_image_from_maniskill2_obs_dict(env, obs))
    return {"success": done, "instructions": instructions, "images": images, "stats": info.get("episode_stats", {})}


def test_one_task_of_each_family_is_meant() -> None:
    assert set(ONE_OF_EACH) == {"pick", "pick_object", "move_near", "drawer", "place_in_drawer", "put_on"}
    assert all(name in simpler_env.ENVIRONMENTS for name in ONE_OF_EACH.values())


@pytest.mark.sim
@pytest.mark.parametrize("name", [pytest.param(name, id=family) for family, name in ONE_OF_EACH.items()])
def test_code_written_for_upstream_runs(name: str) -> None:
    if TASKS[name].family not in OFFERED_FAMILIES:
        pytest.skip(f"{name} is not offered yet")
    env = simpler_env.make(name)
    found = evaluate(env, Policy(), max_steps=6)
    env.close()
    stages = 2 if TASKS[name].family == "place_in_drawer" else 1
    assert len(found["instructions"]) == stages
    assert len(found["images"]) == 3 * stages + 1
    height = 480 if TASKS[name].robot == "widowx" else 512
    assert all(image.shape == (height, 640, 3) for image in found["images"])
    assert (found["images"][0] != found["images"][-1]).any(), "the robot moves"
    assert found["stats"], "upstream's evaluation prints them"
    assert found["success"] in (True, False)
