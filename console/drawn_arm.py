"""Pictures of an emulated arm for `make robot-demo`: a camera that draws what a real one would see, the arm and its box."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from core.specs import CameraSpec
from robot_drivers.cameras.camera import RawFrame
from robot_drivers.limits import Box

_BACKGROUND, _GRID, _BOX, _LINK, _JOINT, _TOOL = (
    (38, 40, 44),
    (70, 74, 80),
    (120, 104, 52),
    (222, 224, 228),
    (138, 180, 248),
    (253, 214, 99),
)
_FINGER_M = 0.06
_STROKE_M = 0.07
_FIELD = 1.25
"""Focal length in picture heights."""


class DrawnArm:
    """One view of an arm; a :class:`robot_drivers.cameras.camera.FrameSource`.

    Consumes: link frames and gripper opening when asked for a picture. Produces: frames at a steady rate.
    """

    def __init__(
        self,
        spec: CameraSpec,
        *,
        rate_hz: float,
        eye_m: tuple[float, float, float],
        at_m: tuple[float, float, float],
        box: Box,
        look: Callable[[], tuple[NDArray[np.float64], float]],
    ) -> None:
        """Place the camera in the arm's base frame.

        Args:
            spec: name and size.
            rate_hz: pictures a second.
            eye_m: where it stands.
            at_m: what is in the middle of the picture.
            box: of the supervisor's limits, drawn as edges.
            look: frames of all links [J, 4, 4] in the base frame, and the gripper's opening 0..1, of this moment.
        """
        self.spec = spec
        self._period_s = 1 / rate_hz
        self._look = look
        self._eye = np.array(eye_m)
        forward = np.array(at_m) - self._eye
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        self._axes = np.stack([right, np.cross(forward, right), forward])
        self._scene = self._draw_scene(box)
        self._number = 0

    def open(self) -> None:
        """See :meth:`FrameSource.open`."""

    def grab(self) -> RawFrame:
        """See :meth:`FrameSource.grab`."""
        time.sleep(self._period_s)
        image = self._scene.copy()
        captured_s = time.monotonic()
        frames, opening = self._look()
        points = np.concatenate([np.zeros((1, 3)), frames[:, :3, 3]])
        for start, end in itertools.pairwise(points):
            self._line(image, start, end, _LINK, 9)
        for point in points:
            cv2.circle(image, self._pixel(point), 7, _JOINT, -1, cv2.LINE_AA)
        tool = frames[-1]
        for side in (-1, 1):
            root = tool[:3, 3] + side * opening * _STROKE_M / 2 * tool[:3, 0]
            self._line(image, tool[:3, 3], root, _TOOL, 4)
            self._line(image, root, root + _FINGER_M * tool[:3, 2], _TOOL, 4)
        self._number += 1
        return RawFrame(image=image, device_frame_number=self._number, capture_monotonic_s=captured_s)

    def close(self) -> None:
        """See :meth:`FrameSource.close`."""

    def _draw_scene(self, box: Box) -> NDArray[np.uint8]:
        image = np.full((self.spec.height_px, self.spec.width_px, 3), _BACKGROUND, dtype=np.uint8)
        for at in np.arange(-0.6, 0.61, 0.1):
            self._line(image, np.array([at, -0.6, 0.0]), np.array([at, 0.6, 0.0]), _GRID, 1)
            self._line(image, np.array([-0.6, at, 0.0]), np.array([0.6, at, 0.0]), _GRID, 1)
        corners = np.array(np.meshgrid(*zip(box.low_m, box.high_m, strict=True), indexing="ij")).reshape(3, -1).T
        for i, start in enumerate(corners):
            for end in corners[i + 1 :]:
                if np.count_nonzero(start != end) == 1:
                    self._line(image, start, end, _BOX, 2)
        return image

    def _line(
        self,
        image: NDArray[np.uint8],
        start: NDArray[np.float64],
        end: NDArray[np.float64],
        colour: tuple[int, int, int],
        width: int,
    ) -> None:
        cv2.line(image, self._pixel(start), self._pixel(end), colour, width, cv2.LINE_AA)

    def _pixel(self, point: NDArray[np.float64]) -> tuple[int, int]:
        x, y, depth = self._axes @ (point - self._eye)
        scale = _FIELD * self.spec.height_px / max(depth, 0.05)
        return round(self.spec.width_px / 2 + scale * x), round(self.spec.height_px / 2 + scale * y)
