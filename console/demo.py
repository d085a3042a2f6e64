"""A robot on any computer, by ``make robot-demo``: an arm that is not there, its supervisor, cameras and console.

The arm speaks its controller's protocol and moves in real time; nothing but its metal is missing. Supervisor and console are
processes of their own, as on a robot's host; Ctrl-C ends them in turn, the supervisor after all who could ask it for motion.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from console.demo_process import Process
from console.demo_robots import DemoRobot, realman, simulated
from core.command import port, run_command, stop_on_signals
from core.errors import ConfigError, WorkerError
from robot_drivers.cameras.camera import Camera, FrameSource
from robot_drivers.cameras.share import share

ROBOTS: dict[str, Callable[[Path], AbstractContextManager[DemoRobot]]] = {"realman": realman, "simulated": simulated}


def run(kind: str, folder: Path, port: int, over: threading.Event) -> None:
    """Serve until the event is set.

    Args:
        kind: one of :data:`ROBOTS`.
        folder: for sockets, tokens, logs and recordings.
        port: of the console, on the loopback address.
        over: set by a signal.

    Raises:
        ConfigError: if another demonstration uses the folder.
        RecapError: if a part does not start, or ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    socket, tokens, pictures = folder / "arm.sock", folder / "arm.tokens", folder / "cameras"
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(folder))
        robot = stack.enter_context(ROBOTS[kind](folder))
        stack.enter_context(_shared(robot.cameras, pictures))
        supervisor = Process(
            "robot_drivers.supervisor",
            ["--config", str(robot.config), "--socket", str(socket), "--tokens", str(tokens)],
            log=folder / "supervisor.log",
            ready="listening on",
        )
        console = Process(
            "console",
            [
                *("--robot", f"arm={socket},{tokens}", "--cameras", f"arm={pictures}"),
                *("--recordings", str(folder / "replay"), "--port", str(port)),
            ],
            log=folder / "console.log",
            ready="signs in once",
        )
        parts = [*robot.processes, stack.enter_context(supervisor)]
        worker = Process(robot.worker, robot.worker_arguments, log=folder / "worker.log", ready=robot.worker_ready)
        parts.append(stack.enter_context(worker))
        parts.append(stack.enter_context(console))
        print(_welcome(console.words), flush=True)
        while not over.wait(0.2):
            for part in parts:
                if not part.is_running:
                    raise WorkerError(f"a part ended; it said:\n{part.words}")
    print("All parts have ended.", flush=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else's demonstration writes its logs and pictures there."""
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"a demonstration already runs in {folder}; stop it first, or choose another --folder") from None
        yield


@contextlib.contextmanager
def _shared(sources: Sequence[FrameSource], folder: Path) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=share, args=([Camera(source) for source in sources], folder, over.wait))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _welcome(words: str) -> str:
    """The console's links, for people."""
    links = "\n".join(line for line in words.splitlines() if "/#" in line)
    return (
        f"The robot is up. Open one of these in a browser; each signs in one person, once:\n\n{links}\n\n"
        "Arm it, then hold Space and press W A S D R V. Esc stops. What the keys do: docs/console.md. Ctrl-C here ends all."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m console.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--robot",
        choices=ROBOTS,
        default="realman",
        help="realman: an emulated RM75; simulated: SIMPLER's Google robot before a can, with a camera that renders",
    )
    parser.add_argument("--port", type=port, default=8500, help="of the console")
    parser.add_argument("--folder", type=Path, default=Path("runs/robot_demo"))
    options = parser.parse_args(arguments)
    with stop_on_signals() as over:
        return run_command(lambda: run(options.robot, options.folder, options.port, over))


if __name__ == "__main__":
    sys.exit(main())
