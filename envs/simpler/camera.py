"""The cameras that policies look through: where each is mounted, and its intrinsics at any image size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.simpler.assets import Quaternion, Vector


@dataclass(frozen=True, kw_only=True)
class PolicyCamera:
    """A pinhole camera on a link of the robot."""

    name: str
    full_size_px: tuple[int, int]
    """Height and width of upstream's image."""
    focal_px: float
    center_px: tuple[float, float]
    """Principal point: column, row."""
    link: str
    position: Vector
    """m, in the link's frame."""
    orientation: Quaternion
    """w, x, y, z, in the link's frame; the camera looks along its own x, z is up."""
    near_m: float = 0.1

    def intrinsics(self, height_px: int, width_px: int) -> NDArray[np.float64]:
        """Pinhole matrix [3, 3] at another size, with the field of view of the full one.

        Example:
            >>> OVERHEAD_CAMERA.intrinsics(256, 320)[0].tolist()
            [212.5, 0.0, 160.0]
        """
        full_height, full_width = self.full_size_px
        scale_x, scale_y = width_px / full_width, height_px / full_height
        column, row = self.center_px
        return np.array(
            [
                [self.focal_px * scale_x, 0.0, column * scale_x],
                [0.0, self.focal_px * scale_y, row * scale_y],
                [0.0, 0.0, 1.0],
            ]
        )


OVERHEAD_CAMERA = PolicyCamera(
    name="overhead_camera",
    full_size_px=(512, 640),
    focal_px=425.0,
    center_px=(320.0, 256.0),
    link="link_camera",
    position=(0.0, 0.0, 0.0),
    orientation=(0.5, 0.5, -0.5, 0.5),
)
"""In the Google robot's head."""
TABLE_CAMERA = PolicyCamera(
    name="3rd_view_camera",
    full_size_px=(480, 640),
    focal_px=623.588,
    center_px=(319.501, 239.545),
    link="base_link",
    position=(0.0, -0.16, 0.36),
    orientation=(0.8992917, -0.09263245, 0.35892478, 0.23209205),
)
"""Beside the WidowX at the table."""
SINK_CAMERA = PolicyCamera(
    name=TABLE_CAMERA.name,
    full_size_px=TABLE_CAMERA.full_size_px,
    focal_px=TABLE_CAMERA.focal_px,
    center_px=TABLE_CAMERA.center_px,
    link="base_link",
    position=(-0.003, -0.21, 0.39),
    orientation=(-0.907313, 0.0782, -0.36434, -0.194741),
    near_m=0.01,
)
"""Beside the WidowX at the sink."""
