"""Measuring with fixed seeds: resumable, the same seeds for everyone, one clear refusal of what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from learner_toys import ReachPolicy, ReachValue, toy_from_checkpoint

from actors.collection import Purpose, committed, episode_seeds, evaluation_seeds
from actors.evaluate import environment_record, evaluate, main
from actors.outcomes import Outcome, summarise
from actors.rollout_runner import RolloutRunner
from checkpoints.directory import read_manifest, write_checkpoint
from configs import build
from configs.load import load_config
from core.errors import CheckpointError, ConfigError, SpecError
from core.experience import Collection
from core.ids import digest
from envs.fake import ReachEnv
from learners.display import Display

QUIET = Display(quiet=True)


def _config(checkpoint: str, *changes: str):
    return load_config(
        None, [f"checkpoint={checkpoint}", "episodes=6", "workers=0", "tracking.num_videos=0", *changes], family="fake"
    )


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.presets, "from_checkpoint", toy_from_checkpoint)


def _policy(tmp_path: Path, *, width_px: int = 32, gain: float = 1.0, version: int = 3) -> Path:
    policy = ReachPolicy(ReachEnv(image_height_px=32, image_width_px=width_px).env_spec)
    policy.gain.data.fill_(gain)
    policy.version = version
    path = tmp_path / f"policy_{width_px}_{gain}"
    write_checkpoint(path, *policy.to_checkpoint())
    return path


def test_a_policy_is_measured_and_more_episodes_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = _policy(tmp_path), tmp_path / "run"
    first = evaluate(_config(str(path)), run, display=QUIET)
    assert (first.num_episodes, first.success) == (6, 1.0)
    played = []
    run_episode = RolloutRunner.run_episode
    monkeypatch.setattr(
        RolloutRunner, "run_episode", lambda self, seed, **kw: (played.append(seed), run_episode(self, seed, **kw))[1]
    )
    assert evaluate(_config(str(path), "episodes=8"), run, display=QUIET).num_episodes == 8
    assert played == evaluation_seeds(0, 8)[6:]
    record = json.loads((run / "evaluation.json").read_text())
    assert [row["seed"] for row in record["episodes"]] == evaluation_seeds(0, 8)
    assert record["num_episodes"] == 8
    assert record["checkpoint_digest"] == digest(read_manifest(path))
    assert record["environment_digest"] == digest(record["environment"])


@pytest.mark.parametrize("change", ["rollout.replan_steps=1", "env.image_width_px=64", "evaluation.first_seed=7"])
def test_another_environment_has_another_digest(change: str) -> None:
    assert environment_record(_config("hold")) == environment_record(_config("hold", "episodes=9", "seed=3"))
    assert environment_record(_config("hold", change)) != environment_record(_config("hold"))


def test_an_evaluation_of_no_policy_names_no_checkpoint(tmp_path: Path) -> None:
    evaluate(_config("hold"), tmp_path / "run", display=QUIET)
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["checkpoint_digest"] is None


def test_players_without_a_policy(tmp_path: Path) -> None:
    # A second of noise does not reach a goal that is cells away; the expert does; holding never does.
    assert evaluate(_config("hold"), tmp_path / "hold", display=QUIET).success < 0.4
    assert evaluate(_config("expert", "players.expert_quality=clean"), tmp_path / "expert", display=QUIET).success == 1.0
    assert evaluate(_config("random"), tmp_path / "random", display=QUIET).mean_steps > 5


def test_videos_are_written(tmp_path: Path) -> None:
    evaluate(_config("hold", "episodes=2", "tracking.num_videos=1"), tmp_path / "run", display=QUIET)
    (video,) = (tmp_path / "run" / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


def test_a_folder_serves_one_subject(tmp_path: Path) -> None:
    evaluate(_config("hold"), tmp_path / "run", display=QUIET)
    with pytest.raises(ConfigError, match="another configuration"):
        evaluate(_config("random"), tmp_path / "run", display=QUIET)


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to evaluate: set checkpoint=PATH"):
        evaluate(_config(""), tmp_path / "run", display=QUIET)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        evaluate(_config("expart"), tmp_path / "run", display=QUIET)
    with pytest.raises(SpecError, match="made for another cameras specification"):
        evaluate(_config(str(_policy(tmp_path, width_px=64))), tmp_path / "wide", display=QUIET)
    value = ReachValue(ReachEnv(image_height_px=32, image_width_px=32).env_spec)
    write_checkpoint(tmp_path / "value", *value.to_checkpoint())
    with pytest.raises(CheckpointError, match="holds a 'value'; expected a 'policy'"):
        evaluate(_config(str(tmp_path / "value")), tmp_path / "value_run", display=QUIET)


def test_the_command_prints_success_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "fake", "checkpoint=hold", "episodes=2", "workers=0", "tracking.num_videos=0", "--run", str(tmp_path)]
    assert main(arguments) == 0
    assert "Wilson 95 %" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_episodes"] == 2
    assert main(["--env", "fake", "checkpoint=nowhere", "--run", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_wilsons_interval() -> None:
    rows = [Outcome(seed=i, is_success=i < 23, is_success_once=i < 25, num_steps=10) for i in range(50)]
    found = summarise(rows)
    # Wilson 1927 by hand: centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p q / n + z^2 / 4 n^2) / (1 + z^2/n).
    z, n, p = 1.959964, 50, 0.46
    centre, scale = (p + z * z / (2 * n)) / (1 + z * z / n), 1 + z * z / n
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    assert (found.success_low, found.success_high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert found.success_once == 0.5
    assert found.text == "46 % (33-60), 23/50"
    with pytest.raises(ValueError, match="no episode"):
        summarise([])


def test_seeds_never_meet() -> None:
    assert len(set(episode_seeds(0, 1, 500))) == 500
    assert not set(episode_seeds(0, 1, 500)) & set(episode_seeds(0, 2, 500))
    assert not set(episode_seeds(0, 1, 500)) & set(evaluation_seeds(0, 500))


def test_an_episode_committed_twice_counts_once(tmp_path: Path) -> None:
    config = _config("hold")
    runner, store = build.make_runner(config, "r", "w"), build.open_store(config, tmp_path, "w")
    runner.load_policy(_policy(tmp_path))
    for seed in (5, 5, 6):
        store.append(runner.run_episode(seed, collection=Collection.ROLLOUT))
    purpose = Purpose(run="r", collection=Collection.ROLLOUT)
    assert list(committed(store, purpose, [6, 5, 7])) == [6, 5]
    assert committed(store, Purpose(run="other", collection=Collection.ROLLOUT), [5]) == {}
    assert committed(store, Purpose(run="r", collection=Collection.EVALUATION), [5]) == {}
