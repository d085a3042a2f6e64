"""The Google robot's overhead camera: its name, size and intrinsics at any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CAMERA_NAME = "overhead_camera"
FULL_SIZE_PX = (512, 640)
"""Height and width of upstream's image."""
_FOCAL_LENGTH_PX = 425.0


def camera_intrinsics(height_px: int, width_px: int) -> NDArray[np.float64]:
    """Pinhole matrix [3, 3] of the overhead camera at another size, with the field of view of 640 x 512.

    Example:
        >>> camera_intrinsics(256, 320)[0].tolist()
        [212.5, 0.0, 160.0]
    """
    scale_x, scale_y = width_px / FULL_SIZE_PX[1], height_px / FULL_SIZE_PX[0]
    return np.array(
        [
            [_FOCAL_LENGTH_PX * scale_x, 0.0, FULL_SIZE_PX[1] / 2 * scale_x],
            [0.0, _FOCAL_LENGTH_PX * scale_y, FULL_SIZE_PX[0] / 2 * scale_y],
            [0.0, 0.0, 1.0],
        ]
    )
