"""A stand-in of what LeRobot's documented interface offers of a leader arm: SO101Leader, its configuration, the kinematics."""

from __future__ import annotations

import json
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from console.leader_arm import LeaderArmConfig

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
PERIOD_S = 0.02


class Leader:
    """The arm on the table; the test's hand on it."""

    def __init__(self) -> None:
        self.joints = dict.fromkeys(JOINTS, 10.0) | {"gripper": 50.0}
        self.is_calibrated = True
        self.error: Exception | None = None
        self.is_awake = threading.Event()
        self.is_awake.set()
        self.is_waited_for = False
        self.log: list[Any] = []

    def modules(self, teleoperator: str = "so_leader") -> dict[str, Any]:
        leader = self

        class SO101Leader:
            def __init__(self, config: Any) -> None:
                assert config.use_degrees, "else the joints are no angles"
                leader.log.append((config.port, config.id, config.calibration_dir))

            def connect(self, calibrate: bool = True) -> None:
                assert not calibrate, "it would ask at the terminal"
                leader.raise_error()
                leader.log.append("connect")

            @property
            def is_calibrated(self) -> bool:
                return leader.is_calibrated

            def get_action(self) -> dict[str, float]:
                leader.is_waited_for = not leader.is_awake.is_set()
                leader.is_awake.wait()
                leader.raise_error()
                return {f"{name}.pos": value for name, value in leader.joints.items()}

            def disconnect(self) -> None:
                leader.log.append("disconnect")

        class Kinematics:
            """The first three joints are x, y and z in mm, the last turns the tool about z."""

            def __init__(self, urdf: str, frame: str, names: list[str]) -> None:
                assert (Path(urdf).name, frame, tuple(names)) == ("so101.urdf", "gripper_frame_link", JOINTS)

            def forward_kinematics(self, joints_deg: np.ndarray) -> np.ndarray:
                frame = np.eye(4)
                frame[:3, 3] = joints_deg[:3] / 1000
                frame[:3, :3] = Rotation.from_euler("z", joints_deg[4], degrees=True).as_matrix()
                return frame

        teleoperators: Any = types.ModuleType(f"lerobot.teleoperators.{teleoperator}")
        teleoperators.SO101Leader = SO101Leader
        teleoperators.SO101LeaderConfig = lambda **fields: types.SimpleNamespace(**fields)
        kinematics: Any = types.ModuleType("lerobot.model.kinematics")
        kinematics.RobotKinematics = Kinematics
        return {
            "lerobot": types.ModuleType("lerobot"), "lerobot.model": types.ModuleType("lerobot.model"),
            "lerobot.model.kinematics": kinematics, "lerobot.teleoperators": types.ModuleType("lerobot.teleoperators"),
            teleoperators.__name__: teleoperators,
        }  # fmt: skip

    def raise_error(self) -> None:
        if self.error is not None:
            raise self.error


def leader_config(folder: Path) -> LeaderArmConfig:
    """With files that are there; retries at once."""
    calibration, urdf = folder / "left.json", folder / "so101.urdf"
    calibration.write_text(json.dumps({}))
    urdf.write_text("<robot/>")
    return LeaderArmConfig(port="/dev/ttyACM0", calibration=calibration, urdf=urdf, retry_s=PERIOD_S)
