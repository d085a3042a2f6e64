"""Placing in a closed drawer, scripted: open it wide, say so, unwind the wrist, take the object and drop it in.

Hop 1 of the tour, on the acting side. Between the cabinet's top and the front of an open drawer there is a gap into the
tray. The object is carried straight out over the gap and let go there; the lower drawers it reaches in free fall.

Pulling leaves the last joint at its limit, and no straight way leads from there to a tool that looks down. But the arm came
there out of a posture in which it looked down: the expert goes back along the poses of its own approach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from envs.simpler.expert_base import Array, Grip, Pose
from envs.simpler.expert_drawer import DrawerExpert, looking_into_cabinet
from envs.simpler.expert_place import PlaceExpert
from envs.task_env import ExpertAction

_CABINET_EDGE_M, _INNER_FRONT_M = 0.315, 0.275
"""Ends of the gap: x of the top's edge in the closed drawer's frame, x of the inner front in the drawer's own."""
_BELOW_M = 0.03
"""From how far below where it lay the object is let go."""
_DEPTH_PITCH_RAD, _SIDEWAYS_PITCH_RAD = np.deg2rad([60.0, 45.0])
"""How steeply it looks down at what it grips along the drawer's x axis (less steeply a finger would touch the cabinet's top), and
along its y axis. The arm does not reach straight down up there."""
_YAW_RAD = np.deg2rad(15.0)
"""How far it looks aside. (Of 16 pairs of pitch and yaw, tried with the controller's inverse kinematics, the steepest from which
it is quick from all three standpoints to both ends of where objects lie.)"""
_DEEPER_M = 0.006
"""Below the middle of what it grips along the drawer's x axis: otherwise a gripper aslant squeezes a lying bottle out."""
_STRIDE_M, _STRIDE_RAD = 0.06, 0.25
"""How far apart the poses are through which it goes back."""
_PASSED = 3.0
"""How near such a pose counts as reached, in the multiples of :meth:`ScriptedExpert._is_at`."""
_PATIENCE_STEPS = 12
"""After so many steps it gives a pose up for the next."""


def looking_at_top(pitch_rad: float, roll_rad: float) -> Rotation:
    """The tool, in the drawer's frame, when it looks down at what lies on the cabinet: aside, and turned about its own axis."""
    return Rotation.from_euler("z", _YAW_RAD) * looking_into_cabinet(pitch_rad) * Rotation.from_euler("z", roll_rad)


def _is_close(first: Pose, second: Pose) -> bool:
    is_near = float(np.linalg.norm(first.position - second.position)) < _STRIDE_M
    return is_near and float((first.rotation * second.rotation.inv()).magnitude()) < _STRIDE_RAD


class OpenWideExpert(DrawerExpert):
    """Opens the drawer so far that an object falls in."""

    opened_m = 0.25


class PlaceInDrawerExpert(PlaceExpert):
    """Does both subtasks.

    Phases: those of :class:`DrawerExpert`, then unwind, then those of :class:`PlaceExpert`.
    """

    drop_m = 0.01
    place_tolerance_m = 0.03

    def reset(self, env: Any) -> None:
        """Take over; what comes first depends on the subtask."""
        self._way_back: list[Pose] = []
        super().reset(env)
        self._opener: OpenWideExpert | None = None
        if env.instruction.startswith("open"):
            self._opener = OpenWideExpert(self.config, self._rng)
            self._opener.reset(env)

    def act(self) -> ExpertAction:
        """Decide on the next action; says that the first subtask is done before its first action of the second."""
        if self._opener is None:
            return super().act()
        if self._opener.phase != "rest" or not self._opener.is_done():
            tool = self._tool()
            action = self._opener.act()
            if action.phase == "approach":
                self._remember(tool)
            return action
        opening, way_back = self._opener.annotations(), self._way_back[::-1]
        self._env.advance_to_next_subtask()
        self.reset(self._env)
        self._step, self._intervals = opening["num_steps"], opening["intervals"]
        self._way_back = way_back
        self._enter("unwind")
        return super().act()

    def annotations(self) -> Mapping[str, Any]:
        """See the base; of the opening as long as it lasts, then of both with the placing's draws."""
        return super().annotations() if self._opener is None else self._opener.annotations()

    def _remember(self, tool: Pose) -> None:
        """Note a pose of the way in, if it is new."""
        if not any(_is_close(tool, pose) for pose in self._way_back):
            self._way_back.append(tool)

    def _first_phase(self) -> str:
        self._floor_m = float(self._item().position[2])
        return super()._first_phase()

    def _grasp_of(self, item: Pose, tool: Pose) -> Pose:
        drawer = Pose.of(self._env.drawer_pose().base).rotation
        depth = Pose(tool.position, drawer * looking_at_top(_DEPTH_PITCH_RAD, -np.pi / 2))
        grasp = super()._grasp_of(item, depth).raised(-_DEEPER_M)
        if abs(np.dot(grasp.axis(1), drawer.apply([0.0, 1.0, 0.0]))) < np.sqrt(0.5):
            return grasp
        return super()._grasp_of(item, Pose(tool.position, drawer * looking_at_top(_SIDEWAYS_PITCH_RAD, np.pi)))

    def _choose_place(self, item: Pose) -> Array:
        drawer = Pose.of(self._env.drawer_pose().base)
        middle = (_CABINET_EDGE_M - self._env.drawer_opening_m() + _INNER_FRONT_M) / 2
        aside = drawer.rotation.inv().apply(item.position - drawer.position)[1]
        place = drawer.position + drawer.rotation.apply([middle, aside, 0.0])
        return np.array([*place[:2], self._floor_m - _BELOW_M])

    def _advance_phase(self, tool: Pose) -> None:
        if self.phase != "unwind":
            super()._advance_phase(tool)
            return
        if self._way_back and (self._is_at(self._way_back[0], tool, _PASSED) or self._phase_steps >= _PATIENCE_STEPS):
            self._way_back.pop(0)
            self._phase_steps = 0
        if not self._way_back:
            self._enter("approach")

    def _intend(self, tool: Pose) -> NDArray[np.float32]:
        if self.phase == "unwind":
            return self._servo(tool, self._way_back[0], Grip.OPEN)
        return super()._intend(tool)
