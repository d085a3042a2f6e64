"""Textures of the builtin objects, painted by arithmetic: can labels and lids, apple, orange, bottle.

Before hop 1 of the tour; used by :mod:`envs.simpler.builtin_objects`. Colours are sRGB, 0..255. Brands are told by colour
and pattern only; words are generic.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

TEXTURE_PX = 512
LABEL_ROWS = 320  # of a can's texture; the rest holds lid and base, side by side
_WORD_CENTER_PX = 105
_ALUMINIUM = (202, 205, 210)


@dataclass(frozen=True, kw_only=True)
class CanLabel:
    """How a can is printed."""

    ground: Color
    edge: Color
    """Of the lines where the print begins and ends."""
    accent: Color
    word: str = ""
    word_shadow: Color = (0, 0, 0)
    has_wave: bool = False
    """A wavy band all around, in the accent colour."""
    discs: tuple[Color, ...] = ()
    """Concentric, outermost first, on the side that shows."""


CAN_LABELS = {
    "coke": CanLabel(
        ground=(196, 16, 26),
        edge=(120, 10, 16),
        accent=(244, 240, 236),
        word="Cola",
        word_shadow=(138, 6, 14),
        has_wave=True,
    ),
    "pepsi": CanLabel(ground=(12, 38, 112), edge=(6, 20, 70), accent=(60, 110, 200), discs=((240, 240, 240), (200, 30, 44))),
    "sprite": CanLabel(
        ground=(20, 142, 70),
        edge=(8, 88, 40),
        accent=(236, 226, 40),
        word="lime",
        word_shadow=(4, 80, 36),
        has_wave=True,
    ),
    "7up": CanLabel(ground=(226, 232, 216), edge=(60, 140, 60), accent=(56, 152, 66), has_wave=True, discs=((212, 34, 36),)),
    "fanta": CanLabel(
        ground=(240, 120, 14),
        edge=(180, 74, 4),
        accent=(20, 60, 150),
        word="zest",
        word_shadow=(20, 44, 120),
        discs=((20, 60, 150),),
    ),
    "redbull": CanLabel(
        ground=(28, 58, 140), edge=(150, 156, 170), accent=(196, 202, 214), has_wave=True, discs=((236, 190, 40),)
    ),
}


def paint_can(label: CanLabel) -> Image:
    """The texture [512, 512, 3]: rows 0..319 the side from top to bottom, below lid (left) and base (right)."""
    texture = np.full((TEXTURE_PX, TEXTURE_PX, 3), _ALUMINIUM, dtype=np.uint8)
    texture[:LABEL_ROWS] = _paint_side(label)
    disc_center_row = (LABEL_ROWS + TEXTURE_PX) // 2
    _paint_lid(texture, (TEXTURE_PX // 4, disc_center_row))
    cv2.circle(texture, (3 * TEXTURE_PX // 4, disc_center_row), 60, (150, 153, 158), 6, cv2.LINE_AA)
    return texture


def _paint_side(style: CanLabel) -> Image:
    """[320, 512, 3]: aluminium rims around a print that shows twice."""
    label = np.full((LABEL_ROWS, TEXTURE_PX, 3), _ALUMINIUM, dtype=np.uint8)
    top, bottom = 42, 300
    label[top:bottom] = style.ground
    label[top:bottom] = _shaded(label[top:bottom])
    if style.has_wave:
        _paint_wave(label, style.accent)
    for left in (18, 18 + TEXTURE_PX // 2):
        center = (left + _WORD_CENTER_PX - 18, 150)
        for ring, color in enumerate(style.discs):
            cv2.circle(label, center, 66 - 16 * ring, color, -1, cv2.LINE_AA)
        if style.word:
            cv2.putText(label, style.word, (left, 172), cv2.FONT_HERSHEY_SCRIPT_COMPLEX, 3.1, style.word_shadow, 15, cv2.LINE_AA)
            cv2.putText(label, style.word, (left, 170), cv2.FONT_HERSHEY_SCRIPT_COMPLEX, 3.1, (244, 240, 236), 9, cv2.LINE_AA)
    label[top - 2 : top + 2] = style.edge
    label[bottom - 2 : bottom + 2] = style.edge
    return np.roll(label, -_WORD_CENTER_PX, axis=1)  # a word faces +x, where the robot's camera is


def _paint_wave(label: Image, color: Color) -> None:
    u = np.arange(TEXTURE_PX)
    wave = 232 + 20 * np.sin(4 * np.pi * u / TEXTURE_PX) + 7 * np.sin(8 * np.pi * u / TEXTURE_PX + 1.0)
    rows = np.arange(LABEL_ROWS)[:, None]
    thickness = 9 + 5 * np.sin(4 * np.pi * u / TEXTURE_PX + 0.8)
    label[np.abs(rows - wave[None]) < thickness[None]] = color
    label[np.abs(rows - wave[None] - 24) < 2] = color


def _shaded(label: Image) -> Image:
    """A label that darkens towards its lower edge, with the faint vertical streaks of brushed metal under ink."""
    rows = np.linspace(1.04, 0.86, label.shape[0])[:, None, None]
    streaks = 1.0 + 0.03 * np.random.RandomState(0).standard_normal((1, label.shape[1], 1))
    return np.clip(label * rows * cv2.GaussianBlur(streaks, (9, 1), 0).reshape(1, -1, 1), 0, 255).astype(np.uint8)


def _paint_lid(texture: Image, center: tuple[int, int]) -> None:
    """Aluminium rings, the dark opening, the tab."""
    x, y = center
    cv2.circle(texture, center, 91, (176, 179, 184), -1, cv2.LINE_AA)
    cv2.circle(texture, center, 80, (214, 217, 221), -1, cv2.LINE_AA)
    cv2.circle(texture, center, 80, (140, 143, 148), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x + 36, y), (30, 34), 0, 0, 360, (28, 20, 18), -1, cv2.LINE_AA)
    cv2.ellipse(texture, (x + 36, y), (31, 35), 0, 0, 360, (120, 123, 128), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 26, y), (36, 20), 0, 0, 360, (186, 189, 194), -1, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 26, y), (36, 20), 0, 0, 360, (120, 123, 128), 3, cv2.LINE_AA)
    cv2.ellipse(texture, (x - 40, y), (14, 10), 0, 0, 360, (120, 123, 128), -1, cv2.LINE_AA)
    cv2.circle(texture, (x - 4, y), 6, (110, 113, 118), -1, cv2.LINE_AA)


def _mottled(rows: int, colors: tuple[Color, ...], *, seed: int, grain: float) -> Image:
    """[rows, 512, 3]: colours blending from top to bottom, with soft blotches and grain; the left edge meets the right."""
    random = np.random.RandomState(seed)
    stops = np.linspace(0, 1, len(colors))
    row = np.linspace(0, 1, rows)
    base = np.stack([np.interp(row, stops, [color[c] for color in colors]) for c in range(3)], axis=-1)[:, None, :]
    blotches = random.standard_normal((rows, TEXTURE_PX))
    wrapped = cv2.GaussianBlur(np.tile(blotches, (1, 3)), (0, 0), 14)[:, TEXTURE_PX : 2 * TEXTURE_PX]
    light = 1.0 + 0.09 * wrapped / np.abs(wrapped).max() + grain * random.standard_normal((rows, TEXTURE_PX))
    return np.clip(base * light[..., None], 0, 255).astype(np.uint8)


def paint_apple() -> Image:
    """[256, 512, 3]: a brown pit at the stalk, yellowish shoulders, red, a pale base."""
    colors = ((96, 62, 34), (206, 148, 70), (196, 44, 38), (172, 22, 30), (184, 40, 36), (170, 96, 60))
    return _mottled(256, colors, seed=1, grain=0.02)


def paint_orange() -> Image:
    """[256, 512, 3]: orange with pores."""
    return _mottled(256, ((214, 110, 16), (242, 134, 20), (236, 122, 14), (226, 112, 14)), seed=2, grain=0.06)


def paint_bottle() -> Image:
    """[256, 512, 3]: a white cap, blue plastic, a paler label around the belly."""
    texture = _mottled(256, ((20, 60, 170), (22, 66, 186), (16, 50, 150)), seed=3, grain=0.01)
    texture[:22] = (232, 236, 240)
    texture[120:200] = (70, 120, 214)
    texture[118:122] = texture[198:202] = (226, 232, 240)
    return texture
