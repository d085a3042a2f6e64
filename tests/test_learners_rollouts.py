"""How old the policy of a rollout can be when the asynchronous loop uses it: the loop and its schedule, on fakes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from configs.load import load_config
from configs.schema import Schedule
from core.ids import EpisodeId, new_episode_id
from learners import rollouts as rollouts_module
from learners.recap import run_loop
from learners.rollouts import MAX_POLICY_AGE, AsyncRollouts
from learners.run_directory import RunDirectory

ITERATIONS, EPISODES, STEPS, BATCH = 9, 4, 6, 2
CONFIG = load_config(
    None,
    [
        f"recap.iterations={ITERATIONS}",
        f"recap.episodes_per_iteration={EPISODES}",
        f"recap.policy.num_steps={STEPS}",
        f"recap.policy.batch_size={BATCH}",
        "recap.policy.warmup_steps=1",
        "schedule=async",
    ],
    family="fake",
)


class MemoryEpisodes:
    """A replay store of what the loop asks of an episode."""

    def __init__(self) -> None:
        self._infos: dict[EpisodeId, Any] = {}

    def commit(self, run: str, spec: EpisodeSpec, version: int) -> None:
        provenance = SimpleNamespace(run=run, collection=spec.collection, seed=spec.seed)
        self._infos |= {new_episode_id(): SimpleNamespace(provenance=provenance, policy_version_max=version)}

    def refresh(self) -> None:
        """All is there."""

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        return tuple(self._infos)

    def info(self, episode_id: EpisodeId) -> Any:
        return self._infos[episode_id]


class Workers:
    """A pool with one worker that ends every episode at once, and one whose only episode ends when ``is_slow_done`` says so."""

    def __init__(self, store: MemoryEpisodes, run: str, is_slow_done: Callable[[], bool]) -> None:
        self._store, self._run, self._is_slow_done = store, run, is_slow_done
        self.num_begun = 0
        self.is_slow_committed = False

    def collect(self, specs: Iterable[EpisodeSpec], *, policy: Callable[[], PolicyCheckpoint]) -> Iterator[None]:
        slow: tuple[EpisodeSpec, int] | None = None
        for number, spec in enumerate(specs):
            self.num_begun += 1
            version = policy().version
            if number == 0:
                slow = (spec, version)
                continue
            self._store.commit(self._run, spec, version)
            if slow is not None and self._is_slow_done():
                self._store.commit(self._run, *slow)
                slow, self.is_slow_committed = None, True
            yield

    def close(self) -> None:
        """The specs end by themselves."""


class LearningNothing:
    """Phases of the loop with a real journal, that draw what an update draws; ``before_update`` is told the iteration."""

    def __init__(
        self, run: RunDirectory, store: MemoryEpisodes, rollouts: AsyncRollouts, before_update: Callable[[int], None]
    ) -> None:
        self._run, self._store, self._rollouts, self._before_update = run, store, rollouts, before_update
        self.used: dict[int, list[EpisodeId]] = {}

    def collect(self, k: int) -> None:
        def work() -> dict[str, Any]:
            return {"episodes": self._rollouts.collect(k, lambda count: None)}

        self.used[k] = self._run.once(f"{k:03d}/collect", work)["episodes"]

    def ages(self) -> list[int]:
        return [k - 1 - self._store.info(e).policy_version_max for k, episodes in self.used.items() for e in episodes]

    def update_policy(self, k: int) -> None:
        def work() -> dict[str, Any]:
            self._before_update(k)
            for _ in range(STEPS):
                self._rollouts.before_samples(BATCH)
            return {}

        self._run.once(f"{k:03d}/update_policy", work)

    def publish(self, k: int) -> None:
        self._run.publish(k)

    def start(self) -> None: ...
    def fit_value(self, k: int) -> None: ...
    def label(self, k: int) -> None: ...
    def choose_threshold(self, k: int) -> None: ...
    def evaluate(self, k: int) -> None: ...

    def rows(self) -> list[dict[str, Any]]:
        return []

    def iteration(self, k: int) -> None: ...


@pytest.fixture
def looped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[LearningNothing, Workers]]]:
    monkeypatch.setattr(rollouts_module, "_POLL_S", 0.0005)
    made: list[AsyncRollouts] = []

    def loop(*, slow_until_version: int, before_update: Callable[[int, Workers], None]) -> tuple[LearningNothing, Workers]:
        run, store = RunDirectory(tmp_path / "run"), MemoryEpisodes()
        run.path.mkdir()
        run.publish(0)
        workers = Workers(store, run.name, lambda: run.published() >= slow_until_version)
        made.append(AsyncRollouts(CONFIG, run, store, workers))  # type: ignore[arg-type]
        phases = LearningNothing(run, store, made[0], lambda k: before_update(k, workers))
        run_loop(phases, phases, iterations=ITERATIONS, schedule=Schedule.ASYNC, is_start_evaluated=False)  # type: ignore[arg-type]
        return phases, workers

    yield loop
    for rollouts in made:
        rollouts.close()


def test_rollouts_that_run_ahead_of_a_slow_learner_wait_before_they_are_too_old(
    looped: Callable[..., tuple[LearningNothing, Workers]], caplog: pytest.LogCaptureFixture
) -> None:
    most_begun = {}

    def await_run_ahead(k: int, workers: Workers) -> None:
        """The learner is so slow that collection gets as far ahead as it may: 1.5 iterations beyond the first, and no further."""
        limit = int((1 + 1.5 + (k - 1)) * EPISODES)
        while workers.num_begun < limit:
            time.sleep(0.0005)
        time.sleep(0.005)
        most_begun[k] = workers.num_begun - limit

    phases, _ = looped(slow_until_version=0, before_update=await_run_ahead)
    assert most_begun == {k: 0 for k in range(1, ITERATIONS + 1)}
    assert 1 <= max(phases.ages()) <= MAX_POLICY_AGE
    assert "came too late" not in caplog.text


def test_what_a_slow_worker_brings_too_late_is_not_used_and_another_takes_its_place(
    looped: Callable[..., tuple[LearningNothing, Workers]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    phases, workers = looped(slow_until_version=MAX_POLICY_AGE + 2, before_update=lambda k, workers: None)
    assert workers.is_slow_committed, "the test shows nothing: the slow episode was never there to be used"
    assert sorted(phases.used) == list(range(1, ITERATIONS + 1))
    assert all(len(episodes) >= EPISODES for episodes in phases.used.values())
    assert max(phases.ages()) <= MAX_POLICY_AGE
    assert caplog.text.count("came too late") == 1
    taken = [e for episodes in phases.used.values() for e in episodes]
    assert len(set(taken)) == len(taken)
