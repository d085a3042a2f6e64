"""The console's side of one supervisor: connected again and again, what it said last, and what the curve and the timeline show.

The connection's own thread hands every message to the event loop; everything else here happens in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from console.value_alert import ValueAlert, ValueAlertConfig
from core.errors import RecapError
from robot_drivers import messages as m
from robot_drivers.protocol import ProtocolError, read_tokens
from robot_drivers.safety_filter import Clip
from robot_drivers.states import RefusedError, Role
from robot_drivers.supervisor_client import SupervisorClient

_log = logging.getLogger(__name__)
_FROZEN_S = 1.0
"""Without a status for so long a supervisor that is still connected counts as frozen: no input is sent to it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RobotLinkConfig:
    """Where a supervisor is, and how much is remembered for pages that open later."""

    name: str
    address: str
    """Of its socket."""
    tokens: Path
    """Its token file."""
    retry_s: float = 0.5
    max_retry_s: float = 5.0
    kept_steps: int = 600
    kept_events: int = 100


class RobotLink:
    """One robot.

    Consumes: telemetry; requests. Produces: JSON lines for pages, replies. Waits for: the supervisor, never in the event loop.
    """

    def __init__(self, config: RobotLinkConfig, publish: Callable[[str, str | None], None]) -> None:
        """Not connected yet.

        Args:
            config: which robot.
            publish: takes a JSON line for every page, and the key of those of which the newest is enough; in the event loop.
        """
        self.name = config.name
        self._config = config
        self._publish = publish
        self._client: SupervisorClient | None = None
        self._error = "not connected yet"
        self._lost = asyncio.Event()
        self._heard_s = 0.0
        self._status: m.Status | None = None
        self._steps: deque[dict[str, Any]] = deque(maxlen=config.kept_steps)
        self._events: deque[dict[str, Any]] = deque(maxlen=config.kept_events)
        self._alert = ValueAlert(ValueAlertConfig())
        self._threads = ThreadPoolExecutor(4, thread_name_prefix=f"ask-{config.name}")
        # Of its own: a stop never queues behind answers that a stuck supervisor, here or at another robot, owes.
        self._stop_threads = ThreadPoolExecutor(2, thread_name_prefix=f"stop-{config.name}")

    @property
    def status(self) -> m.Status | None:
        """The newest; None before the first, and without a connection."""
        return self._status

    @property
    def welcome(self) -> m.Welcome:
        """What the robot is.

        Raises:
            ProtocolError: without a connection.
        """
        return self._connected().welcome

    async def run(self) -> None:
        """Stay connected until cancelled."""
        retry_s = self._config.retry_s
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._lost.clear()
                try:
                    self._client = await asyncio.to_thread(self._connect, loop)
                    self._heard_s, retry_s = time.monotonic(), self._config.retry_s
                    self._say_link()
                    await self._lost.wait()
                except RecapError as error:
                    self._error = str(error)
                self._drop()
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, self._config.max_retry_s)
        finally:
            self._drop()

    def close(self) -> None:
        """Once :meth:`run` is over: wait for no answer any more."""
        for threads in (self._threads, self._stop_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def snapshot(self) -> list[str]:
        """JSON lines for a page that opens: all that it would have seen."""
        return [
            self._link_line(),
            json.dumps({"type": "history", "robot": self.name, "steps": list(self._steps), "events": list(self._events)}),
        ]

    async def ask(self, request: m.Request) -> m.Reply:
        """Send a request and wait for the answer.

        Raises:
            RefusedError: if the supervisor refuses.
            ProtocolError: if it cannot be reached.
        """
        threads = self._stop_threads if isinstance(request, m.Stop) else self._threads
        return await asyncio.get_running_loop().run_in_executor(threads, self._connected().ask, request)

    def tell(self, request: m.Request) -> None:
        """Send an input frame or a release; does not wait. A supervisor that says nothing gets none.

        Raises:
            ProtocolError: if it cannot be reached.
        """
        client = self._connected()
        if time.monotonic() - self._heard_s > _FROZEN_S:
            raise ProtocolError(f"{self.name}: nothing heard from the supervisor for {_FROZEN_S} s")
        client.tell(request)

    def _connected(self) -> SupervisorClient:
        if self._client is None:
            raise ProtocolError(f"{self.name}: {self._error}")
        return self._client

    def _connect(self, loop: asyncio.AbstractEventLoop) -> SupervisorClient:
        tokens = read_tokens(self._config.tokens)
        if Role.SUPERVISE not in tokens:
            raise RefusedError(f"{self._config.tokens} has no token of role supervise; the console needs it for its people")

        def hand_over(function: Callable[[Any], None], value: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the console ends
                loop.call_soon_threadsafe(function, value)

        return SupervisorClient(
            self._config.address,
            token=tokens[Role.SUPERVISE],
            client="console",
            on_message=lambda message: hand_over(self._take, message),
            on_close=lambda reason: hand_over(self._lose, reason),
        )

    def _lose(self, reason: str) -> None:
        self._error = reason
        _log.warning("%s: %s", self.name, reason)
        self._lost.set()

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._status = None
        if client is not None:
            client.close()
            self._say_link()

    def _take(self, message: m.Status | m.Step | m.Event) -> None:
        self._heard_s = time.monotonic()
        record = dataclasses.asdict(message) | {"robot": self.name}
        if isinstance(message, m.Status):
            self._status = message
            record["needs_help"] = self._alert.add(message)
        elif isinstance(message, m.Step):
            record["clips"] = [clip.name for clip in Clip if clip & message.clip_mask]
            record["value"] = self._status.value if self._status else None
            self._steps.append(record)
        else:
            self._events.append(record)
        self._publish(json.dumps(record), self.name if isinstance(message, m.Status) else None)

    def _say_link(self) -> None:
        self._publish(self._link_line(), None)

    def _link_line(self) -> str:
        welcome = dataclasses.asdict(self._client.welcome) if self._client else None
        error = None if self._client else self._error
        return json.dumps({"type": "link", "robot": self.name, "error": error, "welcome": welcome})
