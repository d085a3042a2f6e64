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
from robot_drivers.cameras.camera import Camera
from robot_drivers.cameras.camera_set import CameraSet
from robot_drivers.cameras.make import make_source
from robot_drivers.protocol import read_tokens
from robot_drivers.states import Role
from robot_drivers.supervisor_client import SupervisorClient

_FOLDER = Path("runs/supervisor")


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
        raise ConfigError('env.robot.cameras is empty; expected at least one, such as ["front=shared:runs/cameras/arm"]')
    sources = [make_source(text, rate_hz=config.camera_rate_hz) for text in config.cameras]
    address = config.socket or str(_FOLDER / f"{config.name}.sock")
    token = read_tokens(Path(config.tokens) if config.tokens else _FOLDER / f"{config.name}.tokens")[Role.POLICY]

    def connect(on_message: Callable[[Telemetry], None]) -> SupervisorClient:
        return SupervisorClient(address, token=token, client="robot worker", on_message=on_message)

    clock = SystemClock()
    cameras = CameraSet(Camera(source, clock=clock) for source in sources)
    specs = tuple(CameraSpec(name=s.spec.name, height_px=image_height_px, width_px=image_width_px) for s in sources)
    cameras.start()
    try:
        env = RealEnv(connect, cameras, specs, config, task=task, clock=clock)
    except BaseException:
        cameras.close()
        raise
    if env.welcome.robot != config.name:
        env.close()
        raise ConfigError(
            f"the supervisor at {address} is {env.welcome.robot!r}'s; expected that of env.robot.name={config.name!r}"
        )
    return env
