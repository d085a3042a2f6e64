"""Reads episodes in the form of RLDS (Reinforcement Learning Datasets, arXiv:2111.02767): Open X-Embodiment and its kin.

An episode is a sequence of steps, each with ``observation``, ``action``, ``reward``, ``is_first``, ``is_last`` and
``is_terminal``; the action of step t is taken on its observation, that of the last step is meaningless and left out. Reading
the files needs the extra ``rlds``; :func:`rlds_episode` takes the steps from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, SpecError
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.specs import EnvSpec
from replay.content_id import content_id


@dataclass(frozen=True, kw_only=True)
class RldsImportConfig:
    """What RLDS leaves open: which keys hold what."""

    env_spec: EnvSpec
    """Cameras are named as the keys of ``observation`` that hold their images."""
    state_key: str = "state"
    """Of ``observation``; entries of several keys, joined by ``+``, are put one behind the other."""
    action_key: str = ""
    """Where ``action`` is a dictionary: its keys, joined by ``+``. Empty: it is an array."""
    instruction_key: str = "language_instruction"
    """Of the step, or else of its observation."""
    env: str = "rlds"
    task: str = ""
    """Empty: the instruction."""
    collection: Collection = Collection.DEMONSTRATION
    source: Source = Source.HUMAN
    end: EpisodeEnd = EpisodeEnd.SUCCESS
    """How an episode ended that is terminal without a reward."""


def read_rlds(folder: Path, config: RldsImportConfig, *, split: str = "train") -> Iterator[Episode]:
    """All episodes of a data set that TensorFlow Datasets prepared.

    Args:
        folder: with ``dataset_info.json``, for example ``.../bridge_dataset/1.0.0``.
        config: which keys hold what.
        split: of the data set.

    Raises:
        ConfigError: if the extra is not installed, or the folder is no data set.
        SpecError: if an episode does not fit the specification.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ConfigError(
            "reading RLDS files needs the package tensorflow-datasets: pip install 'viva-recap[rlds]', "
            "in an environment of its own if it does not go with this torch"
        ) from None
    if not (folder / "dataset_info.json").exists():
        raise ConfigError(f"{folder} is no prepared RLDS data set: dataset_info.json is missing; name the folder of a version")
    for number, record in enumerate(tfds.builder_from_directory(str(folder)).as_dataset(split=split)):
        yield rlds_episode(list(tfds.as_numpy(record["steps"])), config, seed=number)


def rlds_episode(steps: Sequence[Mapping[str, Any]], config: RldsImportConfig, *, seed: int = 0) -> Episode:
    """One episode from its steps.

    Args:
        steps: T+1 of them, as arrays and numbers.
        config: which keys hold what.
        seed: of the provenance; the number of the episode in its data set.

    Raises:
        SpecError: if a key is missing, or an array does not fit the specification.
    """
    what, spec = f"RLDS episode {seed}", config.env_spec
    if len(steps) < 2:
        raise SpecError(f"{what} has {len(steps)} steps; expected at least two: an action needs the observation after it")
    observations = [_get(step, "observation", what) for step in steps]
    images: dict[str, NDArray[np.uint8]] = {
        camera.name: np.stack([np.asarray(_get(o, camera.name, what), np.uint8) for o in observations]) for camera in spec.cameras
    }
    state = np.stack([_joined(o, config.state_key, what) for o in observations]) if spec.state.dim else np.zeros((len(steps), 0))
    actions = [_get(step, "action", what) for step in steps[:-1]]
    action = np.stack([_joined(a, config.action_key, what) if config.action_key else np.ravel(a) for a in actions])
    executed_action = action.astype(np.float32)
    reward = np.array([float(step.get("reward", 0.0)) for step in steps[:-1]], np.float32)
    instruction = _instruction(steps[0], config.instruction_key)
    return Episode.of_one_source(
        config.source,
        images=images,
        state=state.astype(np.float32),
        executed_action=executed_action,
        reward=reward,
        instruction=instruction,
        end=_end(steps, config.end),
        env_spec=spec,
        provenance=Provenance(
            env=config.env, task=config.task or instruction, seed=seed, collection=config.collection, annotations={"rlds": seed}
        ),
        episode_id=content_id(instruction, [executed_action, state, *(images[name] for name in sorted(images))]),
    )


def _get(record: Mapping[str, Any], key: str, what: str) -> Any:
    if not isinstance(record, Mapping) or key not in record:
        known = sorted(record) if isinstance(record, Mapping) else type(record).__name__
        raise SpecError(f"{what}: key {key!r} is missing; there is {known}")
    return record[key]


def _joined(record: Mapping[str, Any], keys: str, what: str) -> NDArray[Any]:
    return np.concatenate([np.ravel(_get(record, key, what)) for key in keys.split("+")])


def _instruction(step: Mapping[str, Any], key: str) -> str:
    found = step.get(key, step["observation"].get(key, ""))
    return found.decode() if isinstance(found, bytes) else str(found)


def _end(steps: Sequence[Mapping[str, Any]], unknown: EpisodeEnd) -> EpisodeEnd:
    if not bool(steps[-1].get("is_terminal", True)):
        return EpisodeEnd.TIME_LIMIT
    # The reward of solving the task belongs to the last action; many data sets put it one step later.
    is_rewarded = any(float(step.get("reward", 0.0)) > 0 for step in steps[-2:])
    return EpisodeEnd.SUCCESS if is_rewarded else unknown
