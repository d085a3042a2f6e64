"""What the two robots mean to whoever uses them, without a simulator: image, action, rates.

How a robot is built and driven is in :mod:`envs.simpler.google_robot` and :mod:`envs.simpler.widowx`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from core.specs import ActionSpec
from envs.simpler.camera import OVERHEAD_CAMERA, TABLE_CAMERA, PolicyCamera


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """One robot's interface."""

    name: str
    """``google_robot`` or ``widowx``."""
    family: str
    """What the configuration calls environments with this robot."""
    camera: PolicyCamera
    """Its policy's camera. Name, size and intrinsics hold for every task, the mount may differ."""
    action: ActionSpec
    """Nominal bounds. The arm's entries are neither normalised nor clipped; the gripper's is clipped."""
    sim_hz: int
    """Physics steps per second."""

    @property
    def control_hz(self) -> int:
        """Actions per second."""
        return round(self.action.control_hz)


def _delta_pose_and_gripper(control_hz: float) -> ActionSpec:
    """Translation and axis-angle rotation of the tool along base axes, and one number for the gripper."""
    return ActionSpec(
        names=("dx", "dy", "dz", "rx", "ry", "rz", "gripper"),
        units=("m", "m", "m", "rad", "rad", "rad", "1"),
        low=(-1.0, -1.0, -1.0, -np.pi / 2, -np.pi / 2, -np.pi / 2, -1.0),
        high=(1.0, 1.0, 1.0, np.pi / 2, np.pi / 2, np.pi / 2, 1.0),
        control_hz=control_hz,
    )


GOOGLE_ROBOT = Embodiment(
    name="google_robot",
    family="simpler_google",
    camera=OVERHEAD_CAMERA,
    action=_delta_pose_and_gripper(3.0),
    sim_hz=513,
)
"""Its gripper command is relative: +1 closes, -1 opens, 0 holds."""
WIDOWX = Embodiment(
    name="widowx",
    family="simpler_widowx",
    camera=TABLE_CAMERA,
    action=_delta_pose_and_gripper(5.0),
    sim_hz=500,
)
"""Its gripper command is a position: +1 open, -1 closed."""
EMBODIMENTS: Mapping[str, Embodiment] = MappingProxyType({robot.name: robot for robot in (GOOGLE_ROBOT, WIDOWX)})
"""By :attr:`envs.simpler.tasks.TaskSpec.robot`."""
