"""Moving one object next to another, scripted: pick it up, carry it beside the target, put it down, let go.

Hop 1 of the tour, on the acting side. The place is chosen when the object is in the hand: at a fixed distance from the target,
in the direction that is shortest to go and keeps away from what else stands there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.simpler.expert_base import Array, Grip, Pose
from envs.simpler.expert_pick import PickAnyExpert

_BESIDE_M = 0.13
"""Between the origins of object and target: the open fingers have room, and it is within upstream's limit (0.19 and more)."""
_CLEAR_M = 0.17
"""From the origins of other objects."""
_CARRY_M = 0.07
"""How high above where it lay."""
_RELEASE_STEPS = 4


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


class MoveNearExpert(PickAnyExpert):
    """Moves the source object beside the target.

    Phases: approach, advance, close, lift, carry, lower, release, withdraw, then rest.
    """

    def _first_phase(self) -> str:
        self._floor_m = float(self._item().position[2])
        self._place: Array | None = None
        return super()._first_phase()

    def _advance_phase(self, tool: Pose) -> None:
        item, place = self._item(), self._place
        if self.phase == "lift" and not self._has_missed(tool) and item.position[2] > self._floor_m + 0.8 * _CARRY_M:
            target = Pose.of(self._env.target_pose().base).position[:2]
            others = [Pose.of(pose.base).position[:2] for pose in self._env.bystander_poses()]
            self._place = place_beside(target, item.position[:2], others)
            self._enter("carry")
        elif self.phase in ("carry", "lower") and self._has_missed(tool):
            self._miss("approach")
        elif self.phase == "carry" and place is not None and np.linalg.norm(place - item.position[:2]) < 0.015:
            self._enter("lower")
        elif self.phase == "lower" and (item.position[2] < self._floor_m + 0.004 or self._phase_steps >= 12):
            self._enter("release")
        elif self.phase == "release" and self._phase_steps >= _RELEASE_STEPS:
            self._lift_goal = Pose(tool.position - self.config.standoff_m * tool.axis(2), tool.rotation)
            self._enter("withdraw")
        elif self.phase == "withdraw" and self._phase_steps >= 4:
            self._enter("rest")
        else:
            super()._advance_phase(tool)

    def _intend(self, tool: Pose) -> NDArray[np.float32]:
        if self.phase == "carry" and self._place is not None:
            return self._servo(tool, self._carried_to(tool, self._place, _CARRY_M), Grip.CLOSE)
        if self.phase == "lower" and self._place is not None:
            return self._servo(tool, self._carried_to(tool, self._place, -0.01), Grip.CLOSE, max_step_m=0.05)
        if self.phase == "release":
            return self._servo(tool, tool, Grip.OPEN)
        if self.phase == "withdraw" and self._lift_goal is not None:
            return self._servo(tool, self._lift_goal, Grip.KEEP)
        return super()._intend(tool)

    def _carried_to(self, tool: Pose, place: Array, height_m: float) -> Pose:
        """The tool's pose when the object that it holds is at a place, this far above where it lay."""
        shift = np.array([*place, self._floor_m + height_m]) - self._item().position
        return Pose(tool.position + shift, tool.rotation)
