"""One camera: a thread that grabs, rejects what it has seen before, opens again what was lost, and keeps the newest frame.

Hop 1 of the tour on a real robot: takes frames as a device hands them out, gives the newest with its sequence and its age. A
reader never waits for the device: a policy that needs a fresh frame gets one or an error, and holds.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import ConfigError, RecapError
from core.specs import CameraSpec


class CameraError(RecapError, ConnectionError):
    """A camera cannot be opened, was lost, or hands out something else than was agreed."""


class StaleFrameError(RecapError, TimeoutError):
    """The newest frame is older than it may be, or there is none."""


@dataclass(frozen=True, kw_only=True)
class RawFrame:
    """What a device hands out."""

    image: NDArray[np.uint8]
    """[H, W, 3], RGB; the receiver's to keep."""
    device_frame_number: int | None = None
    """As the device counts, where it does."""
    device_time_s: float | None = None
    """On the device's own clock, where it has one: to tell repeats, and for the record."""
    capture_monotonic_s: float | None = None
    """When it was exposed, on this host's monotonic clock, where the device can say."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image and all that is recorded of its time. Monotonic times are this host's and mean nothing on another."""

    image: NDArray[np.uint8]
    """[H, W, 3], RGB, read-only."""
    sequence: int
    """Counts the frames that were kept, from 0; goes on over a reconnect."""
    capture_monotonic_s: float
    """When it was exposed where the device says so, when it arrived otherwise."""
    arrival_monotonic_s: float
    device_frame_number: int | None
    device_time_s: float | None

    def age_s(self, now_monotonic_s: float) -> float:
        """Seconds since it was captured."""
        return now_monotonic_s - self.capture_monotonic_s


class FrameSource(Protocol):
    """A device. Called by one thread at a time."""

    spec: CameraSpec

    def open(self) -> None:
        """Begin to stream.

        Raises:
            CameraError: if there is no such device, or it cannot do what ``spec`` says.
        """
        ...

    def grab(self) -> RawFrame:
        """Wait for the next frame.

        Raises:
            CameraError: if none comes any more.
        """
        ...

    def close(self) -> None:
        """Let go of the device. May be called twice, and without :meth:`open`."""
        ...


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """How a lost camera is come back to."""

    reopen_after_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.reopen_after_s < 3600:
            raise ConfigError(f"reopen_after_s is {self.reopen_after_s}; expected more than 0 and less than 3600")


@dataclass(frozen=True, kw_only=True)
class CameraStatus:
    """For the console and the log."""

    is_open: bool
    error: str | None
    """Why it is not open."""
    num_frames: int
    num_repeats: int
    """Frames that were rejected because the device had handed them out before."""
    num_opened: int


class Camera:
    """Keeps the newest frame of a source.

    Consumes: a :class:`FrameSource`. Produces: Frames, in order, none twice. Waits for: nothing, but in its own thread.
    A frame is a repeat if its device number or device time is that of the last one; where a device has neither, if its bytes are:
    a live sensor's noise never repeats, a hung one's last image does.

    Example::

        with Camera(OpenCvSource(config)) as camera:
            frame = camera.read_latest(max_age_s=0.3)
    """

    def __init__(self, source: FrameSource, config: CameraConfig = CameraConfig(), clock: Clock | None = None) -> None:
        self.spec = source.spec
        self._source = source
        self._config = config
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._newest: Frame | None = None
        self._last_mark: tuple[object, ...] | None = None
        self._is_open = False
        self._error: str | None = "not started"
        self._num_repeats = 0
        self._num_opened = 0

    def __enter__(self) -> Camera:
        """Start to grab."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop grabbing."""
        self.close()

    def start(self) -> None:
        """Start to grab; returns at once, whether there is a device or not."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"camera-{self.spec.name}", daemon=True)
            self._thread.start()

    def latest(self) -> Frame | None:
        """The newest frame, however old; None if there was none yet."""
        with self._lock:
            return self._newest

    def read_latest(self, max_age_s: float) -> Frame:
        """The newest frame, if it is young enough; does not wait.

        Raises:
            StaleFrameError: if it is not.
        """
        frame = self.latest()
        if frame is None:
            raise StaleFrameError(
                f"camera {self.spec.name!r} has no frame yet ({self.status().error or 'it is open'}); hold, and check it"
            )
        age_s = frame.age_s(self._clock.monotonic_s())
        if age_s > max_age_s:
            raise StaleFrameError(
                f"camera {self.spec.name!r}: the newest frame is {age_s:.3f} s old; expected at most {max_age_s:.3f} s "
                f"({self.status().error or 'it is open'}); hold, and check it"
            )
        return frame

    def status(self) -> CameraStatus:
        """How it does."""
        with self._lock:
            return CameraStatus(
                is_open=self._is_open,
                error=self._error,
                num_frames=0 if self._newest is None else self._newest.sequence + 1,
                num_repeats=self._num_repeats,
                num_opened=self._num_opened,
            )

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop grabbing. A thread that hangs in a dead device is left to itself after ``timeout_s``. May be called twice."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._source.open()
                with self._lock:
                    self._is_open, self._error, self._last_mark = True, None, None
                    self._num_opened += 1
                while not self._closing.is_set():
                    self._take(self._source.grab())
            except CameraError as error:
                with self._lock:
                    self._is_open, self._error = False, str(error)
            self._source.close()
            self._closing.wait(self._config.reopen_after_s)
        with self._lock:
            self._is_open, self._error = False, "closed"

    def _take(self, raw: RawFrame) -> None:
        """Keep a frame that is new.

        Raises:
            CameraError: if it is not of the size or kind agreed.
        """
        arrival_s = self._clock.monotonic_s()
        expected = (self.spec.height_px, self.spec.width_px, 3)
        if raw.image.shape != expected or raw.image.dtype != np.uint8:
            raise CameraError(
                f"camera {self.spec.name!r} hands out {raw.image.dtype} {raw.image.shape}; expected uint8 {expected}: "
                "check its settings"
            )
        mark: tuple[object, ...] = (raw.device_frame_number, raw.device_time_s)
        if mark == (None, None):
            mark = (zlib.crc32(np.ascontiguousarray(raw.image).data),)
        with self._lock:
            if mark == self._last_mark:
                self._num_repeats += 1
                return
            self._last_mark = mark
            capture_s = raw.capture_monotonic_s
            raw.image.flags.writeable = False
            self._newest = Frame(
                image=raw.image,
                sequence=0 if self._newest is None else self._newest.sequence + 1,
                capture_monotonic_s=arrival_s if capture_s is None else min(capture_s, arrival_s),
                arrival_monotonic_s=arrival_s,
                device_frame_number=raw.device_frame_number,
                device_time_s=raw.device_time_s,
            )
