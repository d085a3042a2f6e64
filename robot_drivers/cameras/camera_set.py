"""All cameras of a robot: what the policy needs at once, and what the console can show."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from core.errors import ConfigError
from robot_drivers.cameras.camera import Camera, CameraStatus, Frame, StaleFrameError

FRESH_PERIODS = 1.5
"""Control periods that a frame may be old: one, and half a one for the cameras' own phase."""


def fresh_age_s(control_hz: float) -> float:
    """How old a frame may be for a policy that acts at this rate.

    Example:
        >>> fresh_age_s(5.0)
        0.3
    """
    return FRESH_PERIODS / control_hz


class CameraSet:
    """Starts, reads and closes cameras together. None of them, dead or slow, delays another or the reader.

    Consumes: Cameras. Produces: for the policy all frames fresh or an error; for the console what there is.

    Example::

        with CameraSet([front, wrist]) as cameras:
            frames = cameras.read_fresh(max_age_s=fresh_age_s(control_hz=5))
    """

    def __init__(self, cameras: Iterable[Camera]) -> None:
        """``cameras``: in the order of the policy's ``EnvSpec``.

        Raises:
            ConfigError: if two have the same name.
        """
        self._cameras: dict[str, Camera] = {}
        for camera in cameras:
            if camera.spec.name in self._cameras:
                raise ConfigError(f"two cameras are called {camera.spec.name!r}; expected a name each")
            self._cameras[camera.spec.name] = camera

    def __enter__(self) -> CameraSet:
        """Start all."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Close all."""
        self.close()

    def start(self) -> None:
        """Start all; returns at once."""
        for camera in self._cameras.values():
            camera.start()

    def read_fresh(self, max_age_s: float) -> dict[str, Frame]:
        """The newest frame of every camera, by name; does not wait.

        Raises:
            StaleFrameError: if any is too old; names all that are.
        """
        frames: dict[str, Frame] = {}
        stale: list[str] = []
        for name, camera in self._cameras.items():
            try:
                frames[name] = camera.read_latest(max_age_s)
            except StaleFrameError as error:
                stale.append(str(error))
        if stale:
            raise StaleFrameError("; ".join(stale))
        return frames

    def latest(self) -> dict[str, Frame | None]:
        """The newest frame of every camera however old, by name, None where there is none: for showing, with its age on it."""
        return {name: camera.latest() for name, camera in self._cameras.items()}

    def status(self) -> dict[str, CameraStatus]:
        """How each does, by name."""
        return {name: camera.status() for name, camera in self._cameras.items()}

    def close(self, timeout_s: float = 2.0) -> None:
        """Close all at once; one that hangs costs ``timeout_s`` once, not once each."""
        until_s = time.monotonic() + timeout_s
        threads = [threading.Thread(target=camera.close, args=(timeout_s,), daemon=True) for camera in self._cameras.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))
