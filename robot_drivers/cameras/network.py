"""A camera whose frames another process sends over TCP: a simulation's (:mod:`robot_drivers.emulators.simulated`)."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import socket
from dataclasses import dataclass

import numpy as np

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import CameraError, RawFrame

_MAX_HEADER_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class NetworkCameraConfig:
    """Where the frames come from."""

    spec: CameraSpec
    """The name is the receiver's own; the size has to be the sender's."""
    host: str
    port: int
    timeout_s: float = 2.0
    """Without a frame: the camera is lost."""

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s}; expected a positive number of seconds")


class NetworkSource:
    """Frames as they arrive; a :class:`robot_drivers.cameras.camera.FrameSource`.

    A frame is a line of JSON (``number``, ``capture_monotonic_s``, ``height_px``, ``width_px``) and its pixels, uint8 RGB. The
    time of capture is believed of a loopback address only: another host's monotonic clock means nothing here.
    """

    def __init__(self, config: NetworkCameraConfig) -> None:
        self.spec = config.spec
        self._config = config
        self._socket: socket.socket | None = None
        self._stream: io.BufferedReader | None = None
        self._shares_clock = False
        self._size = (config.spec.height_px, config.spec.width_px)

    def open(self) -> None:
        """See :meth:`FrameSource.open`."""
        self.close()
        config = self._config
        try:
            self._socket = socket.create_connection((config.host, config.port), timeout=config.timeout_s)
        except OSError as error:
            raise CameraError(
                f"camera {self.spec.name!r}: nobody answers at {config.host}:{config.port}: {error}; is the simulation running?"
            ) from error
        self._shares_clock = ipaddress.ip_address(self._socket.getpeername()[0]).is_loopback
        self._stream = self._socket.makefile("rb")

    def grab(self) -> RawFrame:
        """See :meth:`FrameSource.grab`."""
        if self._stream is None:
            raise CameraError(f"camera {self.spec.name!r} is not open")
        try:
            line = self._stream.readline(_MAX_HEADER_BYTES)
            number, capture_s, size = _parsed(line)
            pixels = self._stream.read(self.spec.height_px * self.spec.width_px * 3) if size == self._size else b""
        except OSError as error:
            raise CameraError(f"camera {self.spec.name!r}: no frame within {self._config.timeout_s} s: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CameraError(f"camera {self.spec.name!r}: what arrives is no frame ({error!r}); check host and port") from error
        if size != self._size:
            raise CameraError(f"camera {self.spec.name!r} gives {size} pixels (height, width); expected {self._size}")
        if len(pixels) != size[0] * size[1] * 3:
            raise CameraError(f"camera {self.spec.name!r}: the connection ended within a frame")
        return RawFrame(
            image=np.frombuffer(pixels, dtype=np.uint8).reshape(*size, 3).copy(),
            device_frame_number=number,
            device_time_s=capture_s,
            capture_monotonic_s=capture_s if self._shares_clock else None,
        )

    def close(self) -> None:
        """See :meth:`FrameSource.close`."""
        for opened in (self._stream, self._socket):
            if opened is not None:
                with contextlib.suppress(OSError):
                    opened.close()
        self._stream = self._socket = None


def _parsed(line: bytes) -> tuple[int, float, tuple[int, int]]:
    """Number, time of capture, height and width."""
    if not line:
        raise ValueError("the connection ended")
    header = json.loads(line)
    return int(header["number"]), float(header["capture_monotonic_s"]), (int(header["height_px"]), int(header["width_px"]))
