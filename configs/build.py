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

from actors.rollout_runner import RolloutRunner
from checkpoints.directory import read_checkpoint, read_manifest
from configs.schema import ExperimentConfig
from core.errors import CheckpointError
from core.specs import EnvSpec, require_same_spec
from envs.make import make_env, make_expert
from envs.progress import progress_measure
from learners.joined_store import JoinedStore
from models import presets
from models.policy import Policy
from models.value import ValueModel
from replay.episode_store import EpisodeStore


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


def make_runner(config: ExperimentConfig, run: str, name: str) -> RolloutRunner:
    """A rollout worker with its own environment."""
    env = make_env(config.env)
    return RolloutRunner(
        env,
        config.rollout,
        config.players,
        load_policy=functools.partial(load_policy, env_spec=env.env_spec),
        make_expert=lambda seed, quality: make_expert(config.env, seed=seed, quality=quality),
        measure_progress=progress_measure(env),
        run=run,
        worker=name,
        software_version=software_version(),
    )


def runner_factory(config: ExperimentConfig, run: str) -> Callable[[str], RolloutRunner]:
    """``name -> worker``, picklable."""
    return functools.partial(make_runner, config, run)


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
