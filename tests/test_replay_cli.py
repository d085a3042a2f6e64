from __future__ import annotations

import json

import numpy as np
import pytest
from replay_episodes import episode_id, random_episode

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
    status, shown = run_json(capsys, "inspect", root, "--episode", episode_id(2)[:10])
    assert (status, shown["num_steps"], shown["end"]) == (0, 6, EpisodeEnd.TIME_LIMIT.value)
    assert main(["inspect", str(root), "--episode", episode_id(2)]) == 0
    assert "(7, 3, 5, 3)" in capsys.readouterr().out
    assert main(["inspect", str(root), "--episode", "zz"]) == 2
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
    assert all(command in shown for command in ("inspect", "verify", "stats"))
