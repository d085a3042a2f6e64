"""The robots of the demonstration: what its supervisor is told, and what its cameras see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from console.demo_process import Process
from console.drawn_arm import DrawnArm
from core.specs import CameraSpec
from robot_drivers.cameras.camera import FrameSource
from robot_drivers.cameras.network import NetworkCameraConfig, NetworkSource
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.limits import read_robot_config

_CONFIGS = Path(__file__).parent.parent / "configs/robots"
REALMAN, SIMULATED = _CONFIGS / "realman_emulator.yaml", _CONFIGS / "simulated.yaml"
TASK = "google_robot_pick_standing_coke_can"
_VIEWS = {"front": (1.05, 0.35, 0.62), "side": (0.25, -1.15, 0.35)}
_DRAWN_PX, _IMAGE_PX = (360, 480), (256, 320)
READY = "waits for a person"
_RATE_HZ = 15


@dataclass(frozen=True, kw_only=True)
class DemoRobot:
    """A robot that is up."""

    config: Path
    """For its supervisor."""
    cameras: tuple[FrameSource, ...]
    processes: tuple[Process, ...] = ()
    """That it ends with."""
    worker: str
    """The module that records its episodes."""
    worker_arguments: tuple[str, ...]
    worker_ready: str
    """What that prints once it can be used."""


@contextlib.contextmanager
def realman(folder: Path) -> Iterator[DemoRobot]:
    """An emulated Realman RM75 in this process: its vendor's protocol, no physics. Two cameras draw it."""
    box = read_robot_config(REALMAN).arms[0].limits.box
    controller = RealmanController(host="127.0.0.1", port=0)

    def look() -> tuple[NDArray[np.float64], float]:
        return controller.arm.chain.frames(controller.arm.joints_rad), controller.arm.gripper_opening

    height, width = _DRAWN_PX
    specs = [CameraSpec(name=name, height_px=height, width_px=width) for name in _VIEWS]
    cameras = [
        DrawnArm(spec, rate_hz=_RATE_HZ, eye_m=_VIEWS[spec.name], at_m=(0.2, 0.0, 0.25), box=box, look=look) for spec in specs
    ]
    shared = [f"{name}=shared:{folder / 'cameras'}@{width}x{height}" for name in _VIEWS]
    with Emulator(controller) as emulator:
        yield DemoRobot(
            config=_with_port(REALMAN, emulator.port, folder),
            cameras=tuple(cameras),
            worker="actors.robot_worker",
            worker_arguments=(
                *("--demonstrations", "--store", str(folder / "replay"), "env.robot.name=realman"),
                *(f"env.robot.socket={folder / 'arm.sock'}", f"env.robot.tokens={folder / 'arm.tokens'}"),
                f"env.robot.cameras=[{','.join(shared)}]",
                "env.robot.is_homed_first=false",
            ),
            worker_ready="waiting for a person",
        )


@contextlib.contextmanager
def simulated(folder: Path) -> Iterator[DemoRobot]:
    """SIMPLER's Google robot in front of a can, physics and rendering in real time, in a process of its own."""
    height, width = _IMAGE_PX
    size = ("--height", str(height), "--width", str(width), "--camera-hz", "6")
    arguments = ["serve", "--task", TASK, "--port", "0", "--camera-port", "0", *size]
    with Process("envs.simulate", arguments, log=folder / "simulation.log", ready="camera at port") as simulation:
        found = re.search(r"robot at \S+:(\d+), camera at port (\d+)", simulation.words)
        assert found, simulation.words
        spec = CameraSpec(name="overhead_camera", height_px=height, width_px=width)
        camera = NetworkSource(NetworkCameraConfig(spec=spec, host="127.0.0.1", port=int(found[2])))
        # Physics that cannot keep up make the arm slow; on a computer that is busy with all of this, that is no fault.
        patience = {"stale_state_s": 5.0, "stale_observation_s": 1.5, "stale_action_s": 3.0, "first_action_s": 8.0}
        patience |= {"tracking_error_s": 5.0, "late_fraction": 0.5}
        # A policy that presses on a limit is held there; units and frames are known to be right, so that it is no fault either.
        patience |= {"clamp_fraction": 1.0}
        config = _with_port(SIMULATED, int(found[1]), folder, **patience)
        yield DemoRobot(
            config=config,
            cameras=(camera,),
            processes=(simulation,),
            worker="console.demo_player",
            worker_arguments=(
                str(folder),
                *("--task", TASK, "--simulation-port", found[1], "--image-px", str(height), str(width)),
            ),
            worker_ready=READY,
        )


def _with_port(config: Path, port: int, folder: Path, **watchdog: float) -> Path:
    """A copy in ``folder`` with the port that was free, and a watchdog changed as it says."""
    tree = OmegaConf.load(config)
    tree.arms[0].options.port = port
    tree.watchdog.update(watchdog)
    OmegaConf.save(tree, folder / "robot.yaml")
    return folder / "robot.yaml"
