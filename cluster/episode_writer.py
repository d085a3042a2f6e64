"""A replay store's writer as a Ray actor next to the store, for workers that do not see the store's folder.

Hop 4 of the tour across machines: an episode is sent once, as an object reference, and acknowledged when it is committed. Ray
starts a writer that died again and repeats what was not acknowledged; an episode's id was fixed before, and a store takes an id
once.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.rollout_host import EpisodeSink, MakeSink
from core.errors import RecapError, WorkerError
from core.experience import Episode
from core.ids import EpisodeId

_CONCURRENT_APPENDS = 4
"""Episodes whose transfer and commit overlap; commits themselves are one after the other."""


class _WriterActor:
    """The Ray actor: opens the store under a name of its own at each start, because a log belongs to one process."""

    def __init__(self, make_sink: MakeSink) -> None:
        self._sink: EpisodeSink = make_sink(f"writer-{uuid.uuid4().hex[:8]}")

    def append(self, episode: Episode) -> EpisodeId:
        return self._sink.append(episode)

    def pid(self) -> int:
        return os.getpid()


@dataclass(frozen=True)
class RemoteSink:
    """What a worker appends to: looks like the store.

    Consumes: Episodes. Produces: their ids, once durable. Waits for: the transfer and the commit. On failure: a writer that died
    is started again by Ray and the call repeated; an error of the store comes back as itself.
    """

    writer: Any
    """Handle of the actor."""

    def append(self, episode: Episode) -> EpisodeId:
        """Returns once the episode is durable.

        Raises:
            StorageFullError: if the store's disk is full.
            WorkerError: if the writer is gone for good.
        """
        try:
            answer: EpisodeId = ray.get(self.writer.append.remote(ray.put(episode)))
        except RayTaskError as error:
            if isinstance(error.cause, RecapError):
                raise error.cause from None
            raise
        except RayActorError as error:
            raise WorkerError(
                f"the store's writer is gone ({str(error).splitlines()[0]}); episode {episode.episode_id} was not acknowledged "
                "and is played again when the run is resumed"
            ) from None
        return answer

    def __call__(self, name: str) -> RemoteSink:
        """The same for every worker: names are for logs, and there is one writer."""
        return self


def start_writer(make_sink: MakeSink) -> RemoteSink:
    """Start the writer on this process's node, which is where the store is.

    Args:
        make_sink: opens the store for writing under a name; picklable.

    Returns:
        Give it to workers as their ``make_sink``.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class = ray.remote(
        num_cpus=0,  # it waits for disks
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_CONCURRENT_APPENDS,
        scheduling_strategy=here,
    )(_WriterActor)
    return RemoteSink(actor_class.remote(make_sink))
