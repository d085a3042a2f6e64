"""Telemetry to pages: one queue a page; of statuses the newest only, and a page that falls behind is disconnected."""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

_MAX_BACKLOG = 2000


class Watchers:
    """All pages that look on."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()

    def publish(self, line: str, newest_of: str | None = None) -> None:
        """To every page; returns at once.

        Args:
            line: JSON.
            newest_of: of lines with the same key a page gets the newest only, if it is slow.
        """
        for watcher in self._watchers:
            watcher.post(line, newest_of)

    async def serve(self, socket: WebSocket, snapshot: list[str]) -> None:
        """One page, until it is gone."""
        watcher = Watcher()
        for line in snapshot:
            watcher.post(line, None)
        self._watchers.add(watcher)
        sending = asyncio.create_task(watcher.send_to(socket))
        try:
            while True:
                await socket.receive_text()  # nothing is expected; this is how the end is noticed
        except WebSocketDisconnect:
            pass
        finally:
            self._watchers.discard(watcher)
            sending.cancel()


class Watcher:
    """One page."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._newest: dict[str, str] = {}
        self._has_news = asyncio.Event()

    def post(self, line: str, newest_of: str | None) -> None:
        """Send soon."""
        if newest_of is None:
            self._lines.append(line)
        else:
            self._newest[newest_of] = line
        self._has_news.set()

    async def send_to(self, socket: WebSocket) -> None:
        """Send until the page is gone or too far behind."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            while self._lines or self._newest:
                if len(self._lines) > _MAX_BACKLOG:
                    await socket.close(1013, "too slow; reload the page")
                    return
                line = self._lines.popleft() if self._lines else self._newest.pop(next(iter(self._newest)))
                if socket.application_state is not WebSocketState.CONNECTED:
                    return
                await socket.send_text(line)
