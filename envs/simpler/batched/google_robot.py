"""The Google robot in many scenes at once: :mod:`envs.simpler.google_robot`'s numbers with batched controllers."""

from __future__ import annotations

from typing import Any, ClassVar

from envs.simpler.batched.controllers import BatchedArmConfig, BatchedGripperConfig
from envs.simpler.batched.robot import BatchedRobot
from envs.simpler.google_robot import GoogleRobot


class BatchedGoogleRobot(BatchedRobot, GoogleRobot):
    """Arguments as :class:`envs.simpler.robot.SimplerRobot`; every result has one entry per environment."""

    fingers: ClassVar = {(f"link_finger_tip_{side}", f"link_finger_{side}"): 1.0 for side in ("left", "right")}
    grasp_angle_deg = 80.0

    @property
    def _controller_configs(self) -> dict[str, Any]:
        (mode, configs), *_ = super()._controller_configs.items()
        return {
            mode: configs
            | {"arm": BatchedArmConfig(**vars(configs["arm"])), "gripper": BatchedGripperConfig(**vars(configs["gripper"]))}
        }

    def before_simulation_step(self) -> None:
        """Let the controllers set their targets, then hand all of them to the GPU at once."""
        super().before_simulation_step()
        if self.scene.gpu_sim_enabled:
            self.scene.px.gpu_apply_articulation_target_position()
            self.scene.px.gpu_apply_articulation_target_velocity()
