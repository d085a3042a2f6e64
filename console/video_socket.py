"""Pictures to one page: the newest of every camera, none sent before the one before was acknowledged.

A queue of frames looks live and is not; here a slow page gets fewer pictures and no older ones. A message is 24 bytes of header
(:data:`HEADER`) and a JPEG.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import cv2
from starlette.websockets import WebSocket, WebSocketDisconnect

from robot_drivers.cameras.camera import Frame

HEADER = struct.Struct("<HHIdd")
"""Camera's index, reserved, sequence, time of capture [s], time of sending [s]: both of this host's monotonic clock."""
_QUALITY = 80
_PERIOD_S = 1 / 20


class FrameFeed(Protocol):
    """Where pictures come from; a :class:`robot_drivers.cameras.camera_set.CameraSet` is one."""

    def latest(self) -> Mapping[str, Frame | None]:
        """The newest frame of every camera, however old; always the same cameras in the same order."""
        ...


class JpegFeed:
    """Encodes each frame once, however many pages look."""

    def __init__(self, feed: FrameFeed) -> None:
        self._feed = feed
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="jpeg")  # of its own: pictures never delay a stop

    @property
    def cameras(self) -> list[str]:
        """Names, in the order of the index in :data:`HEADER`."""
        return list(self._feed.latest())

    async def newer(self, sent: Mapping[str, int]) -> list[tuple[str, int, bytes]]:
        """Messages for the cameras that have a newer frame than ``sent``: (camera, sequence, header and JPEG)."""
        found = []
        for index, (name, frame) in enumerate(self._feed.latest().items()):
            if frame is not None and frame.sequence > sent.get(name, -1):
                jpeg = await self._jpeg(name, frame)
                header = HEADER.pack(index, 0, frame.sequence, frame.capture_monotonic_s, time.monotonic())
                found.append((name, frame.sequence, header + jpeg))
        return found

    async def _jpeg(self, name: str, frame: Frame) -> bytes:
        sequence, jpeg = self._encoded.get(name, (-1, b""))
        if sequence != frame.sequence:
            jpeg = await asyncio.get_running_loop().run_in_executor(self._threads, _encode, frame)
            self._encoded[name] = (frame.sequence, jpeg)
        return jpeg


async def serve_video(socket: WebSocket, feed: JpegFeed) -> None:
    """One page, until it is gone. It answers every picture with any text message.

    The first message names the cameras: ``{"cameras": [...]}``.
    """
    sent: dict[str, int] = {}
    try:
        await socket.send_json({"cameras": feed.cameras})
        while True:
            start_s = time.monotonic()
            for name, sequence, message in await feed.newer(sent):
                await socket.send_bytes(message)
                await socket.receive_text()
                sent[name] = sequence
            await asyncio.sleep(max(0.0, start_s + _PERIOD_S - time.monotonic()))
    except WebSocketDisconnect:
        pass


def _encode(frame: Frame) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert ok, f"a frame {frame.image.shape} that JPEG cannot hold"
    return bytes(jpeg.data)
