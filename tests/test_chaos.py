"""The chaos harness: its examiner sees what it must, and the main job survives a killed worker and a killed driver."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from replay_episodes import episode_id, random_episode

from benchmarks.chaos.__main__ import main
from benchmarks.chaos.evidence import Findings, examine, see, told_episodes
from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.table import markdown, write_table
from checkpoints.directory import write_checkpoint
from core.labels import LabelKey, Labels
from learners.run_directory import append_json_line
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore

DEMONSTRATION, ROLLOUT, EVALUATION = (episode_id(seed) for seed in range(3))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one iteration that is done: one demonstration, one rollout, one evaluation."""
    run = tmp_path_factory.mktemp("whole") / "run"
    store = EpisodeStore(run / "replay", "w0")
    for seed in (1, 2):
        store.append(random_episode(seed, steps=2))
    store.close()
    labels = LabelStore(run / "labels")
    row = np.zeros(3, np.float32)
    for name in (DEMONSTRATION, ROLLOUT):
        labels.put(Labels(key=LabelKey(name, 1), target="return", value=row, return_=row[:2], advantage=row[:2]))
    labels.close()
    for name in ("policy_000", "value_000", "policy_001", "value_001"):
        write_checkpoint(run / "checkpoints" / name, {"w": torch.ones(2)}, {"kind": "toy"})
    for phase, episodes in (("000/start", [DEMONSTRATION]), ("001/collect", [ROLLOUT]), ("001/evaluate", [EVALUATION])):
        append_json_line(run / "journal.jsonl", {"phase": phase, "result": {"episodes": episodes}})
    for step in (1, 2):
        append_json_line(run / "metrics.jsonl", {"phase": "001/fit_value", "step": step, "loss": 1.0 / step})
    append_json_line(run / "events.jsonl", {"event": "episode", "episode_id": ROLLOUT})
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "run")


def _examined(run: Path, whole: Path, **arguments: set[str]) -> Findings:
    told = {"acknowledged": {ROLLOUT, EVALUATION}, "put_aside": set(), **arguments}
    return examine(run, reference=whole, **told)


def test_a_whole_run_is_clean(run: Path, whole: Path) -> None:
    found = _examined(run, whole)
    assert found.is_clean(), found
    assert (found.num_acknowledged, found.spare, found.left_behind) == (2, (), ())
    assert told_episodes(run) == {ROLLOUT}
    assert see(run).units() == 2 + 2 + 2 + 3


def test_a_lost_episode_is_seen_unless_the_fault_destroyed_it(run: Path, whole: Path) -> None:
    gone = "f" * 32
    assert _examined(run, whole, acknowledged={ROLLOUT, gone}).lost == (gone,)
    assert _examined(run, whole, acknowledged={ROLLOUT, gone}, put_aside={gone}).is_clean()


def test_labels_missing_and_doubled_are_seen(run: Path, whole: Path) -> None:
    (log,) = (run / "labels" / "v00000001").glob("*.log")
    first, second = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first)
    assert len(_examined(run, whole).labels_missing) == 1
    log.write_bytes(first + second + first)
    found = _examined(run, whole)
    assert (len(found.labels_doubled), found.labels_missing) == (1, ())
    assert not found.is_clean()


@pytest.mark.parametrize("harm", ["replay/episodes/w0/*/state/c.0.0", "checkpoints/policy_001/model.safetensors"])
def test_damage_under_a_believed_name_is_seen(run: Path, whole: Path, harm: str) -> None:
    victim = next(run.glob(harm))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    assert len(_examined(run, whole).partial_believed) == 1


def test_another_number_or_weight_is_seen(run: Path, whole: Path) -> None:
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("0.5", "0.5000000000000001"))
    assert _examined(run, whole).differs == ("001/fit_value step 2",)
    shutil.rmtree(run / "checkpoints" / "policy_001")
    write_checkpoint(run / "checkpoints" / "policy_001", {"w": torch.zeros(2)}, {"kind": "toy"})
    metrics.write_text("")
    assert _examined(run, whole).differs == ("0 rows of metrics instead of 2", "weights of policy_001")


def test_what_nobody_removed_is_told_and_breaks_nothing(run: Path, whole: Path) -> None:
    (run / "replay" / ".staging" / "dead" / episode_id(9)).mkdir(parents=True)
    (run / "checkpoints" / ".policy_001.abc.partial").mkdir()
    found = _examined(run, whole)
    assert len(found.left_behind) == 2
    assert found.is_clean()


def test_rounds_are_added_to_the_page_and_replace_their_like(tmp_path: Path) -> None:
    page = tmp_path / "faults.md"
    page.write_text("above\n<!-- table: python -m benchmarks.chaos --write -->\n<!-- end of table -->\nbelow\n")
    empty = {name: [] for name in ("lost", "labels_missing", "labels_doubled", "partial_believed", "differs")}
    row = {"fault": FAULTS[0].name, "seed": 0, "ended": "continues", "acknowledged": 10, "recovery_s": 4.0, **empty}
    write_table([row, {**row, "seed": 1, "recovery_s": 8.0, "lost": ["a"]}], tmp_path / "faults")
    write_table([{**row, "seed": 1, "recovery_s": 6.0, "ended": "resumed", "differs": ["x"]}], tmp_path / "faults")
    rows = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert [row["recovery_s"] for row in rows] == [4.0, 6.0]
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert f"| {FAULTS[0].what} | 2 | continues 1, resumed 1 | 20, 0 | 0, 0 | 0 | 1/2 | 5.0 (4.0, 6.0) |" in text
    assert markdown([]).count("\n") == 1


def test_all_faults_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(fault.what in listed for fault in FAULTS)
    with pytest.raises(SystemExit):
        main(["earthquake"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_fault_once() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.chaos"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
