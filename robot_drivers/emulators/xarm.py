"""A UFACTORY xArm 7 control box: the "private Modbus" commands on port 502 and the report stream of port 30003.

Protocol: the source of the vendor's Python SDK 1.18 (BSD-3), which is also the oracle: the SDK itself must be able to drive this.
Headers are big-endian, payload floats little-endian, in mm and rad. Emulated traps: an arm with an error or in state 4 answers a
motion command and ignores it; stopping forgets what was commanded.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from core.errors import RecapError
from robot_drivers.driver import Pose
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated_arm import DEFAULT_LIMITS, ArmFault, MotionLimits, SimulatedArm
from robot_drivers.emulators.wire import Wire

HOME_RAD = np.radians([0.0, -20.0, 0.0, 50.0, 0.0, 70.0, 0.0])
ERROR_CODES = {ArmFault.COLLISION: 31, ArmFault.SINGULARITY: 25, ArmFault.ESTOP: 2}
FENCE_ERROR = 35
GRIPPER_PULSES = 850

_MOVING, _SLEEPING, _STOPPED = 1, 2, 4
_VERSION = b"7,7,XI13000001,AC13000001,v2.5.0"
_GRIPPER_POSITION, _GRIPPER_TARGET = 0x0702, 0x0700


class XArmController:
    """Serves any number of clients, as the real one does.

    Example::

        with Emulator(XArmController(host="127.0.0.2", port=502)) as emulator:
            arm = XArmAPI("127.0.0.2", is_radian=True, report_type="real")
    """

    def __init__(self, *, host: str, port: int, report_port: int = 30003, limits: MotionLimits = DEFAULT_LIMITS) -> None:
        """The address to serve at."""
        self.arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic(), limits)
        self.fence_m: tuple[float, ...] | None = None
        """x, y, z: highest and lowest of each, where a client has set and switched on a boundary."""
        self._address, self._report_address = (host, port), (host, report_port)
        self._wire: Wire | None = None
        self._listeners: set[asyncio.StreamWriter] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._is_enabled = False
        self._mode = 0
        self._state = _STOPPED
        self._is_past_fence = False
        self._boundary_m: tuple[float, ...] | None = None
        self._limits = limits
        self._commands: dict[int, Callable[[bytes], bytes]] = {
            1: lambda _: _VERSION.ljust(40, b"\0"),
            11: self._enable,
            12: self._set_state,
            13: lambda _: bytes([self._reported_state()]),
            14: lambda _: struct.pack(">H", 0),
            15: lambda _: bytes([self._error(), 0]),
            16: self._clean_error,
            17: lambda _: b"",
            19: self._set_mode,
            21: self._move_line,
            41: lambda _: struct.pack("<6f", *self._pose_mm_rad()),
            42: lambda _: struct.pack("<7f", *self.arm.joints_rad),
            47: lambda _: b"",
            50: lambda _: b"",
            52: self._set_boundary,
            59: self._set_fence,
            82: self._move_velocity,
            124: self._tool_bus,
        }

    @property
    def junk(self) -> bytes:
        """A whole frame that answers nothing that was asked."""
        return struct.pack(">HHHBB", 0xFFFE, 2, 4, 99, 0) + b"\xde\xad"

    async def open(self, wire: Wire) -> int:
        """Serve commands and reports."""
        self._wire = wire
        await wire.listen(*self._report_address, self._serve_report)
        return await wire.listen(*self._address, self._serve)

    async def report(self) -> None:
        """One report to each listener: state, mode, joints, pose."""
        self._check_fence()
        if not self._listeners or self._wire is None or self._wire.is_frozen:
            return
        body = struct.pack(">BH", self._reported_state() | self._mode << 4, 0)
        body += struct.pack("<7f6f7f", *self.arm.joints_rad, *self._pose_mm_rad(), *[0.0] * 7)
        frame = struct.pack(">I", len(body) + 4) + body
        for writer in list(self._listeners):
            if not self._wire.is_busy(writer):
                sending = asyncio.create_task(self._wire.send(writer, frame, may_add_junk=False))
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)

    async def _serve_report(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listeners.add(writer)
        try:
            await reader.read()
        finally:
            self._listeners.discard(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._wire is not None
        while True:
            header = await reader.readexactly(6)
            transaction, protocol, length = struct.unpack(">HHH", header)
            body = await reader.readexactly(length)
            await self._wire.thawed()
            if len(body) < 1 or body[0] == 0:  # a heartbeat
                continue
            handle = self._commands.get(body[0])
            self.arm.advance(time.monotonic())  # so that what is logged is logged with its own time
            try:
                answer = handle(body[1:]) if handle else b""
                status = self._status() | (0 if handle else 0x08)
            except (struct.error, IndexError, RecapError):
                answer, status = b"", 0x08
            frame = struct.pack(">HHHBB", transaction, protocol, len(answer) + 2, body[0], status) + answer
            await self._wire.send(writer, frame)

    def _status(self) -> int:
        return (0x40 if self._error() else 0) | (0 if self._is_ready() else 0x10)

    def _is_ready(self) -> bool:
        return self._is_enabled and self._error() == 0 and self._state != _STOPPED

    def _error(self) -> int:
        if self._is_past_fence:
            return FENCE_ERROR
        return 0 if self.arm.fault is None else ERROR_CODES[self.arm.fault]

    def _reported_state(self) -> int:
        if self._error() or not self._is_enabled:
            self._state = _STOPPED
        return self._state if self._state == _STOPPED else _MOVING if self.arm.is_moving else _SLEEPING

    def _enable(self, payload: bytes) -> bytes:
        self._is_enabled = bool(payload[1]) and self._error() == 0
        return b""

    def _set_state(self, payload: bytes) -> bytes:
        if payload[0] == _STOPPED:
            self.arm.stop(is_hard=True)
            self._state = _STOPPED
        elif payload[0] == 0 and self._is_enabled and self._error() == 0:
            self._state = _SLEEPING
        return b""

    def _clean_error(self, _: bytes) -> bytes:
        self.arm.clear_fault()
        self._is_past_fence = False
        self._is_enabled = False
        return b""

    def _set_mode(self, payload: bytes) -> bytes:
        if payload[0] != self._mode:
            self.arm.stop(is_hard=False)
            self._mode, self._state = payload[0], _STOPPED
        return b""

    def _move_line(self, payload: bytes) -> bytes:
        x, y, z, roll, pitch, yaw, speed, acceleration = struct.unpack("<8f", payload[:32])
        pose = Pose(
            position_m=np.array([x, y, z]) / 1000,
            quaternion_wxyz=Rotation.from_euler("xyz", [roll, pitch, yaw]).as_quat(scalar_first=True),
        )
        if self._is_ready() and self._mode in (0, 7):
            self.arm.set_speed(
                min(speed / 1000, self._limits.speed_m_s), min(acceleration / 1000, self._limits.acceleration_m_s2)
            )
            self.arm.move_to(pose)
        return struct.pack("<HB", 1, 0)

    def _move_velocity(self, payload: bytes) -> bytes:
        values = np.array(struct.unpack("<6f", payload[:24]))
        duration_s = struct.unpack("<f", payload[25:29])[0] if len(payload) >= 29 else float("inf")
        if self._is_ready() and self._mode == 5:
            self.arm.move_at(values[:3] / 1000, values[3:], duration_s)
        return b""

    def _set_boundary(self, payload: bytes) -> bytes:
        self._boundary_m = tuple(limit / 1000 for limit in struct.unpack("<6i", payload[:24]))
        return b""

    def _set_fence(self, payload: bytes) -> bytes:
        self.fence_m = self._boundary_m if payload[0] else None
        return b""

    def _check_fence(self) -> None:
        if self.fence_m is None or self._is_past_fence:
            return
        x, y, z = self.arm.pose.position_m
        high_x, low_x, high_y, low_y, high_z, low_z = self.fence_m
        if not (low_x <= x <= high_x and low_y <= y <= high_y and low_z <= z <= high_z):
            self._is_past_fence = True
            self.arm.stop(is_hard=True)
            self.arm.note("fault", "fence")

    def _tool_bus(self, payload: bytes) -> bytes:
        """Modbus RTU to the gripper, device 8, wrapped in a host id: read (3) or write (16) of registers."""
        host, device, function = payload[0], payload[1], payload[2]
        address, count = struct.unpack(">HH", payload[3:7])
        if function == 3:
            pulses = round(self.arm.gripper_opening * GRIPPER_PULSES)
            data = struct.pack(">i", pulses) if address == _GRIPPER_POSITION else bytes(2 * count)
            return bytes([host, device, function, len(data)]) + data
        if address == _GRIPPER_TARGET:
            self.arm.move_gripper(struct.unpack(">i", payload[8:12])[0] / GRIPPER_PULSES)
        return bytes([host, device, function]) + payload[3:7]

    def _pose_mm_rad(self) -> list[float]:
        pose = self.arm.pose
        rotation = Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True)
        return [*(pose.position_m * 1000), *rotation.as_euler("xyz")]
