"""How messages travel: MessagePack behind a length, over a Unix socket or loopback TCP; never pickle.

A frame is four bytes of length, big-endian, and one MessagePack map with the fields of a record of
:mod:`robot_drivers.messages`. A peer that sends anything else, or too much of it, is disconnected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import ipaddress
import os
import secrets
import socket
import stat
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, cast

import msgpack
from pydantic import Field, TypeAdapter, ValidationError

from core.errors import ConfigError, RecapError
from robot_drivers.messages import FromClient, FromSupervisor, Message
from robot_drivers.states import Role

MAX_FRAME_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")
Received = TypeVar("Received")


class ProtocolError(RecapError, ConnectionError):
    """The peer does not speak this protocol, or is gone."""


class Codec(Generic[Received]):
    """Turns records into frames, and frames of one direction into checked records."""

    def __init__(self, kinds: Any) -> None:
        self._adapter: TypeAdapter[Received] = TypeAdapter(Annotated[kinds, Field(discriminator="type")])

    def decode(self, body: bytes) -> Received:
        """Check and build.

        Raises:
            ProtocolError: if it is no MessagePack, or no message of this direction; names the field.
        """
        try:
            fields = msgpack.unpackb(body, use_list=False, strict_map_key=True, max_ext_len=0, max_bin_len=0)
            return self._adapter.validate_python(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "message"
            raise ProtocolError(f"{where}: {first['msg']}; expected a message as robot_drivers.messages lists them") from None
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolError(f"{len(body)} bytes that are not MessagePack ({error!r}); expected one map") from None


CLIENT_MESSAGES: Codec[FromClient] = Codec(FromClient)
SUPERVISOR_MESSAGES: Codec[FromSupervisor] = Codec(FromSupervisor)


def encode(message: Message) -> bytes:
    """One frame.

    Raises:
        ProtocolError: if it would be larger than ``MAX_FRAME_BYTES``.
    """
    body = msgpack.packb(dataclasses.asdict(message))
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes; at most {MAX_FRAME_BYTES} are allowed")
    return _LENGTH.pack(len(body)) + cast(bytes, body)


class Connection(Generic[Received]):
    """One end of a socket. One thread receives; any may send."""

    def __init__(self, sock: socket.socket, codec: Codec[Received]) -> None:
        self._socket = sock
        self._codec = codec
        self._send_lock = threading.Lock()
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Message) -> None:
        """Send whole.

        Raises:
            ProtocolError: if the peer is gone.
        """
        frame = encode(message)
        try:
            with self._send_lock:
                self._socket.sendall(frame)
        except OSError as error:
            raise ProtocolError(f"cannot send: {error}") from None

    def receive(self) -> Received | None:
        """Wait for the next message; None once the peer has closed.

        Raises:
            ProtocolError: a frame that is cut off, too large, or no message.
        """
        header = self._exactly(_LENGTH.size, may_end=True)
        if header is None:
            return None
        (length,) = _LENGTH.unpack(header)
        if not 0 < length <= MAX_FRAME_BYTES:
            raise ProtocolError(f"a frame of {length} bytes; expected 1 to {MAX_FRAME_BYTES}")
        return self._codec.decode(cast(bytes, self._exactly(length, may_end=False)))

    def close(self) -> None:
        """Let go; a thread that waits in :meth:`receive` comes back."""
        with contextlib.suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, size: int, *, may_end: bool) -> bytes | None:
        received = bytearray()
        while len(received) < size:
            try:
                part = self._socket.recv(size - len(received))
            except OSError as error:
                raise ProtocolError(f"cannot receive: {error}") from None
            if not part:
                if may_end and not received:
                    return None
                raise ProtocolError(f"the peer closed after {len(received)} of {size} bytes")
            received += part
        return bytes(received)


def listen(address: str) -> socket.socket:
    """Open a listening socket.

    Args:
        address: a path, or ``127.0.0.1:PORT`` (port 0: any).

    Raises:
        ConfigError: if the address is not loopback, or is taken.
    """
    try:
        if ":" not in address:
            path = Path(address)
            _remove_dead_socket(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)
            try:
                sock.bind(str(path))
            finally:
                os.umask(mask)
        else:
            sock = socket.create_server(_loopback(address))
        sock.listen()
    except OSError as error:
        raise ConfigError(f"cannot listen on {address}: {error}") from None
    return sock


def dial(address: str, *, timeout_s: float) -> socket.socket:
    """Connect to what :func:`listen` opened.

    Raises:
        ProtocolError: if nobody listens.
    """
    try:
        if ":" not in address:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout_s)
            sock.connect(address)
        else:
            sock = socket.create_connection(_loopback(address), timeout=timeout_s)
    except OSError as error:
        raise ProtocolError(f"no supervisor at {address}: {error}. Start python -m robot_drivers.supervisor there.") from None
    sock.settimeout(None)
    return sock


def write_tokens(path: Path) -> None:
    """Write a fresh random token for every role, readable by the owner alone; a file that exists is left as it is."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{role.value} {secrets.token_urlsafe(32)}\n" for role in Role)


def read_tokens(path: Path) -> dict[Role, str]:
    """Read what :func:`write_tokens` wrote: a line ``ROLE TOKEN`` for each.

    Raises:
        ConfigError: if it is missing, malformed, or others may read it.
    """
    try:
        mode, lines = stat.S_IMODE(path.stat().st_mode), path.read_text().split("\n")
    except OSError as error:
        raise ConfigError(f"no token file {path}: {error}; the supervisor writes it when it starts") from None
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:o}; expected 600: others may read the tokens. Delete it, or chmod 600.")
    tokens: dict[Role, str] = {}
    for line in filter(None, lines):
        role, _, token = line.partition(" ")
        if role not in {known.value for known in Role} or len(token) < 20:
            raise ConfigError(f"{path} has a line for {role!r}; expected ROLE TOKEN with a role of {', '.join(Role)}")
        tokens[Role(role)] = token
    return tokens


def role_of(token: str, tokens: Mapping[Role, str]) -> Role | None:
    """Whose token it is; None if nobody's. Compares all of them, in constant time each."""
    matching = [role for role, known in tokens.items() if hmac.compare_digest(known.encode(), token.encode())]
    return matching[0] if matching else None


def _loopback(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback or not port.isdigit():
        raise ConfigError(
            f"{address!r} is not a loopback address; expected a path or 127.0.0.1:PORT. Use a tunnel between hosts."
        )
    return host, int(port)


def _remove_dead_socket(path: Path) -> None:
    """A socket that a killed supervisor left behind is removed; one that answers is not."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"{path} exists and is not a socket; choose another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
            return
    raise ConfigError(f"a supervisor already listens on {path}; stop it first")
