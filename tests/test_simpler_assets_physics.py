"""The builtin set in SAPIEN: the same robot and can as upstream's, as far as physics can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.errors import AssetError
from envs.simpler.assets import AssetSet, load_asset_set

pytestmark = pytest.mark.sim

INIT_QPOS = {
    "joint_torso": -0.2639457174606611,
    "joint_shoulder": 0.0831913360274175,
    "joint_bicep": 0.5017611504652179,
    "joint_elbow": 1.156859026208673,
    "joint_forearm": 0.028583671314766423,
    "joint_wrist": 1.592598203487462,
    "joint_gripper": -1.080652960128774,
    "joint_finger_right": 0.0,
    "joint_finger_left": 0.0,
    "joint_head_pan": -0.00285961,
    "joint_head_tilt": 0.7851361,
}


def load_robot(assets: AssetSet) -> tuple[Any, Any]:
    import sapien

    scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem(sapien.Device("cpu"))])
    loader = scene.create_urdf_loader()
    loader.fix_root_link = True
    loader.load_multiple_collisions_from_file = True
    robot = loader.load(str(assets.robot_urdf()))
    robot.set_qpos([INIT_QPOS[joint.name] for joint in robot.active_joints])
    return scene, robot


@pytest.fixture(scope="module")
def builtin() -> tuple[Any, Any]:
    return load_robot(load_asset_set("builtin"))


@pytest.fixture(scope="module")
def upstream() -> tuple[Any, Any]:
    try:
        return load_robot(load_asset_set("upstream"))
    except AssetError as error:
        pytest.skip(f"upstream's files are not here: {error}")


def test_tool_is_where_upstreams_is(builtin: tuple[Any, Any]) -> None:
    _, robot = builtin
    (tool,) = [link for link in robot.links if link.name == "link_gripper_tcp"]
    pose = robot.get_root_pose().inv() * tool.entity_pose
    np.testing.assert_allclose(pose.p, (0.4393844, -0.2184169, 0.9618688), atol=1e-6)
    np.testing.assert_allclose(pose.q, (0.16011546, -0.60385227, 0.78017271, -0.0324987), atol=1e-6)


def test_robot_does_not_touch_itself(builtin: tuple[Any, Any]) -> None:
    scene, _ = builtin
    scene.step()
    assert not [contact for contact in scene.get_contacts() if any(np.any(point.impulse) for point in contact.points)]


def test_masses_and_inertias_equal_upstreams(builtin: tuple[Any, Any], upstream: tuple[Any, Any]) -> None:
    ours = {link.name: link for link in builtin[1].links}
    theirs = {link.name: link for link in upstream[1].links}
    assert ours.keys() == theirs.keys()
    for name, link in theirs.items():
        assert ours[name].mass == pytest.approx(link.mass, rel=1e-3), name
        np.testing.assert_allclose(ours[name].inertia, link.inertia, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(ours[name].cmass_local_pose.p, link.cmass_local_pose.p, atol=1e-5, err_msg=name)


def test_joints_equal_upstreams(builtin: tuple[Any, Any], upstream: tuple[Any, Any]) -> None:
    ours, theirs = builtin[1], upstream[1]
    assert [joint.name for joint in ours.active_joints] == [joint.name for joint in theirs.active_joints]
    np.testing.assert_allclose(ours.get_qlimits(), theirs.get_qlimits(), atol=1e-6)


def test_links_move_as_upstreams(builtin: tuple[Any, Any], upstream: tuple[Any, Any]) -> None:
    generator = np.random.default_rng(0)
    low, high = upstream[1].get_qlimits().T
    theirs = {link.name: link for link in upstream[1].links}
    for _ in range(5):
        qpos = generator.uniform(low, high)
        for _, robot in (builtin, upstream):
            robot.set_qpos(qpos)
        for link in builtin[1].links:
            np.testing.assert_allclose(link.entity_pose.p, theirs[link.name].entity_pose.p, atol=2e-6, err_msg=link.name)


def test_can_and_cabinet_weigh_as_upstreams(builtin: tuple[Any, Any]) -> None:
    import sapien

    scene, _ = builtin
    assets = load_asset_set("builtin")
    model = assets.object_model("opened_coke_can")
    builder = scene.create_actor_builder()
    for file in model.collision_files:
        builder.add_convex_collision_from_file(str(file), density=model.density)
    builder.add_visual_from_file(str(model.visual_file))
    body = builder.build(name="can").find_component_by_type(sapien.physx.PhysxRigidDynamicComponent)
    assert body.mass == pytest.approx(0.0199575, rel=1e-3)
    np.testing.assert_allclose(body.cmass_local_pose.p, (7.77e-5, -7.838e-3, 6.34e-4), atol=2e-5)
    loader = scene.create_urdf_loader()
    cabinet = loader.load(str(assets.cabinet_urdf("mk_station_recolor")))
    masses = {link.name: link.mass for link in cabinet.links}
    assert masses["body"] == pytest.approx(38.0845, rel=1e-4)
    assert masses["top_drawer"] == pytest.approx(11.3765, rel=1e-4)
