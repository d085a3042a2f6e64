"""Visual matching ("greenscreen"): a photograph replaces every pixel that is not the robot or a task object.

Hop 1 of the tour. Compositing a mask of zeros and ones in floating point, as upstream does, equals choosing one of two
uint8 images per pixel once the photograph has been rounded the same way; so that is what is done.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError

MODES = ("background", "object", "debug")
"""``background`` keeps robot and objects, ``object`` keeps the robot only, ``debug`` blends everything half and half."""


def fit_overlay(photo: NDArray[np.uint8], *, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Scale a photograph to the camera's image, rounding as upstream does (float, bilinear, truncated).

    Args:
        photo: [h, w, 3] RGB.
        height_px: of the camera's image.
        width_px: of the camera's image.

    Returns:
        [height_px, width_px, 3] RGB.
    """
    scaled = cv2.resize(photo / 255.0, (width_px, height_px)).astype(np.float32)
    return np.clip(scaled * np.float32(255.0), 0.0, 255.0).astype(np.uint8)


class Overlay:
    """Puts one photograph behind the robot and the objects.

    Args:
        photo: [h, w, 3] uint8 RGB, any size.
        mode: one of :data:`MODES`.
        height_px: of the camera's image.
        width_px: of the camera's image.
    """

    def __init__(self, photo: NDArray[np.uint8], *, mode: str, height_px: int, width_px: int) -> None:
        if mode not in MODES:
            raise ConfigError(f"rgb_overlay_mode={mode!r}; known are {', '.join(MODES)}")
        self._mode = mode
        self._size_px = (height_px, width_px)
        self._is_kept = np.zeros(0, dtype=bool)
        self.show(photo)

    def show(self, photo: NDArray[np.uint8]) -> None:
        """Use another photograph, [h, w, 3] uint8 RGB of any size."""
        height_px, width_px = self._size_px
        self._photo = fit_overlay(photo, height_px=height_px, width_px=width_px)

    def keep(self, robot_ids: set[int], object_ids: set[int]) -> None:
        """Say which segmentation ids stay as rendered; again after every rebuild of the scene.

        Args:
            robot_ids: ``per_scene_id`` of every link of the robot.
            object_ids: of every task object and every link of another articulation.
        """
        kept = robot_ids if self._mode == "object" else robot_ids | object_ids
        # One entry more than the largest id: what any id beyond them maps to.
        self._is_kept = np.zeros(max(kept) + 2, dtype=bool)
        self._is_kept[list(kept)] = True

    def apply(self, rgb: NDArray[np.uint8], segmentation: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Composite.

        Args:
            rgb: [H, W, 3] as rendered.
            segmentation: [H, W], the id of what each pixel shows; 0 for nothing.

        Returns:
            A new [H, W, 3].
        """
        if self._mode == "debug":
            return (rgb * np.float32(0.5) + self._photo * np.float32(0.5)).astype(np.uint8)
        is_kept = self._is_kept[np.minimum(segmentation, len(self._is_kept) - 1)]
        image = self._photo.copy()
        image[is_kept] = rgb[is_kept]
        return image
