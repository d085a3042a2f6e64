"""Putting something somewhere, scripted: pick it up, carry it there, put it down, let go.

What the experts of move near and of the WidowX share; each says where to put it.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from envs.simpler.expert_base import Array, Grip, Pose
from envs.simpler.expert_pick import PickAnyExpert

CARRY_M = 0.07
"""How high above where it will lie."""
_RELEASE_STEPS = 4


class PlaceExpert(PickAnyExpert):
    """Moves the object that the instruction is about to a place.

    Phases: approach, advance, close, lift, carry, lower, release, withdraw, then rest.
    """

    place_tolerance_m = 0.015
    """How far beside the place it may be, horizontally, when it begins to go down."""
    drop_m = 0.004
    """From how high above where it will lie it is let go."""

    @abstractmethod
    def _choose_place(self, item: Pose) -> Array:
        """Where the object's origin shall be in the end, [3] in the base frame; asked while it is being lifted."""

    def _first_phase(self) -> str:
        self._place: Array | None = None
        return super()._first_phase()

    def _advance_phase(self, tool: Pose) -> None:
        item, place = self._item(), self._place
        if self.phase == "lift" and not self._has_missed(tool):
            place = self._choose_place(item)
            if item.position[2] > place[2] + 0.8 * CARRY_M:
                self._place = place
                self._enter("carry")
        elif self.phase in ("carry", "lower") and self._has_missed(tool):
            self._miss("approach")
        elif self.phase == "carry" and place is not None:
            if np.linalg.norm((place - item.position)[:2]) < self.place_tolerance_m:
                self._enter("lower")
        elif self.phase == "lower" and place is not None:
            if item.position[2] < place[2] + self.drop_m or self._phase_steps >= 12:
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
            return self._servo(tool, self._carried_to(tool, self._place, CARRY_M), Grip.CLOSE)
        if self.phase == "lower" and self._place is not None:
            return self._servo(tool, self._carried_to(tool, self._place, self.drop_m - 0.014), Grip.CLOSE, max_step_m=0.05)
        if self.phase == "release":
            return self._servo(tool, tool, Grip.OPEN)
        if self.phase == "withdraw" and self._lift_goal is not None:
            return self._servo(tool, self._lift_goal, Grip.KEEP)
        return super()._intend(tool)

    def _carried_to(self, tool: Pose, place: Array, height_m: float) -> Pose:
        """The tool's pose when the object that it holds is this far above a place."""
        return Pose(tool.position + place - self._item().position, tool.rotation).raised(height_m)
