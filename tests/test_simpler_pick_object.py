"""Pick object: fourteen models, and an expert that knows their boxes only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from core.errors import AssetError
from envs.simpler.expert_base import Pose
from envs.simpler.expert_pick import box_grasp_pose
from envs.simpler.experts import demonstrate, make_expert
from envs.simpler.tasks import PICK_OBJECTS, display_name

TOOL = Pose(np.array([0.44, -0.22, 0.96]), Rotation.from_quat([-0.60385227, 0.78017271, -0.03249870, 0.16011546]))


def box(x: float, y: float, z: float) -> np.ndarray:
    return np.array([[-x, -y, -z], [x, y, z]])


def lying(yaw: float = 0.0) -> Pose:
    return Pose(np.array([0.6, 0.0, 0.81]), Rotation.from_rotvec([0.0, 0.0, yaw]))


@pytest.mark.parametrize("yaw", [0.0, 0.8, np.pi / 2, 3.0])
def test_the_fingers_close_across_the_shorter_side(yaw: float) -> None:
    item = lying(yaw)
    grasp = box_grasp_pose(item, box(0.06, 0.016, 0.019), TOOL)
    assert abs(float(np.dot(grasp.axis(1), item.axis(0)))) < 0.35
    np.testing.assert_allclose(grasp.axis(2), TOOL.axis(2), atol=1e-9)
    np.testing.assert_allclose(grasp.position, item.position, atol=1e-9)


def test_a_round_thing_is_taken_as_the_tool_comes() -> None:
    grasp = box_grasp_pose(lying(0.5), box(0.04, 0.041, 0.038), TOOL)
    assert (grasp.rotation * TOOL.rotation.inv()).magnitude() == pytest.approx(0.0, abs=1e-9)


def test_tall_and_flat_things_are_held_above_their_middle() -> None:
    standing = box_grasp_pose(lying(), box(0.033, 0.033, 0.062), TOOL)
    assert standing.position[2] == pytest.approx(0.81 + 0.022)
    spoon = box_grasp_pose(lying(), box(0.07, 0.018, 0.005), TOOL)
    assert spoon.position[2] == pytest.approx(0.81 + 0.008), "the finger tips stay off the table"


def test_a_box_off_its_origin_is_held_in_its_middle() -> None:
    item = lying(np.pi / 2)
    grasp = box_grasp_pose(item, box(0.06, 0.016, 0.019) + np.array([0.02, 0.0, 0.0]), TOOL)
    np.testing.assert_allclose(grasp.position, [0.6, 0.02, 0.81], atol=1e-9)


def test_there_are_fourteen_objects_with_short_names() -> None:
    assert len(set(PICK_OBJECTS)) == 14
    names = [display_name(model_id) for model_id in PICK_OBJECTS]
    assert names[-4:] == ["carrot", "green cube", "yellow cube", "eggplant"]


# -- in the simulator --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    from envs.simpler.task_env import SimplerTaskEnv

    env = SimplerTaskEnv("google_robot_pick_object", assets="builtin", render=False)
    yield env
    env.close()


@pytest.mark.sim
def test_objects_are_drawn_as_upstream_draws_them(env: Any) -> None:
    for seed in (0, 1, 5):
        _, info = env.reset(seed=seed)
        assert info["model_id"] == PICK_OBJECTS[np.random.RandomState(seed).choice(14)]
        assert info["orientation"] == np.random.RandomState(seed).choice(["upright", "laid_vertically", "lr_switch"])
        assert env.instruction == f"pick {display_name(info['model_id'])}"
    _, info = env.reset(seed=0, options={"model_id": "apple"})
    assert (info["model_id"], env.instruction) == ("apple", "pick apple")


@pytest.mark.sim
@pytest.mark.parametrize("model_id", ["opened_fanta_can", "blue_plastic_bottle", "apple", "sponge", "green_cube_3cm", "eggplant"])
def test_the_expert_picks_it(env: Any, model_id: str) -> None:
    expert = make_expert("google_robot_pick_object", "clean", np.random.default_rng(0))
    options = {"model_id": model_id, "obj_init_options": {"orientation": "laid_vertically"}}
    episode = demonstrate(env, expert, seed=2, options=options)
    assert episode.is_success
    assert episode.num_steps < 50


@pytest.mark.sim
def test_builtin_objects_weigh_what_upstreams_do(env: Any) -> None:
    from envs.simpler.assets import load_asset_set

    try:
        upstream = load_asset_set("upstream")
    except AssetError as error:
        pytest.skip(f"upstream's files are not here: {error}")
    builtin = load_asset_set("builtin")
    for model_id in PICK_OBJECTS:
        ours, theirs = (mass(assets.object_model(model_id)) for assets in (builtin, upstream))
        assert ours == pytest.approx(theirs, rel=0.02), model_id


def mass(model: Any) -> float:
    """As the simulator computes it."""
    import sapien

    scene = sapien.Scene([sapien.physx.PhysxCpuSystem()])
    builder = scene.create_actor_builder()
    for file in model.collision_files:
        builder.add_convex_collision_from_file(str(file), density=model.density)
    body = builder.build().find_component_by_type(sapien.physx.PhysxRigidDynamicComponent)
    return float(body.mass)
