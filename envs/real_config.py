"""What an experiment says about the robot it runs on. Limits are not here: they are the supervisor's own (``configs/robots``)."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RealEnvConfig:
    """How the robot's supervisor and its cameras are reached, and how an episode goes."""

    name: str = ""
    """Of the robot, as in the configuration that its supervisor was started with: the socket and the tokens are then found in
    ``runs/supervisor``."""
    socket: str = ""
    """Where the supervisor listens; empty: ``runs/supervisor/NAME.sock``."""
    tokens: str = ""
    """The supervisor's token file; empty: ``runs/supervisor/NAME.tokens``."""
    cameras: tuple[str, ...] = ()
    """``NAME=opencv:/dev/v4l/by-id/...``, ``NAME=realsense:SERIAL`` or ``NAME=simulated``, in the policy's order."""
    camera_rate_hz: int = 30
    instruction: str = ""
    """What the robot is asked to do; empty: the task's name."""
    time_limit_steps: int = 300
    """Of steps in which the policy or a person acted."""
    hold_limit_s: float = 120.0
    """An episode that stands so long without anybody acting is over."""
    label_undo_s: float = 10.0
    """So long after its end, and after every change of its label, an episode can be labelled anew; then it is committed."""
    is_homed_first: bool = True
    """Whether an operator has to send the robot home before every episode."""

    def __post_init__(self) -> None:
        for name in ("camera_rate_hz", "time_limit_steps", "hold_limit_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"env.robot.{name} is {getattr(self, name)}; expected more than 0")
        if not self.label_undo_s >= 0:
            raise ConfigError(f"env.robot.label_undo_s is {self.label_undo_s}; expected 0 or more")
