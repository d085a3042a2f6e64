from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from replay_doomed_process import DoomedProcess
from replay_episodes import episode_id

from core.errors import ConfigError, CorruptDataError, SchemaVersionError, StorageFullError
from core.ids import EpisodeId
from core.labels import LabelKey, Labels
from replay import append_log
from replay.label_store import LABEL_SCHEMA_VERSION, LabelStore, MissingLabelsError, parse_record, to_record
from replay.verify import verify_labels


def make_labels(seed: int, value_version: int = 1, offset: float = 0.0) -> Labels:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 9))
    return Labels(
        key=LabelKey(episode_id(seed), value_version),
        value=-rng.random(steps + 1),
        return_=np.full(steps, np.nan) if seed % 2 else -rng.random(steps),
        advantage=rng.normal(size=steps) + offset,
        target="recap c_fail=1.0 t_ref=80",
    )


def assert_same(found: Labels, expected: Labels) -> None:
    assert (found.key, found.target) == (expected.key, expected.target)
    for name in ("value", "return_", "advantage"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(advantage=arrays(np.float32, st.integers(1, 5), elements=st.floats(-1e6, 1e6, width=32)), version=st.integers(0, 10**6))
def test_labels_survive_the_trip_through_a_line_exactly(advantage, version):
    labels = Labels(
        key=LabelKey(EpisodeId("0" * 32), version),
        value=np.append(advantage, np.float32(-0.0)),
        return_=np.full(len(advantage), np.nan),
        advantage=advantage,
        target='"\n',
    )
    line = append_log.encode_line(to_record(labels))
    assert_same(parse_record(append_log.decode_line(line), version, what="line"), labels)


def test_labels_are_kept_by_episode_and_value_version(tmp_path):
    store = LabelStore(tmp_path)
    first, second, newer = make_labels(1), make_labels(2), make_labels(1, value_version=7)
    store.put(first)
    store.put_many([second, newer])
    for reader in (store, LabelStore(tmp_path)):
        assert_same(reader.get(episode_id(1), 1), first)
        assert_same(reader.get(episode_id(1), 7), newer)
        many = reader.get_many([episode_id(2), episode_id(1)], 1)
        assert_same(many[0], second)
        assert_same(many[1], first)
        assert reader.has(episode_id(2), 1)
        assert not reader.has(episode_id(2), 7)
        ids = [episode_id(seed) for seed in (3, 2, 1)]
        assert reader.unlabelled(7, ids) == ids[:2]
        assert reader.unlabelled(8, ids) == ids
        assert reader.value_versions() == [1, 7]
    assert verify_labels(tmp_path).num_labels == 3


def test_missing_labels_are_a_key_error_that_names_episode_and_version(tmp_path):
    store = LabelStore(tmp_path)
    store.put(make_labels(1, value_version=3))
    with pytest.raises(MissingLabelsError, match=rf"{episode_id(2)} \(1 of 2 .*value version 3; versions with labels: \[3\]"):
        store.get_many([episode_id(1), episode_id(2)], 3)
    with pytest.raises(KeyError):
        store.get(episode_id(1), 4)
    with pytest.raises(ConfigError, match="value_version is -1"):
        store.has(episode_id(1), -1)


def test_the_same_key_twice_is_said_once_and_the_first_stays(tmp_path):
    first, other = LabelStore(tmp_path), LabelStore(tmp_path)
    first.put(make_labels(1))
    other.put(make_labels(1, offset=5.0))
    first.put_many([make_labels(1, offset=6.0), make_labels(2), make_labels(2, offset=7.0)])
    for store in (first, other, LabelStore(tmp_path)):
        assert_same(store.get(episode_id(1), 1), make_labels(1))
        assert_same(store.get(episode_id(2), 1), make_labels(2))
    assert verify_labels(tmp_path).num_labels == 2


def test_two_stores_see_what_the_other_puts(tmp_path):
    first, other = LabelStore(tmp_path), LabelStore(tmp_path)
    for seed in range(4):
        (first, other)[seed % 2].put(make_labels(seed))
        assert first.has(episode_id(seed), 1)
        assert other.has(episode_id(seed), 1)


def test_a_torn_line_costs_only_itself(tmp_path):
    store = LabelStore(tmp_path)
    store.put(make_labels(1))
    store.put(make_labels(2))
    (log,) = tmp_path.glob("v*/*.log")
    log.write_bytes(log.read_bytes()[:-5])
    reader = LabelStore(tmp_path)
    assert reader.unlabelled(1, [episode_id(1), episode_id(2)]) == [episode_id(2)]
    report = verify_labels(tmp_path)
    assert not report.damage
    assert len(report.notes) == 1
    reader.put(make_labels(2))
    assert LabelStore(tmp_path).has(episode_id(2), 1)


def test_damage_is_named_and_says_that_labels_can_be_made_again(tmp_path):
    store = LabelStore(tmp_path)
    store.put(make_labels(1))
    (log,) = tmp_path.glob("v*/*.log")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    with pytest.raises(CorruptDataError, match=rf"{log.name}, line 1: checksum.*Labels can be made again"):
        LabelStore(tmp_path).get(episode_id(1), 1)
    assert len(verify_labels(tmp_path).damage) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"schema_version": LABEL_SCHEMA_VERSION + 1},
            SchemaVersionError,
            f"schema version {LABEL_SCHEMA_VERSION + 1}; .*Update",
        ),
        ({"value_version": 2}, CorruptDataError, "value_version is 2; expected 1"),
        ({"advantage": "AAA"}, CorruptDataError, "is no labels"),
        ({"episode_id": "x"}, CorruptDataError, "not an episode id"),
    ],
)
def test_a_line_that_is_no_labels_of_this_version_is_refused(tmp_path, change, error, message):
    folder = tmp_path / "v00000001"
    folder.mkdir()
    (folder / "x.log").write_bytes(append_log.encode_line({**to_record(make_labels(1)), **change}))
    with pytest.raises(error, match=message):
        LabelStore(tmp_path).has(episode_id(1), 1)
    assert len(verify_labels(tmp_path).damage) == 1


def test_a_full_disk_stores_nothing(tmp_path, monkeypatch):
    store = LabelStore(tmp_path)
    store.put(make_labels(1))
    with monkeypatch.context() as patch:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(append_log.os, "fsync", full)
        with pytest.raises(StorageFullError, match="labels of 1 episodes under value version 1; nothing of it"):
            store.put(make_labels(2))
    assert not store.has(episode_id(2), 1)
    store.put(make_labels(2))
    assert_same(LabelStore(tmp_path).get(episode_id(2), 1), make_labels(2))


def test_a_forked_child_writes_a_log_of_its_own(tmp_path):
    store = LabelStore(tmp_path)
    store.put(make_labels(1))
    child = os.fork()
    if child == 0:
        store.put(make_labels(2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.put(make_labels(3))
    assert len(list(tmp_path.glob("v*/*.log"))) == 2
    assert LabelStore(tmp_path).unlabelled(1, map(episode_id, (1, 2, 3))) == []


def put_for_ever(root: Path, seed: int) -> Iterator[int]:
    store = LabelStore(root)
    while True:
        store.put(make_labels(seed))
        yield seed
        seed += 1


def test_no_acknowledged_labels_are_lost_when_the_process_is_killed(tmp_path):
    acknowledged: set[int] = set()
    for kill in range(4):
        labeller = DoomedProcess(put_for_ever(tmp_path, kill * 10_000))
        labeller.await_first()
        time.sleep(0.01)
        labeller.kill()
        acknowledged |= labeller.heard()
    store = LabelStore(tmp_path)
    for seed in acknowledged:
        assert_same(store.get(episode_id(seed), 1), make_labels(seed))
    assert len(acknowledged) >= 4
    assert verify_labels(tmp_path).damage == []
