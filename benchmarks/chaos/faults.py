"""The faults: each waits for its moment in a running job, then breaks one thing.

A fault says where it struck, and by what its recovery is known: the first work done by whatever replaced what was broken.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.chaos.evidence import Seen, see
from benchmarks.chaos.job import Job, MissedError, frozen
from benchmarks.chaos.two_nodes import cut_link, is_on_second_node, kill_second_node, no_namespaces, two_nodes

WORKER = "ray::_HostActor"
REPLICA = "ray::ServeReplica"


@contextlib.contextmanager
def nothing_special(job: Job, rng: random.Random, num_bytes: int) -> Iterator[None]:
    """This machine, as it is."""
    yield


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
    surroundings: Callable[[Job, random.Random, int], AbstractContextManager[None]] = nothing_special
    """Where the job runs; told how many bytes the undisturbed run has written."""
    mend: Callable[[Job], None] = lambda job: None
    """What the user does before resuming."""
    missing: Callable[[], str] = lambda: ""
    """Why it cannot be tried on this machine; empty if it can."""


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


def hang_environment(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """A rollout worker stops answering in the middle of an episode, and stays in memory."""
    _await_episodes(job, rng, whole)
    time.sleep(rng.uniform(0.0, 0.1))
    rng.choice(_parts(job, WORKER)).suspend()
    at_s, before = time.monotonic(), see(job.run)
    return Struck(at_s=at_s, where=f"{len(before.episodes)} episodes", before=before, is_recovered=_new_writer(before))


def corrupt_chunk(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """One byte of a committed episode's pictures, on disk."""
    _await_episodes(job, rng, whole)
    before = see(job.run)
    victim = rng.choice(sorted(before.episodes))
    shard = rng.choice(sorted((job.run / "replay" / "episodes").glob(f"*/{victim}/images/*/c.*")))
    content = bytearray(shard.read_bytes())
    offset = rng.randrange(len(content))
    content[offset] ^= 1 << rng.randrange(8)
    shard.write_bytes(content)
    return Struck(
        at_s=time.monotonic(),
        where=f"byte {offset} of {len(content)}, {len(before.episodes)} episodes",
        before=before,
        is_recovered=lambda seen: victim not in seen.episodes and len(seen.episodes) >= len(before.episodes),
        put_aside={victim},
    )


def repair_store(job: Job) -> None:
    """What the error message says: ``python -m replay repair STORE --apply``."""
    command = [sys.executable, "-m", "replay", "repair", str(job.run / "replay"), "--apply"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def small_disk(job: Job, rng: random.Random, num_bytes: int) -> Iterator[None]:
    """The run lies on a file system that holds a random part of what it will write."""
    kilobytes = int(num_bytes * rng.uniform(0.1, 0.9)) >> 10
    disk = job.run.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "chaos", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_disk(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """It is small from the start; this waits for the run's end."""
    if job.await_end() == 0:
        raise MissedError("the run fitted on the small disk")
    before = see(job.run)
    return Struck(
        at_s=time.monotonic(),
        where=f"{before.num_phases} phases, {len(before.episodes)} episodes, {before.num_rows} steps",
        before=before,
        is_recovered=lambda seen: seen.units() > before.units(),
    )


def enlarge_disk(job: Job) -> None:
    """The user makes room."""
    subprocess.run(["mount", "-o", "remount,size=1g", str(job.run.parent)], check=True)


def no_mount() -> str:
    """Whether small file systems can be made here."""
    return "" if os.geteuid() == 0 else "it needs root, to mount a small file system"


def kill_node(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """Ray's daemon and all workers of the second node, at once."""
    return _lose_node(job, rng, whole, kill_second_node)


def cut_network(job: Job, rng: random.Random, whole: Seen) -> Struck:
    """The second node goes on, with nobody to talk to but the disk."""
    return _lose_node(job, rng, whole, cut_link)


def _lose_node(job: Job, rng: random.Random, whole: Seen, lose: Callable[[], None]) -> Struck:
    seen = _await_episodes(job, rng, whole)
    if not any(is_on_second_node(writer) for writer in seen.episodes.values()):
        raise MissedError("no rollout worker is on the second node")
    time.sleep(rng.uniform(0.0, 0.1))
    lose()
    at_s, before = time.monotonic(), see(job.run)
    return Struck(at_s=at_s, where=f"{len(before.episodes)} episodes", before=before, is_recovered=_new_writer(before))


def _kill_driver(job: Job, where: str = "") -> Struck:
    job.kill()
    before = see(job.run)
    return Struck(
        at_s=time.monotonic(),
        where=where or f"{before.num_phases} phases, {len(before.episodes)} episodes, {before.num_rows} steps",
        before=before,
        is_recovered=lambda seen: seen.units() > before.units(),
    )


def _await_episodes(job: Job, rng: random.Random, whole: Seen) -> Seen:
    """A moment in the first half of the run's episodes, so that there is something left to recover for.

    Every worker has committed one by then: who appears later replaces somebody.
    """
    num_episodes = rng.randrange(1, len(whole.episodes) // 2)
    num_workers = len(set(whole.episodes.values()))
    return job.await_moment(lambda seen: len(seen.episodes) >= num_episodes and len(set(seen.episodes.values())) >= num_workers)


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
    Fault(
        name="hang",
        what="an environment hangs (deadline 10 s)",
        strike=hang_environment,
        arguments=("execution.episode_timeout_s=10",),
    ),
    Fault(name="chunk", what="a byte of a committed episode is altered on disk", strike=corrupt_chunk, mend=repair_store),
    Fault(
        name="disk",
        what="the disk is full",
        strike=fill_disk,
        surroundings=small_disk,
        mend=enlarge_disk,
        missing=no_mount,
    ),
    Fault(name="node", what="a whole node is killed", strike=kill_node, surroundings=two_nodes, missing=no_namespaces),
    Fault(
        name="network",
        what="the network between two nodes is lost",
        strike=cut_network,
        surroundings=two_nodes,
        missing=no_namespaces,
    ),
)
