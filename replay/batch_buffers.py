"""Recycles the memory of batches that nobody holds any more.

A batch of images is megabytes of fresh memory, and the operating system hands it out page by page: on the machine of
``benchmarks/bench_replay.py`` that cost five times as much as copying the frames into it.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PROBE = [np.empty(0, np.uint8)]
_REFERENCES_UNUSED = sys.getrefcount(_PROBE[0])


class BatchBuffers:
    """Hands out uninitialised uint8 arrays.

    Invariant: memory is handed out again only when every array that uses it (views and tensors made of it included) is gone.
    They all keep a reference to the one array that is kept here, so CPython's count of references tells.
    """

    def __init__(self, max_kept: int = 8) -> None:
        """``max_kept`` is how many buffers are remembered; others are simply freed when they are no longer used."""
        self._kept: deque[NDArray[np.uint8]] = deque(maxlen=max_kept)
        self._lock = threading.Lock()

    def take(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        """An array of ``shape`` with arbitrary content."""
        wanted = tuple(shape)
        with self._lock:
            for index in range(len(self._kept)):
                if self._kept[index].shape == wanted and sys.getrefcount(self._kept[index]) == _REFERENCES_UNUSED:
                    return self._kept[index].view()
            self._kept.append(np.empty(wanted, np.uint8))
            return self._kept[-1].view()
