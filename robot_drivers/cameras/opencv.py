"""USB cameras and video files through OpenCV."""

from __future__ import annotations

import time
from dataclasses import dataclass

import cv2
import numpy as np

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import CameraError, RawFrame

_MAX_LATENCY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class OpenCvConfig:
    """Which device, and what it is asked for."""

    spec: CameraSpec
    device: str
    """A path: /dev/v4l/by-id/... names the same camera after a reboot, /dev/video0 may not; or a video file."""
    rate_hz: float
    pixel_format: str = "MJPG"
    """Four characters. Uncompressed formats of several cameras do not fit on one USB controller."""

    def __post_init__(self) -> None:
        if len(self.pixel_format) != 4:
            raise ConfigError(f"pixel_format is {self.pixel_format!r}; expected four characters, such as MJPG or YUYV")
        if not self.rate_hz > 0:
            raise ConfigError(f"rate_hz is {self.rate_hz}; expected a positive number")


class OpenCvSource:
    """A V4L2 device or a video file; a :class:`robot_drivers.cameras.camera.FrameSource`.

    The driver's queue is one frame long, where the driver lets it be. V4L2 stamps a frame on this host's monotonic clock when it
    was exposed, and OpenCV hands that stamp on (``CAP_PROP_POS_MSEC``); it is used where it is a plausible one.
    A video file is read at the rate asked for, carries its frame numbers, and ends as a lost camera does: it then begins again.
    """

    def __init__(self, config: OpenCvConfig) -> None:
        self.spec = config.spec
        self._config = config
        self._is_device = config.device.startswith("/dev/")
        self._capture: cv2.VideoCapture | None = None

    def open(self) -> None:
        """See :meth:`FrameSource.open`."""
        config, spec = self._config, self.spec
        self.close()
        capture = cv2.VideoCapture(config.device, cv2.CAP_V4L2 if self._is_device else cv2.CAP_ANY)
        if not capture.isOpened():
            capture.release()
            raise CameraError(
                f"camera {spec.name!r}: {config.device} cannot be opened; check that it is there and used by nobody else"
            )
        if self._is_device:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.pixel_format))
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, spec.width_px)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, spec.height_px)
            capture.set(cv2.CAP_PROP_FPS, config.rate_hz)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if size != (spec.width_px, spec.height_px):
            capture.release()
            raise CameraError(
                f"camera {spec.name!r} gives {size[0]}x{size[1]}; expected {spec.width_px}x{spec.height_px}: choose one it has"
            )
        self._capture = capture

    def grab(self) -> RawFrame:
        """See :meth:`FrameSource.grab`."""
        if self._capture is None:
            raise CameraError(f"camera {self.spec.name!r} is not open")
        if not self._is_device:
            time.sleep(1 / self._config.rate_hz)
        is_there, image = self._capture.read()
        if not is_there:
            raise CameraError(f"camera {self.spec.name!r}: {self._config.device} gives no more frames; check its cable")
        stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        is_monotonic = self._is_device and 0 <= time.monotonic() - stamp_s < _MAX_LATENCY_S
        return RawFrame(
            image=np.ascontiguousarray(image[..., ::-1]),
            device_frame_number=None if self._is_device else round(self._capture.get(cv2.CAP_PROP_POS_FRAMES)),
            device_time_s=stamp_s if self._is_device and stamp_s > 0 else None,
            capture_monotonic_s=stamp_s if is_monotonic else None,
        )

    def close(self) -> None:
        """See :meth:`FrameSource.close`."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None
