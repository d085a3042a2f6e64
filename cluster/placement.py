"""Where the parts of a Ray run are placed: the numbers, without Ray."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """What rollout workers occupy. The value service's share is in ``value_service.deployment.DeploymentConfig``.

    Example:
        Two cores, everything on them: 2 workers of 0.5 CPU each leave room for two value replicas of 0.5.
    """

    num_rollout_workers: int = 2
    cpus_per_rollout_worker: float = 0.5
    """Logical CPUs, which decide how many fit on a node; each worker computes with one thread whatever this says."""
    gpus_per_rollout_worker: float = 0.0
    rollout_resource: str = ""
    """A custom resource that a worker's node must offer, one each: ``"simulation"``, ``"robot_kitchen"`` (``hosts.yaml``).
    Empty: any node."""
    is_spread: bool = False
    """Whether workers go to as many nodes as there are, rather than fill one after the other."""
    are_weights_carried: bool = False
    """Whether weights travel through Ray's object store, once a version; otherwise workers read them from the run's folder."""
    max_episode_retries: int = 1
    """How often an episode whose worker died is begun again with the same seed."""
    episode_timeout_s: float = 1800.0
    """A worker that has not reported its episode after this hangs, and counts as dead."""
    max_hires: int = 6
    """How many workers in a row may die for one place in the pool before one is built. Until it has missed a dead node, which
    takes it up to a minute, Ray places workers on it."""
    hire_pause_s: float = 1.0
    """Between the first two of these; each further pause is twice as long."""
    start_timeout_s: float = 300.0
    """How long starting the workers may take: the first import of a simulator on a cold disk takes a minute."""

    def __post_init__(self) -> None:
        if self.num_rollout_workers < 1:
            raise ConfigError(f"num_rollout_workers is {self.num_rollout_workers}; expected at least 1")
        if not self.episode_timeout_s > 0:
            raise ConfigError(f"episode_timeout_s is {self.episode_timeout_s}; expected a positive number of seconds")
        if self.max_hires < 1:
            raise ConfigError(f"max_hires is {self.max_hires}; expected at least 1")
        for name in ("cpus_per_rollout_worker", "gpus_per_rollout_worker", "max_episode_retries", "hire_pause_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 0")
