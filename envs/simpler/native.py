"""The SAPIEN objects inside ManiSkill's batched wrappers.

ManiSkill's wrappers convert to torch at every call, which costs more than the physics step they serve; with one
environment the wrapped object can be asked directly. Everything that assumes a single environment goes through here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sapien
from numpy.typing import NDArray
from sapien import physx


def unwrap(wrapper: Any) -> Any:
    """The one SAPIEN object of an actor (an entity), a link, a joint or an articulation."""
    (only,) = wrapper._objs  # noqa: SLF001 (ManiSkill has no public name for it)
    return only


def render_camera(camera: Any) -> sapien.render.RenderCameraComponent:
    """The SAPIEN camera of a ManiSkill camera sensor."""
    (only,) = camera.camera._render_cameras  # noqa: SLF001 (as above)
    return only


def rigid_body(actor: Any) -> physx.PhysxRigidDynamicComponent:
    """The physics component of a dynamic actor."""
    return unwrap(actor).find_component_by_type(physx.PhysxRigidDynamicComponent)


def center_of_mass(actor: Any) -> NDArray[np.float64]:
    """[3] in the world, of a dynamic actor."""
    body = rigid_body(actor)
    return np.asarray((body.entity.pose * body.cmass_local_pose).p, dtype=np.float64)


def collision_bounds(actor: Any) -> NDArray[np.float64]:
    """Smallest and largest corner [2, 3] of an actor's convex collision shapes, m, in the actor's frame."""
    points = []
    for shape in rigid_body(actor).collision_shapes:
        matrix = shape.local_pose.to_transformation_matrix()
        points.append((shape.vertices * shape.scale) @ matrix[:3, :3].T + matrix[:3, 3])
    corners = np.concatenate(points)
    return np.stack([corners.min(axis=0), corners.max(axis=0)]).astype(np.float64)
