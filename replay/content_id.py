"""Episode ids of imported data: made of the content, so that importing the same data twice stores it once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ids import EpisodeId


def content_id(instruction: str, arrays: Iterable[NDArray[Any]]) -> EpisodeId:
    """Id of an episode that has none of its own.

    Args:
        instruction: its text.
        arrays: what was seen and done, in an order that is always the same.
    """
    content = hashlib.sha256(instruction.encode())
    for array in arrays:
        content.update(f"{array.dtype.str}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return EpisodeId(content.hexdigest()[:32])
