from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from replay_doomed_process import DoomedProcess
from replay_episodes import assert_same_episode, episode_id, random_episode

from core.errors import CorruptDataError, SchemaVersionError, StorageFullError
from core.windows import WindowSpec
from replay import append_log, episode_files
from replay.append_log import decode_line, encode_line
from replay.episode_store import EpisodeStore, EpisodeStoreConfig, ImageEncoding
from replay.schema import EPISODES_FOLDER, SCHEMA_VERSION
from replay.verify import verify_episodes


def folder(root: Path, seed: int, writer: str = "w0") -> Path:
    return root / EPISODES_FOLDER / writer / episode_id(seed)


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x40
    path.write_bytes(content)


@pytest.fixture
def store(tmp_path):
    store = EpisodeStore(tmp_path)
    for seed in range(3):
        store.append(random_episode(seed, steps=4))
    return store


def test_a_torn_last_line_is_ignored_by_readers_and_cut_off_by_its_writer(tmp_path, store):
    store.close()
    log = tmp_path / "log" / "w0.log"
    whole = log.read_bytes()
    log.write_bytes(whole + encode_line({"episode_id": episode_id(9), "group_sha256": ""})[:-1])
    reader = EpisodeStore(tmp_path)
    assert reader.episode_ids() == tuple(map(episode_id, range(3)))
    report = verify_episodes(tmp_path)
    assert not report.damage
    assert any("torn" in note or "tore" in note for note in report.notes)
    store.append(random_episode(4))
    reader.refresh()
    assert reader.episode_ids() == tuple(map(episode_id, (0, 1, 2, 4)))
    assert log.read_bytes().startswith(whole)
    assert not verify_episodes(tmp_path).notes


def test_a_damaged_line_is_named_with_its_log_and_number(tmp_path, store):
    store.close()
    log = tmp_path / "log" / "w0.log"
    flip(log, len(log.read_bytes()) // 2)
    with pytest.raises(CorruptDataError, match=r"w0\.log, line 2: checksum"):
        EpisodeStore(tmp_path)
    with pytest.raises(CorruptDataError, match=r"w0\.log, line 2"):
        store.append(random_episode(5))
    assert len(verify_episodes(tmp_path).damage) == 1


def test_a_log_that_got_shorter_and_a_line_of_something_else_are_damage(tmp_path, store):
    log = tmp_path / "log" / "w0.log"
    content = log.read_bytes()
    log.write_bytes(content[:-10])
    with pytest.raises(CorruptDataError, match="logs only grow"):
        store.refresh()
    log.write_bytes(content + encode_line({"something": "else"}))
    with pytest.raises(CorruptDataError, match="something"):
        EpisodeStore(tmp_path)
    assert any("something" in damage for damage in verify_episodes(tmp_path).damage)


def test_a_line_decodes_to_what_was_encoded_or_is_refused():
    record = {"text": 'ä "\n', "number": 1.5}
    line = encode_line(record)
    assert decode_line(line) == record
    assert line.count(b"\n") == 1
    for position in range(len(line) - 1):
        altered = bytearray(line)
        altered[position] ^= 1
        with pytest.raises(ValueError, match=r"checksum"):
            decode_line(bytes(altered))


def test_a_frame_that_fails_its_checksum_is_named(tmp_path, store):
    path = folder(tmp_path, 1) / "images" / "wrist" / "c.0.0.0.0"
    frame_bytes = 3 * 5 * 3 + 4
    flip(path, 2 * frame_bytes + 7)
    reader = EpisodeStore(tmp_path)
    message = f"episode {episode_id(1)}, camera wrist, frame 2: the frame fails its checksum"
    with pytest.raises(CorruptDataError, match=message):
        reader.read(episode_id(1))
    with pytest.raises(CorruptDataError, match=message):
        reader.windows([episode_id(0), episode_id(1)], np.array([2, 2]), WindowSpec())
    assert len(reader.windows([episode_id(0), episode_id(1)], np.array([2, 3]), WindowSpec())) == 2, "other frames are fine"
    assert verify_episodes(tmp_path).damage[0].endswith("camera wrist, frames [2]")


def test_a_frame_that_is_no_jpeg_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("replay.shard.encode_jpeg", lambda frame, quality: b"not a jpeg")
    store = EpisodeStore(tmp_path, config=EpisodeStoreConfig(image_encoding=ImageEncoding.JPEG))
    store.append(random_episode(1, steps=2))
    with pytest.raises(CorruptDataError, match="camera overhead_camera, frame 0: holds no JPEG"):
        store.read(episode_id(1))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "index fails its checksum; the file is truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "the shard has 50 bytes, less than the index of 5 frames needs"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_truncated_shard_is_named(tmp_path, store, harm, message):
    harm(folder(tmp_path, 2) / "images" / "wrist" / "c.0.0.0.0")
    with pytest.raises(CorruptDataError, match=f"episode {episode_id(2)}, camera wrist.*{message}"):
        EpisodeStore(tmp_path).read(episode_id(2))
    assert len(verify_episodes(tmp_path).damage) == 1


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: flip(path, 3), "fails its checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 35 bytes; expected 36"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_damaged_small_array_is_named(tmp_path, harm, message):
    EpisodeStore(tmp_path).append(random_episode(1, steps=4))
    harm(folder(tmp_path, 1) / "time_s" / "c.0") if "35" not in message else harm(folder(tmp_path, 1) / "state" / "c.0.0")
    with pytest.raises(CorruptDataError, match=f"episode {episode_id(1)}, array"):
        EpisodeStore(tmp_path).read(episode_id(1))


def test_altered_or_missing_metadata_of_an_episode_is_named(tmp_path, store):
    (folder(tmp_path, 0) / "zarr.json").write_bytes(b"{}")
    (folder(tmp_path, 1) / "zarr.json").unlink()
    reader = EpisodeStore(tmp_path)
    with pytest.raises(CorruptDataError, match=f"episode {episode_id(0)}: zarr.json has sha256 .*; the log says"):
        reader.info(episode_id(0))
    with pytest.raises(CorruptDataError, match=f"episode {episode_id(1)}.*is missing though the log names it"):
        reader.info(episode_id(1))
    assert len(verify_episodes(tmp_path).damage) == 2


def test_verify_sees_any_altered_byte_of_any_file(tmp_path, store):
    store.close()
    assert verify_episodes(tmp_path).damage == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert len(files) == 1 + 1 + 1 + 3 * (1 + 1 + 2 * 2 + 10 * 2)
    rng = np.random.default_rng(0)
    for path in files:
        offset = int(rng.integers(path.stat().st_size - 1))
        flip(path, offset)
        assert verify_episodes(tmp_path).damage, f"{path}, byte {offset}"
        flip(path, offset)
    assert verify_episodes(tmp_path).damage == []


def test_a_newer_schema_says_found_supported_and_what_to_do(tmp_path, store):
    root = tmp_path / EPISODES_FOLDER / "zarr.json"
    metadata = json.loads(root.read_text())
    for version, error in ((SCHEMA_VERSION + 1, SchemaVersionError), ("1", CorruptDataError), (0, CorruptDataError)):
        metadata["attributes"]["schema_version"] = version
        root.write_text(json.dumps(metadata))
        with pytest.raises(error, match=r"schema.version"):
            EpisodeStore(tmp_path)
    metadata["attributes"]["schema_version"] = SCHEMA_VERSION + 1
    root.write_text(json.dumps(metadata))
    with pytest.raises(
        SchemaVersionError, match=rf"has schema version {SCHEMA_VERSION + 1}; this code supports .* {SCHEMA_VERSION}\. Update"
    ):
        EpisodeStore(tmp_path)


def test_an_episode_of_a_newer_schema_in_an_older_store_is_named(tmp_path, monkeypatch):
    store = EpisodeStore(tmp_path)
    store.append(random_episode(0))
    with monkeypatch.context() as patch:
        patch.setattr("replay.schema.SCHEMA_VERSION", SCHEMA_VERSION + 1)
        store.append(random_episode(1))
    store.info(episode_id(0))
    with pytest.raises(SchemaVersionError, match=f"episode {episode_id(1)} has schema version {SCHEMA_VERSION + 1}"):
        store.info(episode_id(1))


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("files_before_full", [0, 3, 12, 24])
def test_a_full_disk_while_staging_commits_nothing(tmp_path, store, monkeypatch, files_before_full):
    write_file, written = episode_files.write_file, []

    def fill_up(path, parts):
        if len(written) == files_before_full:
            path.write_bytes(b"half a fi")
            full_disk()
        written.append(path)
        return write_file(path, parts)

    before = store.episode_ids()
    with monkeypatch.context() as patch:
        patch.setattr(episode_files, "write_file", fill_up)
        with pytest.raises(
            StorageFullError, match=f"disk full while storing episode {episode_id(7)}; nothing of it was committed"
        ):
            store.append(random_episode(7))
    assert not list((tmp_path / ".staging" / "w0").iterdir())
    assert store.episode_ids() == EpisodeStore(tmp_path).episode_ids() == before
    store.append(random_episode(7))
    assert_same_episode(store.read(episode_id(7)), random_episode(7))
    report = verify_episodes(tmp_path)
    assert (report.damage, report.notes, report.num_episodes) == ([], [], 4)


def test_a_full_disk_while_the_log_is_written_commits_nothing(tmp_path, store, monkeypatch):
    log = tmp_path / "log" / "w0.log"
    before = log.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(append_log.os, "fsync", lambda descriptor: full_disk() if is_log(descriptor, log) else None)
        with pytest.raises(StorageFullError, match="nothing of it was committed"):
            store.append(random_episode(7))
    assert log.read_bytes() == before
    assert not folder(tmp_path, 7).exists()
    store.append(random_episode(7))
    assert not verify_episodes(tmp_path).damage


def is_log(descriptor: int, log: Path) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").readlink() == log


def append_until_full(store: EpisodeStore) -> int:
    for stored in range(1000):
        try:
            store.append(random_episode(stored, steps=10))
        except StorageFullError:
            return stored
    pytest.fail("the disk never got full")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        store = EpisodeStore(disk)
        stored = append_until_full(store)
        assert stored > 0
        assert EpisodeStore(disk).episode_ids() == tuple(map(episode_id, range(stored)))
        report = verify_episodes(disk)
        assert (report.damage, report.notes, report.num_episodes) == ([], [], stored)
        store.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_only_its_own_writer_removes_what_a_crash_left_in_staging(tmp_path, store):
    store.close()
    left = tmp_path / ".staging" / "w0" / episode_id(8)
    left.mkdir()
    (left / "half").write_bytes(b"x")
    EpisodeStore(tmp_path).refresh()
    EpisodeStore(tmp_path, writer_name="other").append(random_episode(5))
    assert left.exists()
    assert any("left in staging" in note for note in verify_episodes(tmp_path).notes)
    store.append(random_episode(6))
    assert not left.exists()


def test_a_folder_that_no_log_names_does_not_exist_and_is_replaced(tmp_path, store):
    orphan = folder(tmp_path, 4)
    orphan.mkdir()
    (orphan / "zarr.json").write_text("from a crash between rename and log")
    assert episode_id(4) not in EpisodeStore(tmp_path)
    assert any("no log names it" in note for note in verify_episodes(tmp_path).notes)
    store.append(random_episode(4))
    assert_same_episode(store.read(episode_id(4)), random_episode(4))
    assert not verify_episodes(tmp_path).notes


def append_for_ever(root: Path, writer: str, seed: int) -> Iterator[int]:
    store = EpisodeStore(root, writer_name=writer)
    while True:
        store.append(random_episode(seed))
        yield seed
        seed += 1


def kill_loop(root: Path, kills: int) -> tuple[int, int]:
    """Two writers append while both are killed again and again; returns (acknowledged, visible) after the last kill."""
    rng = np.random.default_rng(0)
    reader = EpisodeStore(root, writer_name="reader")
    acknowledged: set[int] = set()
    for kill in range(kills):
        writers = [DoomedProcess(append_for_ever(root, n, s + kill * 10_000)) for n, s in (("a", 0), ("b", 1_000_000))]
        for writer in writers:
            writer.await_first()
        time.sleep(rng.uniform(0, 0.1))
        for writer in writers:
            writer.kill()
        for writer in writers:
            acknowledged |= writer.heard()
        assert verify_episodes(root).damage == []
        reader.refresh()
        assert {episode_id(seed) for seed in acknowledged} <= set(reader.episode_ids())
        assert reader.episode_ids() == EpisodeStore(root).episode_ids(), "following the logs and reading them afresh agree"
    for seed in acknowledged:
        assert_same_episode(reader.read(episode_id(seed)), random_episode(seed))
    return len(acknowledged), len(reader)


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_damaged_or_lost_when_two_writers_are_killed(tmp_path, kills):
    acknowledged, visible = kill_loop(tmp_path, kills)
    print(f"\n{kills} kills of two writers: {acknowledged} acknowledged, {visible} visible, 0 damaged, 0 lost")
    assert acknowledged >= 2 * kills
    # A kill may fall between the log line and its acknowledgement: at most one episode a writer and kill.
    assert acknowledged <= visible <= acknowledged + 2 * kills
