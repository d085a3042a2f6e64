"""Cameras that are not there: a pattern that carries its own frame number, recorded images, and faults on demand."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from core.clock import Clock, SystemClock
from core.errors import ConfigError, SpecError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import CameraError, RawFrame

_NUMBER_BITS = 16
_BIT_PX = 4


class SimulatedSource:
    """A test pattern, or given images over and over, at a steady rate; a :class:`robot_drivers.cameras.camera.FrameSource`.

    The pattern is a gradient that wanders, and its frame number in the top left corner as 16 black or white squares of 4 by 4
    pixels, which :func:`frame_number_of` reads back, also from what went through a codec or a recording.

    Example::

        source = SimulatedSource(CameraSpec(name="front", height_px=240, width_px=320), rate_hz=30)
        source.freeze()  # from now on the same frame, as a hung device does
    """

    def __init__(
        self, spec: CameraSpec, *, rate_hz: float, images: NDArray[np.uint8] | None = None, clock: Clock | None = None
    ) -> None:
        """``images``: uint8 [N, H, W, 3], RGB, to be shown instead of the pattern.

        Raises:
            ConfigError: if the rate is not positive, or the pattern does not fit.
            SpecError: if the images are not of the size of ``spec``.
        """
        if not rate_hz > 0:
            raise ConfigError(f"rate_hz of camera {spec.name!r} is {rate_hz}; expected a positive number")
        expected = (spec.height_px, spec.width_px, 3)
        if images is not None and (
            images.ndim != 4 or images.shape[1:] != expected or len(images) == 0 or images.dtype != np.uint8
        ):
            raise SpecError(
                f"images of camera {spec.name!r} are {images.dtype} {images.shape}; expected uint8 [N, *{expected}], N > 0"
            )
        if images is None and (spec.width_px < _NUMBER_BITS * _BIT_PX or spec.height_px < _BIT_PX):
            raise ConfigError(
                f"camera {spec.name!r} is {spec.width_px} px wide; expected at least {_NUMBER_BITS * _BIT_PX} for the number"
            )
        self.spec = spec
        self._period_s = 1 / rate_hz
        self._images = images
        self._clock = clock or SystemClock()
        self._number = 0
        self._is_frozen = threading.Event()
        self._is_dead = threading.Event()

    def open(self) -> None:
        """Start again at frame 0, as a device that was plugged in does."""
        if self._is_dead.is_set():
            raise CameraError(f"camera {self.spec.name!r} is not there; revive() it")
        self._number = 0

    def grab(self) -> RawFrame:
        """The next frame, a period later."""
        self._clock.sleep_s(self._period_s)
        if self._is_dead.is_set():
            raise CameraError(f"camera {self.spec.name!r} was unplugged; revive() it")
        if not self._is_frozen.is_set():
            self._number += 1
        return RawFrame(image=self._image(self._number), device_frame_number=self._number)

    def close(self) -> None:
        """Nothing to let go of."""

    def freeze(self) -> None:
        """Hand out the same frame from now on."""
        self._is_frozen.set()

    def kill(self) -> None:
        """As if unplugged."""
        self._is_dead.set()

    def revive(self) -> None:
        """Plugged in, and not frozen."""
        self._is_dead.clear()
        self._is_frozen.clear()

    def _image(self, number: int) -> NDArray[np.uint8]:
        if self._images is not None:
            return self._images[(number - 1) % len(self._images)].copy()
        return numbered_pattern(self.spec, number)


def numbered_pattern(spec: CameraSpec, number: int) -> NDArray[np.uint8]:
    """[H, W, 3]: the test pattern of that number, at least 64 px wide."""
    height, width = spec.height_px, spec.width_px
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[..., 0] = (np.arange(width) + 2 * number) % 256
    image[..., 1] = (np.arange(height)[:, None] + number) % 256
    image[..., 2] = 96
    for bit in range(_NUMBER_BITS):
        image[:_BIT_PX, bit * _BIT_PX : (bit + 1) * _BIT_PX] = 255 if number >> bit & 1 else 0
    return image


def frame_number_of(image: NDArray[np.uint8]) -> int:
    """The number, modulo 2**16, in an image [H, W, 3] of the test pattern, also after a lossy codec."""
    squares = image[:_BIT_PX, : _NUMBER_BITS * _BIT_PX].astype(np.float64).mean(axis=(0, 2)).reshape(_NUMBER_BITS, _BIT_PX)
    return sum(1 << bit for bit, level in enumerate(squares.mean(axis=1)) if level > 127)
