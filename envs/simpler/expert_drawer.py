"""Opening and closing a drawer, scripted, and what follows once it is open: putting an object into it.

Hop 1 of the tour, on the acting side. The handle cannot be held (it is only drawn), but above each drawer's front there is a
gap of 10 cm: the closed fingers go in there, come down behind the front's upper edge, and pull. To close, they push
against the front from outside. All places are said in the drawer's own frame: x points out of the cabinet, z up.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.expert_base import Array, Grip, Pose, ScriptedExpert

_FACE_M, _EDGE_M = 0.3125, 0.07
"""Of the drawer's front: x of its outer side, z of its upper edge."""
_HOOK_M = np.array([_FACE_M - 0.04, 0.0, _EDGE_M - 0.035])
"""Where the finger tips pull: behind the front, which is 1.5 cm thick."""
_PUSH_M = np.array([_FACE_M + 0.01, 0.0, _EDGE_M - 0.05])
_ARM_SIDE_M, _REACH_M = -0.2, 0.27
"""Sideways: where the arm works freely, in the robot's base frame; and how far from the drawer's middle it may be."""
_HOOK_PITCH_RAD = np.deg2rad(25)
_NEAR_M, _FAR_M = 0.75, 1.0
_PUSH_PITCH_RAD = np.deg2rad([60.0, 40.0])
"""For a drawer whose origin is near to the robot and one that is far: the wrist folds too much there, the elbow opens here."""
_CLEARANCE_M = 0.025
"""Above the edge, on the way over it."""
_SLIPPED_M = _FACE_M + 0.03
"""A tool that is this far out of a drawer that it pulls has lost it."""
_AHEAD_M = 0.3
_CLOSED_M = 0.02
"""How far in it pushes."""


def looking_into_cabinet(pitch_rad: float) -> Rotation:
    """The tool, in the drawer's frame, when it looks in and down by an angle, with its fingers closing sideways.

    Its x axis points down: on that side the finger tips are flat.
    """
    approach = np.array([-np.cos(pitch_rad), 0.0, -np.sin(pitch_rad)])
    down = np.array([np.sin(pitch_rad), 0.0, -np.cos(pitch_rad)])
    return Rotation.from_matrix(np.stack([down, np.cross(approach, down), approach], axis=1))


def where_the_arm_reaches(drawer: Pose) -> float:
    """How far sideways in a drawer the arm works best: y in the drawer's frame, m."""
    side = drawer.rotation.inv().apply(np.array([drawer.position[0], _ARM_SIDE_M, 0.0]) - drawer.position)[1]
    return float(np.clip(side, -_REACH_M, _REACH_M))


class DrawerExpert(ScriptedExpert):
    """Opens the drawer, or closes it, as the instruction says.

    Phases: approach (to a point in front of it, closing the fingers), advance (over its edge, or down in front of it), hook (only
    to open: down behind the edge), move (pull or push), then rest.
    """

    opened_m: ClassVar[float] = 0.19
    """How far out it pulls: beyond the task's limit, so that it counts at the last step too."""

    def _first_phase(self) -> str:
        self._is_opening = self._env.instruction.startswith("open")
        return "approach"

    def _look(self, tool: Pose) -> None:
        drawer = Pose.of(self._env.drawer_pose().base)
        push_pitch_rad = np.interp(drawer.position[0], [_NEAR_M, _FAR_M], _PUSH_PITCH_RAD)
        pitch_rad = _HOOK_PITCH_RAD if self._is_opening else float(push_pitch_rad)
        rotation = drawer.rotation * looking_into_cabinet(pitch_rad)

        sideways = np.array([0.0, where_the_arm_reaches(drawer), 0.0])

        def at(point: Array) -> Pose:
            point = point + sideways
            return self._short(Pose(drawer.position + drawer.rotation.apply(point), rotation))

        if self._is_opening:
            over = np.array([_HOOK_M[0], 0.0, _EDGE_M + _CLEARANCE_M])
            self._grasp, self._over = at(_HOOK_M), at(over)
            self._goal = at(_HOOK_M + np.array([_AHEAD_M, 0.0, 0.0]))
        else:
            over = _PUSH_M + np.array([0.05, 0.0, 0.0])
            self._grasp, self._over = at(_PUSH_M), at(over)
            self._goal = at(_PUSH_M - [_AHEAD_M, 0.0, 0.0])
        self._before = Pose(self._over.position - 0.15 * self._over.axis(2), rotation)
        self._tool_in_drawer = drawer.rotation.inv().apply(tool.position - drawer.position)

    def _distance(self, tool: Pose) -> float:
        return float(np.linalg.norm(self._grasp.position - tool.position))

    def _advance_phase(self, tool: Pose) -> None:
        if self.phase == "approach" and self._is_at(self._before, tool, 1.5):
            self._enter("advance")
        elif self.phase == "advance" and (self._is_at(self._over, tool) or self._phase_steps >= 12):
            self._enter("hook" if self._is_opening else "move")
        elif self.phase == "hook" and (self._is_at(self._grasp, tool) or self._phase_steps >= 6):
            self._enter("move")
        elif self.phase == "move" and self.is_done():
            self._enter("rest")
        elif self.phase == "move" and self._is_opening and self._tool_in_drawer[0] > _SLIPPED_M:
            self._miss("approach")

    def is_done(self) -> bool:
        """Whether the drawer is where it shall be, with a margin."""
        opening_m = self._env.drawer_opening_m()
        return opening_m >= self.opened_m if self._is_opening else opening_m <= _CLOSED_M

    def _intend(self, tool: Pose) -> NDArray[np.float32]:
        if self.phase == "approach":
            return self._servo(tool, self._before, Grip.CLOSE)
        goals = {"advance": self._over, "hook": self._grasp, "move": self._goal}
        return self._servo(tool, goals[self.phase], Grip.KEEP) if self.phase in goals else self._stand_still()
