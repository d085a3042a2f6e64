"""What a killed process leaves behind is removed once it is certain that it is dead, and never before."""

from __future__ import annotations

from pathlib import Path

import pytest
from replay_episodes import episode_id, random_episode

from cluster.parts import open_parts
from configs.load import load_config
from core.errors import ConfigError, WorkerError
from learners.run_directory import RunDirectory
from replay.episode_store import EpisodeStore
from replay.garbage import collect_leftovers
from replay.verify import verify_episodes


def _die_in_commit(root: Path, writer: str, seed: int) -> None:
    """Leave what a SIGKILL in the middle of a commit leaves: a staged episode, and one renamed that no log names."""
    store = EpisodeStore(root, writer)
    store.append(random_episode(seed))
    store.close()
    for folder in (root / ".staging" / writer / episode_id(seed + 1), root / "episodes" / writer / episode_id(seed + 2)):
        folder.mkdir()
        (folder / "half").write_bytes(b"x" * 100)


def test_leftovers_of_the_dead_go_those_of_the_living_stay(tmp_path: Path) -> None:
    _die_in_commit(tmp_path, "dead", 0)
    living = EpisodeStore(tmp_path, "living")
    living.append(random_episode(10))
    at_work = tmp_path / ".staging" / "living" / episode_id(11)
    at_work.mkdir()
    dry = collect_leftovers(tmp_path, is_dry=True)
    assert len(verify_episodes(tmp_path).notes) == 3
    report = collect_leftovers(tmp_path)
    assert report == dry
    assert len(report.removed) == 2
    assert report.num_bytes == 200
    assert report.skipped[0].startswith("writer living:")
    assert at_work.exists()
    found = verify_episodes(tmp_path)
    assert (found.damage, found.num_episodes, len(found.notes)) == ([], 2, 1)
    living.append(random_episode(12))
    assert EpisodeStore(tmp_path).read(episode_id(12)).num_steps == random_episode(12).num_steps
    assert collect_leftovers(tmp_path).removed == []


def test_a_run_tidies_its_store_before_and_after(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "replay"
    _die_in_commit(store, "w0-before-0", 0)
    config = load_config(None, ["execution.num_workers=0"], family="fake")
    with open_parts(config, run="r", stores=[store], labels=tmp_path / "labels") as opened:
        assert verify_episodes(store).notes == []
        assert opened.store.episode_ids() == (episode_id(0),)
        _die_in_commit(store, "w0-during-0", 5)
    found = verify_episodes(store)
    assert (found.damage, found.notes, found.num_episodes) == ([], [], 2)
    assert caplog.text.count("removed 2 unfinished episodes of dead workers") == 2


def test_a_run_directory_forgets_what_was_being_written_when_it_was_killed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.publish(3)
    staged = [run.checkpoints / ".policy_004.abc.partial", run.train_state("001/fit_value") / ".step_00000005.abc.partial"]
    for folder in staged:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    torn = [run.checkpoints / ".published.json.77.partial", run.path / ".metrics.jsonl.partial"]
    for file in torn:
        file.write_text("{")
    whole = run.train_state("001/fit_value") / "step_00000004"
    whole.mkdir()
    with run.locked(), pytest.raises(ConfigError, match="in use"), RunDirectory(run.path).locked():
        pass
    assert not any(path.exists() for path in (*staged, *torn))
    assert whole.exists()
    assert run.published() == 3


def test_a_result_that_is_amended_is_kept(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.once("001/collect", lambda: {"episodes": ["a", "b"], "success": 0.5})
    assert run.amend("001/collect", {"episodes": ["a", "c"]})["episodes"] == ["a", "c"]
    again = RunDirectory(tmp_path).result("001/collect")
    assert (again["episodes"], again["success"]) == (["a", "c"], 0.5)
    assert "wall_s" in again
    with pytest.raises(ConfigError, match="has not finished phase 001/label"):
        run.amend("001/label", {})


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
def test_a_deadline_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigError, match=r"episode_timeout_s is .*; expected a positive number"):
        load_config(None, [f"execution.episode_timeout_s={timeout_s}"], family="fake")


def test_what_ray_raises_when_it_does_not_start_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from cluster.launch import RayConfig, start_ray

    def starved(**_: object) -> None:
        raise Exception("The current node timed out during startup")

    stopped: list[int] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", starved)
    monkeypatch.setattr(ray, "shutdown", lambda: stopped.append(1))
    with pytest.raises(WorkerError, match=r"no Ray at 192\.0\.2\.1:6379: The current node timed out.*envs\.doctor"):
        start_ray(RayConfig(address="192.0.2.1:6379"))
    assert stopped == [1]
