"""The builtin "photographs" around the cabinet: an office floor and a grey partition, with a desk on either side.

Before hop 1 of the tour. Painted from the camera's pose at each of the robot's nine places by the ray tracer of
:mod:`envs.simpler.builtin_backdrop`. The cabinet is not in the picture, for it is simulated; only its shade on the floor is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.simpler.builtin_backdrop import Array, Camera, Paint, Rectangle, noise, paint_room

_CABINET_X_M, _CABINET_Y_M = (-0.61, 0.02), (-0.31, 0.31)
_PARTITION_X_M = -0.80
_DESK_TOP_M, _DESK_SLAB_M, _DESK_FRONT_X_M = 0.73, 0.035, -0.10
_DESKS_Y_M = ((-1.9, -0.62), (0.62, 1.9))


def paint_office(camera: Camera) -> NDArray[np.uint8]:
    """What the Google robot sees around the cabinet: [512, 640, 3] RGB."""
    return paint_room(camera, _office())


def _office() -> list[Rectangle]:
    rectangles = [
        Rectangle(2, 0.0, (-3.0, 2.0), (-3.0, 3.0), _carpet),
        Rectangle(0, _PARTITION_X_M, (-3.0, 3.0), (0.0, 3.0), _partition),
    ]
    underside = _DESK_TOP_M - _DESK_SLAB_M
    for y in _DESKS_Y_M:
        inner = min(y, key=abs)
        outward = float(np.sign(inner))
        leg_y = (min(inner, inner + 0.05 * outward), max(inner, inner + 0.05 * outward))
        rectangles += [
            Rectangle(2, _DESK_TOP_M, (_PARTITION_X_M, _DESK_FRONT_X_M), y, _plain((0.20, 0.17, 0.15), seed=32)),
            Rectangle(0, _DESK_FRONT_X_M, y, (underside, _DESK_TOP_M), _plain((0.13, 0.11, 0.10), seed=33)),
            Rectangle(1, inner, (_PARTITION_X_M, _DESK_FRONT_X_M), (underside, _DESK_TOP_M), _plain((0.11, 0.10, 0.09), seed=34)),
            Rectangle(0, _DESK_FRONT_X_M - 0.05, leg_y, (0.0, underside), _plain((0.08, 0.08, 0.09), seed=35)),
            Rectangle(
                1, inner, (_DESK_FRONT_X_M - 0.10, _DESK_FRONT_X_M - 0.05), (0.0, underside), _plain((0.06, 0.06, 0.07), 36)
            ),
        ]
    return rectangles


def _plain(color: tuple[float, float, float], seed: int) -> Paint:
    """One colour with a faint grain."""
    return lambda a, b: np.array(color) * (1.0 + 0.05 * noise(a, b, cells_per_m=(90.0, 12.0), seed=seed))[:, None]


def _carpet(x: Array, y: Array) -> Array:
    """Worn brown carpet with crumbs; dark where cabinet and desks stand over it."""
    pile = 0.06 * noise(x, y, cells_per_m=(180.0, 180.0), seed=37) + 0.07 * noise(x, y, cells_per_m=(5.0, 5.0), seed=38)
    crumbs = noise(x, y, cells_per_m=(60.0, 60.0), seed=39) > 0.93
    (x0, x1), (y0, y1) = _CABINET_X_M, _CABINET_Y_M
    away = np.hypot(np.maximum(np.maximum(x0 - x, x - x1), 0.0), np.maximum(np.maximum(y0 - y, y - y1), 0.0))
    under_desk = (x < _DESK_FRONT_X_M) & (np.abs(y) > min(abs(edge) for edge in _DESKS_Y_M[1]))
    shade = (0.50 + 0.50 * (1.0 - np.exp(-away / 0.25))) * np.where(under_desk, 0.45, 1.0)
    return np.array([0.60, 0.49, 0.41]) * (shade * (1.0 + pile - 0.30 * crumbs))[:, None]


def _partition(y: Array, z: Array) -> Array:
    """Woven grey-brown cloth, darker towards the floor, a post every 80 cm, a skirting below."""
    weave = 0.06 * noise(y, z, cells_per_m=(240.0, 50.0), seed=40) + 0.06 * noise(y, z, cells_per_m=(50.0, 240.0), seed=41)
    shade = (0.55 + 0.45 * np.clip(z / 1.0, 0.0, 1.0)) * (1.0 + weave)
    color = np.array([0.42, 0.34, 0.29]) * shade[:, None]
    color[(np.mod(y + 0.4, 0.8) < 0.03) | (z < 0.08)] = (0.10, 0.09, 0.09)
    return np.asarray(color)
