"""What an experiment says about the robot it runs on. Limits are not here: they are the supervisor's own (``configs/robots``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TwinConfig:
    """A simulated environment that practises for the robot, translated to its specification (:mod:`envs.real_twin`)."""

    family: str = ""
    """``fake``, ``simpler_google``, ``simpler_widowx`` or ``maniskill``; empty: nothing is simulated."""
    task: str = ""
    """Task within the family; empty: the family's first."""
    action: tuple[str, ...] = ()
    """One a simulated action entry: ``"dx = 20 * arm.dx"``, ``"gripper = 2 * arm.gripper - 1"`` or ``"rx = 0"``."""
    state: tuple[str, ...] = ()
    """One an entry of the robot's state: ``"arm.x = 0.02 * x + 0.3"`` or ``"arm.qw = 0"``."""
    rollout_fraction: float = 0.5
    """The share of an iteration's rollouts that is simulated, drawn by their seeds. Evaluations are the robot's."""

    def __post_init__(self) -> None:
        if not 0 <= self.rollout_fraction <= 1:
            raise ConfigError(f"env.robot.twin.rollout_fraction is {self.rollout_fraction}; expected a number in [0, 1]")


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
    """``NAME=shared:FOLDER`` (``python -m robot_drivers.cameras.share``, so that the console sees the same frames) or another
    kind of ``robot_drivers.cameras.make``, with ``@WIDTHxHEIGHT`` where it is not 640x480; in the policy's order."""
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
    ray_resource: str = ""
    """Ray only: what the robot's host offers in ``hosts.yaml``, such as ``robot_kitchen``; empty: any node, which is right where
    there is one."""
    value_checkpoint: str = ""
    """A value model whose values the console is shown while the policy plays; empty: none."""
    advantage_threshold: float | None = None
    """Drawn beside them; null: none."""
    twin: TwinConfig = field(default_factory=TwinConfig)

    def __post_init__(self) -> None:
        for name in ("camera_rate_hz", "time_limit_steps", "hold_limit_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"env.robot.{name} is {getattr(self, name)}; expected more than 0")
        if not self.label_undo_s >= 0:
            raise ConfigError(f"env.robot.label_undo_s is {self.label_undo_s}; expected 0 or more")
