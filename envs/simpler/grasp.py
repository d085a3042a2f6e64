"""What touches what: contact impulses of the last physics step, and SIMPLER's grasp rule on them.

An impulse counts where the norm of its summed contact points exceeds :data:`MIN_IMPULSE_NS`. These are the CPU
backend's queries; :mod:`envs.simpler.batched` asks ManiSkill for pairwise contact impulses instead.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import sapien

MIN_IMPULSE_NS = 1e-6


@dataclass(frozen=True)
class ContactImpulses:
    """Impulses on one object, by the entity that gives them."""

    by_entity: dict[int, NDArray[np.float64]]
    """``per_scene_id`` of the other entity -> [3] N s, world frame: what that entity feels from the object."""

    @classmethod
    def of(cls, scene: Any, entity: sapien.Entity) -> ContactImpulses:
        """Collect the contacts of ``entity`` in the last physics step.

        Args:
            scene: ManiSkill's scene on the CPU backend.
            entity: the object.
        """
        object_id = entity.per_scene_id
        found: dict[int, NDArray[np.float64]] = {}
        for contact in scene.get_contacts():
            first, second = (body.entity.per_scene_id for body in contact.bodies)
            if object_id not in (first, second):
                continue
            # SAPIEN gives the impulse on the first body; the order of a pair is arbitrary.
            sign, other = (-1.0, second) if first == object_id else (1.0, first)
            total = sum((point.impulse for point in contact.points), np.zeros(3))
            found[other] = found.get(other, np.zeros(3)) + sign * total
        return cls(found)

    def on(self, entity: sapien.Entity) -> NDArray[np.float64]:
        """Impulse [3] that ``entity`` feels from the object; zero where they do not touch."""
        return self.by_entity.get(entity.per_scene_id, np.zeros(3))

    def touches_other_than(self, allowed: Set[int]) -> bool:
        """Whether anything whose ``per_scene_id`` is not in ``allowed`` pushes on the object."""
        return any(other not in allowed and np.linalg.norm(impulse) > MIN_IMPULSE_NS for other, impulse in self.by_entity.items())


def impulse_on_shape(scene: Any, entity: sapien.Entity, shape: Any) -> NDArray[np.float64]:
    """Impulse between an object and one collision shape of another body in the last physics step.

    Args:
        scene: ManiSkill's scene on the CPU backend.
        entity: the object.
        shape: of the other body.

    Returns:
        [3] N s, world frame; its sign depends on the order in which the engine reports the pair.
    """
    total = np.zeros(3)
    for contact in scene.get_contacts():
        if shape in contact.shapes and entity in [body.entity for body in contact.bodies]:
            total += sum((point.impulse for point in contact.points), np.zeros(3))
    return total


def angle_between_deg(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float:
    """Angle between two vectors; 90 where one of them is zero.

    Example:
        >>> round(angle_between_deg(np.array([1.0, 0, 0]), np.array([0, 2.0, 0])), 6)
        90.0
    """
    return float(angles_between_deg(torch.as_tensor(first), torch.as_tensor(second)))


def angles_between_deg(first: Tensor, second: Tensor) -> Tensor:
    """As :func:`angle_between_deg`, of many: [..., 3] each -> [...]."""
    first, second = first.to(torch.float64), second.to(torch.float64)
    cosine = (first * second).sum(-1) / (first.norm(dim=-1) * second.norm(dim=-1)).clamp(min=1e-12)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1.0, 1.0)))


def is_pressed_open(
    impulses: Sequence[NDArray[np.floating[Any]]], opening: Sequence[NDArray[np.floating[Any]]], *, max_angle_deg: float
) -> bool:
    """Whether an object pushes one finger's bodies open; arguments as :func:`are_pressed_open`, per body [3]."""
    bodies = (torch.from_numpy(np.stack(vectors)) for vectors in (impulses, opening))
    return bool(are_pressed_open(*bodies, max_angle_deg=max_angle_deg))


def are_pressed_open(impulses: Tensor, opening: Tensor, *, max_angle_deg: float) -> Tensor:
    """Whether objects push fingers open, each finger made of B bodies.

    Args:
        impulses: [..., B, 3], what each body feels from the object, N s.
        opening: [..., B, 3], unit vectors of the opening directions (a body's local +y), world frame.
        max_angle_deg: between the two, for the body where it is smaller.

    Returns:
        [...] bool.
    """
    strongest = impulses.norm(dim=-1).amax(dim=-1)
    return (strongest >= MIN_IMPULSE_NS) & (angles_between_deg(opening, impulses).amin(dim=-1) <= max_angle_deg)
