"""Cameras: newest frame only, repeats rejected, lost and found again; a dead one holds up nobody."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from core.clock import ManualClock, SystemClock
from core.errors import ConfigError, SpecError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import Camera, CameraConfig, CameraError, RawFrame, StaleFrameError
from robot_drivers.cameras.camera_set import CameraSet, fresh_age_s
from robot_drivers.cameras.opencv import OpenCvConfig, OpenCvSource
from robot_drivers.cameras.realsense import RealSenseConfig, RealSenseSource
from robot_drivers.cameras.simulated import SimulatedSource, frame_number_of

SPEC = CameraSpec(name="front", height_px=8, width_px=64)


class Script:
    """A source that hands out what a test puts in; a test's hand on time and device."""

    def __init__(self, spec: CameraSpec = SPEC) -> None:
        self.spec = spec
        self.frames: queue.Queue[RawFrame | Exception] = queue.Queue()
        self.num_closed = 0
        self.is_there = True

    def open(self) -> None:
        if not self.is_there:
            raise CameraError("no such device")

    def grab(self) -> RawFrame:
        frame = self.frames.get()
        if isinstance(frame, Exception):
            raise frame
        return frame

    def close(self) -> None:
        self.num_closed += 1


def image(level: int = 0) -> np.ndarray:
    return np.full((8, 64, 3), level, dtype=np.uint8)


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.001)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def camera(script: Script, clock: ManualClock) -> Iterator[Camera]:
    camera = Camera(script, CameraConfig(reopen_after_s=0.001), clock)
    camera.start()
    yield camera
    script.frames.put(CameraError("the test is over"))
    camera.close()


def put(script: Script, camera: Camera, *frames: RawFrame | Exception) -> None:
    """Put frames in and wait until the last was taken, one way or the other."""
    before = camera.status()
    for frame in frames:
        script.frames.put(frame)
    taken = before.num_frames + before.num_repeats + len(frames)
    wait_until(lambda: camera.status().num_frames + camera.status().num_repeats == taken)


def test_the_newest_frame_is_kept_with_its_times(script: Script, camera: Camera, clock: ManualClock) -> None:
    put(script, camera, RawFrame(image=image(1), device_frame_number=7, device_time_s=3.5, capture_monotonic_s=99.98))
    clock.advance_s(0.05)
    put(script, camera, RawFrame(image=image(2), device_frame_number=9, device_time_s=3.6))
    frame = camera.read_latest(max_age_s=0.1)
    assert (frame.sequence, frame.device_frame_number, frame.device_time_s) == (1, 9, 3.6)
    assert frame.capture_monotonic_s == frame.arrival_monotonic_s == 100.05
    assert frame.image[0, 0, 0] == 2
    with pytest.raises(ValueError, match="read-only"):
        frame.image[0, 0, 0] = 3
    clock.advance_s(0.04)
    assert frame.age_s(clock.monotonic_s()) == pytest.approx(0.04)


def test_a_device_that_knows_when_it_exposed_is_believed_but_not_about_the_future(script: Script, camera: Camera) -> None:
    put(script, camera, RawFrame(image=image(), device_frame_number=1, capture_monotonic_s=99.98))
    assert camera.read_latest(1.0).capture_monotonic_s == 99.98
    assert camera.read_latest(1.0).arrival_monotonic_s == 100.0
    put(script, camera, RawFrame(image=image(), device_frame_number=2, capture_monotonic_s=100.5))
    assert camera.read_latest(1.0).capture_monotonic_s == 100.0


def test_an_old_frame_is_an_error_for_the_policy_and_still_there_to_show(
    script: Script, camera: Camera, clock: ManualClock
) -> None:
    with pytest.raises(StaleFrameError, match="no frame yet"):
        camera.read_latest(max_age_s=0.3)
    assert camera.latest() is None
    put(script, camera, RawFrame(image=image(), device_frame_number=1))
    clock.advance_s(0.31)
    with pytest.raises(StaleFrameError, match=r"'front'.*0\.310 s old; expected at most 0\.300 s"):
        camera.read_latest(max_age_s=0.3)
    frame = camera.latest()
    assert frame is not None
    assert frame.age_s(clock.monotonic_s()) == pytest.approx(0.31)


@pytest.mark.parametrize(
    "repeat",
    [
        {"device_frame_number": 4},  # as wait_for_frames does
        {"device_time_s": 1.25},
        {},  # a device without either: the same bytes
    ],
)
def test_a_frozen_device_grows_old_although_it_keeps_handing_out(
    script: Script, camera: Camera, clock: ManualClock, repeat: dict[str, Any]
) -> None:
    put(script, camera, RawFrame(image=image(5), **repeat))
    clock.advance_s(1.0)
    put(script, camera, *(RawFrame(image=image(5), **repeat) for _ in range(3)))
    assert camera.status().num_repeats == 3
    with pytest.raises(StaleFrameError):
        camera.read_latest(max_age_s=0.5)
    put(script, camera, RawFrame(image=image(6)))
    assert camera.read_latest(max_age_s=0.5).sequence == 1


def test_a_lost_camera_is_opened_again_and_counts_on(script: Script, camera: Camera) -> None:
    put(script, camera, RawFrame(image=image(1), device_frame_number=1))
    script.is_there = False
    script.frames.put(CameraError("cable pulled"))
    wait_until(lambda: not camera.status().is_open)
    wait_until(lambda: camera.status().error == "no such device")
    assert script.num_closed >= 1
    script.is_there = True
    wait_until(lambda: camera.status().is_open)
    put(script, camera, RawFrame(image=image(1), device_frame_number=1))  # it counts from the start again: no repeat
    assert camera.read_latest(1.0).sequence == 1
    assert camera.status().num_opened >= 2
    assert camera.status().error is None


@pytest.mark.parametrize("bad", [np.zeros((8, 64), np.uint8), np.zeros((8, 63, 3), np.uint8), np.zeros((8, 64, 3), np.float32)])
def test_an_image_of_another_kind_is_a_lost_camera(script: Script, camera: Camera, bad: np.ndarray) -> None:
    put(script, camera, RawFrame(image=image(1), device_frame_number=1))
    script.frames.put(RawFrame(image=bad, device_frame_number=2))
    wait_until(lambda: script.num_closed == 1)
    frame = camera.latest()
    assert frame is not None
    assert frame.sequence == 0


def test_the_policy_needs_all_the_console_takes_what_there_is(clock: ManualClock) -> None:
    scripts = [Script(CameraSpec(name=name, height_px=8, width_px=64)) for name in ("front", "wrist", "side")]
    scripts[2].is_there = False
    cameras = [Camera(script, CameraConfig(reopen_after_s=60), clock) for script in scripts]
    with CameraSet(cameras) as together:
        put(scripts[1], cameras[1], RawFrame(image=image(), device_frame_number=1))
        clock.advance_s(1.0)
        put(scripts[0], cameras[0], RawFrame(image=image(), device_frame_number=1))
        wait_until(lambda: together.status()["side"].error == "no such device")
        with pytest.raises(StaleFrameError, match=r"'wrist'.*'side'.*no such device") as error:
            together.read_fresh(max_age_s=0.3)
        assert "'front'" not in str(error.value)
        shown = together.latest()
        assert [shown[name] is not None for name in ("front", "wrist", "side")] == [True, True, False]
        put(scripts[1], cameras[1], RawFrame(image=image(), device_frame_number=2))
        assert set(CameraSet(cameras[:2]).read_fresh(max_age_s=0.3)) == {"front", "wrist"}
        for script in scripts:
            script.frames.put(CameraError("the test is over"))


def test_a_device_that_hangs_holds_up_neither_the_others_nor_closing(clock: ManualClock) -> None:
    hung, alive = Script(), Script(CameraSpec(name="wrist", height_px=8, width_px=64))
    cameras = [Camera(hung, clock=clock), Camera(alive, clock=clock)]
    together = CameraSet(cameras)
    together.start()
    put(alive, cameras[1], RawFrame(image=image(), device_frame_number=1))
    assert cameras[1].read_latest(1.0).sequence == 0
    alive.frames.put(CameraError("the test is over"))
    done = threading.Event()
    threading.Thread(target=lambda: (together.close(timeout_s=0.01), done.set()), daemon=True).start()
    assert done.wait(5), "closing waits for a device that hangs"
    hung.frames.put(CameraError("the test is over"))


def test_two_cameras_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="'front'"):
        CameraSet([Camera(Script()), Camera(Script())])


def test_a_frame_may_be_one_and_a_half_periods_old() -> None:
    assert fresh_age_s(5.0) == pytest.approx(0.3)


@pytest.mark.parametrize("number", [1, 2, 255, 256, 40000, 65535])
def test_the_pattern_carries_its_number_through_a_lossy_codec(number: int) -> None:
    source = SimulatedSource(CameraSpec(name="front", height_px=48, width_px=96), rate_hz=1, clock=ManualClock())
    source._number = number - 1
    raw = source.grab()
    coded = cv2.imencode(".jpg", raw.image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    assert raw.device_frame_number == number == frame_number_of(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def test_a_simulated_camera_misbehaves_and_recovers() -> None:
    source = SimulatedSource(SPEC, rate_hz=500)
    with Camera(source, CameraConfig(reopen_after_s=0.001)) as camera:
        wait_until(lambda: camera.status().num_frames > 3)
        source.freeze()
        wait_until(lambda: camera.status().num_repeats > 3)
        frozen = camera.latest()
        wait_until(lambda: camera.status().num_repeats > 6)
        assert camera.latest() is frozen
        source.kill()
        wait_until(lambda: "unplugged" in str(camera.status().error) or "not there" in str(camera.status().error))
        source.revive()
        wait_until(lambda: camera.status().num_opened >= 2 and camera.latest() is not frozen)


def test_a_slow_camera_is_fresh_only_for_those_who_can_wait() -> None:
    clock = ManualClock()
    script = Script()
    camera = Camera(script, clock=clock)
    camera.start()
    for number in range(3):
        put(script, camera, RawFrame(image=image(), device_frame_number=number))
        clock.advance_s(0.5)  # 2 Hz
    assert camera.read_latest(max_age_s=fresh_age_s(2.0)).sequence == 2
    with pytest.raises(StaleFrameError):
        camera.read_latest(max_age_s=fresh_age_s(10.0))
    script.frames.put(CameraError("the test is over"))
    camera.close()


def test_recorded_images_are_shown_over_and_over() -> None:
    images = np.stack([image(level) for level in (10, 20, 30)])
    source = SimulatedSource(SPEC, rate_hz=1, images=images, clock=ManualClock())
    source.open()
    assert [int(source.grab().image[0, 0, 0]) for _ in range(5)] == [10, 20, 30, 10, 20]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((0, 8, 64, 3), np.uint8),
        np.zeros((2, 8, 63, 3), np.uint8),
        np.zeros((2, 8, 64, 3)),
        np.zeros((8, 64, 3), np.uint8),
    ],
)
def test_recorded_images_of_another_kind_are_refused(images: np.ndarray) -> None:
    with pytest.raises(SpecError, match="'front'"):
        SimulatedSource(SPEC, rate_hz=1, images=images)


def test_configs_that_cannot_be_are_refused() -> None:
    for make in (
        lambda: SimulatedSource(SPEC, rate_hz=0),
        lambda: SimulatedSource(CameraSpec(name="tiny", height_px=8, width_px=32), rate_hz=1),
        lambda: CameraConfig(reopen_after_s=0),
        lambda: OpenCvConfig(spec=SPEC, device="/dev/video0", rate_hz=30, pixel_format="JPEG2"),
        lambda: OpenCvConfig(spec=SPEC, device="/dev/video0", rate_hz=-1),
        lambda: RealSenseConfig(spec=SPEC, serial="", rate_hz=30),
        lambda: RealSenseConfig(spec=SPEC, serial="1", rate_hz=30, timeout_s=0),
    ):
        with pytest.raises(ConfigError):
            make()


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "front.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (96, 48))
    source = SimulatedSource(CameraSpec(name="front", height_px=48, width_px=96), rate_hz=1, clock=ManualClock())
    for _ in range(5):
        writer.write(source.grab().image[..., ::-1])
    writer.release()
    return path


def test_opencv_reads_frames_in_order_in_rgb_until_they_end(video: Path) -> None:
    spec = CameraSpec(name="front", height_px=48, width_px=96)
    source = OpenCvSource(OpenCvConfig(spec=spec, device=str(video), rate_hz=1000))
    with pytest.raises(CameraError, match="not open"):
        source.grab()
    source.open()
    frames = [source.grab() for _ in range(5)]
    assert [frame_number_of(frame.image) for frame in frames] == [1, 2, 3, 4, 5]
    assert [frame.device_frame_number for frame in frames] == [1, 2, 3, 4, 5]
    assert abs(float(frames[0].image[8:, :, 2].mean()) - 96) < 5  # blue is last
    assert all(frame.capture_monotonic_s is None for frame in frames)  # a file's time is not this host's
    with pytest.raises(CameraError, match="no more frames"):
        source.grab()
    source.close()
    source.close()


def test_opencv_refuses_what_is_not_there_or_of_another_size(video: Path, tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="cannot be opened"):
        OpenCvSource(OpenCvConfig(spec=SPEC, device=str(tmp_path / "none.avi"), rate_hz=30)).open()
    with pytest.raises(CameraError, match="96x48; expected 64x8"):
        OpenCvSource(OpenCvConfig(spec=SPEC, device=str(video), rate_hz=30)).open()


class Capture:
    """What OpenCV documents of a V4L2 capture; its stamps are the kernel's monotonic clock."""

    def __init__(self, device: str, backend: int) -> None:
        assert (device, backend) == ("/dev/video7", cv2.CAP_V4L2)
        self.settings: dict[int, float] = {}
        self.numbers = itertools.count()

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def set(self, key: int, value: float) -> bool:
        self.settings[key] = value
        return True

    def get(self, key: int) -> float:
        return (time.monotonic() - 0.02) * 1000 if key == cv2.CAP_PROP_POS_MSEC else self.settings[key]

    def read(self) -> tuple[bool, np.ndarray]:
        return True, image(next(self.numbers))

    def release(self) -> None:
        pass


def test_a_v4l2_stamp_is_the_time_of_capture_and_the_queue_one_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[Capture] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *args: captures.append(Capture(*args)) or captures[-1])
    source = OpenCvSource(OpenCvConfig(spec=SPEC, device="/dev/video7", rate_hz=30))
    source.open()
    raw = source.grab()
    assert raw.capture_monotonic_s == raw.device_time_s
    assert time.monotonic() - (raw.capture_monotonic_s or 0) >= 0.02
    assert captures[0].settings[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert captures[0].settings[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")


def realsense(*, fails_to_start: bool = False, fails_to_wait: bool = False, is_global: bool = True) -> types.ModuleType:
    """The calls of pyrealsense2 that the source makes, as its documentation describes them."""
    library: Any = types.ModuleType("pyrealsense2")
    library.stream = types.SimpleNamespace(color="color")
    library.format = types.SimpleNamespace(rgb8="rgb8")
    library.timestamp_domain = types.SimpleNamespace(global_time="global", system_time="system")
    library.asked = []

    class Config:
        def enable_device(self, serial: str) -> None:
            library.asked.append(serial)

        def enable_stream(self, *args: object) -> None:
            library.asked.append(args)

    class ColorFrame:
        def get_timestamp(self) -> float:
            return (time.time() - 0.03) * 1000

        def get_frame_timestamp_domain(self) -> str:
            return "global" if is_global else "system"

        def get_frame_number(self) -> int:
            return 42

        def get_data(self) -> np.ndarray:
            return image(9)

    class Pipeline:
        def start(self, config: Config) -> None:
            if fails_to_start:
                raise RuntimeError("No device connected")

        def wait_for_frames(self, timeout_ms: int) -> types.SimpleNamespace:
            if fails_to_wait:
                raise RuntimeError(f"Frame didn't arrive within {timeout_ms}")
            return types.SimpleNamespace(get_color_frame=ColorFrame)

        def stop(self) -> None:
            if fails_to_wait:
                raise RuntimeError("stop() cannot be called before start()")

    library.config, library.pipeline = Config, Pipeline
    return library


CONFIG = RealSenseConfig(spec=SPEC, serial="0123", rate_hz=30)


@pytest.mark.parametrize("is_global", [True, False])
def test_realsense_frames_carry_their_number_and_global_time(monkeypatch: pytest.MonkeyPatch, is_global: bool) -> None:
    library = realsense(is_global=is_global)
    monkeypatch.setitem(sys.modules, "pyrealsense2", library)
    source = RealSenseSource(CONFIG)
    source.open()
    raw = source.grab()
    assert library.asked == ["0123", ("color", 64, 8, "rgb8", 30)]
    assert raw.device_frame_number == 42
    assert (raw.capture_monotonic_s is not None) == is_global
    if raw.capture_monotonic_s is not None:
        assert SystemClock().monotonic_s() - raw.capture_monotonic_s >= 0.03 - 1e-3
    source.close()


def test_realsense_errors_name_the_camera_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(CameraError, match=r"viva-recap\[realsense\]"):
        RealSenseSource(CONFIG).open()
    monkeypatch.setitem(sys.modules, "pyrealsense2", realsense(fails_to_start=True))
    with pytest.raises(CameraError, match="0123 cannot stream 64x8 at 30 Hz: No device"):
        RealSenseSource(CONFIG).open()
    monkeypatch.setitem(sys.modules, "pyrealsense2", realsense(fails_to_wait=True))
    source = RealSenseSource(CONFIG)
    source.open()
    with pytest.raises(CameraError, match="gives no frames: Frame didn't arrive within 1000"):
        source.grab()
    source.close()
