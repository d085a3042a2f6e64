"""One JSON object a line over TCP, one way and the other: what Realman's controllers speak, and our simulated ones."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from robot_drivers.driver import DriverError

_MAX_LINE_BYTES = 1 << 16
Handler = Callable[[Mapping[str, Any]], None]


class JsonLines:
    """A connection and the thread that reads it. ``error`` is set once, when it is found to be down.

    Consumes: objects to send. Produces: every object that arrives, to ``on_message``; what is none is skipped. Waits for: the
    peer, in :meth:`ask` only.

    Args:
        host: of the controller.
        port: of the controller.
        timeout_s: to connect, and for an answer.
        on_message: called by the reading thread.

    Raises:
        DriverError: if nobody answers there.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float, on_message: Handler) -> None:
        self._host = host
        self._timeout_s = timeout_s
        self._on_message = on_message
        self._answers: queue.Queue[Mapping[str, Any]] = queue.Queue(maxsize=256)
        self.error: str | None = None
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as error:
            raise DriverError(f"no arm answers at {host}:{port}: {error}; check power, cable and host") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self.peer_ip: str = self._socket.getpeername()[0]
        self.local_ip: str = self._socket.getsockname()[0]
        self._thread = threading.Thread(target=self._receive, name=f"lines-from-{host}", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def require_up(self) -> None:
        """Check the connection, as far as it is known.

        Raises:
            DriverError: if it is down.
        """
        if self.error is not None:
            raise DriverError(f"the link to the arm at {self._host} is down: {self.error}; close and connect again")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a line, or fail at once: a peer that lets the buffer fill up has been dead for minutes.

        Raises:
            DriverError: if the connection is down.
        """
        line = json.dumps(message, separators=(",", ":")).encode() + b"\r\n"
        try:
            num_sent = self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            self.fail(f"sending failed: {error}")
        else:
            if num_sent != len(line):
                self.fail("the controller has stopped reading")
        self.require_up()

    def ask(self, message: Mapping[str, Any], answer_name: str) -> Mapping[str, Any]:
        """Send a line and wait for the answer whose ``"command"`` is that name.

        Raises:
            DriverError: if none comes in time, or the connection is down.
        """
        while not self._answers.empty():
            self._answers.get_nowait()
        self.send(message)
        until_s = time.monotonic() + self._timeout_s
        while True:
            try:
                answer = self._answers.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                raise DriverError(
                    f"the arm at {self._host} did not answer {message['command']!r} within {self._timeout_s} s"
                ) from None
            if answer.get("command") == answer_name:
                return answer

    def fail(self, reason: str) -> None:
        """Say that the connection is down; the first reason counts."""
        self.error = self.error or reason
        with contextlib.suppress(OSError):  # the peer may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close, and join the thread unless called by it."""
        self.fail("it was closed")
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        buffer = b""
        while self.error is None:
            try:
                received = self._socket.recv(4096)
            except OSError as error:
                self.fail(f"receiving failed: {error}")
                return
            if not received:
                self.fail("the controller closed it")
                return
            *lines, buffer = (buffer + received).split(b"\n")
            if len(buffer) > _MAX_LINE_BYTES:
                buffer = b""
            for message in filter(None, map(parsed, lines)):
                self._on_message(message)
                if "command" in message and not self._answers.full():
                    self._answers.put(message)


def parsed(line: bytes) -> dict[str, Any] | None:
    """A JSON object, or None: what makes no sense is skipped, and missed by whoever waits for it.

    Example:
        >>> parsed(b'{"a": 1}'), parsed(b"[1]"), parsed(b"{")
        ({'a': 1}, None, None)
    """
    try:
        tree = json.loads(line)
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None
