"""Builds parts from their configuration; called in whichever process a part lives in, so everything here is picklable.

The only module that knows how an environment, a policy and a store of one experiment belong together.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.robot_runner import RobotRunner
from actors.robot_value import LiveAdvantage
from actors.rollout_runner import RolloutRunner
from checkpoints.directory import read_checkpoint, read_manifest
from configs.schema import ExperimentConfig
from core.errors import CheckpointError
from core.experience import EpisodeEnd
from core.specs import EnvSpec, require_same_spec
from envs.make import make_env, make_expert, make_twin, task_of
from envs.progress import progress_measure
from envs.task_env import TaskEnv
from learners.joined_store import JoinedStore
from models import presets
from models.policy import Policy
from models.value import ValueModel
from replay.episode_store import EpisodeStore
from value_service.returns import step_rewards

ROBOT = "robot"
"""The family of environments that are robots."""


def load_policy(path: Path, env_spec: EnvSpec | None = None) -> Policy:
    """A policy from its checkpoint directory.

    Raises:
        CheckpointError: if there is none, it is damaged, or it is not a policy.
        SpecError: if it was made for another environment than ``env_spec``.
    """
    return _load(path, "policy", env_spec)


def load_value_model(path: Path, env_spec: EnvSpec | None = None) -> ValueModel:
    """A value model from its checkpoint directory; raises as :func:`load_policy`."""
    return _load(path, "value", env_spec)


def checkpoint_env_spec(path: Path) -> EnvSpec:
    """The environment a checkpoint was made for, without reading its weights."""
    manifest = read_manifest(path)
    try:
        return EnvSpec.from_json(manifest["env_spec"])
    except (KeyError, TypeError):
        raise CheckpointError(
            f"checkpoint {path} names no environment specification; it is not a policy or value model"
        ) from None


def make_runner(config: ExperimentConfig, run: str, name: str) -> RolloutRunner | RobotRunner:
    """A worker with its own environment, simulated or a robot's."""
    if config.env.family == ROBOT:
        return make_robot_runner(config, run, name)
    env = make_env(config.env)
    return _rollout_runner(config, env, progress_measure(env), run, name)


def make_robot_runner(config: ExperimentConfig, run: str, name: str) -> RobotRunner:
    """The worker of a robot, connected to its supervisor on this host; nothing moves.

    Raises:
        ConfigError: if the robot is not configured.
        ProtocolError: if its supervisor does not run.
    """
    env = make_env(config.env)
    return RobotRunner(
        env,
        replan_steps=config.rollout.replan_steps,
        load_policy=functools.partial(load_policy, env_spec=env.env_spec),
        value_of=_live_value(config, env.env_spec),
        run=run,
        worker=name,
        software_version=software_version(),
    )


def make_twin_runner(config: ExperimentConfig, spec: EnvSpec, run: str, name: str) -> RolloutRunner:
    """A worker that practises for a robot of a specification in simulation."""
    env = make_twin(config.env, spec)
    return _rollout_runner(config, env, progress_measure(env.simulated), run, name)


def _rollout_runner(
    config: ExperimentConfig, env: TaskEnv, measure_progress: Callable[[], float] | None, run: str, name: str
) -> RolloutRunner:
    return RolloutRunner(
        env,
        config.rollout,
        config.players,
        load_policy=functools.partial(load_policy, env_spec=env.env_spec),
        make_expert=lambda seed, quality: make_expert(config.env, seed=seed, quality=quality),
        measure_progress=measure_progress,
        run=run,
        worker=name,
        software_version=software_version(),
    )


def _live_value(config: ExperimentConfig, env_spec: EnvSpec) -> LiveAdvantage | None:
    robot, task = config.env.robot, task_of(config.env)
    if not robot.value_checkpoint:
        return None
    return LiveAdvantage(
        load_value_model(Path(robot.value_checkpoint), env_spec),
        lookahead_s=config.labeler.advantage.lookahead_s,
        control_hz=env_spec.action.control_hz,
        step_cost=-float(step_rewards(1, EpisodeEnd.SUCCESS, config.labeler.returns, task=task)[0]),
        threshold=robot.advantage_threshold,
    )


def runner_factory(config: ExperimentConfig, run: str) -> Callable[[str], RolloutRunner | RobotRunner]:
    """``name -> worker``, picklable."""
    return functools.partial(make_runner, config, run)


def twin_factory(config: ExperimentConfig, run: str) -> Callable[[str], RolloutRunner] | None:
    """``name -> simulated worker of a robot``, picklable; None where it has no twin, or nothing says yet what it looks like.

    The robot's specification is that of the policy that the run begins with; pretraining has none, and needs no rollouts.
    """
    if not (config.env.robot.twin.family and config.recap.policy_checkpoint):
        return None
    spec = checkpoint_env_spec(Path(config.recap.policy_checkpoint))
    return functools.partial(make_twin_runner, config, spec, run)


def open_store(config: ExperimentConfig, root: Path, name: str) -> EpisodeStore:
    """A replay store, for writing under ``name`` and for reading."""
    return EpisodeStore(root, writer_name=name, config=config.store)


def sink_factory(config: ExperimentConfig, root: Path) -> Callable[[str], EpisodeStore]:
    """``name -> store to write to``, picklable."""
    return functools.partial(open_store, config, root)


def open_joined(config: ExperimentConfig, roots: Sequence[Path], name: str = "reader") -> JoinedStore:
    """Several stores as one; the first is the run's own."""
    return JoinedStore([open_store(config, root, name) for root in roots])


@functools.cache
def software_version() -> str:
    """Of this project, for the provenance of episodes and checkpoints."""
    try:
        return importlib.metadata.version("viva-recap")
    except importlib.metadata.PackageNotFoundError:
        return "source"


def _load(path: Path, kind: str, env_spec: EnvSpec | None) -> Any:
    tensors, manifest = read_checkpoint(path)
    if manifest.get("kind") != kind:
        raise CheckpointError(f"checkpoint {path} holds a {manifest.get('kind')!r}; expected a {kind!r}")
    if env_spec is not None:
        require_same_spec(EnvSpec.from_json(json.loads(json.dumps(manifest["env_spec"]))), env_spec, what=f"checkpoint {path}")
    return presets.from_checkpoint(tensors, manifest)
