"""The builtin "photographs" behind the WidowX's tasks: a wooden table before grey partitions, and a toy sink on it.

Before hop 1 of the tour. Painted from the camera's pose by the ray tracer of :mod:`envs.simpler.builtin_backdrop`. The sink is
drawn from the blocks that things collide with (:mod:`envs.simpler.builtin_bridge`), so that it lies where it is felt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from envs.simpler.assets import Vector
from envs.simpler.builtin_backdrop import Array, Camera, Paint, Rectangle, noise, paint_room
from envs.simpler.builtin_bridge import SINK, TABLE_TOP_M, Piece
from envs.simpler.camera import SINK_CAMERA, TABLE_CAMERA, PolicyCamera

SINK_POSITION_M = (-0.16, 0.13, 0.88)
_TABLE_X_M, _TABLE_Y_M = (-0.40, 0.45), (-0.36, 0.75)


def third_view_camera(lens: PolicyCamera, root: Vector) -> Camera:
    """A camera of the WidowX, whose base stands at ``root`` (m) and faces -x.

    Example:
        >>> third_view_camera(TABLE_CAMERA, (0.147, 0.028, 0.87)).position.round(3).tolist()
        [0.147, 0.188, 1.23]
    """
    w, x, y, z = lens.orientation
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    facing = np.diag([-1.0, -1.0, 1.0])
    image_axes = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return Camera(np.array(root) + facing @ np.array(lens.position), facing @ rotation @ image_axes, lens)


def paint_table() -> NDArray[np.uint8]:
    """Behind spoon, carrot and cubes: [480, 640, 3] RGB."""
    return paint_room(third_view_camera(TABLE_CAMERA, (0.147, 0.028, 0.870)), _room())


def paint_sink() -> NDArray[np.uint8]:
    """Behind the eggplant: [480, 640, 3] RGB."""
    sink = [side for piece in SINK for side in _sides(piece)]
    return paint_room(third_view_camera(SINK_CAMERA, (0.127, 0.06, 0.85)), [*_room(), *sink])


def _room() -> list[Rectangle]:
    (x0, x1), (y0, y1), top = _TABLE_X_M, _TABLE_Y_M, TABLE_TOP_M
    return [
        Rectangle(2, 0.0, (-3.0, 3.0), (-3.0, 3.0), lambda x, y: _cloth(x, y) * 0.4),
        Rectangle(0, x0 - 0.03, (-3.0, 3.0), (0.0, 3.0), _cloth),
        Rectangle(1, y0 - 0.03, (-3.0, 3.0), (0.0, 3.0), lambda x, z: _cloth(x, z) * 0.85),
        Rectangle(1, y1, (x0, x1), (top - 0.03, top), lambda x, z: _mahogany(x, z) * 0.6),
        Rectangle(0, x1, (y0, y1), (top - 0.03, top), lambda y, z: _mahogany(y, z) * 0.6),
        Rectangle(2, top, (x0, x1), (y0, y1), lambda x, y: _mahogany(y, x)),
    ]


def _mahogany(along: Array, across: Array) -> Array:
    """Reddish wood with a slow figure and fine pores."""
    bend = 0.02 * noise(along, across, cells_per_m=(2.0, 4.0), seed=21)
    rings = np.sin(2 * np.pi * 22.0 * (across + bend) + 2.0 * noise(along, across, cells_per_m=(1.5, 6.0), seed=22))
    pores = noise(along, across, cells_per_m=(8.0, 300.0), seed=23)
    light = 1.0 + 0.05 * rings + 0.07 * pores + 0.06 * noise(along, across, cells_per_m=(2.0, 2.0), seed=24)
    return np.array([0.56, 0.27, 0.18]) * light[:, None]


def _cloth(a: Array, b: Array) -> Array:
    """Grey woven partition."""
    weave = 0.08 * noise(a, b, cells_per_m=(220.0, 40.0), seed=25) + 0.08 * noise(a, b, cells_per_m=(40.0, 220.0), seed=26)
    return np.array([0.42, 0.45, 0.49]) * (1.0 + weave)[:, None]


def _sides(piece: Piece) -> Iterator[Rectangle]:
    """Tops and sides of one ridge of the sink; what slopes is drawn as a step at its middle height."""
    for (x0, y0, y1, z0, top0), (x1, _, _, _, top1) in itertools.pairwise(piece.rows):
        low, high = (x0, y0, z0), (x1, y1, (top0 + top1) / 2)
        x, y, z = ((a + shift, b + shift) for a, b, shift in zip(low, high, SINK_POSITION_M, strict=True))
        yield Rectangle(2, z[1], x, y, _glaze(piece.color, 1.0))
        for level in x:
            yield Rectangle(0, level, y, z, _glaze(piece.color, 0.8))
        for level in y:
            yield Rectangle(1, level, x, z, _glaze(piece.color, 0.7))


def _glaze(color: Vector, light: float) -> Paint:
    """A colour (linear RGB) as a photograph shows it, faintly mottled."""
    shown = light * np.array(color) ** (1 / 2.2)
    return lambda a, b: shown * (1.0 + 0.02 * noise(a, b, cells_per_m=(15.0, 15.0), seed=27))[:, None]
