"""The connections of an xArm: the vendor's SDK, and a line of its own for stops.

What the SDK does that shapes this file:

- ``checkset_modbus_baud`` clears errors and resumes by itself; it is switched off (``baud_checkset=False``).
- Its ports are constants of the whole process, and the report's must be 30003 for the report to be understood.
- It sets the default timeout of all sockets, which is put back; when it loses its report it connects again and sets it again, so
  sockets of this package set their own.
- ``/tmp/xarmcontroller_uds_*`` would be preferred to the network; ``forbid_uds=True``.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.errors import ConfigError
from robot_drivers.driver import DriverError

_STOP_FRAME = struct.pack(">HHHBB", 1, 2, 2, 12, 4)
"""Set state 4: transaction, protocol, length, function, state."""
_STATE_FRAME = struct.pack(">HHHB", 2, 2, 1, 13)
"""Ask for the state."""


@dataclass(frozen=True, kw_only=True)
class XArmConfig:
    """Where the arm is, what it is expected to be, and how fast its own planner may go."""

    host: str
    num_joints: int
    max_speed_m_s: float
    """Of the tool on its way to a target; the supervisor's own limit, or a little above."""
    max_acceleration_m_s2: float
    has_gripper: bool
    """The xArm gripper on the tool's RS485 bus."""
    fence_m: tuple[tuple[float, float], tuple[float, float], tuple[float, float]] | None = None
    """(low, high) of x, y, z of the tool, which the controller is told to keep; None leaves its fence alone."""
    port: int = 502
    """Of the commands; a constant of the SDK, so the same for all arms of a process. Reports come from port 30003."""
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        if self.num_joints not in (6, 7):
            raise ConfigError(f"num_joints is {self.num_joints}; expected 6 or 7: with five joints a tool pose cannot be reached")
        for name in ("max_speed_m_s", "max_acceleration_m_s2", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive number")
        for axis, (low, high) in zip("xyz", self.fence_m or (), strict=False):
            if not low < high:
                raise ConfigError(f"fence_m of {axis} is {low} to {high}; expected low below high")


class XArmLink:
    """The SDK connected to one control box, and beside it the line for stops."""

    def __init__(self, config: XArmConfig, *, on_report: Callable[[dict[str, Any]], None]) -> None:
        try:
            from xarm.core.config.x_code import ControllerErrorCodeMap
            from xarm.wrapper import XArmAPI
        except ImportError as error:
            raise DriverError("an xArm needs the vendor's SDK: pip install 'viva-recap[xarm]'") from error
        self._host = config.host
        self._errors = ControllerErrorCodeMap
        self.calling = threading.Lock()
        """Held around SDK calls by whoever makes several that belong together."""
        self.has_report = threading.Event()
        self.worker: threading.Thread | None = None
        self._is_closed = False

        def take(report: dict[str, Any]) -> None:
            if not self._is_closed:
                on_report(report)
                self.has_report.set()

        _use_port(config)
        self.stop_line = _StopLine(config)
        self.sdk: Any = XArmAPI(
            config.host, is_radian=True, do_not_open=True, report_type="real", baud_checkset=False, forbid_uds=True
        )
        self.sdk.register_report_callback(take, report_cartesian=True, report_joints=True, report_state=True)
        default_timeout_s = socket.getdefaulttimeout()
        try:
            self.sdk.connect()
            if not self.sdk.connected:
                raise DriverError(f"the control box at {config.host} took the connection and dropped it")
        except DriverError:
            self.close()
            raise
        except Exception as error:  # the SDK raises nothing more precise
            self.close()
            raise DriverError(f"no xArm answers at {config.host}:{config.port}: {error}; check power, cable and host") from error
        finally:
            socket.setdefaulttimeout(default_timeout_s)
        _open_links.add(self)

    @property
    def is_up(self) -> bool:
        """Whether both connections are open, as far as is known."""
        return not self._is_closed and bool(self.sdk.connected) and self.stop_line.error is None

    def send_stop(self) -> None:
        """See :meth:`_StopLine.send_stop`."""
        self.stop_line.send_stop()

    def check(self, call: str, code: int) -> None:
        """Raise if an SDK call failed."""
        if code != 0:
            raise DriverError(f"{call} of the arm at {self._host} failed with code {code} (xarm/x3/code.py says what it means)")

    def error_title(self, error: int) -> str:
        """The vendor's words for an error code."""
        return str(self._errors[error]["en"]["title"]) if error in self._errors else "controller error"

    def close(self) -> None:
        """Close both connections. A call that hangs in a frozen controller is left behind; it can reach nobody any more."""
        self._is_closed = True
        self.stop_line.close()
        self.sdk.disconnect()
        if self.worker is not None:
            self.worker.join(timeout=0.5)


class _StopLine:
    """A connection that carries nothing but stops, and a question now and then to know that it is alive."""

    def __init__(self, config: XArmConfig) -> None:
        self._host = config.host
        self._lock = threading.Lock()
        self._num_unanswered = 0
        self._received = b""
        self._timeout_s = config.timeout_s
        self.error: str | None = None
        try:
            self._socket = socket.create_connection((config.host, config.port), timeout=config.timeout_s)
        except OSError as error:
            raise DriverError(f"no xArm answers at {config.host}:{config.port}: {error}; check power, cable and host") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)

    def send_stop(self) -> None:
        """Send a stop without waiting for anything.

        Raises:
            DriverError: if it cannot be sent.
        """
        self._send(_STOP_FRAME)

    def probe(self) -> None:
        """Ask for the state and wait for the answer: a line that has died is then known before it is needed."""
        self._send(_STATE_FRAME)
        self.settle()

    def settle(self) -> bool:
        """Wait until every stop was answered: what is sent on another connection then comes after it.

        Returns:
            False if the controller does not answer in time.

        Raises:
            DriverError: if the line is down.
        """
        while self._num_unanswered:
            try:
                if not self._receive_frame():
                    return False
            except OSError as error:
                self.error = self.error or str(error)
                raise DriverError(
                    f"the connection for stops to {self._host} is down: {error}; close and connect again"
                ) from error
            with self._lock:
                self._num_unanswered -= 1
        return True

    def close(self) -> None:
        """Close it."""
        self.error = self.error or "it was closed"
        self._socket.close()

    def _send(self, frame: bytes) -> None:
        with self._lock:
            try:
                num_sent = self._socket.send(frame, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError as error:
                self.error = self.error or str(error)
            else:
                self._num_unanswered += 1
                self.error = self.error or (None if num_sent == len(frame) else "the controller has stopped reading")
            if self.error is not None:
                raise DriverError(f"the connection for stops to {self._host} is down: {self.error}; close and connect again")

    def _receive_frame(self) -> bool:
        """Take one whole frame off the line; False if none is complete in time, and what came of it is kept."""
        until_s = time.monotonic() + self._timeout_s
        while True:
            if len(self._received) >= 6:
                length = 6 + int(struct.unpack(">H", self._received[4:6])[0])
                if len(self._received) >= length:
                    self._received = self._received[length:]
                    return True
            readable, _, _ = select.select([self._socket], [], [], max(0.0, until_s - time.monotonic()))
            if not readable:
                return False
            piece = self._socket.recv(4096)
            if not piece:
                raise ConnectionResetError("the controller closed it")
            self._received += piece


def _use_port(config: XArmConfig) -> None:
    """Set the SDK's port, which is a constant of the process.

    Raises:
        ConfigError: if another arm is connected on another.
    """
    from xarm.core.config.x_config import XCONF

    with _port_lock:
        present = XCONF.SocketConf.TCP_CONTROL_PORT
        if present != config.port and any(other.is_up for other in _open_links):
            raise ConfigError(
                f"port {config.port}: another xArm of this process is connected on {present}, and the SDK knows one only"
            )
        XCONF.SocketConf.TCP_CONTROL_PORT = config.port


_port_lock = threading.Lock()
_open_links: weakref.WeakSet[XArmLink] = weakref.WeakSet()
