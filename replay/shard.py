"""One camera of one episode: a Zarr v3 shard with one frame an inner chunk, written in one go and read through a memory map.

Zarr's own reader opens the same files (``replay.zarr_codec`` for JPEG); it is slower by an order of magnitude for single
frames because it plans, reads the index and allocates at every access. Here the index is parsed once, and a frame is copied
from the map (or decoded) straight into the caller's batch.

Shard file, per the ``sharding_indexed`` specification with the index at the end::

    frame 0 | crc32c of it | frame 1 | crc32c of it | ... | index: T+1 times (offset, length) uint64 | crc32c of the index

A frame's checksum is compared when this process reads that frame for the first time; afterwards the page cache is trusted.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from core.errors import CorruptDataError
from replay.jpeg import decode_jpeg, encode_jpeg
from replay.schema import ImageEncoding, array_metadata

CRC_BYTES = 4
_INDEX_ENTRY_BYTES = 16
JPEG_CODEC_NAME = "viva_recap.jpeg"
REMEDY = "Restore it from a copy, or put it aside: python -m replay repair"
"""Of a damaged file of an episode."""


def shard_metadata(shape: tuple[int, ...], encoding: ImageEncoding, jpeg_quality: int) -> dict[str, Any]:
    """``zarr.json`` of a camera's array.

    Args:
        shape: (T+1, H, W, 3).
        encoding: raw or JPEG.
        jpeg_quality: 1 to 100; not used for raw.
    """
    frame: dict[str, Any] = {"name": "bytes"}
    if encoding is ImageEncoding.JPEG:
        frame = {"name": JPEG_CODEC_NAME, "configuration": {"quality": jpeg_quality}}
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *shape[1:]],
            "codecs": [frame, {"name": "crc32c"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    return array_metadata(shape, "uint8", [sharding], ("time", "height", "width", "channel"))


def shard_parts(frames: NDArray[np.uint8], encoding: ImageEncoding, jpeg_quality: int) -> Iterator[Any]:
    """The bytes of a shard, piece by piece.

    Args:
        frames: [T+1, H, W, 3] uint8.
        encoding: raw or JPEG.
        jpeg_quality: 1 to 100; not used for raw.

    Yields:
        Buffers to be written one behind the other.
    """
    index = np.empty((len(frames), 2), "<u8")
    offset = 0
    for number, frame in enumerate(frames):
        chunk = np.ascontiguousarray(frame).reshape(-1) if encoding is ImageEncoding.RAW else encode_jpeg(frame, jpeg_quality)
        yield chunk
        yield _crc(chunk)
        index[number] = offset, len(chunk) + CRC_BYTES
        offset += len(chunk) + CRC_BYTES
    table = index.tobytes()
    yield table
    yield _crc(table)


class ShardReader:
    """Reads frames of one shard.

    Invariant: a frame is handed out only after its checksum matched once in the life of this reader.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], encoding: ImageEncoding, *, what: str) -> None:
        """Map the file and parse its index.

        Args:
            path: the shard file.
            shape: (T+1, H, W, 3), from the episode's attributes.
            encoding: raw or JPEG.
            what: names the shard in messages: episode and camera.

        Raises:
            CorruptDataError: if the file is missing or too short, or the index fails its checksum or does not fit.
        """
        self._what = what
        self._shape = shape
        self._bytes = _map_file(path, what)
        self._offset, self._length = self._parse_index()
        self._is_checked = bytearray(shape[0])
        self._frames = self._raw_frames() if encoding is ImageEncoding.RAW else None

    def read_into(self, indices: Sequence[int], out: NDArray[np.uint8]) -> None:
        """Read frames.

        Args:
            indices: F indices in 0..T.
            out: [F, H, W, 3] uint8, written to.

        Raises:
            CorruptDataError: if a frame fails its checksum or cannot be decoded.
        """
        is_checked, frames = self._is_checked, self._frames
        for position, index in enumerate(indices):
            if not is_checked[index]:
                self._check(index)
            out[position] = self._decode(index) if frames is None else frames[index]

    def read_all(self) -> NDArray[np.uint8]:
        """All frames, [T+1, H, W, 3]."""
        out = np.empty(self._shape, np.uint8)
        self.read_into(range(self._shape[0]), out)
        return out

    def damaged_frames(self) -> list[int]:
        """Indices of all frames that fail their checksum."""
        return [frame for frame in range(self._shape[0]) if not self._is_intact(frame)]

    def _parse_index(self) -> tuple[list[int], list[int]]:
        num_frames = self._shape[0]
        index_bytes = num_frames * _INDEX_ENTRY_BYTES + CRC_BYTES
        data_bytes = len(self._bytes) - index_bytes
        if data_bytes < 0:
            raise CorruptDataError(
                f"{self._what}: the shard has {len(self._bytes)} bytes, less than the index of {num_frames} frames needs; "
                f"it is truncated. {REMEDY}"
            )
        table = self._bytes[data_bytes:-CRC_BYTES]
        if _crc(table) != self._bytes[-CRC_BYTES:].tobytes():
            raise CorruptDataError(
                f"{self._what}: the shard's index fails its checksum; the file is truncated or altered. {REMEDY}"
            )
        offset, length = table.view("<u8").reshape(num_frames, 2).T.tolist()
        for frame, (start, size) in enumerate(zip(offset, length, strict=True)):
            if size < CRC_BYTES or start + size > data_bytes:
                raise CorruptDataError(
                    f"{self._what}, frame {frame}: the index says bytes {start}..{start + size} of {data_bytes}"
                )
        return offset, length

    def _raw_frames(self) -> NDArray[np.uint8]:
        """All frames as one strided view of the map: frame, checksum, frame, checksum, ..."""
        num_frames, height, width, channels = self._shape
        stride = height * width * channels + CRC_BYTES
        if self._offset != list(range(0, num_frames * stride, stride)) or set(self._length) != {stride}:
            raise CorruptDataError(f"{self._what}: frames of {stride} bytes, checksum included, were expected one behind another")
        return np.lib.stride_tricks.as_strided(self._bytes, self._shape, (stride, width * channels, channels, 1), writeable=False)

    def _chunk(self, index: int) -> NDArray[np.uint8]:
        start = self._offset[index]
        return self._bytes[start : start + self._length[index] - CRC_BYTES]

    def _is_intact(self, index: int) -> bool:
        end = self._offset[index] + self._length[index]
        return _crc(self._chunk(index)) == self._bytes[end - CRC_BYTES : end].tobytes()

    def _check(self, index: int) -> None:
        if not self._is_intact(index):
            raise CorruptDataError(f"{self._what}, frame {index}: the frame fails its checksum. {REMEDY}")
        self._is_checked[index] = True

    def _decode(self, index: int) -> NDArray[np.uint8]:
        frame = decode_jpeg(self._chunk(index))
        if frame is None or frame.shape != self._shape[1:]:
            found = "no JPEG" if frame is None else f"an image {frame.shape}"
            raise CorruptDataError(f"{self._what}, frame {index}: holds {found}; expected {self._shape[1:]}")
        return frame


def _map_file(path: Path, what: str) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError:
        raise CorruptDataError(f"{what}: {path} is missing. {REMEDY}") from None
    except ValueError:
        raise CorruptDataError(f"{what}: {path} is empty. {REMEDY}") from None


def _crc(content: Any) -> bytes:
    checksum: int = google_crc32c.value(content)
    return checksum.to_bytes(CRC_BYTES, "little")
