"""Run a SIMPLER robot in real time, to be driven through the safety supervisor like a real one (:mod:`envs.simulated_arm`).

Example::

    python -m envs.simulate serve --task google_robot_pick_standing_coke_can --control-port 9000
    python -m robot_drivers.supervisor --config configs/robots/simulated.yaml
    python -m envs.simulate rearrange --seed 3
    python -m envs.simulate describe
    python -m robot_drivers.emulate inject collision --control-port 9000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence

from core.command import EXIT_FAILED, port, positive, run_command, stop_on_signals, whole
from robot_drivers.emulators.control import EmulatorControl
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.simulated import SimulatedController
from robot_drivers.json_lines import JsonLines

PORT, CAMERA_PORT = 8090, 8091
_PATIENCE_S = 60.0
"""For a layout: objects fall until they lie."""


@contextlib.contextmanager
def simulated_robot(
    task: str,
    *,
    seed: int = 0,
    image_size_px: tuple[int, int] = (128, 160),
    camera_hz: float = 10.0,
    host: str = "127.0.0.1",
    port: int = 0,
    camera_port: int = 0,
) -> Iterator[tuple[Emulator, SimulatedController]]:
    """Serve a task's robot and camera in a thread of this process.

    Args:
        task: a public SIMPLER name.
        seed: of the first layout.
        image_size_px: height and width.
        camera_hz: images per second, for who looks.
        host: address to serve at.
        port: of the controller; 0 takes a free one, which the emulator then knows.
        camera_port: likewise, which the controller then knows.

    Raises:
        ConfigError: for an unknown task; if a port is taken.
        RendererError, AssetError: the simulator cannot run here; the message says what to do.
    """
    from envs.simpler.task_env import SimplerTaskEnv
    from envs.simulated_arm import SimplerArm, SimplerWorld

    env = SimplerTaskEnv(task, image_height_px=image_size_px[0], image_width_px=image_size_px[1])
    try:
        world = SimplerWorld(env, seed=seed)
        controller = SimulatedController(
            SimplerArm(world, time.monotonic()),
            world,
            host=host,
            port=port,
            camera_port=camera_port,
            camera_hz=camera_hz,
            model=world.scene.agent.uid,
        )
        with Emulator(controller) as emulator:
            yield emulator, controller
    finally:
        env.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, or ask one that serves. Returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _serve(options) if options.verb == "serve" else _ask(options))


def _ask(options: argparse.Namespace) -> int:
    seed = {"seed": options.seed} if options.verb == "rearrange" else {}
    lines = JsonLines(options.host, options.port, timeout_s=_PATIENCE_S, on_message=lambda _: None)
    lines.start()
    try:
        answer = lines.ask({"command": options.verb, **seed}, options.verb)
    finally:
        lines.close()
    print(json.dumps(answer))
    return EXIT_FAILED if "error" in answer else 0


def _serve(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        over = stack.enter_context(stop_on_signals())
        emulator, controller = stack.enter_context(
            simulated_robot(
                options.task,
                seed=options.seed,
                image_size_px=(options.height, options.width),
                camera_hz=options.camera_hz,
                host=options.host,
                port=options.port,
                camera_port=options.camera_port,
            )
        )
        print(f"{options.task}: robot at {options.host}:{emulator.port}, camera at port {controller.camera_port}", flush=True)
        if options.control_port is not None:
            control = stack.enter_context(EmulatorControl(emulator, options.control_port))
            print(f"control port {control.port}", flush=True)
        over.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs.simulate", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser("serve", help="run a task's robot and its camera")
    serve.add_argument("--task", default="google_robot_pick_standing_coke_can")
    serve.add_argument("--height", type=whole(1), default=128, help="of the camera's image, px")
    serve.add_argument("--width", type=whole(1), default=160)
    serve.add_argument("--camera-hz", type=positive, default=10.0)
    serve.add_argument("--camera-port", type=port, default=CAMERA_PORT)
    serve.add_argument("--control-port", type=port, help="take faults here (python -m robot_drivers.emulate inject)")
    rearrange = verbs.add_parser("rearrange", help="lay out the objects anew; the robot has to stand")
    describe = verbs.add_parser("describe", help="seed, instruction, and whether the task is solved")
    for verb in (serve, rearrange):
        verb.add_argument("--seed", type=whole(0), default=0, help="of the layout")
    for verb in (serve, rearrange, describe):
        verb.add_argument("--host", default="127.0.0.1")
        verb.add_argument("--port", type=port, default=PORT)
    return parser


if __name__ == "__main__":
    sys.exit(main())
