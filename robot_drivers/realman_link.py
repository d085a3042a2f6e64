"""The connection to a Realman controller: lines over TCP one way and the other, the state by UDP."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import ConfigError
from robot_drivers.driver import DriverError

PUSH_UNIT_S = 0.005
_MAX_LINE_BYTES = 1 << 16
_WAKE_UP_S = 0.2
"""How often the thread that waits for the state looks whether the link was closed."""
_Handler = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class RealmanConfig:
    """Where the arm is and what it is expected to be."""

    host: str
    model: str
    """How its product version begins: "RM65" or "RM75"."""
    gripper: Literal["none", "eg2"]
    """What hangs on the tool flange: nothing, or Inspire's EG2 (opening 1 to 1000)."""
    port: int = 8080
    state_port: int = 8089
    """UDP port on this host that the state is pushed to; one an arm; 0 takes a free one."""
    state_period_s: float = 0.005
    """A multiple of 5 ms. Short, because a fault is latched from the push."""
    timeout_s: float = 1.0
    """For an answer, where there is one to wait for."""

    def __post_init__(self) -> None:
        if self.gripper not in ("none", "eg2"):
            raise ConfigError(f"gripper is {self.gripper!r}; expected 'none' or 'eg2'")
        cycles = self.state_period_s / PUSH_UNIT_S
        if cycles < 1 or abs(cycles - round(cycles)) > 1e-6:
            raise ConfigError(f"state_period_s is {self.state_period_s}; expected a multiple of 0.005")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; expected a positive number of seconds")


class RealmanLink:
    """The two sockets and their threads. ``error`` is set once, when the link is found to be down."""

    def __init__(self, config: RealmanConfig, *, on_push: _Handler, on_answer: _Handler) -> None:
        self._config = config
        self._on_push = on_push
        self._on_answer = on_answer
        self._answers: queue.Queue[Mapping[str, Any]] = queue.Queue(maxsize=256)
        self.error: str | None = None
        try:
            self._socket = socket.create_connection((config.host, config.port), timeout=config.timeout_s)
        except OSError as error:
            raise DriverError(f"no arm answers at {config.host}:{config.port}: {error}; check power, cable and host") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._arm_ip = self._socket.getpeername()[0]
        self._pushes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._pushes.bind((self._socket.getsockname()[0], config.state_port))
        except OSError as error:
            self._socket.close()
            self._pushes.close()
            raise DriverError(
                f"UDP port {config.state_port} cannot be opened: {error}; give each arm a state_port of its own"
            ) from error
        self.state_address: tuple[str, int] = self._pushes.getsockname()
        self._socket.settimeout(None)
        self._pushes.settimeout(_WAKE_UP_S)
        self._threads = [
            threading.Thread(target=self._receive_lines, name="realman-answers", daemon=True),
            threading.Thread(target=self._receive_pushes, name="realman-state", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a line, or fail at once: a peer that lets the buffer fill up has been dead for minutes."""
        line = json.dumps(command, separators=(",", ":")).encode() + b"\r\n"
        try:
            num_sent = self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            self._fail(f"sending failed: {error}")
        else:
            if num_sent == len(line):
                return
            self._fail("the controller has stopped reading")
        raise DriverError(f"the link to the arm at {self._config.host} is down: {self.error}; close and connect again")

    def ask(self, command: Mapping[str, Any], answer_name: str) -> Mapping[str, Any]:
        """Send a line and wait for the answer of that name."""
        while not self._answers.empty():
            self._answers.get_nowait()
        self.send(command)
        until_s = time.monotonic() + self._config.timeout_s
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                raise DriverError(
                    f"the arm at {self._config.host} did not answer {command['command']!r} within {self._config.timeout_s} s"
                ) from None
            if answer.get("command") == answer_name:
                return answer

    def close(self) -> None:
        """Close both sockets and join the threads, unless called by one of them."""
        self._fail("it was closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._socket.close()
        self._pushes.close()

    def _fail(self, reason: str) -> None:
        self.error = self.error or reason
        with contextlib.suppress(OSError):  # the peer may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)

    def _receive_lines(self) -> None:
        buffer = b""
        while self.error is None:
            try:
                received = self._socket.recv(4096)
            except OSError as error:
                self._fail(f"receiving failed: {error}")
                return
            if not received:
                self._fail("the controller closed it")
                return
            *lines, buffer = (buffer + received).split(b"\n")
            if len(buffer) > _MAX_LINE_BYTES:
                buffer = b""
            for line in lines:
                answer = _parse(line)
                if answer is not None:
                    self._on_answer(answer)
                    if not self._answers.full():
                        self._answers.put(answer)

    def _receive_pushes(self) -> None:
        while self.error is None:
            try:
                datagram, (sender, _) = self._pushes.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError as error:
                self._fail(f"receiving the state failed: {error}")
                return
            push = _parse(datagram) if sender == self._arm_ip else None
            if push is not None and push.get("state") == "realtime_arm_joint_state":
                self._on_push(push)


def _parse(line: bytes) -> dict[str, Any] | None:
    """A JSON object, or None: what makes no sense is skipped, and missed by whoever waits for it."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
