"""RLDS steps become episodes; an episode becomes messages of an MCAP file."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from replay_episodes import SPEC, random_episode

from core.errors import ConfigError, SpecError
from core.experience import EpisodeEnd, Source
from core.labels import LabelKey, Labels
from replay.jpeg import decode_jpeg
from replay.mcap_export import episode_messages, export_mcap
from replay.rlds_import import RldsImportConfig, read_rlds, rlds_episode

CONFIG = RldsImportConfig(env_spec=SPEC, state_key="joints+gripper", action_key="move+grip")


def rlds_steps(num=4, *, is_terminal=True, reward=1.0):
    rng = np.random.default_rng(0)
    return [
        {
            "observation": {
                **{c.name: rng.integers(0, 256, (c.height_px, c.width_px, 3), dtype=np.uint8) for c in SPEC.cameras},
                "joints": np.float32([t]),
                "gripper": np.float32([10 + t]),
            },
            "action": {"move": np.float64([t, t + 1]), "grip": np.float64(t + 2)},
            "reward": reward if t == num - 2 else 0.0,
            "is_first": t == 0,
            "is_last": t == num - 1,
            "is_terminal": is_terminal and t == num - 1,
            "language_instruction": b"pick the can",
        }
        for t in range(num)
    ]


def test_rlds_steps_become_an_episode():
    steps = rlds_steps()
    episode = rlds_episode(steps, CONFIG, seed=3)
    assert (episode.num_steps, episode.instruction, episode.end) == (3, "pick the can", EpisodeEnd.SUCCESS)
    np.testing.assert_array_equal(episode.executed_action, [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    np.testing.assert_array_equal(episode.state, [[0, 10], [1, 11], [2, 12], [3, 13]])
    np.testing.assert_array_equal(episode.reward, [0, 0, 1])
    np.testing.assert_array_equal(episode.images["wrist"][3], steps[3]["observation"]["wrist"])
    np.testing.assert_allclose(episode.time_s, np.arange(4) / 3)
    assert set(episode.source) == {Source.HUMAN}
    assert rlds_episode(steps, CONFIG, seed=3).episode_id == episode.episode_id
    assert rlds_episode(rlds_steps(5), CONFIG).episode_id != episode.episode_id


def test_how_an_rlds_episode_ended():
    assert rlds_episode(rlds_steps(is_terminal=False), CONFIG).end is EpisodeEnd.TIME_LIMIT
    unknown = replace(CONFIG, end=EpisodeEnd.FAILURE)
    assert rlds_episode(rlds_steps(reward=0.0), unknown).end is EpisodeEnd.FAILURE


def test_rlds_that_does_not_fit_is_named():
    with pytest.raises(SpecError, match="at least two"):
        rlds_episode(rlds_steps(1), CONFIG)
    with pytest.raises(SpecError, match="'arm' is missing"):
        rlds_episode(rlds_steps(), replace(CONFIG, state_key="arm"))
    with pytest.raises(SpecError, match="executed_action"):
        rlds_episode(rlds_steps(), replace(CONFIG, action_key="move"))


def test_reading_rlds_files_names_its_extra_and_a_wrong_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"viva-recap\[rlds\]"):
        next(read_rlds(tmp_path, CONFIG))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", ModuleType("tensorflow_datasets"))
    with pytest.raises(ConfigError, match=r"dataset_info\.json is missing"):
        next(read_rlds(tmp_path, CONFIG))


def test_an_episode_is_told_in_the_order_of_time():
    episode = random_episode(2, steps=3)
    labels = Labels(
        key=LabelKey(episode.episode_id, 1),
        value=np.float32([-0.5, -0.25, -0.125, 0]),
        return_=np.zeros(3),
        advantage=np.float32([0.5, 0.25, 0]),
        target="recap",
    )
    messages = list(episode_messages(episode, labels))
    times = [message.time_ns for message in messages]
    assert times == sorted(times)
    count = {topic: sum(m.topic == topic for m in messages) for topic in {m.topic for m in messages}}
    assert count == {"/images/overhead_camera": 4, "/images/wrist": 4, "/state": 4, "/action": 3, "/step": 3, "/labels": 4}
    first = {m.topic: m.body for m in reversed(messages)}
    assert first["/labels"] == {"value": -0.5, "advantage": 0.5}
    assert first["/state"] == {"q": episode.state[0, 0], "g": episode.state[0, 1]}
    image = decode_jpeg(np.frombuffer(base64.b64decode(first["/images/wrist"]["data"]), np.uint8))
    assert image.shape == (3, 5, 3)
    assert not [m for m in episode_messages(episode) if m.topic == "/labels"]


def test_mcap_files_are_read_back_by_mcap(tmp_path):
    reader = pytest.importorskip("mcap.reader", reason="needs the extra mcap")
    episode = random_episode(2, steps=3)
    export_mcap(tmp_path / "episode.mcap", episode)
    with (tmp_path / "episode.mcap").open("rb") as file:
        actions = [json.loads(m.data) for _, c, m in reader.make_reader(file).iter_messages() if c.topic == "/action"]
    np.testing.assert_allclose([list(a.values()) for a in actions], episode.executed_action, rtol=1e-6)
    with pytest.raises(ConfigError, match="exists"):
        export_mcap(tmp_path / "episode.mcap", episode)
