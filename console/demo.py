"""A robot on any computer, by ``make robot-demo``: an emulated Realman, its supervisor, cameras and console.

The arm speaks its vendor's protocol and moves in real time; nothing but its metal is missing. Supervisor and console are
processes of their own, as on a robot's host; Ctrl-C ends them in turn, the supervisor after all who could ask it for motion.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from console.drawn_arm import DrawnArm
from core.errors import RecapError, WorkerError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import Camera
from robot_drivers.cameras.share import share
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.limits import read_robot_config

_ROBOT = Path(__file__).parent.parent / "configs/robots/realman_emulator.yaml"
_VIEWS = {"front": (1.05, 0.35, 0.62), "side": (0.25, -1.15, 0.35)}
_RATE_HZ = 15
_START_S = 60.0
_END_S = 8.0


class Process:
    """A module that runs as a process of its own, from entering until leaving; its words go to a file."""

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, ready: str) -> None:
        """``ready``: what it prints once others can use it."""
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Process:
        """Start, and wait until it is ready.

        Raises:
            WorkerError: if it ends before; with its words.
        """
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C at the terminal reaches this process only, which ends the others in turn.
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        until_s = time.monotonic() + _START_S
        while self._ready not in self.words:
            if not self.is_running or time.monotonic() > until_s:
                self.__exit__(None, None, None)
                raise WorkerError(f"{' '.join(self._command[2:])} did not start; it said:\n{self.words}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Ask it to end; insist if it does not."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def words(self) -> str:
        """All that it printed."""
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None


def run(folder: Path, port: int, over: threading.Event) -> None:
    """Serve until the event is set.

    Args:
        folder: for sockets, tokens, logs and recordings.
        port: of the console, on the loopback address.
        over: set by a signal.

    Raises:
        RecapError: if a part does not start, or ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    box = read_robot_config(_ROBOT).arms[0].limits.box
    controller = RealmanController(host="127.0.0.1", port=0)

    def look() -> tuple[NDArray[np.float64], float]:
        return controller.arm.chain.frames(controller.arm.joints_rad), controller.arm.gripper_opening

    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(Emulator(controller))
        config = OmegaConf.load(_ROBOT)
        config.arms[0].options.port = emulator.port
        OmegaConf.save(config, folder / "robot.yaml")
        specs = [CameraSpec(name=name, height_px=360, width_px=480) for name in _VIEWS]
        cameras = [
            Camera(DrawnArm(spec, rate_hz=_RATE_HZ, eye_m=_VIEWS[spec.name], at_m=(0.2, 0.0, 0.25), box=box, look=look))
            for spec in specs
        ]
        is_shared_enough = threading.Event()
        sharing = threading.Thread(target=share, args=(cameras, folder / "cameras", is_shared_enough.wait))
        sharing.start()
        stack.callback(sharing.join)
        stack.callback(is_shared_enough.set)
        socket, tokens = str(folder / "arm.sock"), str(folder / "arm.tokens")
        supervisor = Process(
            "robot_drivers.supervisor",
            ["--config", str(folder / "robot.yaml"), "--socket", socket, "--tokens", tokens],
            log=folder / "supervisor.log",
            ready="listening on",
        )
        console = Process(
            "console",
            ["--robot", f"arm={socket},{tokens}", "--cameras", f"arm={folder / 'cameras'}", "--port", str(port)],
            log=folder / "console.log",
            ready="signs in once",
        )
        parts = [stack.enter_context(supervisor), stack.enter_context(console)]
        print(_welcome(console.words), flush=True)
        while not over.wait(0.2):
            for part in parts:
                if not part.is_running:
                    raise WorkerError(f"a part ended; it said:\n{part.words}")
    print("All parts have ended.", flush=True)


def _welcome(words: str) -> str:
    """The console's links, for people."""
    links = "\n".join(line for line in words.splitlines() if "/#" in line)
    return (
        f"An emulated Realman RM75 is up. Open one of these in a browser; each signs in one person, once:\n\n{links}\n\n"
        "Arm it, then hold Space and press W A S D R V. Esc stops. What the keys do: docs/console.md. Ctrl-C here ends all."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m console.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--folder", type=Path, default=Path("runs/robot_demo"))
    options = parser.parse_args(arguments)
    over = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda number, frame: over.set())
    try:
        run(options.folder, options.port, over)
    except RecapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
