"""From a configuration to a robot's environment: finds the supervisor, reads its token, starts the cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.clock import SystemClock
from core.errors import ConfigError
from core.specs import CameraSpec
from envs.real import RealEnv
from envs.real_config import RealEnvConfig
from envs.real_episode import Telemetry
from robot_drivers.cameras.camera import Camera, FrameSource
from robot_drivers.cameras.camera_set import CameraSet
from robot_drivers.cameras.network import NetworkCameraConfig, NetworkSource
from robot_drivers.cameras.opencv import OpenCvConfig, OpenCvSource
from robot_drivers.cameras.realsense import RealSenseConfig, RealSenseSource
from robot_drivers.cameras.simulated import SimulatedSource
from robot_drivers.protocol import read_tokens
from robot_drivers.states import Role
from robot_drivers.supervisor_client import SupervisorClient

_FOLDER = Path("runs/supervisor")
_KINDS = ("opencv", "realsense", "network", "simulated")


def open_real_env(config: RealEnvConfig, *, task: str, image_height_px: int, image_width_px: int) -> RealEnv:
    """Connect to a robot whose supervisor runs on this host; nothing moves.

    Args:
        config: which robot, which cameras.
        task: name of what is done, recorded in episodes.
        image_height_px: of every image that a policy is given.
        image_width_px: likewise.

    Raises:
        ConfigError: if the robot has no name or no camera, a camera cannot be read, or the tokens cannot.
        ProtocolError: if there is no supervisor, or it refuses.
    """
    if not config.name:
        raise ConfigError("env.robot.name is empty; name the robot as its supervisor's configuration does: robot=NAME")
    if not config.cameras:
        raise ConfigError('env.robot.cameras is empty; expected at least one, such as ["front=opencv:/dev/v4l/by-id/..."]')
    sources = [_source(text, config) for text in config.cameras]
    address = config.socket or str(_FOLDER / f"{config.name}.sock")
    token = read_tokens(Path(config.tokens) if config.tokens else _FOLDER / f"{config.name}.tokens")[Role.POLICY]

    def connect(on_message: Callable[[Telemetry], None]) -> SupervisorClient:
        return SupervisorClient(address, token=token, client="robot worker", on_message=on_message)

    clock = SystemClock()
    cameras = CameraSet(Camera(source, clock=clock) for source in sources)
    specs = tuple(CameraSpec(name=s.spec.name, height_px=image_height_px, width_px=image_width_px) for s in sources)
    cameras.start()
    try:
        return RealEnv(connect, cameras, specs, config, task=task, clock=clock)
    except BaseException:
        cameras.close()
        raise


def _source(text: str, config: RealEnvConfig) -> FrameSource:
    """A camera from ``NAME=KIND:WHICH``."""
    name, _, device = text.partition("=")
    kind, _, which = device.partition(":")
    if not name or kind not in _KINDS or (kind == "simulated") != (not which):
        raise ConfigError(
            f"env.robot.cameras has {text!r}; expected NAME=opencv:PATH, NAME=realsense:SERIAL, NAME=network:HOST:PORT or "
            "NAME=simulated"
        )
    spec = CameraSpec(name=name, height_px=config.camera_height_px, width_px=config.camera_width_px)
    if kind == "opencv":
        return OpenCvSource(OpenCvConfig(spec=spec, device=which, rate_hz=config.camera_rate_hz))
    if kind == "network":
        host, _, port = which.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"env.robot.cameras has {text!r}; expected {name}=network:HOST:PORT")
        return NetworkSource(NetworkCameraConfig(spec=spec, host=host, port=int(port)))
    if kind == "realsense":
        return RealSenseSource(RealSenseConfig(spec=spec, serial=which, rate_hz=config.camera_rate_hz))
    return SimulatedSource(spec, rate_hz=config.camera_rate_hz)
