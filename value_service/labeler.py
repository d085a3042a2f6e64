"""Labels whole episodes: windows of every observation through the value model, then returns and advantages.

Hop 5 of the tour: Episode + value version -> Labels. One episode a call, because all that a label needs (the values of
every observation, how it ended) is the episode, and a call a frame costs 65 times as much through a service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import CheckpointError, ConfigError, NonFiniteError, SpecError
from core.experience import Episode, Source
from core.labels import LabelKey, Labels
from core.specs import require_same_spec
from core.windows import episode_windows
from models.latent_cache import CachesLatents, LatentCache
from value_service.advantages import AdvantageConfig, estimate_advantage
from value_service.returns import ReturnConfig, step_rewards, value_targets

if TYPE_CHECKING:  # the interface imports torch; labelling itself does not need it
    from models.value import ValueModel

_ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True)
class LabelerConfig:
    """What labels are made of."""

    returns: ReturnConfig = field(default_factory=ReturnConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    batch_size: int = 32
    """Windows a forward pass."""
    num_kept_versions: int = 2
    """Value models that :class:`VersionedLabeler` holds at once: while versions change, the new one and the one it replaces."""
    latent_cache_bytes: int = 1024**3
    """What :class:`VersionedLabeler` may spend on latents of images that it has seen, in the memory of the CPU; labelling them
    again under another value version then skips the autoencoder. 0: they are encoded every time. A frame of a camera costs 13 kB
    at ``tiny`` and 92 kB at ``5b``."""

    def __post_init__(self) -> None:
        if self.latent_cache_bytes < 0:
            raise ConfigError(f"labeler latent_cache_bytes is {self.latent_cache_bytes}; expected 0 (no cache) or more")
        for name in ("batch_size", "num_kept_versions"):
            if getattr(self, name) < 1:
                raise ConfigError(f"labeler {name} is {getattr(self, name)}; expected at least 1")


class Labeler:
    """Labels episodes with one value model.

    Example::

        labels = Labeler(value_model, LabelerConfig()).label(store.read(episode_id))
    """

    def __init__(self, value_model: ValueModel, config: LabelerConfig) -> None:
        self._model = value_model
        self._config = config

    @property
    def version(self) -> int:
        """The value version that the labels carry."""
        return self._model.version

    def label(self, episode: Episode) -> Labels:
        """Values, Monte-Carlo returns and advantages of one episode.

        Raises:
            SpecError: if the episode was recorded under another specification than the model's, or the model answers with
                a wrong shape or a value outside [-1, 0].
            NonFiniteError: if a value is NaN or infinite.
        """
        model, config, task = self._model, self._config, episode.provenance.task
        require_same_spec(episode.env_spec, model.env_spec, what=f"episode {episode.episode_id}")
        value = self.values(episode)
        held = np.asarray(episode.source == Source.HOLD)
        reward = step_rewards(episode.num_steps, episode.end, config.returns, task=task, held=held)
        return Labels(
            key=LabelKey(episode.episode_id, model.version),
            value=value,
            return_=value_targets(episode.num_steps, episode.end, config.returns, task=task, held=held)[:-1],
            advantage=estimate_advantage(
                value, reward, episode.end, config.advantage, control_hz=episode.env_spec.action.control_hz
            ),
            target=config.returns.describe(task),
        )

    def values(self, episode: Episode) -> NDArray[np.float32]:
        """V of every observation.

        Returns:
            [T+1] float32 in [-1, 0].
        """
        everything = np.arange(episode.num_steps + 1)
        batches = np.split(everything, range(self._config.batch_size, len(everything), self._config.batch_size))
        return np.concatenate([self._batch_values(episode, t) for t in batches])

    def _batch_values(self, episode: Episode, t: NDArray[np.int64]) -> NDArray[np.float32]:
        value = self._model.predict(episode_windows(episode, t, self._model.window_spec)).value
        who = f"value model version {self._model.version}, episode {episode.episode_id}"
        if value.shape != t.shape:
            raise SpecError(f"{who}: predict gave {value.shape} for {len(t)} windows; expected {t.shape}")
        bad = np.flatnonzero(~np.isfinite(value))
        if bad.size:
            raise NonFiniteError(
                f"{who}, step {t[bad[0]]}: the value is {value[bad[0]]}; expected a number in [-1, 0]. "
                "The value checkpoint or its normalisation is damaged: retrain it or load an earlier one."
            )
        outside = np.flatnonzero((value < -1 - _ROUNDING) | (value > _ROUNDING))
        if outside.size:
            raise SpecError(
                f"{who}, step {t[outside[0]]}: the value is {value[outside[0]]}; expected a number in [-1, 0]. "
                "Convert the model's own unit in its predict()."
            )
        return np.clip(value, -1, 0).astype(np.float32)


class ValueCheckpoint(NamedTuple):
    """A value version and where its weights are; what a labelling request carries."""

    version: int
    path: str
    """A checkpoint directory, readable where the labelling happens."""

    @classmethod
    def of(cls, version: int, path: Path | str) -> ValueCheckpoint:
        """From a path in either form, made absolute: the reader may run in another working directory."""
        return cls(version, str(Path(path).absolute()))


class VersionedLabeler:
    """Labels with whichever value version is asked for; holds the last few used in memory and loads others when asked.

    Consumes: requests (episode, value checkpoint). Produces: Labels of exactly that version. Waits for: one call at a time
    (the model has the machine's threads). Invariant: labels carry the version that was asked for, never a newer one, and are the
    same whatever latents are kept: versions share a :class:`LatentCache`, whose keys hold the codec.
    """

    def __init__(self, load_model: Callable[[Path], ValueModel], config: LabelerConfig) -> None:
        """``load_model`` builds a value model from a checkpoint directory."""
        self._load_model = load_model
        self._config = config
        self._labelers: dict[int, tuple[str, Labeler]] = {}
        self._latents = LatentCache(config.latent_cache_bytes) if config.latent_cache_bytes else None
        self._lock = threading.Lock()

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions in memory, least recently used first."""
        return tuple(self._labelers)

    @property
    def num_latent_bytes(self) -> int:
        """What the kept latents take; at most ``LabelerConfig.latent_cache_bytes``."""
        return self._latents.num_bytes if self._latents else 0

    def load(self, checkpoint: ValueCheckpoint) -> None:
        """Have a version in memory before it is asked for; nothing happens if it is there already.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or holds another version.
        """
        with self._lock:
            self._labeler(checkpoint)

    def label(self, episode: Episode, checkpoint: ValueCheckpoint) -> Labels:
        """Label under the wanted version; see :meth:`Labeler.label`.

        Raises:
            CheckpointError: as :meth:`load`.
        """
        with self._lock:
            return self._labeler(checkpoint).label(episode)

    def _labeler(self, checkpoint: ValueCheckpoint) -> Labeler:
        version, path = checkpoint
        if version in self._labelers:
            loaded_path, labeler = self._labelers[version]
            if loaded_path != path:
                raise CheckpointError(
                    f"value version {version} was loaded from {loaded_path} and is now asked for from {path}; "
                    "a version names one set of weights: give the new checkpoint its own version"
                )
            self._labelers[version] = self._labelers.pop(version)  # most recently used: last
            return labeler
        if not Path(path).exists():
            raise CheckpointError(
                f"value version {version} is not loaded (loaded are {list(self.versions)}) and its checkpoint {path} does not "
                "exist here; publish it where every replica can read it"
            )
        while len(self._labelers) >= self._config.num_kept_versions:  # before loading: never one model too many in memory
            del self._labelers[next(iter(self._labelers))]
        model = self._load_model(Path(path))
        if model.version != version:
            raise CheckpointError(f"checkpoint {path} holds value version {model.version}; version {version} was asked for")
        if isinstance(model, CachesLatents):
            model.latent_cache = self._latents
        labeler = Labeler(model, self._config)
        self._labelers[version] = (path, labeler)
        for old in self.versions[: -self._config.num_kept_versions]:
            del self._labelers[old]
        return labeler
