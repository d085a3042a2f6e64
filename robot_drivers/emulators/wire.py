"""The line between an emulated controller and its clients, and all that can go wrong on it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import socket
from collections.abc import Awaitable, Callable

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class WireFault(enum.Enum):
    """A way to misbehave that leaves the controller's mechanics alone."""

    FREEZE = "freeze"
    """Nothing is read, answered or reported, and connections stay open: what a hung controller, or SIGSTOP, looks like."""
    DROP = "drop"
    """All connections are cut and none is taken: what a pulled plug looks like."""
    DELAY = "delay"
    """Everything that is sent leaves late; the parameter is seconds."""
    PARTIAL = "partial"
    """An answer's second half follows 50 ms after the first; a datagram loses its second half."""
    SPLIT = "split"
    """Every byte of an answer travels in a TCP segment of its own."""
    JUNK = "junk"
    """Something that makes no sense precedes each answer and replaces every other datagram."""


class Wire:
    """TCP servers and one UDP sender that share the faults set on them. Lives in its emulator's event loop.

    Consumes: what controllers write. Produces: the same on the network, more or less. Waits for: the network; for ever if frozen.
    """

    def __init__(self, *, junk: bytes) -> None:
        """``junk``: what this protocol's clients must survive, a whole line or frame of it."""
        self._junk = junk
        self._faults: dict[WireFault, float] = {}
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._listening: list[tuple[tuple[str, int], Handler]] = []
        self._servers: list[asyncio.Server] = []
        self._writers: dict[asyncio.StreamWriter, asyncio.Lock] = {}
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._num_datagrams = 0

    async def listen(self, host: str, port: int, handler: Handler) -> int:
        """Serve TCP connections. Returns the port, which the system chooses where ``port`` is 0."""
        address = await self._serve((host, port), handler)
        self._listening.append((address, handler))
        return address[1]

    async def set_fault(self, fault: WireFault, parameter: float = 0.0) -> None:
        """Begin to misbehave."""
        self._faults[fault] = parameter
        if fault is WireFault.FREEZE:
            self._thawed.clear()
        if fault is WireFault.DROP:
            await self._cut()

    async def clear_faults(self) -> None:
        """Behave again; after a drop, take connections again."""
        was_dropped = WireFault.DROP in self._faults
        self._faults.clear()
        self._thawed.set()
        if was_dropped:
            for address, handler in self._listening:
                await self._serve(address, handler)

    async def thawed(self) -> None:
        """Return when not frozen. To be awaited before each command is carried out."""
        await self._thawed.wait()

    @property
    def is_frozen(self) -> bool:
        """Whether nothing is to leave."""
        return not self._thawed.is_set()

    def is_busy(self, writer: asyncio.StreamWriter) -> bool:
        """Whether something is on its way to this client: who reports at a rate then leaves a report out."""
        lock = self._writers.get(writer)
        return lock is None or lock.locked()

    async def send(self, writer: asyncio.StreamWriter, data: bytes, *, may_add_junk: bool = True) -> None:
        """Write to a client, with the faults that are set; a client that is gone is no error.

        ``may_add_junk`` is false where the protocol knows no frame to skip: no network does that to a TCP stream.
        """
        await self.thawed()
        delay_s = self._faults.get(WireFault.DELAY)
        if delay_s:
            await asyncio.sleep(delay_s)
        if may_add_junk and WireFault.JUNK in self._faults:
            data = self._junk + data
        if WireFault.SPLIT in self._faults:
            pieces, pause_s = [data[index : index + 1] for index in range(len(data))], 0.0
        elif WireFault.PARTIAL in self._faults:
            pieces, pause_s = [data[: len(data) // 2], data[len(data) // 2 :]], 0.05
        else:
            pieces, pause_s = [data], 0.0
        if writer not in self._writers:
            return
        with contextlib.suppress(ConnectionError):
            async with self._writers[writer]:
                for index, piece in enumerate(pieces):
                    if index:
                        await asyncio.sleep(pause_s)
                    writer.write(piece)
                    await writer.drain()

    def send_datagram(self, address: tuple[str, int], data: bytes) -> None:
        """Report to a client; nobody listening is no error."""
        if self.is_frozen or WireFault.DROP in self._faults:
            return
        self._num_datagrams += 1
        if WireFault.JUNK in self._faults and self._num_datagrams % 2:
            data = os.urandom(len(data))
        if WireFault.PARTIAL in self._faults and self._num_datagrams % 2:
            data = data[: len(data) // 2]
        delay_s = self._faults.get(WireFault.DELAY)
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self._send_datagram_now, address, data)
        else:
            self._send_datagram_now(address, data)

    async def close(self) -> None:
        """Cut everything."""
        await self._cut()
        self._datagrams.close()

    async def _serve(self, address: tuple[str, int], handler: Handler) -> tuple[str, int]:
        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._writers[writer] = asyncio.Lock()
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass  # the client went, or the emulator closes; asyncio 3.11 logs a cancelled handler as an error
            finally:
                del self._writers[writer]
                writer.close()

        listener = socket.create_server(address)
        bound = listener.getsockname()
        self._servers.append(await asyncio.start_server(on_connection, sock=listener))
        return str(bound[0]), int(bound[1])

    async def _cut(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for writer in list(self._writers):
            writer.transport.abort()

    def _send_datagram_now(self, address: tuple[str, int], data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._datagrams.sendto(data, address)
