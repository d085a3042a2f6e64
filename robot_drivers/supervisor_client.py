"""A client of the safety supervisor: what the console and the robot actor hold. It asks; the supervisor decides.

Nothing here is needed for safety: a client that dies, hangs or sends nonsense is noticed by what it no longer sends.
"""

from __future__ import annotations

import dataclasses
import itertools
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from robot_drivers.messages import Event, FromSupervisor, Hello, Reply, Request, Status, Step, Welcome
from robot_drivers.protocol import SUPERVISOR_MESSAGES, Connection, ProtocolError, dial
from robot_drivers.states import RefusedError

Asked = TypeVar("Asked", bound=Request)


class SupervisorClient:
    """One connection, with a thread of its own that receives.

    Example:
        >>> client = SupervisorClient("run/supervisor.sock", token=token, client="console")  # doctest: +SKIP
        >>> client.ask(Arm(request_id=0, operator="ada", role=Role.OPERATE))  # doctest: +SKIP
    """

    def __init__(
        self,
        address: str,
        *,
        token: str,
        client: str,
        on_message: Callable[[Status | Step | Event], None] | None = None,
        on_close: Callable[[str], None] | None = None,
        timeout_s: float = 2.0,
    ) -> None:
        """Connect and say hello.

        Args:
            address: of :func:`robot_drivers.protocol.listen`.
            token: of the role that this client has at most.
            client: its name, for messages to people.
            on_message: called in the receiving thread with every telemetry message; must be quick and must not ask. None: none
                is sent.
            on_close: called once, with the reason, when the connection ends for any other reason than :meth:`close`.
            timeout_s: for connecting and for every answer.

        Raises:
            ProtocolError: if nobody listens, or the token or the version is refused.
        """
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._on_close = on_close
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Reply | None]] = {}
        self._lock = threading.Lock()
        self._end_reason: str | None = None
        sock = dial(address, timeout_s=timeout_s)
        self._connection = Connection(sock, SUPERVISOR_MESSAGES)
        self._connection.send(Hello(token=token, client=client, telemetry=on_message is not None))
        sock.settimeout(timeout_s)
        first = self._connection.receive()
        if not isinstance(first, Welcome):
            self._connection.close()
            reason = getattr(first, "reason", f"it answered {type(first).__name__}")
            raise ProtocolError(f"the supervisor at {address} refused {client!r}: {reason}")
        sock.settimeout(None)
        self.welcome = first
        self._thread = threading.Thread(target=self._receive, name=f"supervisor-client-{client}", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known; a frozen supervisor shows in the age of its status only."""
        return self._end_reason is None

    def ask(self, request: Asked) -> Reply:
        """Send a request and wait for its answer; the request's own number is replaced.

        Raises:
            RefusedError: if the supervisor refuses; with its words.
            ProtocolError: if the connection ended, or no answer came in time.
        """
        number = next(self._numbers)
        answer: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        with self._lock:
            if self._end_reason is not None:
                raise ProtocolError(f"not connected to the supervisor: {self._end_reason}")
            self._waiting[number] = answer
        try:
            self._connection.send(dataclasses.replace(request, request_id=number))
            reply = answer.get(timeout=self._timeout_s)
        except queue.Empty:
            raise ProtocolError(
                f"no answer to {type(request).__name__} in {self._timeout_s} s; is the supervisor stuck?"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if reply is None:
            raise ProtocolError(f"the connection to the supervisor ended: {self._end_reason}")
        if not reply.ok:
            raise RefusedError(reply.error)
        return reply

    def tell(self, request: Request) -> None:
        """Send a request without waiting; a refusal is not noticed. For input frames.

        Raises:
            ProtocolError: if the connection ended.
        """
        self._connection.send(dataclasses.replace(request, request_id=next(self._numbers)))

    def close(self) -> None:
        """Disconnect. The robot does not care."""
        self._end("closed here", notify=False)
        self._connection.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._timeout_s)

    def _receive(self) -> None:
        reason = "the supervisor closed it"
        try:
            while (message := self._connection.receive()) is not None:
                self._take(message)
        except ProtocolError as error:
            reason = str(error)
        self._end(reason, notify=True)

    def _take(self, message: FromSupervisor) -> None:
        if isinstance(message, Reply):
            waiting = self._waiting.get(message.request_id)
            if waiting is not None:
                waiting.put(message)
        elif isinstance(message, Status | Step | Event):
            if self._on_message is not None:
                self._on_message(message)
        else:
            raise ProtocolError(getattr(message, "reason", f"unexpected {type(message).__name__}"))

    def _end(self, reason: str, *, notify: bool) -> None:
        with self._lock:
            if self._end_reason is not None:
                return
            self._end_reason = reason
            for waiting in self._waiting.values():
                waiting.put(None)
        if notify and self._on_close is not None:
            self._on_close(reason)
