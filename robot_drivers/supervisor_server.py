"""The supervisor's clients: who they are by their token, what they ask, what they are told. None of them can hold up a tick.

Every client has a thread that reads and one that writes. A slow one misses statuses; steps and events wait for it up to a bound,
and a client that falls behind further is disconnected. A client that dies or hangs changes nothing but what it no longer sends.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Mapping

from robot_drivers import messages as m
from robot_drivers.protocol import CLIENT_MESSAGES, Connection, ProtocolError, role_of
from robot_drivers.states import Role
from robot_drivers.supervision import Supervision, Telemetry

_log = logging.getLogger(__name__)
_MAX_CLIENTS = 32
_MAX_BACKLOG = 5000
_HELLO_S = 2.0


class SupervisorServer:
    """Accepts clients and passes on what is published."""

    def __init__(self, listening: socket.socket, tokens: Mapping[Role, str]) -> None:
        self._listening = listening
        self._tokens = dict(tokens)
        self._sessions: set[_Session] = set()
        self._lock = threading.Lock()
        self._supervision: Supervision | None = None

    def publish(self, telemetry: Telemetry) -> None:
        """Hand to every client that wants it; returns at once."""
        with self._lock:
            sessions = [session for session in self._sessions if session.wants_telemetry]
        for session in sessions:
            session.post(telemetry)

    def start(self, supervision: Supervision) -> None:
        """Accept from now on."""
        self._supervision = supervision
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def close(self, reason: str) -> None:
        """Accept no more, and tell everyone why."""
        self._listening.close()
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.end(reason)

    def forget(self, session: _Session) -> None:
        """It is gone."""
        with self._lock:
            self._sessions.discard(session)

    def _accept(self) -> None:
        assert self._supervision is not None
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return  # closed
            session = _Session(self, self._supervision, sock, self._tokens)
            with self._lock:
                is_full = len(self._sessions) >= _MAX_CLIENTS
                if not is_full:
                    self._sessions.add(session)
            if is_full:
                sock.close()
                _log.warning("refused a client: %d are connected already", _MAX_CLIENTS)
            else:
                session.start()


class _Session:
    """One client."""

    def __init__(
        self, server: SupervisorServer, supervision: Supervision, sock: socket.socket, tokens: Mapping[Role, str]
    ) -> None:
        self._server = server
        self._supervision = supervision
        self._socket = sock
        self._connection = Connection(sock, CLIENT_MESSAGES)
        self._tokens = tokens
        self._condition = threading.Condition()
        self._backlog: deque[m.Message] = deque()
        self._status: m.Status | None = None
        self._is_ended = False
        self.wants_telemetry = False

    def start(self) -> None:
        """Start its threads."""
        threading.Thread(target=self._read, name="client-read", daemon=True).start()
        threading.Thread(target=self._write, name="client-write", daemon=True).start()

    def post(self, message: m.Message) -> None:
        """Send soon; of statuses the newest only."""
        with self._condition:
            if isinstance(message, m.Status):
                self._status = message
            else:
                self._backlog.append(message)
            is_behind = len(self._backlog) > _MAX_BACKLOG
            self._condition.notify()
        if is_behind:
            _log.warning("a client is %d messages behind and is disconnected", _MAX_BACKLOG)
            self._drop()

    def end(self, reason: str) -> None:
        """Send what waits, then close."""
        with self._condition:
            self._backlog.append(m.Goodbye(reason=reason))
            self._is_ended = True
            self._condition.notify()

    def _read(self) -> None:
        reason = "closed"
        try:
            role = self._greet()
            while role is not None and (message := self._connection.receive()) is not None:
                if isinstance(message, m.Hello):
                    raise ProtocolError("a second hello; expected requests")
                self.post(self._supervision.handle(message, role=role))
        except ProtocolError as error:
            reason = str(error)
            _log.info("a client is disconnected: %s", error)
        self._server.forget(self)
        self.end(reason)

    def _greet(self) -> Role | None:
        self._socket.settimeout(_HELLO_S)
        hello = self._connection.receive()
        if hello is None:
            return None
        if not isinstance(hello, m.Hello):
            raise ProtocolError(f"{type(hello).__name__} before hello")
        role = role_of(hello.token, self._tokens)
        if role is None:
            raise ProtocolError("unknown token; read the supervisor's token file again")
        if hello.version != m.VERSION:
            raise ProtocolError(f"protocol version {hello.version}; this supervisor speaks {m.VERSION}. Update the older side.")
        self._socket.settimeout(None)
        self.post(self._supervision.welcome(role))
        self.wants_telemetry = hello.telemetry
        _log.info("%s connected with role %s", hello.client, role.value)
        return role

    def _write(self) -> None:
        try:
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self._backlog or self._status is not None or self._is_ended)
                    if self._backlog:
                        message: m.Message = self._backlog.popleft()
                    elif self._status is not None:
                        message, self._status = self._status, None
                    else:
                        break
                self._connection.send(message)
        except ProtocolError:
            pass  # gone; the reading thread has noticed or will now
        self._drop()

    def _drop(self) -> None:
        self._server.forget(self)
        self._connection.close()
