"""Frames of one process for others on the same host: a device opens once, and policy, console and recorder all want to see.

A camera is a file in a folder (of a memory file system, or any): two slots that are written in turn, each with its number, times
and checksum. A reader copies the newer slot, and takes the other one if that was being written meanwhile; nobody waits.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from pathlib import Path

import numpy as np

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import CameraError, Frame, RawFrame

_SUFFIX = ".frames"
_FILE = struct.Struct("<8sII")
_MAGIC = b"frames1\0"
_SLOT = struct.Struct("<QddI")
"""Sequence + 1 (0: never written), capture and arrival on this host's monotonic clock [s], CRC-32 of these and the pixels."""


class FrameWriter:
    """Hands on one camera's frames. Consumes: Frames, in order. Produces: a file. Waits for: nothing."""

    def __init__(self, folder: Path, spec: CameraSpec) -> None:
        """Replace what an earlier process left; readers notice.

        Raises:
            ConfigError: if the folder cannot be written.
        """
        self._num_bytes = spec.height_px * spec.width_px * 3
        file = folder / f"{spec.name}{_SUFFIX}"
        new = file.with_suffix(".new")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with new.open("w+b") as opened:
                opened.truncate(_FILE.size + 2 * (_SLOT.size + self._num_bytes))
                opened.write(_FILE.pack(_MAGIC, spec.height_px, spec.width_px))
                opened.flush()
                self._map = mmap.mmap(opened.fileno(), 0)
            new.rename(file)
        except OSError as error:
            raise ConfigError(f"cannot share camera {spec.name!r} in {folder}: {error}; expected a folder to write to") from error
        self._count = 0

    def write(self, frame: Frame) -> None:
        """Make it the newest."""
        self._count += 1
        pixels = np.ascontiguousarray(frame.image).tobytes()
        at = _FILE.size + (self._count % 2) * (_SLOT.size + self._num_bytes)
        times = (self._count, frame.capture_monotonic_s, frame.arrival_monotonic_s)
        self._map[at : at + _SLOT.size] = _SLOT.pack(*times, _checksum(*times, pixels))
        self._map[at + _SLOT.size : at + _SLOT.size + self._num_bytes] = pixels

    def close(self) -> None:
        """Write no more. The last frame can still be read, and its age tells what it is."""
        self._map.close()


class FrameReader:
    """The newest frame of one camera that another process shares."""

    def __init__(self, file: Path) -> None:
        self._path = file
        self._map: mmap.mmap | None = None
        self._inode = -1
        self._shape = (0, 0, 3)
        self._newest: Frame | None = None
        self._count = 0
        self._sequence = -1

    def latest(self) -> Frame | None:
        """The newest frame, however old; None if there never was one. Goes on where a new writer begins."""
        self._follow()
        if self._map is not None:
            for slot in sorted((0, 1), key=self._count_of, reverse=True):
                if self._count_of(slot) > self._count and self._take(slot):
                    break
        return self._newest

    def _follow(self) -> None:
        """Open the file that has the name now."""
        try:
            inode = self._path.stat().st_ino
            if inode == self._inode:
                return
            with self._path.open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            return  # being replaced, or gone: the last frame stays, and gets old
        magic, height, width = _FILE.unpack_from(mapped) if len(mapped) > _FILE.size else (b"", 0, 0)
        if magic != _MAGIC or len(mapped) != _FILE.size + 2 * (_SLOT.size + height * width * 3):
            raise CameraError(f"{self._path} is not a file of shared frames, or of another version; delete it")
        self._map, self._inode, self._shape, self._count = mapped, inode, (height, width, 3), 0

    def _at(self, slot: int) -> int:
        return _FILE.size + slot * (_SLOT.size + int(np.prod(self._shape)))

    def _count_of(self, slot: int) -> int:
        assert self._map is not None
        return int(_SLOT.unpack_from(self._map, self._at(slot))[0])

    def _take(self, slot: int) -> bool:
        assert self._map is not None
        at = self._at(slot)
        count, capture_s, arrival_s, checksum = _SLOT.unpack_from(self._map, at)
        pixels = self._map[at + _SLOT.size : at + _SLOT.size + int(np.prod(self._shape))]
        if _checksum(count, capture_s, arrival_s, pixels) != checksum:
            return False  # written while it was read
        self._count = count
        self._sequence += 1
        self._newest = Frame(
            image=np.frombuffer(pixels, dtype=np.uint8).reshape(self._shape),
            sequence=self._sequence,
            capture_monotonic_s=capture_s,
            arrival_monotonic_s=arrival_s,
            device_frame_number=count,
            device_time_s=None,
        )
        return True


class SharedFrames:
    """All cameras that are shared in a folder, for showing: ``latest`` as of :class:`robot_drivers.cameras.camera_set.CameraSet`.

    Consumes: files of :class:`FrameWriter`. Produces: the newest frame of each. Waits for: nothing.
    """

    def __init__(self, folder: Path) -> None:
        """The folder may be empty, or not be there, yet."""
        self._folder = folder
        self._readers: dict[str, FrameReader] = {}

    def latest(self) -> dict[str, Frame | None]:
        """The newest frame of every camera however old, by name, None where there is none; cameras keep their places."""
        for file in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if file.stem not in self._readers:
                self._readers[file.stem] = FrameReader(file)
        return {name: reader.latest() for name, reader in self._readers.items()}


class SharedSource:
    """A camera that another process opened; a :class:`robot_drivers.cameras.camera.FrameSource`."""

    def __init__(self, spec: CameraSpec, folder: Path, timeout_s: float = 1.0) -> None:
        """``timeout_s``: without a new frame for so long the camera counts as lost."""
        self.spec = spec
        self._file = folder / f"{spec.name}{_SUFFIX}"
        self._timeout_s = timeout_s
        self._reader = FrameReader(self._file)
        self._seen = -1

    def open(self) -> None:
        """See :meth:`FrameSource.open`."""
        if not self._file.exists():
            raise CameraError(
                f"camera {self.spec.name!r}: nobody shares {self._file}; start `python -m robot_drivers.cameras.share`"
            )
        self._reader = FrameReader(self._file)
        newest = self._reader.latest()
        self._seen = newest.sequence if newest else -1

    def grab(self) -> RawFrame:
        """See :meth:`FrameSource.grab`."""
        until_s = time.monotonic() + self._timeout_s
        while (frame := self._reader.latest()) is None or frame.sequence <= self._seen:
            if time.monotonic() > until_s:
                raise CameraError(f"camera {self.spec.name!r}: no new frame in {self._file} for {self._timeout_s} s")
            time.sleep(0.002)
        self._seen = frame.sequence
        return RawFrame(
            image=frame.image.copy(), device_frame_number=frame.device_frame_number, capture_monotonic_s=frame.capture_monotonic_s
        )

    def close(self) -> None:
        """See :meth:`FrameSource.close`."""
        self._reader = FrameReader(self._file)


def _checksum(count: int, capture_s: float, arrival_s: float, pixels: bytes) -> int:
    return zlib.crc32(pixels, zlib.crc32(struct.pack("<Qdd", count, capture_s, arrival_s)))
