"""A LeRobot leader arm (SO-100, SO-101) on the console's own host, read through LeRobot's teleoperator (extra ``so101``).

Written from LeRobot's source and tested against a stand-in of the calls that it uses; not tried on an arm. A leader's motors are
without torque: a person moves it, and nothing here moves anything. What its motion means, :mod:`console.leader_hold` says.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.clock import Clock, SystemClock
from core.errors import ConfigError, RecapError
from robot_drivers.driver import Pose
from robot_drivers.so101_kinematics import GRIPPER, JOINTS, SO101Kinematics

_log = logging.getLogger(__name__)
_PERIOD_S = 0.02


class LeaderGoneError(RecapError, ConnectionError):
    """The leader arm says nothing, or nothing new; whoever held by it has to let go and press again."""


@dataclass(frozen=True, kw_only=True)
class LeaderArmConfig:
    """Where the leader is, and how its joints are read."""

    port: str
    """Serial device, best /dev/serial/by-id/..."""
    calibration: Path
    """As ``lerobot-calibrate`` wrote it: NAME.json."""
    urdf: Path
    """Of the arm with the frame ``gripper_frame_link``; the follower's own will do."""
    retry_s: float = 1.0
    """Between attempts to open it again after it was lost."""

    def __post_init__(self) -> None:
        for name in ("calibration", "urdf"):
            if not getattr(self, name).is_file():
                raise ConfigError(f"the leader arm's {name} {getattr(self, name)} is not there; expected a file")
        if self.calibration.suffix != ".json":
            raise ConfigError(
                f"the leader arm's calibration is {self.calibration}; expected NAME.json, as lerobot-calibrate writes"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LeaderReading:
    """Where the leader was at one moment."""

    time_s: float
    """Monotonic clock."""
    pose: Pose
    """``T_base_tool`` of the leader, in its own base frame."""
    gripper_opening: float
    """0 closed .. 1 open."""


class LeaderArm:
    """One leader arm.

    Consumes: joint positions, 50 times a second, in a thread of its own. Produces: the newest reading. Waits for: the bus, in
    ``open`` only. Invariant: after an error there is no reading until the arm was opened again, which it tries by itself.
    """

    def __init__(self, config: LeaderArmConfig, clock: Clock | None = None) -> None:
        """Not opened yet."""
        self._config = config
        self._clock = clock or SystemClock()
        self._device: Any = None
        self._kinematics: SO101Kinematics | None = None
        self._reading: LeaderReading | None = None
        self._error = "it was never opened"
        self._closing = threading.Event()
        self._worker: threading.Thread | None = None
        self._user: object | None = None
        self._used_until_s = 0.0

    def open(self) -> None:
        """Connect, and read from now on.

        Raises:
            ConfigError: without LeRobot, for a port without the arm, a calibration that is not the motors' own, or a URDF that
                cannot be used.
        """
        try:
            self._kinematics = SO101Kinematics(self._config.urdf)
            self._connect()
            self._read()
        except ImportError as error:
            raise ConfigError(f"a leader arm needs LeRobot ({error}): pip install 'viva-recap[so101]'") from error
        except Exception as error:  # placo, LeRobot and the serial port each raise their own
            self._disconnect()
            raise ConfigError(f"no leader arm at {self._config.port}: {error}; check power, cable, port and files") from error
        self._closing.clear()
        self._worker = threading.Thread(target=self._work, name="leader-arm", daemon=True)
        self._worker.start()

    def latest(self, max_age_s: float) -> LeaderReading:
        """The newest reading.

        Raises:
            LeaderGoneError: if the arm is lost, or has said nothing for ``max_age_s``.
        """
        reading = self._reading
        if reading is None:
            raise LeaderGoneError(f"the leader arm at {self._config.port} is lost: {self._error}")
        age_s = self.age_s(reading)
        if age_s >= max_age_s:
            raise LeaderGoneError(f"the leader arm has said nothing for {age_s:.2f} s; expected less than {max_age_s} s")
        return reading

    def age_s(self, reading: LeaderReading) -> float:
        """How long ago it was read."""
        return self._clock.monotonic_s() - reading.time_s

    def use(self, user: object, for_s: float) -> None:
        """One at a time drives with it: nobody else may for ``for_s`` from now on.

        Raises:
            LeaderGoneError: while it is another's.
        """
        now_s = self._clock.monotonic_s()
        if self._user is not user and now_s < self._used_until_s:
            raise LeaderGoneError("the leader arm drives for another page; let go there first")
        self._user, self._used_until_s = user, now_s + for_s

    def close(self) -> None:
        """Read no more."""
        self._closing.set()
        if self._worker is not None:
            self._worker.join()
            self._worker = None
        self._reading, self._error = None, "it was closed"
        self._disconnect()

    def _work(self) -> None:
        while not self._closing.wait(_PERIOD_S if self._reading is not None else self._config.retry_s):
            try:
                if self._reading is None:
                    self._connect()
                self._read()
            except Exception as error:  # as in open; whoever asks next is told
                if self._reading is not None:
                    _log.warning("the leader arm at %s is lost: %s", self._config.port, error)
                self._reading, self._error = None, str(error)
                self._disconnect()

    def _connect(self) -> None:
        try:
            from lerobot.teleoperators.so_leader import SO101Leader, SO101LeaderConfig
        except ImportError:  # LeRobot before 0.4.3 calls it so
            from lerobot.teleoperators.so101_leader import SO101Leader, SO101LeaderConfig
        config = self._config
        self._device = SO101Leader(
            SO101LeaderConfig(
                port=config.port, use_degrees=True, id=config.calibration.stem, calibration_dir=config.calibration.parent
            )
        )
        self._device.connect(calibrate=False)  # else it may ask at the terminal
        if not self._device.is_calibrated:
            raise ConfigError(f"its motors are calibrated otherwise than {config.calibration}: lerobot-calibrate")

    def _disconnect(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            with contextlib.suppress(Exception):  # a cable that was pulled cannot be told
                device.disconnect()

    def _read(self) -> None:
        assert self._kinematics is not None
        action: Mapping[str, float] = self._device.get_action()
        time_s = self._clock.monotonic_s()
        joints_deg = np.array([action[f"{name}.pos"] for name in JOINTS], np.float64)
        opening = action[f"{GRIPPER}.pos"] / 100
        if not np.isfinite([*joints_deg, opening]).all():
            raise LeaderGoneError(f"it reads {dict(action)}; expected finite numbers")
        self._reading = LeaderReading(
            time_s=time_s, pose=self._kinematics.tool_pose(joints_deg), gripper_opening=min(max(opening, 0.0), 1.0)
        )
