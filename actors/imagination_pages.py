"""Pictures of a look: what was seen, what was imagined and what came, with the ways of the points that were compared.

Not on the tour. Arrays in, arrays out; written to files by actors/imagination.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from actors.motion_similarity import MotionSimilarity, Tracks

_HEIGHT_PX = 256
_MARGIN_PX = 12
_TITLE_PX = 34
_CAPTION_PX = 24
_PAPER = (250, 250, 248)
_INK = (40, 40, 40)
_REAL = (58, 157, 93)
_IMAGINED = (70, 110, 220)


def page(
    real: NDArray[np.uint8], imagined: NDArray[np.uint8], found: MotionSimilarity, *, frame: int, title: str
) -> NDArray[np.uint8]:
    """Now, the imagined and the real ``frame`` in a row: uint8 [h, w, 3], h and w even.

    Args:
        real: uint8 [F, H, W, 3].
        imagined: like ``real``.
        found: how alike they move; its tracks are drawn.
        frame: 1..F - 1.
        title: above the row.
    """
    score = (
        "too few points move"
        if found.similarity is None
        else f"similarity {found.similarity:.2f}, {found.num_moving_pairs} points"
    )
    panels = [
        (f"seen now ({score})", real[0], ()),
        ("imagined", imagined[frame], ((found.imagined, _IMAGINED),)),
        ("came", real[frame], ((found.real, _REAL),)),
    ]
    width = round(_HEIGHT_PX * real.shape[2] / real.shape[1])
    sheet = np.full((_TITLE_PX + _HEIGHT_PX + _CAPTION_PX, 3 * width + 4 * _MARGIN_PX, 3), _PAPER, np.uint8)
    _write(sheet, title, (_MARGIN_PX, 23), 0.6)
    for number, (caption, picture, tracks) in enumerate(panels):
        panel = np.ascontiguousarray(cv2.resize(picture, (width, _HEIGHT_PX), interpolation=cv2.INTER_CUBIC))
        for ways, colour in tracks:
            _draw_ways(panel, ways, frame, colour)
        left = _MARGIN_PX + number * (width + _MARGIN_PX)
        sheet[_TITLE_PX : _TITLE_PX + _HEIGHT_PX, left : left + width] = panel
        _write(sheet, caption, (left, _TITLE_PX + _HEIGHT_PX + 17), 0.45)
    return sheet[: sheet.shape[0] // 2 * 2, : sheet.shape[1] // 2 * 2]


def contact_sheet(pages: Sequence[NDArray[np.uint8]], *, max_pages: int = 8) -> NDArray[np.uint8]:
    """Some pages of an episode below each other, evenly chosen, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(pages) - 1, min(max_pages, len(pages))).round().astype(int))
    return np.concatenate([pages[index] for index in chosen])


def _draw_ways(panel: NDArray[np.uint8], tracks: Tracks, frame: int, colour: tuple[int, int, int]) -> None:
    for way in tracks.position[:, : frame + 1] * panel.shape[0]:
        points = way.round().astype(np.int32)
        cv2.polylines(panel, [points.reshape(-1, 1, 2)], isClosed=False, color=colour, thickness=1, lineType=cv2.LINE_AA)
        cv2.circle(panel, tuple(points[-1].tolist()), 2, colour, -1, cv2.LINE_AA)


def _write(sheet: NDArray[np.uint8], text: str, at: tuple[int, int], size: float) -> None:
    cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
