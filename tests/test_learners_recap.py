"""The loop on the fake task, with models small enough to know the answer: it improves, resumes, compares, and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_toys import ReachPolicy, ReachValue, toy_from_checkpoint

from actors.rollout_runner import RolloutRunner
from checkpoints.contract import Contract
from checkpoints.directory import read_checkpoint, write_checkpoint
from configs import build
from configs.conventions import conventions_of
from configs.load import load_config
from configs.schema import ExperimentConfig
from core.command import EXIT_BAD_INPUT, EXIT_FAILED
from core.errors import CheckpointError, ConfigError, NonFiniteError, SpecError, StorageFullError, WorkerError
from core.experience import Collection
from core.labels import Indicator
from envs.fake import ReachEnv
from learners import recap as recap_module
from learners import report as report_module
from learners.batch import PolicyBatches, StepTable, ValueBatches
from learners.compare import compare, paired_difference
from learners.display import Display
from learners.figures import learning_curve
from learners.fit import fit
from learners.policy_learner import PolicyLearner
from learners.recap import main, run_recap
from learners.report_page import REPORT_FILE, write_report_page
from learners.run_directory import RunDirectory, read_json_lines
from learners.train_state import OptimizerConfig
from learners.value_learner import ValueLearner
from replay.sampler import MixConfig, WindowSampler
from value_service.returns import ReturnConfig, value_targets

pytestmark = pytest.mark.whole

SMALL = [
    "execution.num_workers=0",
    "recap.episodes_per_iteration=60",
    "recap.policy.num_steps=150",
    "recap.policy.learning_rate=0.05",
    "recap.policy.warmup_steps=5",
    "recap.policy.weight_decay=0.0",
    "recap.policy.ema_decay=0.9",
    "recap.value.num_steps=150",
    "recap.value.learning_rate=0.02",
    "recap.value.warmup_steps=5",
    "recap.value.ema_decay=0.9",
    "rollout.replan_steps=1",
    "tracking.num_videos=0",
    "tracking.save_every_steps=50",
    "evaluation.num_episodes=100",
]
QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pretrained toy checkpoints and the demonstrations they come from: a folder with policy, value, replay."""
    folder = tmp_path_factory.mktemp("pretrained")
    config = _config(folder)
    runner: RolloutRunner = build.make_runner(config, "demonstrations", "w")
    store = build.open_store(config, folder / "replay", "w")
    for seed in range(60):
        store.append(runner.run_episode(seed, collection=Collection.DEMONSTRATION))
    ids = store.episode_ids()
    optimizer = OptimizerConfig(num_steps=200, learning_rate=0.05, warmup_steps=5, ema_decay=0.9, weight_decay=0.0)
    table = StepTable.build(store, ids, None)
    env_spec = ReachEnv(image_height_px=32, image_width_px=32).env_spec
    policy = PolicyLearner(ReachPolicy(env_spec), optimizer, seed=0)
    batches = PolicyBatches(
        WindowSampler(store, MixConfig(), seed=0),
        policy.policy.window_spec,
        table.index,
        indicator=np.full(table.index.num_rows, Indicator.POSITIVE, np.int8),
        weight=np.ones(table.index.num_rows, np.float32),
        indicator_dropout=0.3,
        batch_size=64,
    )
    fit(policy, batches, folder=folder / "state", save_every_steps=200)
    policy.publish(folder / "policy", version=0, extra={})
    torch.manual_seed(0)
    value = ValueLearner(ReachValue(env_spec), optimizer, seed=0)
    targets = {e: value_targets(store.info(e).num_steps, store.info(e).end, ReturnConfig(task_length_steps=10)) for e in ids}
    windows = WindowSampler(store, MixConfig(), seed=1)
    fit(value, ValueBatches(windows, value.model.window_spec, targets, batch_size=64), folder=folder / "v", save_every_steps=200)
    value.publish(folder / "value", version=0, extra={})
    store.close()
    return folder


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.presets, "from_checkpoint", toy_from_checkpoint)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures and pages are most of a small run's time; one test here makes them."""
    for name in ("learning_curve", "write_report_page"):
        monkeypatch.setattr(report_module, name, lambda *arguments: None)


def _config(start: Path, *changes: str) -> ExperimentConfig:
    paths = [f"recap.{kind}_checkpoint={start / kind}" for kind in ("policy", "value")]
    return load_config(None, [*SMALL, *paths, f"recap.demonstrations={start / 'replay'}", *changes], family="fake")


def _rows(run: Path) -> list[dict[str, Any]]:
    return read_json_lines(run / "metrics.jsonl")


TINY = [
    "iterations=1",
    "recap.episodes_per_iteration=8",
    "recap.policy.num_steps=40",
    "recap.value.num_steps=30",
    "tracking.save_every_steps=10",
    "tracking.log_every_steps=1",
    "evaluation.num_episodes=6",
]


def test_practice_makes_the_policy_better(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "learning_curve", learning_curve)
    monkeypatch.setattr(report_module, "write_report_page", write_report_page)
    rows = run_recap(_config(start, "iterations=1"), tmp_path / "run", display=QUIET)
    assert [row["iteration"] for row in rows] == [0, 1]
    assert rows[0]["success"] < 0.9
    assert rows[1]["success"] > rows[0]["success"] + 0.1
    assert rows[1]["mean_steps"] < rows[0]["mean_steps"] - 1
    assert rows[1]["value_time_correlation"] > 0.9
    assert rows[1]["positive_fraction/rollout"] == pytest.approx(0.4, abs=0.05)
    assert rows[1]["indicator_effect"] > 0.05  # told wrong it does worse: it listens
    policy, manifest = read_checkpoint(tmp_path / "run" / "checkpoints" / "policy_001")
    assert Contract.of_manifest(manifest).conventions == conventions_of("fake")
    absent, negative, positive = policy["gain"].tolist()
    assert positive > absent > negative
    assert RunDirectory(tmp_path / "run").published() == 1
    for name in ("config.yaml", "learning_curve.png", "report.html", "summary.json", "journal.jsonl"):
        assert (tmp_path / "run" / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("phase", "step"), [("001/fit_value", 15), ("001/update_policy", 25)], ids=["in the value fit", "in the policy update"]
)
def test_a_run_interrupted_and_resumed_measures_the_same_to_the_bit(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, step: int
) -> None:
    config = _config(start, *TINY)
    run_recap(config, tmp_path / "straight" / "run", display=QUIET)
    write = recap_module.MetricsLog.write

    def interrupted(self: Any, name: str, at: int, metrics: Any) -> None:
        write(self, name, at, metrics)
        if (name, at) == (phase, step):
            raise KeyboardInterrupt

    broken = tmp_path / "broken" / "run"
    with monkeypatch.context() as patch:
        patch.setattr(recap_module.MetricsLog, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_recap(config, broken, display=QUIET)
    run_recap(config, broken, display=QUIET)
    assert _rows(broken) == _rows(tmp_path / "straight" / "run")
    for name in ("policy_001", "value_001"):
        ours, _ = read_checkpoint(broken / "checkpoints" / name)
        theirs, _ = read_checkpoint(tmp_path / "straight" / "run" / "checkpoints" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    store = build.open_store(config, broken / "replay", "reader")
    assert len(store.episode_ids()) == 8 + 2 * 6  # none lost, none doubled


def test_an_interrupted_collection_plays_only_what_is_missing(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, played = _config(start, *TINY), []
    run_episode = RolloutRunner.run_episode

    def counted(self: Any, seed: int, **kwargs: Any) -> Any:
        if len(played) == 9:
            played.append(-1)
            raise KeyboardInterrupt
        played.append(seed)
        return run_episode(self, seed, **kwargs)

    monkeypatch.setattr(RolloutRunner, "run_episode", counted)
    with pytest.raises(KeyboardInterrupt):
        run_recap(config, tmp_path / "run", display=QUIET)
    run_recap(config, tmp_path / "run", display=QUIET)
    counts = {seed: played.count(seed) for seed in played if seed >= 0}
    # Six starts, eight rollouts, six evaluations: the evaluations' seeds are the same six, everything else once.
    assert sorted(counts.values()) == [1] * 8 + [2] * 6


def test_a_run_that_is_done_is_done_again_in_no_time(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(start, *TINY)
    first = run_recap(config, tmp_path / "run", display=QUIET)
    monkeypatch.setattr(RolloutRunner, "run_episode", None)
    assert run_recap(config, tmp_path / "run", display=QUIET) == first


def test_corrections_are_positive_and_stay_in_the_mix(start: Path, tmp_path: Path) -> None:
    config = _config(start, *TINY, "players.corrected_fraction=1.0", "players.patience_steps=2")
    rows = run_recap(config, tmp_path / "run", display=QUIET)
    assert rows[1]["positive_fraction/correction"] == 1.0


def test_methods_are_compared_on_the_same_rollouts(start: Path, tmp_path: Path) -> None:
    config = _config(start, *TINY, "compare.num_seeds=1", "compare.methods=[recap,awr,filtered_bc,bc]")
    record = compare(config, tmp_path, display=QUIET)
    assert list(record["methods"]) == ["start", "recap", "awr", "filtered_bc", "bc"]
    shared = RunDirectory(tmp_path / "seed_0" / "shared").result("001/collect")["episodes"]
    gains = {}
    for method in ("recap", "awr", "filtered_bc", "bc"):
        store = build.open_store(config, tmp_path / "seed_0" / method / "replay", "reader")
        assert not set(store.episode_ids()) & set(shared)
        assert {store.info(e).provenance.collection for e in store.episode_ids()} == {Collection.EVALUATION}
        tensors, manifest = read_checkpoint(tmp_path / "seed_0" / method / "checkpoints" / "policy_001")
        assert manifest["config"]["use_indicator"] is (method == "recap")
        gains[method] = tensors["gain"].tolist()
    assert gains["recap"][2] > gains["bc"][0]  # told 'positive' it goes further than the average it clones
    assert gains["filtered_bc"][0] > gains["bc"][0]
    assert "| recap |" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.png").stat().st_size > 0
    assert compare(config, tmp_path, display=QUIET) == record


def test_a_paired_difference_counts_what_only_one_side_solves() -> None:
    from actors.outcomes import Outcome

    def made(results: str) -> list[Outcome]:
        return [Outcome(seed=i, is_success=r == "1", is_success_once=r == "1", num_steps=1) for i, r in enumerate(results)]

    found = paired_difference(made("111110"), made("000001"))
    assert (found["only_ours"], found["only_theirs"]) == (5, 1)
    assert found["p_value"] == pytest.approx(2 * 7 / 64)
    assert paired_difference(made("10"), made("10"))["p_value"] == 1.0
    with pytest.raises(ConfigError, match="same evaluation seeds"):
        paired_difference(made("10"), made("1"))


# -- bad input: one line that names the value, what was expected and what to do ------------------------------------------


def _says(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = EXIT_BAD_INPUT) -> str:
    assert main(list(arguments)) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_missing_checkpoint_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = _says(
        capsys, "--env", "fake", "--run", str(tmp_path / "r"), "workers=0",
        f"recap.policy_checkpoint={tmp_path}/nowhere", f"recap.value_checkpoint={tmp_path}/nowhere",
    )  # fmt: skip
    assert "no checkpoint at" in error
    assert "nowhere" in error


def test_no_checkpoint_at_all_says_how_to_make_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = _says(capsys, "--env", "fake", "--run", str(tmp_path / "r"), "workers=0")
    assert "recap.policy_checkpoint is not set" in error
    assert "learners.pretrain" in error


def test_an_unknown_key_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    error = _says(capsys, "--env", "fake", "recap.iteration=2")
    assert "recap.iteration=2" in error
    assert "'recap.iterations'" in error


def test_a_value_checkpoint_in_place_of_the_policy(start: Path, tmp_path: Path) -> None:
    config = _config(start, *TINY, f"recap.policy_checkpoint={start / 'value'}")
    with pytest.raises(CheckpointError, match=r"no config\.use_indicator"):
        run_recap(config, tmp_path / "run", display=QUIET)


def test_a_checkpoint_of_another_environment_is_refused(start: Path, tmp_path: Path) -> None:
    config = _config(start, *TINY, "env.image_width_px=64")
    with pytest.raises(SpecError, match="made for another cameras specification"):
        run_recap(config, tmp_path / "run", display=QUIET)


def test_value_and_policy_of_different_environments_are_refused(start: Path, tmp_path: Path) -> None:
    spec = ReachEnv(image_height_px=64, image_width_px=32).env_spec
    write_checkpoint(tmp_path / "value", *ReachValue(spec).to_checkpoint())
    config = _config(start, *TINY, f"recap.value_checkpoint={tmp_path / 'value'}")
    with pytest.raises(SpecError, match="value checkpoint"):
        run_recap(config, tmp_path / "run", display=QUIET)


def test_another_configuration_does_not_continue_a_run(start: Path, tmp_path: Path) -> None:
    run_recap(_config(start, *TINY), tmp_path / "run", display=QUIET)
    with pytest.raises(ConfigError, match="was started with another configuration"):
        run_recap(_config(start, *TINY, "seed=1"), tmp_path / "run", display=QUIET)


def test_a_run_in_use_is_refused(start: Path, tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run").locked(), pytest.raises(ConfigError, match="in use by another process"):
        run_recap(_config(start, *TINY), tmp_path / "run", display=QUIET)


def test_rollouts_from_a_run_without_labels(start: Path, tmp_path: Path) -> None:
    config = _config(start, *TINY, f"recap.rollouts_from={tmp_path / 'empty'}")
    with pytest.raises(ConfigError, match="no finished phase 001/label"):
        run_recap(config, tmp_path / "run", display=QUIET)


def test_a_nan_in_training_ends_the_run_and_publishes_nothing(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss: Callable[..., Any] = ReachPolicy.loss
    calls = []

    def poisoned(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        found = loss(self, *arguments)
        return found if len(calls) < 5 else type(found)(per_example=found.per_example * torch.nan, metrics={})

    monkeypatch.setattr(ReachPolicy, "loss", poisoned)
    with pytest.raises(NonFiniteError, match="policy learner step 4: loss is nan"):
        run_recap(_config(start, *TINY), tmp_path / "run", display=QUIET)
    assert not (tmp_path / "run" / "checkpoints" / "policy_001").exists()
    assert RunDirectory(tmp_path / "run").published() == 0


def test_a_full_disk_loses_no_committed_episode(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = _config(start, *TINY)
    append = build.EpisodeStore.append
    committed: list[str] = []

    def full_after_nine(self: Any, episode: Any) -> Any:
        if len(committed) == 9:
            raise StorageFullError(28, "disk full while writing an episode; nothing was committed. Free space and resume")
        committed.append(append(self, episode))
        return committed[-1]

    with monkeypatch.context() as patch:
        patch.setattr(build.EpisodeStore, "append", full_after_nine)
        with pytest.raises(StorageFullError):
            run_recap(config, tmp_path / "run", display=QUIET)
    assert list(build.open_store(config, tmp_path / "run" / "replay", "r").episode_ids()) == committed
    rows = run_recap(config, tmp_path / "run", display=QUIET)
    assert rows[1]["num_episodes"] == 6
    assert set(committed) <= set(build.open_store(config, tmp_path / "run" / "replay", "r").episode_ids())


def test_a_dead_worker_is_one_line(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise WorkerError("the episode with seed 5 has killed 2 workers; use fewer workers, then resume")

    monkeypatch.setattr(recap_module, "run_recap", dies)
    assert "seed 5 has killed 2 workers" in _says(capsys, "--env", "fake", "--run", str(tmp_path), status=EXIT_FAILED)


def test_ctrl_c_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recap_module, "run_recap", interrupted)
    assert main(["--env", "fake", "--run", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err


def test_resume_takes_the_runs_own_configuration(start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_recap(_config(start, *TINY), tmp_path / "run", display=QUIET)
    assert main(["--resume", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "iteration 1" in printed
    assert f"look:   {tmp_path / 'run' / REPORT_FILE}" in printed
    assert (Path(printed.rsplit("policy: ")[-1].strip()) / "manifest.json").is_file()
    assert "--resume RUN takes" in _says(capsys, "--resume", str(tmp_path / "run"), "--env", "fake")
    assert "does not exist" in _says(capsys, "--resume", str(tmp_path / "nowhere"))


def test_help_lists_keys_with_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for words in ("recap.episodes_per_iteration=40", "extraction.method=recap", "one of sync, async", "shorthands:"):
        assert words in text


# -- the real models, in processes of their own ---------------------------------------------------------------------------


@pytest.mark.slow
def test_pretraining_survives_ctrl_c_and_recap_runs_async_on_what_it_made(tmp_path: Path) -> None:
    pretrained = tmp_path / "pretrained"
    sizes = ["pretrain.num_demonstrations=6", "pretrain.policy.num_steps=200", "pretrain.value.num_steps=3"]
    sizes += ["pretrain.indicator=computed", "pretrain.is_policy_on_successes_only=false", "pretrain.positive_fraction=0.5"]
    command = [sys.executable, "-m", "learners.pretrain", "--config", "smoke", "--run", str(pretrained), *sizes]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "evaluation.num_episodes=3"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    while process.poll() is None and not list(pretrained.glob("train_state/*/step_*")):
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert error.count("\n") == 1
    assert "interrupted" in error
    store = build.open_store(load_config("smoke"), pretrained / "replay", "reader")
    assert len(store.episode_ids()) == 6
    subprocess.run(
        [sys.executable, "-m", "learners.pretrain", "--resume", str(pretrained)], check=True, env=environment, timeout=500
    )
    assert len(build.open_store(load_config("smoke"), pretrained / "replay", "reader").episode_ids()) == 6 + 3
    told = RunDirectory(pretrained).result("fit_policy")
    assert told["num_episodes"] == 6
    assert told["positive_fraction/demonstration"] == pytest.approx(0.5, abs=0.03)
    assert "indicator_effect" in told
    checkpoints = [f"recap.{kind}_checkpoint={pretrained}/checkpoints/{kind}" for kind in ("policy", "value")]
    budget = [
        "recap.policy.num_steps=5",
        "recap.value.num_steps=3",
        "recap.episodes_per_iteration=3",
        "evaluation.num_episodes=2",
    ]
    done = subprocess.run(
        [
            sys.executable, "-m", "learners.recap", "--config", "smoke", "--run", str(tmp_path / "run"), *checkpoints, *budget,
            f"recap.demonstrations={pretrained}/replay", "schedule=async", "workers=1",
        ],
        capture_output=True, text=True, env=environment, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "policy age of rollouts" in done.stdout
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"]
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert max(row.get("policy_age_max", 0) for row in rows) <= 2
    taken = [RunDirectory(tmp_path / "run").result(f"{k:03d}/collect")["episodes"] for k in (1, 2)]
    assert not set(taken[0]) & set(taken[1])
    assert list((tmp_path / "run" / "videos").glob("*.mp4"))
