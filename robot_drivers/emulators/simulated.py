"""The controller of a simulated arm: this project's own protocol, for arms that have no vendor.

JSON lines over TCP, SI units, base frame, quaternions scalar first. Any number of clients; a line that makes no sense is skipped.

==================================================  ===========================================================================
command, with                                       answer
==================================================  ===========================================================================
``hello``: ``report``                               ``version``, ``model``, ``num_joints``; then, if asked, a report every tick
``move``: ``position_m`` [3],                       none
``quaternion_wxyz`` [4],
``gripper_opening`` 0..1 or null,
``generation``, ``sequence``: for the record
``stop``: ``is_hard``                               none
``clear``                                           ``is_clear``
``describe``                                         ``seed``, ``instruction``, ``is_success``
``rearrange``: ``seed``                             the same, once the objects lie there; or ``error``
==================================================  ===========================================================================

Example: ``{"command": "stop", "is_hard": true}``. An answer names its command as well.

A report is ``{"report": {"time_s", "joints_rad", "position_m", "quaternion_wxyz", "gripper_opening", "fault",
"is_estop_pressed", "is_moving"}}``.
Like a Realman this controller has no dead-man; unlike it, it latches its faults itself.

The camera has a port of its own. Whoever connects there is sent the newest image at the camera's rate: a line ``{"camera": name,
"number": 7, "capture_monotonic_s": ..., "height_px": 128, "width_px": 160}``, then height * width * 3 bytes, RGB. A viewer that
does not keep up is sent fewer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from core.errors import RecapError
from core.specs import CameraSpec
from robot_drivers.cameras.simulated import numbered_pattern
from robot_drivers.driver import Pose
from robot_drivers.emulators.emulator import Mechanics
from robot_drivers.emulators.simulated_arm import ArmFault
from robot_drivers.emulators.wire import Wire

VERSION = 1
_MAX_RECEIVED = 200_000


@dataclass(frozen=True, kw_only=True)
class Received:
    """One command that moves or stops, as it reached the controller."""

    time_s: float
    """On this host's monotonic clock."""
    command: Literal["move", "stop"]
    generation: int = -1
    """Of a target, as the supervisor counts."""
    sequence: int = -1
    position_m: tuple[float, float, float] | None = None


class Arm(Mechanics, Protocol):
    """What this controller drives."""

    @property
    def gripper_opening(self) -> float:
        """0 closed .. 1 open, measured."""
        ...

    @property
    def fault(self) -> ArmFault | None:
        """What stopped it, until it is cleared."""
        ...

    @property
    def is_estop_pressed(self) -> bool:
        """Whether the emergency stop is."""
        ...

    @property
    def joints_rad(self) -> NDArray[np.float64]:
        """[J], base to tip, measured."""
        ...

    @property
    def is_moving(self) -> bool:
        """Whether the tool moves."""
        ...

    def move_to(self, pose: Pose) -> None:
        """Head for a pose."""
        ...

    def move_gripper(self, opening: float) -> None:
        """Head for an opening, 0 closed .. 1 open."""
        ...

    def stop(self, *, is_hard: bool) -> None:
        """Brake and forget the target."""
        ...

    def clear_fault(self) -> None:
        """Able to move again, unless the emergency stop is pressed; does not move."""
        ...


class Scene(Protocol):
    """What is around the arm."""

    camera: CameraSpec

    def look(self) -> NDArray[np.uint8]:
        """[H, W, 3], RGB: what the camera sees now. Called between two steps of the arm."""
        ...

    def rearrange(self, seed: int) -> None:
        """Lay out the objects anew; the arm stays. Called by a thread of its own, because it may take a while.

        Raises:
            RecapError: if that cannot be done now.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """``seed``, ``instruction``, ``is_success``."""
        ...


class PatternScene:
    """Nothing but a test pattern (:func:`robot_drivers.cameras.simulated.frame_number_of` reads it); a :class:`Scene`."""

    camera = CameraSpec(name="pattern", height_px=128, width_px=160)

    def __init__(self) -> None:
        self._seed = 0
        self._number = 0

    def look(self) -> NDArray[np.uint8]:
        """The next frame's pattern."""
        self._number += 1
        return numbered_pattern(self.camera, self._number)

    def rearrange(self, seed: int) -> None:
        """Remember the seed; there are no objects."""
        self._seed = seed

    def describe(self) -> Mapping[str, Any]:
        """The last seed; never a success."""
        return {"seed": self._seed, "instruction": "", "is_success": False}


class SimulatedController:
    """Serves an arm, and what a camera sees of it, in the protocol above.

    Example::

        controller = SimulatedController(arm, scene, host="127.0.0.1", port=8090, camera_port=8091)
        with Emulator(controller) as emulator:
            ...
    """

    def __init__(
        self, arm: Arm, scene: Scene, *, host: str, port: int, camera_port: int, camera_hz: float = 10.0, model: str
    ) -> None:
        """Ports of 0 take free ones; ``camera_port`` is then known once it serves."""
        self._arm = arm
        self._scene = scene
        self._host = host
        self._port = port
        self.camera_port = camera_port
        self._camera_period_s = 1 / camera_hz
        self._model = model
        self._wire: Wire | None = None
        self._listeners: set[asyncio.StreamWriter] = set()
        self._viewers: set[asyncio.StreamWriter] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self.received: deque[Received] = deque(maxlen=_MAX_RECEIVED)
        """In the order of arrival."""
        self._image_number = 0
        self._next_image_s = 0.0
        self._commands: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
            "hello": self._hello,
            "move": self._move,
            "stop": self._stop,
            "clear": self._clear,
            "describe": self._describe,
        }

    @property
    def arm(self) -> Arm:
        """What it drives."""
        return self._arm

    @property
    def junk(self) -> bytes:
        """Lines that are no JSON, no object, and no report that could be believed."""
        return b'\x00\xff{{"half\r\n[1, 2]\r\n{"report": {"joints_rad": "all"}}\r\n{"report": 7}\r\n'

    async def open(self, wire: Wire) -> int:
        """Serve commands and images."""
        self._wire = wire
        self.camera_port = await wire.listen(self._host, self.camera_port, self._serve_images)
        return await wire.listen(self._host, self._port, self._serve)

    async def report(self) -> None:
        """The state to whoever asked for reports, an image to whoever looks."""
        if self._wire is None or self._wire.is_frozen:
            return
        for writer in list(self._listeners):
            if not self._wire.is_busy(writer):
                self._start(self._wire.send(writer, _line({"report": self._state()})))
        now_s = time.monotonic()
        viewers = [writer for writer in self._viewers if writer.transport.get_write_buffer_size() == 0]
        if viewers and now_s >= self._next_image_s:
            self._next_image_s = max(self._next_image_s + self._camera_period_s, now_s)
            self._send_image(viewers)

    def _start(self, sending: Any) -> None:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _send_image(self, viewers: list[asyncio.StreamWriter]) -> None:
        image = self._scene.look()
        self._image_number += 1
        header = {
            "camera": self._scene.camera.name,
            "number": self._image_number,
            "capture_monotonic_s": time.monotonic(),
            "height_px": image.shape[0],
            "width_px": image.shape[1],
        }
        data = _line(header) + image.tobytes()
        for writer in viewers:
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._wire is not None
        try:
            while line := await reader.readline():
                await self._wire.thawed()
                answer = await self._answer(line)
                if answer is not None:
                    await self._wire.send(writer, _line(answer))
                    if answer.get("command") == "hello" and answer["report"]:
                        self._listeners.add(writer)
        finally:
            self._listeners.discard(writer)

    async def _serve_images(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._viewers.add(writer)
        try:
            await reader.read()
        finally:
            self._viewers.discard(writer)

    async def _answer(self, line: bytes) -> dict[str, Any] | None:
        """What a line is answered with; nothing where it makes no sense."""
        try:
            command = json.loads(line)
            if command["command"] == "rearrange":
                return await asyncio.to_thread(self._rearrange, command)
            self._arm.advance(time.monotonic())  # so that what is logged is logged with its own time
            return self._commands[command["command"]](command)
        except (ValueError, KeyError, TypeError, RecapError):
            return None

    def _hello(self, command: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "command": "hello",
            "version": VERSION,
            "model": self._model,
            "num_joints": len(self._arm.joints_rad),
            "report": bool(command.get("report")),
        }

    def _move(self, command: Mapping[str, Any]) -> None:
        pose = Pose(position_m=np.array(command["position_m"]), quaternion_wxyz=np.array(command["quaternion_wxyz"]))
        opening = command["gripper_opening"]
        x, y, z = pose.position_m.tolist()
        self.received.append(
            Received(
                time_s=time.monotonic(),
                command="move",
                generation=int(command["generation"]),
                sequence=int(command["sequence"]),
                position_m=(x, y, z),
            )
        )
        self._arm.move_to(pose)
        if opening is not None:
            self._arm.move_gripper(float(opening))

    def _stop(self, command: Mapping[str, Any]) -> None:
        self.received.append(Received(time_s=time.monotonic(), command="stop"))
        self._arm.stop(is_hard=bool(command["is_hard"]))

    def _clear(self, _: Mapping[str, Any]) -> dict[str, Any]:
        self._arm.stop(is_hard=True)
        self._arm.clear_fault()
        return {"command": "clear", "is_clear": self._arm.fault is None}

    def _rearrange(self, command: Mapping[str, Any]) -> dict[str, Any]:
        try:
            self._scene.rearrange(int(command["seed"]))
        except RecapError as error:
            return {"command": "rearrange", "error": str(error)}
        return {"command": "rearrange", **self._scene.describe()}

    def _describe(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"command": "describe", **self._scene.describe()}

    def _state(self) -> dict[str, Any]:
        arm = self._arm
        pose = arm.pose
        return {
            "time_s": time.monotonic(),
            "joints_rad": arm.joints_rad.tolist(),
            "position_m": pose.position_m.tolist(),
            "quaternion_wxyz": pose.quaternion_wxyz.tolist(),
            "gripper_opening": arm.gripper_opening,
            "fault": None if arm.fault is None else arm.fault.value,
            "is_estop_pressed": arm.is_estop_pressed,
            "is_moving": arm.is_moving,
        }


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\r\n"
