"""Single objects of a SIMPLER scene: how they are built, dropped, held upright, stopped, and whether they move.

Hop 1 of the tour, beside :mod:`envs.simpler.scene`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sapien
from mani_skill.utils.structs import Actor
from numpy.typing import NDArray
from sapien import physx
from transforms3d.euler import euler2quat
from transforms3d.quaternions import axangle2quat, qmult

from envs.simpler.assets import ObjectModel
from envs.simpler.native import rigid_body

TABLE_HEIGHT_M = 0.87
_DROP_HEIGHT_M = 0.5
_ALOFT = sapien.Pose([0.0, 0.0, 5.0])


def build_object(
    scene: Any,
    model: ObjectModel,
    *,
    damping: tuple[float, float],
    density: float | None = None,
    waits_at: sapien.Pose = _ALOFT,
) -> Actor:
    """One object with SIMPLER's friction, in each of a ManiSkill scene's environments.

    Args:
        scene: ManiSkill's.
        model: from the asset set.
        damping: linear and angular.
        density: kg/m^3, instead of the model's.
        waits_at: where it is until an episode begins; apart from others on a GPU, whose first step is before that.
    """
    builder = scene.create_actor_builder()
    surface = physx.PhysxMaterial(0.5, 0.5, 0.0)
    for file in model.collision_files:
        builder.add_convex_collision_from_file(
            str(file), scale=[model.scale] * 3, material=surface, density=density or model.density
        )
    builder.add_visual_from_file(str(model.visual_file), scale=[model.scale] * 3)
    builder.initial_pose = waits_at
    actor = builder.build(name=model.model_id)
    for entity in actor._objs:  # noqa: SLF001 (damping is SAPIEN's)
        body = entity.find_component_by_type(physx.PhysxRigidDynamicComponent)
        body.linear_damping, body.angular_damping = damping
    return actor


def drop_pose(
    random: np.random.RandomState, options: Mapping[str, Any], xy_low_m: tuple[float, float], xy_high_m: tuple[float, float]
) -> sapien.Pose:
    """Where an object starts to fall.

    Args:
        random: the episode's stream.
        options: upstream's ``obj_init_options``: ``init_xy``, ``init_z``, ``init_rot_quat``, ``init_rand_rot_z``,
            ``init_rand_axis_rot_range``.
        xy_low_m: of the range to draw a position from where none is given.
        xy_high_m: likewise.
    """
    xy = options.get("init_xy")
    if xy is None:
        xy = random.uniform(xy_low_m, xy_high_m, [2])
    height_m = options.get("init_z", TABLE_HEIGHT_M) + _DROP_HEIGHT_M
    quaternion = options.get("init_rot_quat", [1, 0, 0, 0])
    if options.get("init_rand_rot_z", False):
        quaternion = qmult(euler2quat(0, 0, random.uniform(0, 2 * np.pi)), quaternion)
    tilt_range = options.get("init_rand_axis_rot_range", 0.0)
    if tilt_range > 0:
        axis = random.uniform(-1, 1, 3)
        axis = axis / max(float(np.linalg.norm(axis)), 1e-6)
        quaternion = qmult(quaternion, axangle2quat(axis, random.uniform(0, tilt_range), True))
    return sapien.Pose([*xy, height_m], quaternion)


def pose_vector(pose: sapien.Pose) -> NDArray[np.float32]:
    """[7]: position, then quaternion w, x, y, z."""
    return np.concatenate([pose.p, pose.q]).astype(np.float32)


def lock_tilt(actor: Actor, *, is_locked: bool) -> None:
    """Forbid, or allow again, rotation about the horizontal axes."""
    rigid_body(actor).set_locked_motion_axes([False, False, False, is_locked, is_locked, False])


def stop(actor: Actor) -> None:
    """Zero the velocities, and set the pose again so that the body does not sleep."""
    body = rigid_body(actor)
    body.entity.set_pose(body.entity.pose)
    body.set_linear_velocity([0.0, 0.0, 0.0])
    body.set_angular_velocity([0.0, 0.0, 0.0])


def is_moving(actors: list[Actor]) -> bool:
    """Whether the bodies together still move noticeably (1 mm/s or 0.01 rad/s)."""
    bodies = [rigid_body(actor) for actor in actors]

    def total(of: Callable[[Any], Any]) -> float:
        return sum(float(np.linalg.norm(of(body))) for body in bodies)

    return total(lambda body: body.linear_velocity) > 1e-3 or total(lambda body: body.angular_velocity) > 1e-2
