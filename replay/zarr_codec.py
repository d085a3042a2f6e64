"""Registers our JPEG codec with Zarr: after importing this module, ``zarr.open`` reads JPEG arrays too.

Not needed by this project's own readers, nor for raw stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

from core.errors import CorruptDataError
from replay.jpeg import decode_jpeg, encode_jpeg
from replay.shard import JPEG_CODEC_NAME


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One RGB frame, chunk shape (1, H, W, 3) uint8, as one JPEG."""

    quality: int = 95
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> JpegCodec:
        """From the codec's entry in ``zarr.json``."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """The codec's entry in ``zarr.json``."""
        return {"name": JPEG_CODEC_NAME, "configuration": {"quality": self.quality}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise NotImplementedError("the size of a JPEG is not known before encoding")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frame = decode_jpeg(np.ascontiguousarray(chunk_data.as_numpy_array()))
        if frame is None or (1, *frame.shape) != chunk_spec.shape:
            raise CorruptDataError(f"a chunk holds no JPEG of the expected shape {chunk_spec.shape}")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frame[None])

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frame: NDArray[np.uint8] = np.asarray(chunk_data.as_numpy_array(), np.uint8)[0]
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(frame, self.quality))


register_codec(JPEG_CODEC_NAME, JpegCodec)
