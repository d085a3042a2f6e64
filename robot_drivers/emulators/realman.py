"""A Realman RM75-B controller: JSON lines over TCP, and the state pushed by UDP.

Protocol: the vendor's "JSON protocol" pages (develop.realman-robotics.com), and what the vendor's own client sends.
The traps are emulated too: ``movep_canfd`` answers nothing, and a motion command clears the error that stopped the arm.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from core.errors import ConfigError, RecapError
from robot_drivers.driver import Pose
from robot_drivers.emulators.serial_chain import RM75_JOINTS, SerialChain
from robot_drivers.emulators.simulated_arm import DEFAULT_LIMITS, ArmFault, MotionLimits, SimulatedArm
from robot_drivers.emulators.wire import Wire

HOME_RAD = np.radians([0.0, 30.0, 0.0, 70.0, 0.0, 80.0, 0.0])
# The emergency stop cuts the joints' power, and is seen only by that: they have lost enable.
ERROR_CODES = {ArmFault.COLLISION: 0x100D, ArmFault.SINGULARITY: 0x1003, ArmFault.ESTOP: 0x1010}
_PUSH_PERIOD_S = 0.005
_JOINT_SPEED_UNIT_RAD_S = 0.02 * 2 * np.pi / 60

Generation = Literal[3, 4]


class RealmanController:
    """Serves one client at a time, as the real one does.

    Example::

        with Emulator(RealmanController(host="127.0.0.1", port=8080)) as emulator:
            ...
    """

    def __init__(self, *, host: str, port: int, generation: Generation = 3, limits: MotionLimits = DEFAULT_LIMITS) -> None:
        """The address to serve at; port 0 takes a free one.

        Raises:
            ConfigError: if there is no such generation.
        """
        if generation not in (3, 4):
            raise ConfigError(
                f"generation is {generation}; Realman controllers that speak this protocol are of generation 3 or 4"
            )
        self.arm = SimulatedArm(SerialChain(RM75_JOINTS), HOME_RAD, time.monotonic(), limits)
        self._address = host, port
        self._generation = generation
        self._wire: Wire | None = None
        self._push: dict[str, Any] = {
            "cycle": 1,
            "enable": True,
            "port": 8089,
            "force_coordinate": 0,
            "ip": "0.0.0.0",
            "custom": {},
        }
        self._ticks = 0
        self._status = "idle"
        self._commands: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
            "get_arm_software_info": self._software_info,
            "get_current_arm_state": self._arm_state,
            "get_arm_current_trajectory": lambda _: {
                "state": "arm_current_trajectory",
                "trajectory_type": "no_planning",
                "data": [0] * 7,
            },
            "get_current_work_frame": lambda _: {"state": "current_work_frame", "frame_name": "World", "pose": [0] * 6},
            "get_current_tool_frame": lambda _: {
                "state": "current_tool_frame",
                "tool_name": "Arm_Tip",
                "pose": [0] * 6,
                "payload": 0,
                "x": 0,
                "y": 0,
                "z": 0,
            },
            "get_install_pose": lambda _: {"command": "get_install_pose", "install_pose": [0, 0, 0]},
            "get_realtime_push": lambda _: {"command": "get_realtime_push", **self._push},
            "set_realtime_push": self._set_push,
            "movep_canfd": self._move_pose,
            "movep_follow": self._move_pose,
            "set_arm_stop": self._hard_stop,
            "set_arm_slow_stop": self._slow_stop,
            "clear_system_err": self._clear_error,
            "set_gripper_position": self._move_gripper,
            "get_gripper_state": self._gripper_state,
        }
        if generation == 4:
            self._commands["set_arm_emergency_stop"] = self._emergency_stop

    @property
    def junk(self) -> bytes:
        """Lines that are no JSON, no object, and no answer that anyone waits for."""
        return b'\x00\xff{{"half\r\n[1, 2]\r\n{"state": 7}\r\n{"command": []}\r\n'

    async def open(self, wire: Wire) -> int:
        """Serve at the address given."""
        self._wire = wire
        return await wire.listen(*self._address, self._serve)

    async def report(self) -> None:
        """Push the state, once a tick at most."""
        self._ticks += 1
        if not self.arm.is_moving and self._status.startswith("move"):
            self._status = "idle"
        every = max(1, round(self._push["cycle"] * _PUSH_PERIOD_S / 0.01))
        if self._wire is None or not self._push["enable"] or self._push["ip"] == "0.0.0.0" or self._ticks % every:
            return
        self._wire.send_datagram((self._push["ip"], self._push["port"]), json.dumps(self._state()).encode())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._wire is not None
        if self._push["ip"] == "0.0.0.0":
            self._push["ip"] = writer.get_extra_info("peername")[0]
        while line := await reader.readline():
            await self._wire.thawed()
            answer = self._answer(line)
            if answer is not None:
                await self._wire.send(writer, json.dumps(answer).encode() + b"\r\n")

    def _answer(self, line: bytes) -> dict[str, Any] | None:
        """What a command is answered with; nothing where the real one answers nothing, which includes what it cannot read."""
        if not line.endswith(b"\r\n"):
            return None
        try:
            command = json.loads(line)
            self.arm.advance(time.monotonic())  # so that what is logged is logged with its own time
            return self._commands[command["command"]](command)
        except (ValueError, KeyError, TypeError, RecapError):
            return None

    def _software_info(self, _: Mapping[str, Any]) -> dict[str, Any]:
        built = {"build_time": "2023/12/13 20:58:24", "version": "V1.4.6"}
        info: dict[str, Any] = {"command": "arm_software_info", "Product_version": "RM75-BI"}
        if self._generation == 4:
            info |= {"robot_controller_version": "4.0", "communication_info": built, "ctrl_info": built, "program_info": built}
            return info | {"algorithm_info": {"version": "1.5.5-c0d52d18"}}
        info |= {"plan_info": built, "ctrl_info": built, "dynamic_info": {"model_version": "1"}}
        return info | {"algorithm_info": {"version": "1.2.3"}}

    def _arm_state(self, _: Mapping[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {"joint": self._joints(), "pose": [*self._position(), *self._euler()]}
        error = self._error()
        state |= {"arm_err": error, "sys_err": 0} if self._generation == 3 else {"err": [f"{error:x}"]}
        return {"state": "current_arm_state", "arm_state": state}

    def _set_push(self, command: Mapping[str, Any]) -> dict[str, Any]:
        is_known = set(command) <= {*self._push, "command"} and int(command.get("cycle", 1)) >= 1
        if is_known:
            self._push |= {key: value for key, value in command.items() if key != "command"}
        return {"command": "set_realtime_push", "state": is_known}

    def _move_pose(self, command: Mapping[str, Any]) -> dict[str, Any] | None:
        if "pose_quat" in command:
            position, quaternion = command["pose_quat"][:3], np.array(command["pose_quat"][3:], dtype=float) / 1e6
        else:
            position = command["pose"][:3]
            quaternion = Rotation.from_euler("xyz", np.array(command["pose"][3:]) / 1e3).as_quat(scalar_first=True)
        pose = Pose(position_m=np.array(position, dtype=float) / 1e6, quaternion_wxyz=quaternion)
        if self.arm.fault is not None:
            self.arm.clear_fault()  # as the vendor documents: the next motion command clears the error
        self.arm.move_to(pose)
        self._status = "move_through_pose"
        return None

    def _hard_stop(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self.arm.stop(is_hard=True)
        self._status = "stop"
        return {"command": "set_arm_stop", "arm_stop": True}

    def _slow_stop(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self.arm.stop(is_hard=False)
        self._status = "slow_stop"
        return {"command": "set_arm_slow_stop", "arm_slow_stop": True}

    def _emergency_stop(self, command: Mapping[str, Any]) -> dict[str, Any]:
        if command["state"]:
            self.arm.raise_fault(ArmFault.ESTOP)
        else:
            self.arm.release_estop()
            self.arm.clear_fault()
        return {"command": "set_arm_emergency_stop", "state": True}

    def _clear_error(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self.arm.clear_fault()
        return {"command": "clear_system_err", "clear_state": self.arm.fault is None}

    def _move_gripper(self, command: Mapping[str, Any]) -> dict[str, Any]:
        position = int(command["position"])
        is_valid = 1 <= position <= 1000
        if is_valid:
            self.arm.move_gripper(position / 1000)
        return {"command": "set_gripper", "state": is_valid}

    def _gripper_state(self, _: Mapping[str, Any]) -> dict[str, Any]:
        state = {"enable": 1, "status": 1, "error": 0, "mode": 1, "current_force": 0, "temperature": 30}
        return {"command": "get_gripper_state", **state, "actpos": max(1, round(self.arm.gripper_opening * 1000))}

    def _state(self) -> dict[str, Any]:
        num_joints = self.arm.chain.num_joints
        state: dict[str, Any] = {
            "state": "realtime_arm_joint_state",
            "joint_status": {
                "joint_position": self._joints(),
                "joint_current": [0] * num_joints,
                "joint_en_flag": [int(self.arm.fault is not ArmFault.ESTOP)] * num_joints,
                "joint_err_code": [0] * num_joints,
                "joint_temperature": [30000] * num_joints,
                "joint_voltage": [24000] * num_joints,
            },
            "waypoint": {
                "position": self._position(),
                "euler": self._euler(),
                "quat": np.rint(self.arm.pose.quaternion_wxyz * 1e6).astype(int).tolist(),
            },
        }
        state |= {"arm_err": self._error(), "sys_err": 0} if self._generation == 3 else {"err": self._error()}
        if self._push["custom"].get("arm_current_status"):
            state["arm_current_status"] = self._status
        if self._push["custom"].get("joint_speed"):
            speeds = self.arm.joint_speeds_rad_s / _JOINT_SPEED_UNIT_RAD_S
            state["joint_status"]["joint_speed"] = np.rint(speeds).astype(int).tolist()
        return state

    def _joints(self) -> list[int]:
        joints: list[int] = np.rint(np.degrees(self.arm.joints_rad) * 1e3).astype(int).tolist()
        return joints

    def _position(self) -> list[int]:
        position: list[int] = np.rint(self.arm.pose.position_m * 1e6).astype(int).tolist()
        return position

    def _euler(self) -> list[int]:
        rotation = Rotation.from_quat(self.arm.pose.quaternion_wxyz, scalar_first=True)
        euler: list[int] = np.rint(rotation.as_euler("xyz") * 1e3).astype(int).tolist()
        return euler

    def _error(self) -> int:
        return 0 if self.arm.fault is None else ERROR_CODES[self.arm.fault]
