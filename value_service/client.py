"""Asks for the labels of many episodes, puts them in the label store, and asks again when a replica dies or is full.

Hops 5 and 6 of the tour: unlabelled episode ids + value version -> Labels visible to the sampler. :class:`ValueClient`
talks to the shared service (``value_service.deployment.ServeEndpoint``) and knows nothing of Ray; its one-process twin is
``value_service.local_client.LocalValueClient``.

Asking twice is safe: labels are a function of (episode, value version), and writing the same key twice is the same fact
said twice. So whatever is lost on the way is simply asked for again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar

from core.clock import Clock, SystemClock
from core.errors import ConfigError, WorkerError
from core.ids import EpisodeId
from core.labels import LabelKey, Labels
from value_service.labeler import ValueCheckpoint

Answer = TypeVar("Answer")
OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with (episodes labelled so far, episodes in all)."""


class LabelSink(Protocol):
    """The part of ``replay.label_store.LabelStore`` that is needed here."""

    def put(self, labels: Labels) -> None:
        """Store; the same key twice is harmless."""
        ...

    def unlabelled(self, value_version: int, episode_ids: Iterable[EpisodeId]) -> list[EpisodeId]:
        """Those that have no labels under a value version, in the same order."""
        ...


class Labelling(Protocol):
    """What a learner uses: :class:`ValueClient` and ``LocalValueClient``.

    Example::

        client.load(checkpoint)
        client.label_many(store.episode_ids(), checkpoint)
    """

    def load(self, checkpoint: ValueCheckpoint) -> None:
        """Have a value version ready before it is asked for."""
        ...

    def label_many(
        self, episode_ids: Sequence[EpisodeId], checkpoint: ValueCheckpoint, on_progress: OnProgress | None = None
    ) -> LabellingReport:
        """Label episodes under a value version and store the labels."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class EndpointBusyError(WorkerError):
    """The service's queue is full; ask again later."""


class ReplicaLostError(WorkerError):
    """The replica that was labelling died or was not there; ask again."""


class LabelEndpoint(Protocol):
    """One labelling request at a time a thread, wherever it is answered."""

    def label(self, episode: EpisodeId, checkpoint: ValueCheckpoint, timeout_s: float) -> Labels:
        """Labels of one episode.

        Raises:
            EndpointBusyError, ReplicaLostError: ask again.
            RecapError: anything else is final.
        """
        ...

    def load(self, checkpoint: ValueCheckpoint, timeout_s: float) -> int:
        """Have a version ready on every replica; returns how many there are. Raises as :meth:`label`."""
        ...


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """How long to insist."""

    max_in_flight: int = 4
    """Requests in progress at once: twice the replicas keeps each busy while its next episode is on the way."""
    request_timeout_s: float = 600.0
    """After this a request counts as lost."""
    max_attempts: int = 8
    """Requests for one episode that may be lost to dying replicas before giving up."""
    max_busy_s: float = 600.0
    """How long one episode may be refused by full queues before giving up."""
    first_backoff_s: float = 0.1
    max_backoff_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_in_flight", "max_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"value client {name} is {getattr(self, name)}; expected at least 1")
        if not 0 < self.first_backoff_s <= self.max_backoff_s:
            raise ConfigError(
                f"first_backoff_s is {self.first_backoff_s} and max_backoff_s {self.max_backoff_s}; expected 0 < first <= max"
            )


@dataclass(frozen=True, kw_only=True)
class LabellingReport:
    """What one ``label_many`` did."""

    num_labelled: int
    num_already_there: int
    num_lost: int = 0
    """Requests that a dying replica lost and that were asked again."""
    num_busy: int = 0
    """Requests that a full queue refused and that were asked again."""


@dataclass
class _Refusals:
    """How often a request had to be repeated, and why."""

    lost: int = 0
    busy: int = 0

    def add(self, other: _Refusals) -> None:
        self.lost, self.busy = self.lost + other.lost, self.busy + other.busy


class ValueClient:
    """Labels episodes through the shared service.

    Consumes: episode ids, a value checkpoint. Produces: Labels in the label store. Waits for: the service, with at most
    ``max_in_flight`` requests. On failure: asks again with growing pauses; a WorkerError when that does not end.
    Invariant: a call stores each (episode, value version) at most once, whatever was retried.
    """

    def __init__(
        self,
        endpoint: LabelEndpoint,
        label_store: LabelSink,
        config: RetryConfig | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        """``clock`` is what the pauses between attempts wait on."""
        self._endpoint = endpoint
        self._label_store = label_store
        self._config = config or RetryConfig()
        self._clock = clock or SystemClock()
        self._jitter = random.Random()

    def load(self, checkpoint: ValueCheckpoint) -> None:
        """Have a version in memory on every replica; a replica that starts later loads it with its first request.

        Raises:
            CheckpointError: if there is no such checkpoint, it is damaged, or holds another version.
            WorkerError: if no replica answers.
        """
        self._insist(
            lambda: self._endpoint.load(checkpoint, self._config.request_timeout_s),
            f"load value version {checkpoint.version} from {checkpoint.path}",
            _Refusals(),
            threading.Event(),
        )

    def label_many(
        self, episode_ids: Sequence[EpisodeId], checkpoint: ValueCheckpoint, on_progress: OnProgress | None = None
    ) -> LabellingReport:
        """Label episodes under a value version and store the labels; those that have such labels are skipped.

        Labels are stored as they arrive: after a failure or an interruption the next call does only the rest.

        Raises:
            WorkerError: if a request cannot be answered after all attempts.
            CheckpointError, NonFiniteError, SpecError, CorruptDataError: as the labelling itself says.
        """
        wanted = tuple(dict.fromkeys(episode_ids))
        missing = self._label_store.unlabelled(checkpoint.version, wanted)
        done, refusals = len(wanted) - len(missing), _Refusals()
        with closing(self._answers(missing, checkpoint)) as answers:
            for labels, refused in answers:
                self._label_store.put(labels)
                refusals.add(refused)
                done += 1
                if on_progress is not None:
                    on_progress(done, len(wanted))
        return LabellingReport(
            num_labelled=len(missing),
            num_already_there=len(wanted) - len(missing),
            num_lost=refusals.lost,
            num_busy=refusals.busy,
        )

    def close(self) -> None:
        """Nothing to free: the service belongs to whoever started it."""

    def _answers(
        self, episode_ids: list[EpisodeId], checkpoint: ValueCheckpoint
    ) -> Generator[tuple[Labels, _Refusals], None, None]:
        """Answers in the order they come, with at most ``max_in_flight`` requests out."""
        given_up = threading.Event()
        pool = ThreadPoolExecutor(self._config.max_in_flight, thread_name_prefix="value-client")
        pending = {pool.submit(self._label_one, e, checkpoint, given_up) for e in episode_ids}
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=lambda f: f.exception() is not None):  # keep the good before a bad one ends it
                    yield future.result()
        finally:  # an error, Ctrl-C, or the end: nobody asks again on behalf of a call that is over
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _label_one(
        self, episode_id: EpisodeId, checkpoint: ValueCheckpoint, given_up: threading.Event
    ) -> tuple[Labels, _Refusals]:
        refused = _Refusals()
        what = f"label episode {episode_id} under value version {checkpoint.version}"
        labels = self._insist(
            lambda: self._endpoint.label(episode_id, checkpoint, self._config.request_timeout_s), what, refused, given_up
        )
        if labels.key != LabelKey(episode_id, checkpoint.version):
            raise WorkerError(f"asked to {what}, the service answered with {labels.key}; its versions are mixed up: restart it")
        return labels, refused

    def _insist(self, ask: Callable[[], Answer], what: str, refused: _Refusals, given_up: threading.Event) -> Answer:
        """Ask until there is an answer: bounded by attempts where replicas die, by time where queues are full."""
        config, asked_since_s = self._config, self._clock.monotonic_s()
        while True:
            try:
                return ask()
            except (EndpointBusyError, ReplicaLostError) as refusal:
                last = refusal
            if isinstance(last, EndpointBusyError):
                refused.busy += 1
                is_over = self._clock.monotonic_s() - asked_since_s >= config.max_busy_s
            else:
                refused.lost += 1
                is_over = refused.lost >= config.max_attempts
            if is_over or given_up.is_set():
                raise WorkerError(
                    f"could not {what}: {refused.lost} requests lost, {refused.busy} refused by a full queue; the last said: "
                    f"{last}. Labels stored so far are kept; look at the replicas' logs, then run again"
                ) from last
            doublings = min(refused.lost + refused.busy - 1, 30)
            pause_s = min(config.first_backoff_s * 2**doublings, config.max_backoff_s)
            self._clock.sleep_s(pause_s * self._jitter.uniform(0.5, 1.0))  # clients that failed together return apart
