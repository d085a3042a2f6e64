"""The shared value service: replicas on Ray Serve, each labelling one whole episode a call.

Hop 5 of the tour, and the place where ``value_version`` is pulled: every request names the value checkpoint it wants, so
that new weights need no restart and no request ever waits for one; ``load`` only brings a version into memory early.

How an episode reaches a replica. By id (the default): the replica reads it from the replay store. That is the shortest
path: an episode is on disk, in the page cache of whoever wrote it, before anybody asks for labels, so one memory-mapped
read is all there is, and no byte passes through the caller. By object reference: the caller reads the episode once and
puts it in Ray's object store, the replica sees it there without a copy; for replicas that do not see the store's disk.
By value is not offered: an inline 10 MB argument costs ten times a reference.

There is no HTTP: the service is reached by handle only, from inside the Ray cluster.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RaySystemError, RayTaskError
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from core.errors import ConfigError, RecapError, WorkerError
from core.experience import Episode
from core.ids import EpisodeId
from core.labels import Labels
from value_service.client import EndpointBusyError, ReplicaLostError
from value_service.labeler import LabelerConfig, ValueCheckpoint, VersionedLabeler
from value_service.local_client import EpisodeSource

if TYPE_CHECKING:
    from models.value import ValueModel

Result = TypeVar("Result")


class EpisodePath(enum.Enum):
    """How an episode reaches a replica."""

    STORE = "store"
    """By id: the replica reads the replay store."""
    OBJECT_REFERENCE = "object_reference"
    """The caller reads it and puts it in Ray's object store."""


@dataclass(frozen=True, kw_only=True)
class DeploymentConfig:
    """The shape of the service."""

    name: str = "value_service"
    """Of the application on Serve; two runs on one cluster need two names, or the later replaces the earlier's service."""
    num_replicas: int = 2
    """At least two survive a death without a pause: a lone replica takes 10 s to come back."""
    cpus_per_replica: float = 0.5
    """Logical CPUs, which decide how many fit on a node; two replicas and two rollout workers fit on two cores."""
    gpus_per_replica: float = 0.0
    """0.5: two replicas share a GPU."""
    resource: str = ""
    """A custom resource that a replica's node must offer, one each; empty: any node."""
    max_ongoing_requests: int = 2
    """A replica: one being labelled and one whose episode is being read meanwhile."""
    max_queued_requests: int = 16
    """A caller; what exceeds it is refused and comes back later."""
    episode_path: EpisodePath = EpisodePath.STORE
    health_check_period_s: float = 2.0
    health_check_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("num_replicas", "max_ongoing_requests", "max_queued_requests"):
            if getattr(self, name) < 1:
                raise ConfigError(f"value service {name} is {getattr(self, name)}; expected at least 1")


class ValueReplica:
    """One replica: a :class:`VersionedLabeler` in its own process.

    Consumes: (episode or its id, value checkpoint). Produces: Labels. Waits for: the model, one labelling at a time; the
    next episode is read meanwhile. Invariant: it holds nothing that a fresh replica could not rebuild from a request; that
    includes the latents it keeps, up to ``LabelerConfig.latent_cache_bytes`` in every replica.
    """

    def __init__(
        self,
        load_model: Callable[[Path], ValueModel],
        open_episodes: Callable[[], EpisodeSource],
        config: LabelerConfig,
    ) -> None:
        self._labeler = VersionedLabeler(load_model, config)
        self._episodes = _SharedEpisodes(open_episodes)

    async def label(self, episode: Episode | EpisodeId, checkpoint: ValueCheckpoint) -> Labels:
        """Label one episode; Ray has already replaced an object reference by the episode it names."""
        return await asyncio.to_thread(self._label, episode, checkpoint)

    async def load(self, checkpoint: ValueCheckpoint) -> None:
        """Have a version in memory."""
        await asyncio.to_thread(self._labeler.load, checkpoint)

    async def pid(self) -> int:
        """The operating system's process id."""
        return os.getpid()

    def check_health(self) -> None:
        """Serve calls this; that the event loop answers while a labelling runs in its thread is the check."""

    def _label(self, episode: Episode | EpisodeId, checkpoint: ValueCheckpoint) -> Labels:
        return self._labeler.label(episode if isinstance(episode, Episode) else self._episodes.read(episode), checkpoint)


class _SharedEpisodes:
    """A replay store that many threads read, opened when it is first needed; it sees what was committed a moment ago."""

    def __init__(self, open_episodes: Callable[[], EpisodeSource]) -> None:
        self._open_episodes = open_episodes
        self._opened: EpisodeSource | None = None
        self._lock = threading.Lock()

    def read(self, episode_id: EpisodeId) -> Episode:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_episodes()
            self._opened.refresh()
            return self._opened.read(episode_id)


def start_value_service(
    load_model: Callable[[Path], ValueModel],
    open_episodes: Callable[[], EpisodeSource],
    labeler_config: LabelerConfig,
    config: DeploymentConfig,
) -> ServeEndpoint:
    """Start the replicas on the Ray cluster this process is connected to, and wait until they answer (about 9 s).

    Args:
        load_model: builds a value model from a checkpoint directory, inside a replica; must be picklable.
        open_episodes: opens the replay store for reading, inside a replica; must be picklable.
        labeler_config: what labels are made of.
        config: the shape of the service.

    Raises:
        WorkerError: if the replicas do not start, or the cluster has no room for them.
    """
    _require_room(config)
    deployment = serve.deployment(
        name="value",
        num_replicas=config.num_replicas,
        max_ongoing_requests=config.max_ongoing_requests,
        max_queued_requests=config.max_queued_requests,
        health_check_period_s=config.health_check_period_s,
        health_check_timeout_s=config.health_check_timeout_s,
        ray_actor_options={
            "num_cpus": config.cpus_per_replica,
            "num_gpus": config.gpus_per_replica,
            "resources": {config.resource: 1} if config.resource else {},
        },
    )(ValueReplica)
    try:
        serve.start(proxy_location=ProxyLocation.Disabled)
        handle = serve.run(
            deployment.bind(load_model, open_episodes, labeler_config), name=config.name, route_prefix=None, logging_config=_QUIET
        )
    except _NOT_STARTED as error:
        raise WorkerError(f"the value service did not start: {_reason(config.name, error)}") from error
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # not a line a refused request: the client counts and reports them
    return ServeEndpoint(handle, None if config.episode_path is EpisodePath.STORE else open_episodes)


def _require_room(config: DeploymentConfig) -> None:
    """Refuse what Serve would wait for without end."""
    needed = {"CPU": config.num_replicas * config.cpus_per_replica, "GPU": config.num_replicas * config.gpus_per_replica}
    total = ray.cluster_resources()
    for resource, amount in needed.items():
        if amount > total.get(resource, 0):
            raise WorkerError(
                f"{config.num_replicas} value replicas need {amount:g} {resource}; the cluster has {total.get(resource, 0):g}. "
                "Use fewer replicas, or give each less"
            )


def _reason(name: str, error: Exception) -> str:
    """What stopped it: the last line of a replica's traceback, which Serve keeps in the status; if there is none, the error."""
    try:
        application = serve.status().applications.get(name)
    except _NOT_STARTED:  # Serve itself is not there to be asked
        application = None
    messages = [deployment.message for deployment in application.deployments.values()] if application else []
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else f"{type(error).__name__}: {(str(error).splitlines() or ['no reason given'])[0]}"


def stop_value_service(name: str = DeploymentConfig.name) -> None:
    """Take the replicas down once they have answered; what else runs on Serve in this cluster stays."""
    serve.delete(name)


class ServeEndpoint:
    """Reaches the service by its handle; implements ``value_service.client.LabelEndpoint``. Safe to use from many threads."""

    def __init__(self, handle: DeploymentHandle[Any], open_episodes: Callable[[], EpisodeSource] | None) -> None:
        """``open_episodes`` opens the store that episodes are read from, here, to be sent by reference; None sends ids."""
        self._handle = handle
        self._episodes = None if open_episodes is None else _SharedEpisodes(open_episodes)

    def label(self, episode: EpisodeId, checkpoint: ValueCheckpoint, timeout_s: float) -> Labels:
        """Labels of one episode, from some replica.

        Raises:
            EndpointBusyError: if this caller's queue is full.
            ReplicaLostError: if the replica died, was not there, or gave no answer in time.
            RecapError: whatever the labelling raised.
        """
        subject: Any = episode if self._episodes is None else ray.put(self._episodes.read(episode))
        return _translated(lambda: self._handle.label.remote(subject, checkpoint).result(timeout_s=timeout_s))

    def load(self, checkpoint: ValueCheckpoint, timeout_s: float) -> int:
        """Have a version in memory on every replica there is now.

        Returns:
            The number of replicas.

        Raises:
            ReplicaLostError: if one died meanwhile, or none is there.
            RecapError: whatever the loading raised.
        """
        return len(self._ask_all("load", checkpoint, timeout_s=timeout_s))

    def replica_pids(self, timeout_s: float) -> list[int]:
        """The operating system's process ids of the replicas; for monitoring, and for tests that kill one.

        Raises:
            ReplicaLostError: as :meth:`load`.
        """
        return self._ask_all("pid", timeout_s=timeout_s)

    def _ask_all(self, method: str, *arguments: Any, timeout_s: float) -> list[Any]:
        answers = _translated(lambda: self._handle.broadcast(method, *arguments).results(timeout_s=timeout_s))
        if not answers:
            raise ReplicaLostError("no replica of the value service is running")
        return answers


def _translated(ask: Callable[[], Result]) -> Result:
    """Turn Ray's errors into ours: busy, lost, or whatever the replica raised."""
    try:
        return ask()
    except BackPressureError as error:
        raise EndpointBusyError(str(error)) from None
    except RayTaskError as error:
        if isinstance(error.cause, RecapError):
            raise error.cause from None
        raise
    except _LOST as error:
        what = str(error).splitlines() or ["no answer in time"]
        raise ReplicaLostError(f"{type(error).__name__}: {what[0]}") from None


_LOST = (RayActorError, DeploymentUnavailableError, ObjectLostError, RaySystemError, GetTimeoutError, TimeoutError)
_NOT_STARTED = (RuntimeError, TimeoutError, RayError, RayServeException)
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
