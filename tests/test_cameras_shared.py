"""Frames that one process shares with others: whole or not at all, newest first, over restarts of the writer."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import Camera, CameraError, Frame
from robot_drivers.cameras.make import make_source
from robot_drivers.cameras.share import share
from robot_drivers.cameras.shared import FrameWriter, SharedFrames, SharedSource
from robot_drivers.cameras.simulated import SimulatedSource, frame_number_of

SPEC = CameraSpec(name="front", height_px=8, width_px=64)


def frame(number: int) -> Frame:
    return Frame(
        image=np.full((8, 64, 3), number, dtype=np.uint8),
        sequence=number,
        capture_monotonic_s=100.0 + number,
        arrival_monotonic_s=100.5 + number,
        device_frame_number=None,
        device_time_s=None,
    )


def test_a_reader_gets_the_newest_frame_with_its_times(tmp_path: Path):
    frames = SharedFrames(tmp_path)
    assert frames.latest() == {}
    writer = FrameWriter(tmp_path, SPEC)
    assert frames.latest() == {"front": None}
    for number in (1, 2, 3):
        writer.write(frame(number))
    got = frames.latest()["front"]
    assert got is not None
    assert (got.image == 3).all()
    assert (got.capture_monotonic_s, got.arrival_monotonic_s, got.sequence) == (103.0, 103.5, 0)
    assert frames.latest()["front"] is got  # none new
    with pytest.raises(ValueError, match="read-only"):
        got.image[0] = 1
    writer.write(frame(4))
    assert frames.latest()["front"].sequence == 1


def test_a_frame_that_is_half_written_is_not_shown(tmp_path: Path):
    writer = FrameWriter(tmp_path, SPEC)
    frames = SharedFrames(tmp_path)
    for number in (1, 2):
        writer.write(frame(number))
    file = tmp_path / "front.frames"
    damaged = bytearray(file.read_bytes())
    damaged[16 + 28 + 5] ^= 1  # a pixel of slot 0, which holds the second frame
    with file.open("r+b") as opened:
        opened.write(damaged)
    assert (frames.latest()["front"].image == 1).all()


def test_a_new_writer_of_another_size_goes_on_and_the_count_grows(tmp_path: Path):
    frames = SharedFrames(tmp_path)
    first = FrameWriter(tmp_path, SPEC)
    first.write(frame(1))
    assert frames.latest()["front"].sequence == 0
    first.close()
    second = FrameWriter(tmp_path, CameraSpec(name="front", height_px=4, width_px=4))
    assert (frames.latest()["front"].image == 1).all()  # old, and its age says so
    second.write(Frame(**{**vars(frame(9)), "image": np.zeros((4, 4, 3), np.uint8)}))
    assert frames.latest()["front"].image.shape == (4, 4, 3)
    assert frames.latest()["front"].sequence == 1


def test_a_foreign_file_is_named(tmp_path: Path):
    (tmp_path / "front.frames").write_bytes(b"x" * 100)
    with pytest.raises(CameraError, match=r"front\.frames is not a file of shared frames"):
        SharedFrames(tmp_path).latest()


def test_nobody_shares_and_nothing_new_are_camera_errors(tmp_path: Path):
    source = SharedSource(SPEC, tmp_path, timeout_s=0.01)
    with pytest.raises(CameraError, match="nobody shares"):
        source.open()
    writer = FrameWriter(tmp_path, SPEC)
    source.open()
    with pytest.raises(CameraError, match="no new frame"):
        source.grab()
    writer.write(frame(7))
    raw = source.grab()
    assert (raw.capture_monotonic_s, raw.device_frame_number) == (107.0, 1)
    raw.image[0] = 0  # the receiver's to keep
    source.close()


def test_share_passes_on_what_cameras_grab(tmp_path: Path):
    over = threading.Event()
    cameras = [Camera(SimulatedSource(CameraSpec(name=name, height_px=8, width_px=64), rate_hz=500)) for name in ("a", "b")]
    thread = threading.Thread(target=share, args=(cameras, tmp_path, over.wait))
    thread.start()
    frames = SharedFrames(tmp_path)
    try:
        seen: set[str] = set()
        while seen != {"a", "b"}:
            seen |= {name for name, got in frames.latest().items() if got is not None and frame_number_of(got.image) > 3}
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "text", ["front", "front=film:x", "front=opencv", "front=simulated:x", "=simulated", "front=simulated@0x"]
)
def test_a_camera_that_cannot_be_made_is_named_with_what_was_expected(text: str):
    with pytest.raises(ConfigError, match="expected"):
        make_source(text, rate_hz=30)


def test_every_kind_can_be_made(tmp_path: Path):
    texts = [
        "a=opencv:/dev/video0",
        "b=realsense:123@640x360",
        f"c=shared:{tmp_path}@64x8",
        "d=simulated",
        "e=network:127.0.0.1:8091@160x128",
    ]
    specs = [make_source(text, rate_hz=30).spec for text in texts]
    assert [(spec.name, spec.width_px, spec.height_px) for spec in specs] == [
        ("a", 640, 480),
        ("b", 640, 360),
        ("c", 64, 8),
        ("d", 640, 480),
        ("e", 160, 128),
    ]
