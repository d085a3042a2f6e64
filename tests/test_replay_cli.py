from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from replay_episodes import assert_same_episode, episode_id, random_episode

from core.experience import Collection, EpisodeEnd, Source
from core.labels import LabelKey, Labels
from replay.__main__ import main
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore
from replay.schema import EPISODES_FOLDER


@pytest.fixture
def root(tmp_path):
    store = EpisodeStore(tmp_path, writer_name="worker-1")
    store.append(random_episode(0, steps=4, sources=(Source.HUMAN,), collection=Collection.DEMONSTRATION))
    for seed in (5, 1, 2):
        store.append(random_episode(seed, steps=6, sources=(Source.POLICY,)))
    store.close()
    return tmp_path


def run_json(capsys, *arguments):
    status = main([*map(str, arguments), "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_inspect_lists_the_last_episodes(root, capsys):
    status, listed = run_json(capsys, "inspect", root, "--limit", "2")
    assert status == 0
    assert [entry["episode_id"] for entry in listed] == [episode_id(1), episode_id(2)]
    assert listed[0]["provenance"]["seed"] == 1
    assert main(["inspect", str(root)]) == 0
    assert episode_id(5)[:6] in capsys.readouterr().out


def test_inspect_shows_one_episode_by_the_beginning_of_its_id(root, capsys):
    status, shown = run_json(capsys, "inspect", root, episode_id(2)[:10])
    assert (status, shown["num_steps"], shown["end"]) == (0, 6, EpisodeEnd.TIME_LIMIT.value)
    assert main(["inspect", str(root), episode_id(2)]) == 0
    assert "(7, 3, 5, 3)" in capsys.readouterr().out
    assert main(["inspect", str(root), "zz"]) == 2
    assert "0 episodes begin with 'zz'" in capsys.readouterr().err


def test_stats_count_by_task_and_collection(root, capsys):
    status, groups = run_json(capsys, "stats", root)
    assert status == 0
    assert [(g["task"], g["collection"], g["num_episodes"], g["num_steps"], g["num_human_steps"]) for g in groups] == [
        ("task_0", "demonstration", 1, 4, 4),
        ("task_0", "rollout", 1, 6, 0),
        ("task_1", "rollout", 2, 12, 0),
    ]
    assert [g["num_successes"] for g in groups] == [1, 0, 1]
    assert (groups[2]["policy_version_min"], groups[2]["policy_version_max"]) == (1, 5)
    assert main(["stats", str(root)]) == 0
    assert "50.0%" in capsys.readouterr().out


def test_verify_is_silent_about_a_good_store_and_exits_with_0(root, capsys):
    LabelStore(root / "labels").put(
        Labels(key=LabelKey(episode_id(0), 1), value=np.zeros(2), return_=np.zeros(1), advantage=np.zeros(1), target="recap")
    )
    status, report = run_json(capsys, "verify", root)
    assert (status, report["damage"], report["notes"], report["num_episodes"], report["num_labels"]) == (0, [], [], 4, 1)
    assert main(["verify", str(root)]) == 0
    assert "0 damaged" in capsys.readouterr().out


def test_verify_names_every_damaged_thing_and_exits_with_1(root, capsys):
    group = root / EPISODES_FOLDER / "worker-1"
    (group / episode_id(0) / "reward" / "c.0").unlink()
    shard = group / episode_id(1) / "images" / "overhead_camera" / "c.0.0.0.0"
    shard.write_bytes(b"\xff" + shard.read_bytes()[1:-1] + b"\xff")
    labels = root / "elsewhere"
    (labels / "v00000001").mkdir(parents=True)
    (labels / "v00000001" / "x.log").write_bytes(b"garbage\n")
    status, report = run_json(capsys, "verify", root, "--labels", labels)
    assert status == 1
    assert len(report["damage"]) == 3
    assert f"episode {episode_id(0)}: reward/c.0 is missing" in report["damage"]
    assert any("overhead_camera: the shard's index fails its checksum" in damage for damage in report["damage"])
    assert any("x.log, line 1: checksum" in damage for damage in report["damage"])
    assert main(["verify", str(root)]) == 1
    assert "2 damaged" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "verify", "stats"])
def test_a_folder_that_is_no_store_is_one_line_and_exit_status_2(tmp_path, capsys, command):
    assert main([command, str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "no replay store at" in captured.err
    assert not list(tmp_path.iterdir()), "looking must not make one"


def test_a_label_store_that_is_not_there_is_an_error(root, capsys):
    assert main(["verify", str(root), "--labels", str(root / "nope")]) == 2
    assert "no label store at" in capsys.readouterr().err


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("inspect", "verify", "stats", "repair", "gc", "migrate", "export", "import"))


def test_repair_puts_the_damaged_aside_and_keeps_the_rest(root, capsys):
    group = root / EPISODES_FOLDER / "worker-1"
    (group / episode_id(0) / "reward" / "c.0").unlink()
    (group / "zarr.json").unlink()
    status, planned = run_json(capsys, "repair", root)
    assert (status, planned["num_kept"], planned["num_lost"]) == (0, 3, 1)
    assert main(["verify", str(root)]) == 1, "without --apply nothing may change"
    assert main(["repair", str(root)]) == 0
    assert "add --apply" in capsys.readouterr().out
    status, done = run_json(capsys, "repair", root, "--apply")
    assert (status, done) == (0, planned)
    assert run_json(capsys, "verify", root)[0] == 0
    assert set(EpisodeStore(root).episode_ids()) == {episode_id(1), episode_id(2), episode_id(5)}
    assert (root / "quarantine/worker-1" / episode_id(0) / "zarr.json").is_file()
    assert (root / "quarantine/worker-1.log").is_file()


def test_repair_writes_a_damaged_log_again(root, capsys):
    log = root / "log/worker-1.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + b"junk\n" + lines[2] + lines[3] + lines[0][:10])
    before = log.read_bytes()
    status, done = run_json(capsys, "repair", root, "--apply")
    assert (status, done["num_kept"], done["num_recovered"], done["num_lost"]) == (0, 4, 1, 0)
    assert len(EpisodeStore(root)) == 4
    assert (root / "quarantine/worker-1.log").read_bytes() == before
    assert run_json(capsys, "repair", root)[1]["done"] == []


def test_repair_waits_for_nobody(root, capsys):
    store = EpisodeStore(root, writer_name="worker-1")
    store.append(random_episode(7))
    assert main(["repair", str(root), "--apply"]) == 2
    assert "in use" in capsys.readouterr().err


def test_gc_removes_what_no_log_names_and_old_labels(root, capsys):
    labels = LabelStore(root / "labels")
    for version in (1, 2, 3):
        labels.put(
            Labels(
                key=LabelKey(episode_id(0), version),
                value=np.zeros(2),
                return_=np.zeros(1),
                advantage=np.zeros(1),
                target="recap",
            )
        )
    stray = root / EPISODES_FOLDER / "worker-1" / episode_id(99)
    staged = root / ".staging/worker-1/x"
    for folder in (stray, staged):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"12345")
    status, planned = run_json(capsys, "gc", root, "--labels-before", 3)
    assert status == 0
    assert stray.exists()
    status, done = run_json(capsys, "gc", root, "--labels-before", 3, "--apply")
    assert done == planned
    assert set(done["removed"]) == {str(p) for p in (stray, staged, root / "labels/v00000001", root / "labels/v00000002")}
    assert not stray.exists()
    assert LabelStore(root / "labels").value_versions() == [3]
    assert run_json(capsys, "verify", root)[1]["notes"] == []
    assert len(EpisodeStore(root)) == 4


def test_gc_leaves_a_writer_at_work_alone(root, capsys):
    store = EpisodeStore(root, writer_name="worker-1")
    store.append(random_episode(7))
    staged = root / ".staging/worker-1/half"
    staged.mkdir()
    status, done = run_json(capsys, "gc", root, "--apply")
    assert (status, done["removed"], len(done["skipped"])) == (0, [], 1)
    assert staged.exists()
    assert main(["gc", str(root), "--labels-before", "3"]) == 2
    assert "no label store is given" in capsys.readouterr().err


def test_migrate_copies_goes_on_and_changes_the_encoding(root, tmp_path_factory, capsys):
    target = tmp_path_factory.mktemp("new") / "store"
    LabelStore(root / "labels").put(
        Labels(key=LabelKey(episode_id(1), 4), value=np.zeros(2), return_=np.zeros(1), advantage=np.zeros(1), target="recap")
    )
    status, report = run_json(capsys, "migrate", root, target, "--labels", root / "labels")
    assert (status, report) == (0, {"num_copied": 4, "num_known": 0, "num_labels": 1})
    for found in EpisodeStore(root).episode_ids():
        assert_same_episode(EpisodeStore(target).read(found), EpisodeStore(root).read(found))
    assert LabelStore(target / "labels").has(episode_id(1), 4)
    assert run_json(capsys, "migrate", root, target)[1]["num_known"] == 4
    jpeg = target.parent / "jpeg"
    run_json(capsys, "migrate", root, jpeg, "--image-encoding", "jpeg")
    assert {EpisodeStore(jpeg).info(e).image_encoding.value for e in EpisodeStore(jpeg).episode_ids()} == {"jpeg"}
    assert main(["migrate", str(root), str(root)]) == 2


def test_export_and_import_a_data_set(root, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("exchange")
    status, report = run_json(capsys, "export", root, folder / "set", "--codec", "lossless", "--task", "task_1")
    assert (status, report["num_episodes"]) == (0, 2)
    arguments = ("import", folder / "store", folder / "set", "--image-encoding", "raw")
    assert run_json(capsys, *arguments) == (0, {"num_imported": 2, "num_known": 0})
    assert run_json(capsys, *arguments) == (0, {"num_imported": 0, "num_known": 2})
    for found in EpisodeStore(folder / "store").episode_ids():
        assert_same_episode(EpisodeStore(folder / "store").read(found), EpisodeStore(root).read(found))
    assert main(["export", str(root), str(folder / "set")]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["export", str(root), str(folder / "none"), "--collection", "evaluation"]) == 2
    assert "no episode to export" in capsys.readouterr().err
    assert main(["export", str(root), str(folder / "none"), "--value-version", "1"]) == 2
    assert "no label store at" in capsys.readouterr().err
    assert main(["import", str(folder / "other"), str(folder / "nothing")]) == 2
    assert "is no LeRobot data set" in capsys.readouterr().err
    assert not (folder / "other").exists(), "a store must not appear for a data set that cannot be read"


@pytest.mark.parametrize(("form", "extra"), [("mcap", "viva-recap[mcap]"), ("rerun", "viva-recap[rerun]")])
def test_an_extra_that_is_missing_is_named(root, tmp_path, capsys, monkeypatch, form, extra):
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert main(["export", str(root), str(tmp_path / "x"), "--format", form]) == 2
    assert "4 episodes are selected" in capsys.readouterr().err
    assert main(["export", str(root), str(tmp_path / "x"), "--format", form, "--episode", episode_id(1)]) == 2
    assert extra in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
