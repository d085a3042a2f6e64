"""The connection to a Realman controller: lines over TCP one way and the other, the state by UDP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import ConfigError
from robot_drivers.driver import DriverError
from robot_drivers.json_lines import Handler, JsonLines, parsed

PUSH_UNIT_S = 0.005
_WAKE_UP_S = 0.2
"""How often the thread that waits for the state looks whether the link was closed."""


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
    """The two sockets and their threads."""

    def __init__(self, config: RealmanConfig, *, on_push: Handler, on_answer: Handler) -> None:
        self._on_push = on_push
        self._lines = JsonLines(config.host, config.port, timeout_s=config.timeout_s, on_message=on_answer)
        self._pushes = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._pushes.bind((self._lines.local_ip, config.state_port))
        except OSError as error:
            self._lines.close()
            self._pushes.close()
            raise DriverError(
                f"UDP port {config.state_port} cannot be opened: {error}; give each arm a state_port of its own"
            ) from error
        self.state_address: tuple[str, int] = self._pushes.getsockname()
        self._pushes.settimeout(_WAKE_UP_S)
        self._thread = threading.Thread(target=self._receive_pushes, name="realman-state", daemon=True)
        self._lines.start()
        self._thread.start()

    def require_up(self) -> None:
        """See :meth:`robot_drivers.json_lines.JsonLines.require_up`."""
        self._lines.require_up()

    def send(self, command: Mapping[str, Any]) -> None:
        """See :meth:`robot_drivers.json_lines.JsonLines.send`."""
        self._lines.send(command)

    def ask(self, command: Mapping[str, Any], answer_name: str) -> Mapping[str, Any]:
        """See :meth:`robot_drivers.json_lines.JsonLines.ask`."""
        return self._lines.ask(command, answer_name)

    def close(self) -> None:
        """Close both sockets and join the threads, unless called by one of them."""
        self._lines.close()
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._pushes.close()

    def _receive_pushes(self) -> None:
        while self._lines.error is None:
            try:
                datagram, (sender, _) = self._pushes.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError as error:
                self._lines.fail(f"receiving the state failed: {error}")
                return
            push = parsed(datagram) if sender == self._lines.peer_ip else None
            if push is not None and push.get("state") == "realtime_arm_joint_state":
                self._on_push(push)
