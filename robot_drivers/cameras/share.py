"""Open cameras once and share their frames: ``python -m robot_drivers.cameras.share runs/cameras/arm1 front=opencv:/dev/video0``.

Robot worker (``shared:FOLDER``) and console (``--cameras NAME=FOLDER``) then see the same frames with the same times; either may
be started again without the other noticing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.command import run_command, stop_on_signals, whole
from robot_drivers.cameras.camera import Camera
from robot_drivers.cameras.camera_set import CameraSet
from robot_drivers.cameras.make import KINDS, make_source
from robot_drivers.cameras.shared import FrameWriter

_POLL_S = 0.005


def share(cameras: Sequence[Camera], folder: Path, wait_s: Callable[[float], bool]) -> None:
    """Write every new frame until ``wait_s``, which waits so long, returns True.

    Raises:
        ConfigError: if two cameras have one name, or the folder cannot be written.
    """
    writers = {camera.spec.name: FrameWriter(folder, camera.spec) for camera in cameras}
    written = dict.fromkeys(writers, -1)
    with CameraSet(cameras) as together:
        while not wait_s(_POLL_S):
            for name, frame in together.latest().items():
                if frame is not None and frame.sequence > written[name]:
                    writers[name].write(frame)
                    written[name] = frame.sequence
    for writer in writers.values():
        writer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.cameras.share", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="one a robot; in memory, as in /dev/shm, it costs no disk")
    parser.add_argument("camera", nargs="+", help=f"NAME=KIND[@WIDTHxHEIGHT], 640x480 if not said; kinds: {', '.join(KINDS)}")
    parser.add_argument("--rate-hz", type=whole(1), default=30)
    options = parser.parse_args(arguments)

    def command() -> None:
        cameras = [Camera(make_source(text, rate_hz=options.rate_hz)) for text in options.camera]
        print(f"sharing {', '.join(camera.spec.name for camera in cameras)} in {options.folder}", flush=True)
        with stop_on_signals() as over:
            share(cameras, options.folder, over.wait)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
