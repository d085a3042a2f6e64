"""Intel RealSense through ``pyrealsense2`` (extra ``realsense``).

Written from the vendor's documentation and issue threads, and tested against a stand-in of the calls that it uses; not run on a
device. ``wait_for_frames`` is known to hand out a frame twice (librealsense issues 5885 and 7837): the frame number tells.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import CameraError, RawFrame

_MAX_LATENCY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RealSenseConfig:
    """Which device, and what it is asked for. Colour only: no policy here takes depth."""

    spec: CameraSpec
    serial: str
    """As printed on it and by ``rs-enumerate-devices``: without it two cameras may swap places."""
    rate_hz: int
    timeout_s: float = 1.0
    """Without a frame for so long the camera counts as lost."""

    def __post_init__(self) -> None:
        if not self.serial:
            raise ConfigError("serial is empty; expected the number printed on the camera")
        for name in ("rate_hz", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive number")


class RealSenseSource:
    """The colour stream of one device; a :class:`robot_drivers.cameras.camera.FrameSource`."""

    def __init__(self, config: RealSenseConfig) -> None:
        self.spec = config.spec
        self._config = config
        self._pipeline: Any = None
        self._library: Any = None

    def open(self) -> None:
        """See :meth:`FrameSource.open`."""
        try:
            import pyrealsense2
        except ImportError as error:
            raise CameraError(
                f"camera {self.spec.name!r} needs the vendor's library: pip install 'viva-recap[realsense]'"
            ) from error
        self.close()
        library: Any = pyrealsense2
        stream = library.config()
        stream.enable_device(self._config.serial)
        stream.enable_stream(
            library.stream.color, self.spec.width_px, self.spec.height_px, library.format.rgb8, self._config.rate_hz
        )
        pipeline = library.pipeline()
        try:
            pipeline.start(stream)
        except RuntimeError as error:
            raise CameraError(
                f"camera {self.spec.name!r}: RealSense {self._config.serial} cannot stream "
                f"{self.spec.width_px}x{self.spec.height_px} at {self._config.rate_hz} Hz: {error}"
            ) from error
        self._pipeline, self._library = pipeline, library

    def grab(self) -> RawFrame:
        """See :meth:`FrameSource.grab`."""
        if self._pipeline is None:
            raise CameraError(f"camera {self.spec.name!r} is not open")
        try:
            colour = self._pipeline.wait_for_frames(round(self._config.timeout_s * 1000)).get_color_frame()
        except RuntimeError as error:
            raise CameraError(f"camera {self.spec.name!r}: RealSense {self._config.serial} gives no frames: {error}") from error
        if not colour:
            raise CameraError(f"camera {self.spec.name!r}: RealSense {self._config.serial} gave frames without colour")
        stamp_s = colour.get_timestamp() / 1000
        capture_s: float | None = None
        if colour.get_frame_timestamp_domain() == self._library.timestamp_domain.global_time:
            latency_s = time.time() - stamp_s  # global time is this host's wall clock
            capture_s = time.monotonic() - latency_s if 0 <= latency_s < _MAX_LATENCY_S else None
        return RawFrame(
            image=np.array(colour.get_data(), dtype=np.uint8),  # the library takes its buffer back
            device_frame_number=int(colour.get_frame_number()),
            device_time_s=stamp_s,
            capture_monotonic_s=capture_s,
        )

    def close(self) -> None:
        """See :meth:`FrameSource.close`."""
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            with contextlib.suppress(RuntimeError):  # it was lost: there is nothing to stop
                pipeline.stop()
