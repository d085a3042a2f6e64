"""Frames to and from an MP4 file, exactly as many as went in; for the exchange formats that keep images as video.

Encoding runs ffmpeg (the program that imageio-ffmpeg ships) and looks at its exit status: a full disk or a refused picture
size is an error here, not a file that is too short.
"""

from __future__ import annotations

import enum
import errno
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from core.errors import CorruptDataError, SpecError, StorageFullError

_KEYFRAME_EVERY = 2
"""LeRobot's choice: any frame is at most one other frame away."""


class VideoCodec(enum.Enum):
    """How frames are compressed."""

    H264 = "h264"
    """Opens everywhere; about 1 % of the raw size."""
    AV1 = "av1"
    """LeRobot's own default; smaller, slower to write, at least 64x64 pixels."""
    LOSSLESS = "lossless"
    """H.264 in RGB without quantisation: every pixel comes back as it was."""


class StreamFormat(NamedTuple):
    """What a file written with a codec says of itself."""

    codec: str
    pixel_format: str
    arguments: tuple[str, ...]
    """Of ffmpeg's encoder."""


def stream_format(codec: VideoCodec, height_px: int, width_px: int) -> StreamFormat:
    """Encoder and pixel format for frames of a size.

    Example:
        >>> stream_format(VideoCodec.H264, 128, 160)[:2]
        ('h264', 'yuv420p')
    """
    # Half the resolution in colour is what every player knows; it needs even sides.
    subsampled = "yuv420p" if height_px % 2 == 0 and width_px % 2 == 0 else "yuv444p"
    match codec:
        case VideoCodec.H264:
            return StreamFormat("h264", subsampled, ("-c:v", "libx264", "-crf", "20", "-pix_fmt", subsampled))
        case VideoCodec.AV1:
            return StreamFormat("av1", "yuv420p", ("-c:v", "libsvtav1", "-crf", "30", "-pix_fmt", "yuv420p"))
        case VideoCodec.LOSSLESS:
            return StreamFormat("h264", "gbrp", ("-c:v", "libx264rgb", "-qp", "0", "-pix_fmt", "rgb24"))


class VideoWriter:
    """Writes one MP4 file.

    Consumes: frames. Produces: a file with one picture a frame at a constant rate. Waits for: the encoder.

    Example::

        with VideoWriter(path, height_px=128, width_px=160, fps=3, codec=VideoCodec.H264) as video:
            video.append(frames)
    """

    def __init__(self, path: Path, *, height_px: int, width_px: int, fps: float, codec: VideoCodec) -> None:
        """Start the encoder; ``path`` must not exist."""
        self.path = path
        self.num_frames = 0
        self._shape = (height_px, width_px, 3)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the encoder
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-n", "-f", "rawvideo"]
        command += ["-pix_fmt", "rgb24", "-s", f"{width_px}x{height_px}", "-r", str(fps), "-i", "-"]
        command += [*stream_format(codec, height_px, width_px).arguments, "-g", str(_KEYFRAME_EVERY), "-threads", "1", str(path)]
        self._encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._log)

    def append(self, frames: NDArray[np.uint8]) -> None:
        """Add frames.

        Args:
            frames: [N, H, W, 3] uint8, RGB.

        Raises:
            SpecError: if they have another size, or the encoder refuses them.
            StorageFullError: if the disk is full.
        """
        if frames.shape[1:] != self._shape or frames.dtype != np.uint8:
            raise SpecError(f"video {self.path}: frames are {frames.dtype} {frames.shape}; expected uint8 [N, *{self._shape}]")
        stdin = self._encoder.stdin
        assert stdin is not None
        try:
            stdin.write(np.ascontiguousarray(frames).tobytes())
        except BrokenPipeError:
            self.close()
            raise SpecError(f"video {self.path}: the encoder stopped without a reason") from None
        self.num_frames += len(frames)

    def close(self) -> None:
        """Finish the file.

        Raises:
            SpecError: if the encoder refused the frames.
            StorageFullError: if the disk is full.
        """
        if self._log.closed:
            return
        self._finish()
        status = self._encoder.returncode
        self._log.seek(0)
        message = self._log.read().decode(errors="replace").strip()
        self._log.close()
        if status == 0:
            return
        if "No space left" in message or "Disk quota" in message:
            raise StorageFullError(errno.ENOSPC, f"disk full while writing {self.path}; free space and try again")
        reason = message.splitlines()[0] if message else "no message"
        raise SpecError(f"video {self.path}: the encoder stopped with status {status}: {reason}. Try another codec")

    def _finish(self) -> None:
        try:
            self._encoder.communicate()
        except BrokenPipeError:  # it died with frames unread; its status says why
            self._encoder.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Stop the encoder; a file that was not closed is worth nothing."""
        if self._log.closed:
            return
        self._encoder.kill()
        self._finish()
        self._log.close()


class VideoReader:
    """Reads ranges of frames of one MP4 file; ranges that ascend cost one pass over it."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self.path = path
        self._frames: Iterator[NDArray[np.uint8]] | None = None
        self._next = 0

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames start..stop-1.

        Returns:
            [stop - start, H, W, 3] uint8, RGB.

        Raises:
            CorruptDataError: if the file is missing, is no video, or ends before ``stop``.
        """
        if self._frames is None or start < self._next:
            self._frames, self._next = _decoded(self.path), 0
        found: list[NDArray[np.uint8]] = []
        for frame in self._frames:
            self._next += 1
            if self._next > start:
                found.append(frame)
            if self._next == stop:
                return np.stack(found)
        end, self._frames, self._next = self._next, None, 0
        raise CorruptDataError(
            f"video {self.path} ends after {end} frames; frames {start} to {stop - 1} are needed. "
            "It is damaged or belongs to another data set: fetch it again"
        )


def _decoded(path: Path) -> Iterator[NDArray[np.uint8]]:
    if not path.is_file():
        raise CorruptDataError(f"video {path} is missing; fetch the data set again")
    # Pictures as they are stored: none doubled or dropped to keep a rate.
    frames = imageio_ffmpeg.read_frames(str(path), output_params=["-fps_mode", "passthrough", "-threads", "1"])
    try:
        width_px, height_px = next(frames)["source_size"]
        for frame in frames:
            yield np.frombuffer(frame, np.uint8).reshape(height_px, width_px, 3)
    except (OSError, RuntimeError, KeyError, ValueError, StopIteration) as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()[:200]
        raise CorruptDataError(f"video {path} cannot be decoded ({type(error).__name__}: {reason}); fetch it again") from None
    finally:
        frames.close()
