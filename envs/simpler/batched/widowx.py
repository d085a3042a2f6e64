"""The WidowX in many scenes at once: :mod:`envs.simpler.widowx`'s numbers with batched controllers."""

from __future__ import annotations

from typing import Any, ClassVar

from envs.simpler.batched.robot import BatchedRobot
from envs.simpler.batched.widowx_controllers import BatchedArmTargetConfig, BatchedGripperPositionConfig
from envs.simpler.widowx import GRASP_ANGLE_DEG, OPENING, WidowX


class BatchedWidowX(BatchedRobot, WidowX):
    """Arguments as :class:`envs.simpler.widowx.WidowX`; every result has one entry per environment."""

    fingers: ClassVar = {(link,): sign for link, sign in OPENING.items()}
    grasp_angle_deg = GRASP_ANGLE_DEG

    @property
    def _controller_configs(self) -> dict[str, Any]:
        (mode, configs), *_ = super()._controller_configs.items()
        return {
            mode: configs
            | {
                "arm": BatchedArmTargetConfig(**vars(configs["arm"])),
                "gripper": BatchedGripperPositionConfig(**vars(configs["gripper"])),
            }
        }
