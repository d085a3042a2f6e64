"""Between the tick, which never waits, and a driver, whose calls may: two threads an arm, one to exchange, one to stop.

The tick leaves its newest target and reads the newest state; nothing is queued. A stop goes its own way, so that it does not wait
for an exchange that hangs. Without :meth:`ArmLink.start` there are no threads: a test then serves the link itself.
"""

from __future__ import annotations

import logging
import threading

from core.clock import Clock
from robot_drivers.driver import ArmState, Capabilities, DriverError, RobotDriver, StopKind, Target

_log = logging.getLogger(__name__)
_IDLE_READ_S = 0.005
_RECONNECT_S = 0.5


class ArmLink:
    """One arm, as the supervisor sees it."""

    def __init__(self, name: str, driver: RobotDriver, clock: Clock) -> None:
        self.name = name
        self._driver = driver
        self._clock = clock
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop_wanted = threading.Event()
        self._is_closing = False
        self._threads: list[threading.Thread] = []
        self._capabilities: Capabilities | None = None
        self._state: ArmState | None = None
        self._error: str | None = "not connected yet"
        self._target: Target | None = None
        self._stop_kind: StopKind | None = None
        self._ended_generation = -1
        self._clearing: tuple[str, str] | None = None
        self._cleared_s = -float("inf")

    # --- for the tick: none of these waits ---------------------------------------------------------------------------------

    @property
    def state(self) -> ArmState | None:
        """The newest that was read."""
        return self._state

    @property
    def capabilities(self) -> Capabilities | None:
        """Once connected."""
        return self._capabilities

    @property
    def error(self) -> str | None:
        """Why there is no link, in words; None while there is one."""
        return self._error

    @property
    def is_clearing(self) -> bool:
        """Whether a fault is being cleared, so that the state may still show it."""
        return self._clearing is not None or (self._state is not None and self._state.time_monotonic_s <= self._cleared_s)

    @property
    def is_stopping(self) -> bool:
        """Whether a stop was asked for and has not gone out yet."""
        return self._stop_wanted.is_set()

    def send(self, target: Target) -> None:
        """Replace the target that waits, if one does."""
        with self._lock:
            self._target = target
        self._wake.set()

    def stop(self, kind: StopKind, *, generation: int) -> None:
        """Stop, and let nothing of this generation or older through, also not what is being sent at this moment."""
        with self._lock:
            self._target = None
            self._ended_generation = max(self._ended_generation, generation)
            self._stop_kind = kind
            self._stop_wanted.set()

    def clear_fault(self, *, operator: str, reason: str) -> None:
        """Ask the arm to clear its fault, soon."""
        self._clearing = (operator, reason)
        self._wake.set()

    # --- the exchange, and the stop -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the two threads."""
        for work in (self._exchange, self._stop):
            thread = threading.Thread(target=work, name=f"{self.name}-{work.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Let the last stop go out, then hold and let go of the arm."""
        self._is_closing = True
        self._wake.set()
        self._stop_wanted.set()
        for thread in self._threads:
            thread.join(timeout_s)
        if self._stop_kind is not None:
            self.serve_stop()
        try:
            self._driver.close()
        except DriverError as error:
            _log.warning("arm %s: closing: %s", self.name, error)

    def serve_exchange(self) -> None:
        """One round: connect if need be, send what waits, read."""
        try:
            if self._error is not None:
                self._capabilities = self._driver.connect()
            if self._clearing is not None:
                operator, reason = self._clearing
                try:
                    self._driver.clear_fault(operator=operator, reason=reason)
                finally:
                    self._cleared_s = self._clock.monotonic_s()
                    self._clearing = None
            self._send_waiting()
            self._state = self._driver.read()
            self._error = None
        except DriverError as error:
            self._error = str(error)

    def serve_stop(self) -> None:
        """Pass a stop on, if one is wanted."""
        with self._lock:
            kind, self._stop_kind = self._stop_kind, None
            self._stop_wanted.clear()
        if kind is not None:
            self._stop_now(kind)

    def _send_waiting(self) -> None:
        with self._lock:
            target, self._target = self._target, None
        if target is None:
            return
        try:
            self._driver.submit(target)
        except DriverError as error:
            _log.warning("arm %s: target %d: %s", self.name, target.sequence, error)  # what it means, the next state says
        if target.generation <= self._ended_generation:
            # It was stopped while this target was on its way, and the driver may not have known its generation yet.
            self._stop_now(StopKind.HOLD)

    def _stop_now(self, kind: StopKind) -> None:
        try:
            self._driver.stop(kind)
        except DriverError as error:
            _log.warning("arm %s: stop: %s", self.name, error)

    def _exchange(self) -> None:
        while not self._is_closing:
            self.serve_exchange()
            self._wake.wait(_IDLE_READ_S if self._error is None else _RECONNECT_S)
            self._wake.clear()

    def _stop(self) -> None:
        while not self._is_closing:
            self._stop_wanted.wait()
            self.serve_stop()
