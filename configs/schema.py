"""The schema of an experiment: every part's own dataclass, composed; and the numbers of the entry points themselves.

Defaults live in the dataclasses, nowhere else. YAML files hold differences only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from actors.rollout_runner import PlayersConfig
from actors.rollout_worker import RolloutConfig
from core.errors import ConfigError
from envs.make import EnvConfig
from learners.extraction import Extraction, ExtractionConfig
from learners.parallel import ParallelConfig
from learners.train_state import OptimizerConfig
from models.value_config import ValueModelConfig
from models.videovla import VideoVlaConfig
from replay.episode_store import EpisodeStoreConfig
from replay.sampler import MixConfig
from value_service.labeler import LabelerConfig


class Schedule(enum.Enum):
    """How the phases of an iteration follow each other."""

    SYNC = "sync"
    """One after the other."""
    ASYNC = "async"
    """Rollout workers never stop: they play the newest published policy while the learner learns."""


class Execution(enum.Enum):
    """Where the parts run."""

    LOCAL = "local"
    """Processes of this machine, standard library only."""
    RAY = "ray"
    """A Ray cluster: rollout workers as Ray actors, values from a shared Ray Serve deployment."""


class WeightsPath(enum.Enum):
    """How published weights reach rollout workers."""

    STORE = "store"
    """Workers read them from the run's folder, which they must see under the same path."""
    OBJECT = "object"
    """Through Ray's object store, put once a version; workers verify and load a copy on their own disk."""


class EpisodeWriters(enum.Enum):
    """Who writes episodes to the replay store."""

    WORKER = "worker"
    """The worker that played it; it must see the run's folder under the same path."""
    ACTOR = "actor"
    """A writer on the run's own node, to which workers send each episode once; acknowledged when it is committed."""


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Who does the work. The mapping to Ray's own numbers is in ``cluster/parts.py``."""

    mode: Execution = Execution.LOCAL
    num_workers: int = 2
    """Rollout workers. ``local``: processes, 0 means in this process; ``ray``: Ray actors."""
    num_value_replicas: int = 1
    """Ray only: replicas of the value service."""
    ray_address: str | None = None
    """Ray only: null starts a cluster of our own on this machine; ``auto`` or HOST:PORT joins one."""
    ray_num_cpus: int | None = None
    """Ray only: logical CPUs of a cluster of our own; null means as many as its parts ask for."""
    worker_resource: str = ""
    """Ray only: workers run on nodes that offer this (hosts.yaml), one each; empty: on any."""
    is_spread: bool = False
    """Ray only: workers go to as many nodes as there are, rather than fill one after the other."""
    cpus_per_worker: float = 0.5
    """Ray only: logical CPUs of a rollout worker, which decide how many fit on a node."""
    gpus_per_worker: float = 0.0
    """Ray only: GPUs of a rollout worker; 0.25: four share one."""
    cpus_per_value_replica: float = 0.5
    """Ray only."""
    gpus_per_value_replica: float = 0.0
    """Ray only: whole GPUs or a share of one."""
    value_resource: str = ""
    """Ray only: value replicas run on nodes that offer this (hosts.yaml), one each; empty: on any."""
    weights: WeightsPath = WeightsPath.STORE
    """Ray only: how published weights reach rollout workers."""
    writer: EpisodeWriters = EpisodeWriters.WORKER
    """Ray only: who writes episodes to the replay store."""
    episode_timeout_s: float = 1800.0
    """A worker that has not committed its episode after this hangs: it is killed, and the episode begun again on a fresh one.
    Longer than the longest episode, with the start of the simulator. Not where the episode runs in the run's own process."""
    ray_metrics_port: int | None = None
    """Where a cluster of the run's own serves Prometheus metrics (docs/observability.md); None: any free port."""

    def __post_init__(self) -> None:
        if not self.episode_timeout_s > 0:
            raise ConfigError(f"execution.episode_timeout_s is {self.episode_timeout_s}; expected a positive number of seconds")
        if self.num_workers < (1 if self.mode is Execution.RAY else 0):
            raise ConfigError(f"execution.num_workers is {self.num_workers}; expected at least 1 (0 is for local runs)")
        for name in ("cpus_per_worker", "gpus_per_worker", "cpus_per_value_replica", "gpus_per_value_replica"):
            if getattr(self, name) < 0:
                raise ConfigError(f"execution.{name} is {getattr(self, name):g}; expected at least 0")


class PretrainIndicator(enum.Enum):
    """What the policy is told in pretraining (and not told 30 % of the time)."""

    POSITIVE = "positive"
    """Always positive: RECAP's supervised stage (Algorithm 1, step 5)."""
    COMPUTED = "computed"
    """From the value: RECAP's pre-training (Algorithm 1, step 2), A_t = R_t - V(o_t) and a quantile a task. Set
    ``is_policy_on_successes_only=false`` with it: what is negative must be seen to be understood."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Demonstrations -> supervised policy and value checkpoints (``python -m learners.pretrain``)."""

    num_demonstrations: int = 250
    """Scripted episodes in the store at the end of collection, whatever was there before."""
    store: str = ""
    """A replay store for the demonstrations; empty: ``replay`` in the run directory."""
    is_policy_on_successes_only: bool = True
    """Whether the policy imitates successful demonstrations only; the value model always learns from all that ended."""
    indicator: PretrainIndicator = PretrainIndicator.POSITIVE
    positive_fraction: float = 0.3
    """Of all demonstration steps, where the indicator is computed."""
    codec_frames: int = 2000
    """Frames on which a fitted codec is fitted."""
    policy: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(num_steps=3600))
    value: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(num_steps=1500))

    def __post_init__(self) -> None:
        if not 0 <= self.positive_fraction <= 1:
            raise ConfigError(f"pretrain.positive_fraction is {self.positive_fraction}; expected a number in [0, 1]")
        for name in ("num_demonstrations", "codec_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class RecapConfig:
    """The loop of RECAP (``python -m learners.recap``)."""

    iterations: int = 2
    episodes_per_iteration: int = 40
    schedule: Schedule = Schedule.SYNC
    policy_checkpoint: str = ""
    """The pretrained policy that every iteration starts from."""
    value_checkpoint: str = ""
    """The pretrained value model that every iteration starts from."""
    demonstrations: str = ""
    """A store of demonstrations (a folder ``replay`` of a pretraining run) that stays in the mix; empty: none but those of
    ``num_demonstrations``."""
    num_demonstrations: int = 0
    """Demonstrations that the scripted expert makes at the start of the run."""
    rollouts_from: str = ""
    """A run whose rollouts, values and labels are used in place of new ones, so that methods can be compared on the same
    data; this run then has one iteration."""
    policy: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(num_steps=800, learning_rate=5e-4, warmup_steps=50))
    value: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(num_steps=400, learning_rate=5e-4, warmup_steps=50))
    is_start_evaluated: bool = True
    """Whether the pretrained policy is measured before the first iteration."""
    guidance_scale: float | None = None
    """RECAP's beta when acting; null: as the pretrained policy says (1: conditioned on positive, one forward pass)."""
    denoise_steps: int | None = None
    """When acting; null: as the pretrained policy says."""

    def __post_init__(self) -> None:
        for name in ("iterations", "episodes_per_iteration"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recap.{name} is {getattr(self, name)}; expected at least 1")
        if self.rollouts_from and self.iterations != 1:
            raise ConfigError(
                f"recap.rollouts_from={self.rollouts_from} with recap.iterations={self.iterations}: rollouts of another run "
                "serve one iteration; set iterations=1"
            )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """What is kept of a run while it runs."""

    save_every_steps: int = 200
    """Learner steps between train states, from which an interrupted phase continues."""
    log_every_steps: int = 10
    """Learner steps between rows of metrics.jsonl."""
    num_videos: int = 2
    """Evaluation episodes that become videos, of each iteration or evaluation."""

    def __post_init__(self) -> None:
        for name in ("save_every_steps", "log_every_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tracking.{name} is {getattr(self, name)}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Measuring with fixed seeds (after every iteration, and ``python -m actors.evaluate``)."""

    num_episodes: int = 50
    first_seed: int = 0
    """Evaluations with equal seeds meet equal initial states and draw equal noise."""
    checkpoint: str = ""
    """``actors.evaluate`` only: a policy checkpoint, or ``hold``, ``random``, ``expert``."""

    def __post_init__(self) -> None:
        if self.num_episodes < 1:
            raise ConfigError(f"evaluation.num_episodes is {self.num_episodes}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Extraction methods on the same rollouts and labels (``python -m learners.compare``)."""

    num_seeds: int = 3
    """Independent repetitions: own rollouts, own value, own learning, own evaluation seeds; ``seed`` is the first."""
    methods: tuple[Extraction, ...] = (Extraction.RECAP, Extraction.AWR, Extraction.FILTERED_BC, Extraction.BC)

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ConfigError(f"compare.num_seeds is {self.num_seeds}; expected at least 1")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            names = [method.value for method in self.methods]
            raise ConfigError(f"compare.methods is {names}; expected some of {[one.value for one in Extraction]}, each once")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that an experiment is."""

    seed: int = 0
    """Of rollouts, learning and sampling; the evaluation's seeds are its own."""
    preset: str = "tiny"
    """Of the models: ``tiny`` (CPU) or ``5b``; sets the defaults of ``policy`` and ``value``."""
    env: EnvConfig = field(default_factory=EnvConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    players: PlayersConfig = field(default_factory=PlayersConfig)
    store: EpisodeStoreConfig = field(default_factory=EpisodeStoreConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    policy: VideoVlaConfig = field(default_factory=VideoVlaConfig)
    value: ValueModelConfig = field(default_factory=ValueModelConfig)
    labeler: LabelerConfig = field(default_factory=LabelerConfig)
    extraction: ExtractionConfig = field(default_factory=ExtractionConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    recap: RecapConfig = field(default_factory=RecapConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    learner: ParallelConfig = field(default_factory=ParallelConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; expected at least 0")
        execution = self.execution
        if self.recap.schedule is Schedule.ASYNC and execution.mode is Execution.LOCAL and execution.num_workers == 0:
            raise ConfigError(
                "recap.schedule=async with execution.num_workers=0: collecting while learning needs a worker process"
            )
