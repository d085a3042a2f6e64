"""Keeps latents of images that will be read again: relabelling under a new value version then skips the autoencoder.

Inside hop 5 of the tour, where a value model has one. Experience never changes, so (episode, step) names an image for good; the
codec is part of the key, because a model with another codec makes other latents of it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import ConfigError
from core.windows import WindowBatch
from models.codecs import LatentCodec

_Key = tuple[str, str, int, tuple[str, ...]]


class LatentCache:
    """Least recently used latents are dropped first. One caller at a time. May serve many models and versions.

    Example:
        cache = LatentCache(max_bytes=2 * 1024**3)
        value_model.latent_cache = cache
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold up to ``max_bytes`` of latents, in the memory of the CPU.

        Raises:
            ConfigError: if that is nothing.
        """
        if max_bytes < 1:
            raise ConfigError(f"a latent cache of {max_bytes} bytes; expected at least 1, or no cache")
        self._max_bytes = max_bytes
        self._held: OrderedDict[_Key, torch.Tensor] = OrderedDict()
        self._digest: dict[int, tuple[LatentCodec, str]] = {}
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def latents(
        self,
        windows: WindowBatch,
        cameras: Sequence[str],
        codec: LatentCodec,
        encode: Callable[[NDArray[np.int64]], torch.Tensor],
    ) -> torch.Tensor:
        """The latents of B windows' present images.

        Args:
            windows: B of them; those without an episode id (live observations) are encoded and not kept.
            cameras: part of the key.
            codec: part of the key.
            encode: rows [N] of ``windows`` -> their latents [N, ...]; called at most once, with the rows that are not held.

        Returns:
            [B, ...] on the CPU, exactly what ``encode`` gave.
        """
        digest = self._codec_digest(codec)
        steps = zip(windows.episode_id, windows.t.tolist(), strict=True)
        keys: list[_Key] = [(digest, str(episode), int(t), tuple(cameras)) for episode, t in steps]
        found = {row: self._held[key] for row, key in enumerate(keys) if key[1] and key in self._held}
        missing = np.array([row for row in range(len(keys)) if row not in found], np.int64)
        self.num_hits += len(found)
        self.num_misses += len(missing)
        for row in found:
            self._held.move_to_end(keys[row])
        if len(missing):
            for row, latent in zip(missing.tolist(), encode(missing).cpu(), strict=True):
                found[row] = latent
                if keys[row][1]:
                    self._keep(keys[row], latent)
        return torch.stack([found[row] for row in range(len(keys))])

    def _keep(self, key: _Key, latent: torch.Tensor) -> None:
        latent = latent.clone()  # a row of a batch would keep the whole batch in memory
        self.num_bytes += latent.nbytes - (self._held[key].nbytes if key in self._held else 0)
        self._held[key] = latent
        while self.num_bytes > self._max_bytes:
            _, dropped = self._held.popitem(last=False)
            self.num_bytes -= dropped.nbytes

    def _codec_digest(self, codec: LatentCodec) -> str:
        """Of everything that decides what latents are. Codecs are frozen, so once an object is enough."""
        if id(codec) not in self._digest:
            tensors, record = codec.to_tensors()
            # Held with its codec: the number of a deleted object may be given to another.
            self._digest[id(codec)] = codec, _digest(tensors, record)
        return self._digest[id(codec)][1]


def _digest(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> str:
    total = hashlib.sha256(repr(sorted(record.items())).encode())
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
