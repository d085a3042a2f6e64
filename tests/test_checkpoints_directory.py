from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

import checkpoints.directory as directory
from checkpoints.directory import read_checkpoint, read_manifest, write_checkpoint
from core.errors import CheckpointError, NonFiniteError, StorageFullError

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "scale": torch.tensor(2.0, dtype=torch.bfloat16)}
MANIFEST = {"kind": "policy", "model": "videovla", "version": 3}


def test_round_trip_is_exact(tmp_path: Path):
    write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    tensors, manifest = read_checkpoint(tmp_path / "a")
    assert set(tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_checkpoint_is_never_overwritten(tmp_path: Path):
    write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    with pytest.raises(CheckpointError, match="exists already"):
        write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)


def test_altered_weights_are_refused_with_both_digests(tmp_path: Path):
    write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    weights = tmp_path / "a" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"sha256 [0-9a-f]{64}; expected .*sha256 [0-9a-f]{64}"):
        read_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\xff"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        read_manifest(tmp_path / "a")


def test_a_missing_checkpoint_and_missing_weights_are_told_apart(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "nothing")
    write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        read_checkpoint(tmp_path / "a")


def test_a_newer_format_says_so(tmp_path: Path):
    write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    file = tmp_path / "a" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99, this code reads up to 1"):
        read_checkpoint(tmp_path / "a")


def test_nan_weights_are_never_written(tmp_path: Path):
    with pytest.raises(NonFiniteError, match="'weight'"):
        write_checkpoint(tmp_path / "a", {"weight": torch.tensor([float("nan")])}, MANIFEST)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory, "save_file", full)
    with pytest.raises(StorageFullError, match="disk full while writing checkpoint"):
        write_checkpoint(tmp_path / "a", TENSORS, MANIFEST)
    assert not list(tmp_path.iterdir())
