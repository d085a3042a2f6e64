"""The faults: each waits for its moment in a running job, then breaks one thing.

A fault says where it struck, and by what its recovery is known: the first work done by whatever replaced what was broken.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.evidence import Seen, see
from benchmarks.chaos.job import Job, MissedError, frozen

WORKER = "ray::_HostActor"
REPLICA = "ray::ServeReplica"


@dataclass(frozen=True, kw_only=True)
class Struck:
    """What was done, and when."""

    at_s: float
    """By the monotonic clock."""
    where: str
    before: Seen
    is_recovered: Callable[[Seen], bool]
    """Whether work has begun again, by the run's disk."""
    put_aside: set[str] = field(default_factory=set)
    """Episodes that the fault itself has destroyed."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    strike: Callable[[Job, random.Random, Seen], Struck]
    """Waits and breaks; the last argument is the undisturbed run when it was over."""
    arguments: tuple[str, ...] = ()
    """Of the main job, besides those of every scenario."""


def kill_rollout_worker(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """A rollout worker at any time of an episode."""
    _await_episodes(job, rng, whole)
    time.sleep(rng.uniform(0.0, 0.1))
    victim = rng.choice(_parts(job, WORKER))
    victim.kill()
    before = see(job.run)
    return Struck(
        at_s=time.monotonic(), where=f"{len(before.episodes)} episodes", before=before, is_recovered=_new_writer(before)
    )


def kill_writer_in_commit(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """A rollout worker while it writes an episode: stopped as soon as a staged one is seen, killed if it is still there."""
    _await_episodes(job, rng, whole)
    replay = job.run / "replay"
    while not job.is_over():
        for staged in replay.glob(".staging/*/*"):
            owner = _holder(replay / "log" / f"{staged.parent.name}.lock", job)
            if owner is None:
                continue
            with contextlib.suppress(psutil.Error), frozen(owner):
                if staged.is_dir():
                    owner.kill()
                    before = see(job.run)
                    num_files = sum(path.is_file() for path in staged.rglob("*"))
                    return Struck(
                        at_s=time.monotonic(),
                        where=f"{len(before.episodes)} episodes, {num_files} files of the next",
                        before=before,
                        is_recovered=_new_writer(before),
                    )
        time.sleep(0.0005)
    raise MissedError("no episode was caught in the middle of its commit")


def kill_value_replica(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """A replica of the value service with calls executing."""
    first = sum(version == 1 for _, version in whole.labels)
    num_labels = rng.randrange(1, first // 2)
    job.await_moment(lambda seen: sum(seen.labels.values()) >= num_labels)
    rng.choice(_parts(job, REPLICA)).kill()
    before = see(job.run)
    if sum(before.labels.values()) >= first:
        raise MissedError("all labels were there already")
    return Struck(
        at_s=time.monotonic(),
        where=f"{sum(before.labels.values())} labels",
        before=before,
        is_recovered=lambda seen: seen.labels.total() > before.labels.total(),
    )


def kill_learner_in_step(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """The driver, in which the learner runs, between two measurements of a fit."""
    num_rows = rng.randrange(1, whole.num_rows)
    job.await_moment(lambda seen: seen.num_rows >= num_rows)
    time.sleep(rng.uniform(0.0, 0.05))
    return _kill_driver(job)


def kill_learner_in_checkpoint(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """The driver while it writes a train state or a checkpoint: stopped when its staging is seen, killed if it is still there."""
    num_rows = rng.randrange(0, whole.num_rows - 1)
    job.await_moment(lambda seen: seen.num_rows >= num_rows)
    while not job.is_over():
        for pattern in ("train_state/*/.*.partial", "checkpoints/.*.partial"):
            for staged in job.run.glob(pattern):
                with frozen(job.driver):
                    if staged.is_dir():
                        return _kill_driver(job, where=f"writing {staged.name.split('.')[1]}")
        time.sleep(0.0005)
    raise MissedError("no checkpoint was caught while it was written")


def kill_driver(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """The driver at any time between the first episode and the last phase."""
    num_units = rng.randrange(1, whole.units() - 1)
    job.await_moment(lambda seen: seen.units() >= num_units)
    return _kill_driver(job)


def _kill_driver(job: Job, where: str = "") -> Struck:
    job.kill()
    before = see(job.run)
    return Struck(
        at_s=time.monotonic(),
        where=where or f"{before.num_phases} phases, {len(before.episodes)} episodes, {before.num_rows} steps",
        before=before,
        is_recovered=lambda seen: seen.units() > before.units(),
    )


def _await_episodes(job: Job, rng: random.Random, whole: Seen) -> None:
    """A moment in the first half of the run's episodes, so that there is something left to recover for."""
    num_episodes = rng.randrange(1, len(whole.episodes) // 2)
    job.await_moment(lambda seen: len(seen.episodes) >= num_episodes)


def _parts(job: Job, title: str) -> list[psutil.Process]:
    found = job.parts(title)
    if not found:
        raise MissedError(f"no process {title} is there")
    return found


def _new_writer(before: Seen) -> Callable[[Seen], bool]:
    known = set(before.episodes.values())
    return lambda seen: not set(seen.episodes.values()) <= known


def _holder(lock: Path, job: Job) -> psutil.Process | None:
    """Which of the job's processes has a file open."""
    for process in job.parts(WORKER):
        with contextlib.suppress(psutil.Error):
            if any(file.path == str(lock) for file in process.open_files()):
                return process
    return None


FAULTS = (
    Fault(name="worker", what="a rollout worker is killed", strike=kill_rollout_worker),
    Fault(name="writer", what="the store's writer is killed in the middle of a commit", strike=kill_writer_in_commit),
    Fault(name="replica", what="the only value replica is killed with calls executing", strike=kill_value_replica),
    Fault(name="learner-step", what="the learner is killed in a step", strike=kill_learner_in_step),
    Fault(
        name="learner-checkpoint", what="the learner is killed while it writes a checkpoint", strike=kill_learner_in_checkpoint
    ),
    Fault(name="driver", what="the driver is killed at any time", strike=kill_driver),
)
