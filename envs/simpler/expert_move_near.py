"""Moving one object next to another, scripted.

Hop 1 of the tour, on the acting side. The place is chosen when the object is in the hand: at a fixed distance from the target,
in the direction that is shortest to go and keeps away from what else stands there.
"""

from __future__ import annotations

import numpy as np

from envs.simpler.expert_base import Array, Pose
from envs.simpler.expert_place import PlaceExpert

_BESIDE_M = 0.13
"""Between the origins of object and target: the open fingers have room, and it is within upstream's limit (0.19 and more)."""
_CLEAR_M = 0.17
"""From the origins of other objects."""


def place_beside(target: Array, start: Array, others: list[Array]) -> Array:
    """Where to put the object: [2], m.

    Args:
        target: xy of the target.
        start: xy where the object is.
        others: xy of each further object.
    """
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    places = target + _BESIDE_M * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cost = np.linalg.norm(places - start, axis=1)
    for other in others:
        cost = cost + 10.0 * np.maximum(0.0, _CLEAR_M - np.linalg.norm(places - other, axis=1))
    return np.asarray(places[np.argmin(cost)])


class MoveNearExpert(PlaceExpert):
    """Moves the source object beside the target."""

    def _first_phase(self) -> str:
        self._floor_m = float(self._item().position[2])
        return super()._first_phase()

    def _choose_place(self, item: Pose) -> Array:
        target = Pose.of(self._env.target_pose().base).position[:2]
        others = [Pose.of(pose.base).position[:2] for pose in self._env.bystander_poses()]
        return np.append(place_beside(target, item.position[:2], others), self._floor_m)
