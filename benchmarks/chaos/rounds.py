"""One round: a run of the main job, one fault, resumed if it ended, examined."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.evidence import Seen, examine, see, told_episodes
from benchmarks.chaos.faults import Fault, Struck
from benchmarks.chaos.job import Job, MissedError, is_alive

_MAX_MISSES = 5
_PRETRAINING = (
    "--config", "smoke", "pretrain.num_demonstrations=6", "pretrain.policy.num_steps=20", "pretrain.value.num_steps=20",
    "pretrain.is_policy_on_successes_only=false", "pretrain.codec_frames=40", "evaluation.num_episodes=1",
    "tracking.num_videos=0",
)  # fmt: skip
_MAIN_JOB = (
    "--config", "smoke", "execution.mode=ray", "execution.num_workers=2", "recap.iterations=1", "recap.episodes_per_iteration=24",
    "recap.policy.num_steps=20", "recap.value.num_steps=20", "recap.is_start_evaluated=false", "evaluation.num_episodes=4",
    "tracking.num_videos=0", "tracking.log_every_steps=1", "tracking.save_every_steps=5",
)  # fmt: skip


class Rounds:
    """All rounds of one call: they share a pretrained start and the undisturbed run."""

    def __init__(self, folder: Path) -> None:
        """``folder`` gets a folder a round."""
        self._folder = folder.resolve()
        self._start = self._folder / "pretrained"
        self._reference = self._folder / "undisturbed" / "run"
        self._whole: Seen | None = None

    def prepare(self) -> None:
        """Pretrain, and run undisturbed, unless both lie there from an earlier call."""
        if not (self._start / "checkpoints" / "policy").exists():
            with (self._folder / "pretrained.log").open("wb") as log:
                command = [sys.executable, "-m", "learners.pretrain", "--run", str(self._start), *_PRETRAINING]
                subprocess.run(command, check=True, stdout=log, stderr=log)
        if not (self._reference / "summary.json").exists():
            self._reference.parent.mkdir(exist_ok=True)
            job = Job(self._reference, self._arguments(), self._folder / "undisturbed.log")
            try:
                job.start()
                if job.await_end() != 0:
                    raise RuntimeError(f"the undisturbed run failed: {job.last_line()}; see {job.log}")
            finally:
                job.close()
        self._whole = see(self._reference)

    def run(self, fault: Fault, *, seed: int) -> dict[str, Any]:
        """One round; a fault that missed its moment is tried again with the next draw.

        Returns:
            The row of the results file.
        """
        rng = random.Random(f"{fault.name} {seed}")
        for _ in range(_MAX_MISSES):
            try:
                row = self._try(fault, rng, seed)
            except MissedError as missed:
                print(f"{fault.name} {seed}: missed: {missed}", flush=True)
                continue
            print(f"{fault.name} {seed}: {row}", flush=True)
            return row
        raise RuntimeError(f"{fault.name}: missed its moment {_MAX_MISSES} times")

    def _try(self, fault: Fault, rng: random.Random, seed: int) -> dict[str, Any]:
        folder = self._folder / f"{fault.name}_{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        run = folder / "run"  # the same name for all: it is part of what is recorded
        folder.mkdir(parents=True)
        job = Job(run, [*self._arguments(), *fault.arguments], self._folder / f"{folder.name}.log")
        with fault.surroundings(job, rng, _num_bytes(self._reference)):
            return self._try_there(fault, job, rng, seed)

    def _try_there(self, fault: Fault, job: Job, rng: random.Random, seed: int) -> dict[str, Any]:
        assert self._whole is not None, "prepare comes first"
        run = job.run
        try:
            job.start()
            struck = fault.strike(job, rng, self._whole)
            told = told_episodes(run)
            recovered_s, message, orphans, ended = self._see_through(job, struck, fault)
            findings = examine(
                run,
                acknowledged=set(struck.before.episodes) | told | told_episodes(run),
                put_aside=struck.put_aside,
                reference=self._reference,
            )
        finally:
            job.close()
        return {
            "fault": fault.name,
            "seed": seed,
            "where": struck.where,
            "ended": ended,
            "message": message,
            "recovery_s": round(recovered_s - struck.at_s, 2),
            "orphans": orphans,
            "is_clean": findings.is_clean(),
            "acknowledged": findings.num_acknowledged,
            **{name: list(getattr(findings, name)) for name in
               ("lost", "spare", "labels_missing", "labels_doubled", "partial_believed", "differs", "left_behind")},
        }  # fmt: skip

    def _see_through(self, job: Job, struck: Struck, fault: Fault) -> tuple[float, str, list[str], str]:
        """Watch until the run is done, resuming it once.

        Returns:
            When work went on, what the run said when it ended early, processes of its first life that are still there at the
            end of its second, how it went on.
        """
        recovered_s, message, ended = None, "", "continues"
        before: list[psutil.Process] = []
        while True:
            while not job.is_over() and recovered_s is None:
                if struck.is_recovered(see(job.run)):
                    recovered_s = time.monotonic()
                time.sleep(0.02)
            status = job.await_end()
            if status == 0:
                return recovered_s or time.monotonic(), message, _titles(before), ended
            if ended == "resumed":
                raise RuntimeError(f"the resumed run failed too, with {status}: {job.last_line()}; see {job.log}")
            message, ended, recovered_s = job.last_line() if status > 0 else "", "resumed", None
            before = job.family()
            fault.mend(job)
            job.resume()

    def _arguments(self) -> list[str]:
        checkpoints = [f"recap.{kind}_checkpoint={self._start}/checkpoints/{kind}" for kind in ("policy", "value")]
        return [*_MAIN_JOB, *checkpoints, f"recap.demonstrations={self._start}/replay"]


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _titles(processes: list[psutil.Process]) -> list[str]:
    titles = []
    for process in filter(is_alive, processes):
        with contextlib.suppress(psutil.Error):
            titles.append(" ".join(process.cmdline())[:120])
    return titles
