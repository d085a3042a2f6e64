"""A run that is killed without notice, however often, and resumed measures what an undisturbed one does, to the bit."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The toys' fixtures come with the tests that they were made for.
from test_learners_recap import QUIET, _config, _toys, start  # noqa: F401

from benchmarks.chaos.evidence import examine, learner_rows, see, told_episodes, weight_digests
from configs import build
from core.errors import CorruptDataError
from learners import recap as recap_module
from learners.recap import run_recap
from learners.run_directory import RunDirectory
from replay.repair import repair_store

pytestmark = pytest.mark.whole

_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
_PATIENCE_S = 600


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """A killed process leaves its writes to the operating system; waiting for the disk as well only takes time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(recap_module, "RunReport", _NoReport)
        yield


class _NoReport:
    """In place of figures and pages, which take most of a small run's time."""

    def __init__(self, *_: Any) -> None:
        pass

    def iteration(self, k: int) -> None:
        pass

    def rows(self) -> list[dict[str, Any]]:
        return []


SMALLEST = [
    "iterations=1", "recap.episodes_per_iteration=6", "recap.policy.num_steps=12", "recap.value.num_steps=8",
    "recap.policy.batch_size=8", "recap.value.batch_size=8", "recap.is_start_evaluated=false",
    "tracking.save_every_steps=4", "tracking.log_every_steps=1", "evaluation.num_episodes=2",
]  # fmt: skip


def _killed_at_flush(config: Any, run: Path, number: int) -> bool:
    """Run in a child that dies just before its ``number``-th flush to disk; whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            counter = itertools.count(1)

            def counted(descriptor: int) -> None:
                if next(counter) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.fsync = counted
            run_recap(config, run, display=QUIET)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the run failed by itself"
    return status != 0


def test_killed_at_any_flush_and_resumed_is_the_same_to_the_bit(start: Path, tmp_path: Path) -> None:  # noqa: F811
    config = _config(start, *SMALLEST)
    straight, broken = tmp_path / "straight" / "run", tmp_path / "broken" / "run"
    run_recap(config, straight, display=QUIET)
    rng = random.Random(0)
    num_kills, acknowledged = 0, set()
    while _killed_at_flush(config, broken, rng.randrange(20, 200)):  # in a commit, a train state, a line of the journal
        num_kills += 1
        acknowledged |= told_episodes(broken) | set(see(broken).episodes)
    assert num_kills >= 3
    found = examine(broken, acknowledged=acknowledged, put_aside=set(), reference=straight)
    assert found.is_clean(), found
    assert found.left_behind == ()
    for k, phase in itertools.product((1,), ("choose_threshold", "label")):
        results = [RunDirectory(run).result(f"{k:03d}/{phase}") for run in (straight, broken)]
        for result in results:
            result.pop("wall_s")
            result.pop("num_labelled", None)  # here, after the last kill
        assert results[0] == results[1]
    assert learner_rows(broken)
    assert weight_digests(broken).keys() == {"policy_000", "value_000", "policy_001", "value_001"}


def test_a_damaged_episode_is_put_aside_played_again_and_changes_nothing(start: Path, tmp_path: Path) -> None:  # noqa: F811
    config = _config(start, *SMALLEST)
    straight, broken = tmp_path / "straight" / "run", tmp_path / "broken" / "run"
    run_recap(config, straight, display=QUIET)
    shutil.copytree(straight, broken)
    _forget_phases(broken, "001/update_policy", "001/evaluate", "001/publish")
    shutil.rmtree(broken / "checkpoints" / "policy_001")
    victim = _damage_an_episode(broken)
    with pytest.raises(CorruptDataError, match=victim):
        build.open_store(config, broken / "replay", "reader").read(victim)
    assert repair_store(broken / "replay").num_lost == 1
    run_recap(config, broken, display=QUIET)
    found = examine(broken, acknowledged=set(see(straight).episodes), put_aside={victim}, reference=straight)
    assert found.is_clean(), found
    assert victim not in RunDirectory(broken).result("001/collect")["episodes"]
    assert len(RunDirectory(broken).result("001/collect")["episodes"]) == 6


@pytest.mark.parametrize("phase", ["001/fit_value", "001/update_policy"])
def test_an_episode_found_damaged_in_the_middle_of_a_fit_changes_nothing(
    start: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    phase: str,
) -> None:
    config = _config(start, *SMALLEST)
    straight, broken = tmp_path / "straight" / "run", tmp_path / "broken" / "run"
    run_recap(config, straight, display=QUIET)
    write = recap_module.MetricsLog.write

    def interrupted(self: Any, name: str, step: int, metrics: Any) -> None:
        write(self, name, step, metrics)
        if (name, step) == (phase, 6):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recap_module.MetricsLog, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recap(config, broken, display=QUIET)
    assert list(RunDirectory(broken).train_state(phase).glob("step_*")), "the test shows nothing: no fit was in progress"
    acknowledged, victim = set(see(broken).episodes), _damage_an_episode(broken)
    assert repair_store(broken / "replay").num_lost == 1
    run_recap(config, broken, display=QUIET)
    found = examine(broken, acknowledged=acknowledged, put_aside={victim}, reference=straight)
    assert found.is_clean(), found
    assert victim not in RunDirectory(broken).result("001/collect")["episodes"]


def _damage_an_episode(run: Path) -> str:
    """A byte of a rollout of the first iteration is altered; returns which it was."""
    victim = str(RunDirectory(run).result("001/collect")["episodes"][3])
    (shard,) = (run / "replay" / "episodes").glob(f"*/{victim}/images/camera/c.*")
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:])
    return victim


def _forget_phases(run: Path, *phases: str) -> None:
    """As if the run had been stopped before them."""
    for file in ("journal.jsonl", "metrics.jsonl"):
        rows = [json.loads(line) for line in (run / file).read_text().splitlines()]
        (run / file).write_text("".join(json.dumps(row) + "\n" for row in rows if row["phase"] not in phases))


@pytest.mark.slow
@pytest.mark.timeout(2 * _PATIENCE_S)
def test_the_real_models_killed_from_outside_at_random_moments(tmp_path: Path) -> None:
    """The command line, VideoVLA and ViVa at their smallest, two iterations, five kills."""
    pretrained = tmp_path / "pretrained"
    _done(
        "learners.pretrain", "--config", "smoke", "--run", str(pretrained), "pretrain.num_demonstrations=6",
        "pretrain.policy.num_steps=20", "pretrain.value.num_steps=20", "pretrain.is_policy_on_successes_only=false",
        "pretrain.codec_frames=40", "evaluation.num_episodes=1", "tracking.num_videos=0",
    )  # fmt: skip
    arguments = [
        "--config", "smoke", "recap.iterations=2", "recap.policy.num_steps=30", "recap.value.num_steps=20",
        "evaluation.num_episodes=4", "tracking.num_videos=0", "tracking.log_every_steps=1", "tracking.save_every_steps=7",
        f"recap.demonstrations={pretrained}/replay",
        *[f"recap.{kind}_checkpoint={pretrained}/checkpoints/{kind}" for kind in ("policy", "value")],
    ]  # fmt: skip
    straight, broken = tmp_path / "straight" / "run", tmp_path / "broken" / "run"
    _done("learners.recap", "--run", str(straight), *arguments)
    num_units, rng = see(straight).units(), random.Random(0)
    command = ["--run", str(broken), *arguments]
    for moment in sorted(rng.sample(range(1, num_units - 1), 5)):
        process = subprocess.Popen(
            [sys.executable, "-m", "learners.recap", *command],
            env=_ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and see(broken).units() < moment:
            time.sleep(0.01)
        process.kill()
        assert process.wait(_PATIENCE_S) in (0, -signal.SIGKILL)
        command = ["--resume", str(broken)]
    acknowledged = told_episodes(broken) | set(see(broken).episodes)
    _done("learners.recap", *command)
    found = examine(broken, acknowledged=acknowledged, put_aside=set(), reference=straight)
    assert found.is_clean(), found
    assert len(learner_rows(broken)) == 2 * (30 + 20)


def _done(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=_ENVIRONMENT, capture_output=True, text=True, timeout=_PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
