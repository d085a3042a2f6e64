"""Keeps latents of images that will be read again: relabelling under a new value version then skips the autoencoder.

Inside hop 5 of the tour; ``value_service.labeler.VersionedLabeler`` gives one to every value model that can use it. Experience
never changes, so (episode, step) names an image for good, as do its bytes; the codec is part of the key, because a model with
another codec makes other latents of it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import ConfigError

if TYPE_CHECKING:  # else whoever labels would import diffusers, whatever its model
    from models.codecs import LatentCodec


@runtime_checkable
class CachesLatents(Protocol):
    """A value model that reads latents and can be given a place to keep them."""

    latent_cache: LatentCache | None
    """None: every image is encoded anew."""


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
        self._held: OrderedDict[tuple[str, Hashable], torch.Tensor] = OrderedDict()
        # Weak: a video autoencoder that no model needs any more must not stay in memory for its digest.
        self._digest: WeakKeyDictionary[LatentCodec, str] = WeakKeyDictionary()
        self.num_bytes = 0
        self.num_hits = 0
        self.num_misses = 0

    def latents(
        self, names: Sequence[Hashable | None], codec: LatentCodec, encode: Callable[[NDArray[np.int64]], torch.Tensor]
    ) -> torch.Tensor:
        """The latents of N images or clips.

        Args:
            names: [N], of what is seen, each for good; None where it has none (live observations): encoded and not kept.
            codec: part of the key.
            encode: rows [N'] of ``names`` -> their latents [N', ...]; called at most once, with the rows that are not held.

        Returns:
            [N, ...] on the CPU, exactly what ``encode`` gave.
        """
        digest = self._codec_digest(codec)
        found = {row: self._held[digest, name] for row, name in enumerate(names) if (digest, name) in self._held}
        missing = np.array([row for row in range(len(names)) if row not in found], np.int64)
        self.num_hits += len(found)
        self.num_misses += len(missing)
        for row in found:
            self._held.move_to_end((digest, names[row]))
        if len(missing):
            for row, latent in zip(missing.tolist(), encode(missing).cpu(), strict=True):
                found[row] = latent
                if names[row] is not None:
                    self._keep((digest, names[row]), latent)
        return torch.stack([found[row] for row in range(len(names))])

    def _keep(self, key: tuple[str, Hashable], latent: torch.Tensor) -> None:
        latent = latent.clone()  # a row of a batch would keep the whole batch in memory
        self.num_bytes += latent.nbytes - (self._held[key].nbytes if key in self._held else 0)
        self._held[key] = latent
        while self.num_bytes > self._max_bytes:
            _, dropped = self._held.popitem(last=False)
            self.num_bytes -= dropped.nbytes

    def _codec_digest(self, codec: LatentCodec) -> str:
        """Of everything that decides what latents are. Codecs are frozen, so once an object is enough."""
        if codec not in self._digest:
            self._digest[codec] = _digest(*codec.to_tensors())
        return self._digest[codec]


def _digest(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> str:
    total = hashlib.sha256(repr(sorted(record.items())).encode())
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
