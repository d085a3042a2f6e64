from __future__ import annotations

import dataclasses
import errno
import json
import pickle
from pathlib import Path

import pytest
import torch
from checkpoint_toys import ARM, CHUNK, CONVENTIONS, SPEC, write_policy
from safetensors.torch import save_file

import core.durable as disk
from checkpoints.canonical import canonical_json, sha256_of
from checkpoints.contract import Contract, Conventions, LiveCapabilities, first_difference, with_contract
from checkpoints.directory import file_sha256, read_checkpoint, read_manifest
from checkpoints.store import CheckpointStore
from core.errors import CheckpointError, NonFiniteError, StorageFullError


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "store")


@pytest.fixture
def checkpoint(tmp_path, store):
    return store.add(write_policy(tmp_path / "policy"), training_run="run1")


def blob_of(store: CheckpointStore, checkpoint: str, name: str) -> Path:
    (file,) = [file for file in store.manifest(checkpoint).files if file.name == name]
    return store.root / "blobs/sha256" / file.sha256


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_is_named_by_its_manifest_and_comes_out_as_it_went_in(tmp_path, store, checkpoint):
    content = (store.root / "manifests" / f"{checkpoint}.json").read_bytes()
    assert sha256_of(content) == checkpoint
    assert canonical_json(json.loads(content)) == content
    store.materialise(checkpoint, tmp_path / "out")
    for name in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "policy" / name).read_bytes()
    tensors, _ = read_checkpoint(tmp_path / "out")
    assert torch.equal(tensors["weight"], torch.zeros(3))


def test_adding_twice_and_from_two_places_gives_one_checkpoint(tmp_path, store, checkpoint):
    files = sorted(store.root.rglob("*"))
    assert store.add(tmp_path / "policy", training_run="run1") == checkpoint
    assert store.add(write_policy(tmp_path / "twin"), training_run="run1") == checkpoint
    assert sorted(store.root.rglob("*")) == files
    assert store.add(tmp_path / "policy", training_run="run2") != checkpoint
    assert len(list((store.root / "blobs/sha256").iterdir())) == 2


def test_a_linked_checkpoint_shares_its_bytes(tmp_path, store):
    directory = write_policy(tmp_path / "policy")
    checkpoint = store.add(directory, is_linked=True)
    assert blob_of(store, checkpoint, "model.safetensors").samefile(directory / "model.safetensors")
    store.verify(checkpoint)
    flip(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="is damaged: model"):
        store.verify(checkpoint)


def test_a_checkpoint_is_found_by_how_its_id_begins(tmp_path, store, checkpoint):
    assert store.resolve(checkpoint[:6]) == checkpoint
    for text, message in (
        ("zzzzzz", "expected 6 to 64"),
        (checkpoint[:5], "expected 6 to 64"),
        ("000000", "no single checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=message):
            store.resolve(text)


def test_altered_weights_are_found_before_they_are_used(tmp_path, store, checkpoint):
    flip(blob_of(store, checkpoint, "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"damaged: model\.safetensors .* sha256 [0-9a-f]{64}; expected"):
        store.verify(checkpoint)
    with pytest.raises(CheckpointError, match="damaged"):
        store.materialise(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_half_copied_blob_is_found_and_adding_again_mends_it(tmp_path, store, checkpoint, share):
    blob = blob_of(store, checkpoint, "model.safetensors")
    whole = blob.read_bytes()
    blob.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=rf"model\.safetensors has {int(share * len(whole))} bytes"):
        store.verify(checkpoint)
    assert store.add(tmp_path / "policy", training_run="run1") == checkpoint
    store.verify(checkpoint)


def test_a_missing_blob_is_named(store, checkpoint):
    blob_of(store, checkpoint, "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"lacks manifest\.json"):
        store.verify(checkpoint)


def test_an_altered_manifest_is_found(store, checkpoint):
    path = store.root / "manifests" / f"{checkpoint}.json"
    path.write_bytes(path.read_bytes().replace(b"positive_opens", b"positive_close"))
    with pytest.raises(CheckpointError, match=r"manifest of checkpoint .* was altered"):
        store.verify(checkpoint)


def test_an_altered_directory_is_not_added(tmp_path, store):
    directory = write_policy(tmp_path / "policy")
    flip(directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        store.add(directory)
    assert store.ids() == ()


def test_pickles_are_refused_under_their_own_name_and_under_a_false_one(tmp_path, store):
    directory = write_policy(tmp_path / "policy")
    (directory / "optimizer.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"'optimizer\.pt' is refused: .*safetensors"):
        store.add(directory)
    (directory / "optimizer.pt").rename(directory / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: it is not safetensors"):
        store.add(directory)
    weights, manifest = directory / "model.safetensors", directory / "manifest.json"
    (directory / "optimizer.safetensors").unlink()
    weights.write_bytes(pickle.dumps({"weight": [0.0]}))
    record = {"bytes": weights.stat().st_size, "sha256": file_sha256(weights)}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "weights": record}))
    with pytest.raises(CheckpointError, match="it is not safetensors"):
        store.add(directory)
    assert store.ids() == ()


def test_a_link_out_of_the_directory_is_refused(tmp_path, store):
    directory = write_policy(tmp_path / "policy")
    (directory / "notes.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(CheckpointError, match="plain files only"):
        store.add(directory)


def test_weights_that_are_not_finite_are_refused(tmp_path, store):
    directory = write_policy(tmp_path / "policy")
    save_file({"weight": torch.tensor([float("nan")])}, directory / "extra.safetensors")
    with pytest.raises(NonFiniteError, match="'weight'"):
        store.add(directory)


def test_a_parent_must_be_in_the_store(tmp_path, store, checkpoint):
    child = store.add(write_policy(tmp_path / "child", 1.0), parent=checkpoint)
    assert store.manifest(child).parent == checkpoint
    with pytest.raises(CheckpointError, match="is missing"):
        store.add(write_policy(tmp_path / "orphan", 2.0), parent="0" * 64)


def test_a_full_disk_leaves_no_checkpoint_behind_and_a_later_try_succeeds(tmp_path, store, monkeypatch):
    directory = write_policy(tmp_path / "policy")

    def full(descriptor, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", full)
        with pytest.raises(StorageFullError, match="disk full while storing checkpoint"):
            store.add(directory)
    assert store.ids() == ()
    assert store.leftovers() == ()
    store.verify(store.add(directory))


# -- the contract ------------------------------------------------------------------------------------------------------


def changed(**action) -> LiveCapabilities:
    return dataclasses.replace(
        ARM, env_spec=dataclasses.replace(SPEC, action=dataclasses.replace(SPEC.action, **action)), robot="other"
    )


@pytest.mark.parametrize(
    ("live", "message"),
    [
        (ARM, None),
        (changed(names=("gripper", "dx")), "action 0 is 'dx' for the checkpoint, 'gripper' for the robot"),
        (changed(units=("mm", "1")), "unit of action 0 is 'm' for the checkpoint, 'mm' for the robot"),
        (changed(high=(0.05, 1.0)), "action dx of the checkpoint may be -0.1 to 0.1 m, the robot accepts -0.1 to 0.05"),
        (changed(high=(0.2, 1.0)), None),
        (changed(control_hz=10.0), "control rate is 5 Hz for the checkpoint, 10 Hz for the robot"),
        (
            dataclasses.replace(ARM, conventions=dataclasses.replace(CONVENTIONS, gripper="positive_closes")),
            "gripper convention is positive_opens for the checkpoint, positive_closes for the robot",
        ),
        (dataclasses.replace(ARM, conventions=Conventions()), "frame convention of the robot is undeclared"),
        (dataclasses.replace(ARM, max_chunk_length=3), "a chunk has 4 actions, the robot queues at most 3"),
        (dataclasses.replace(ARM, crop="centre square"), "images are cropped to 'whole view' for the checkpoint"),
        (
            dataclasses.replace(ARM, env_spec=dataclasses.replace(SPEC, cameras=())),
            "camera 'wrist' is missing; the robot has none",
        ),
        (
            dataclasses.replace(
                ARM, env_spec=dataclasses.replace(SPEC, cameras=(dataclasses.replace(SPEC.cameras[0], height_px=16),))
            ),
            "camera 'wrist' is 12 x 16 px (height x width) for the checkpoint, 16 x 16 px for the robot",
        ),
    ],
)
def test_the_first_difference_to_a_robot_is_said_in_words(store, checkpoint, live, message):
    found = first_difference(store.manifest(checkpoint).contract, live)
    assert found == message if message is None else found.startswith(message)


def test_the_contract_is_derived_from_the_checkpoint(store, checkpoint):
    contract = store.manifest(checkpoint).contract
    assert contract.env_spec == SPEC
    assert (contract.chunk_length, contract.conventions) == (CHUNK, CONVENTIONS)
    assert contract.instruction_form == "hashed text with advantage indicator"


def test_conventions_are_declared_once_and_without_contradiction(tmp_path, store):
    silent = write_policy(tmp_path / "silent", conventions=None)
    assert store.manifest(store.add(silent)).contract.conventions == Conventions()
    assert store.manifest(store.add(silent, conventions=CONVENTIONS)).contract.conventions == CONVENTIONS
    with pytest.raises(CheckpointError, match="declared 'tool', but the checkpoint says 'base'"):
        store.add(write_policy(tmp_path / "saying"), conventions=Conventions(frame="tool"))
    with pytest.raises(CheckpointError, match="expected one of base, tool"):
        Conventions(frame="flange")


def test_a_contract_in_the_manifest_must_be_that_of_the_model(tmp_path, store):
    own = read_manifest(write_policy(tmp_path / "own"))["contract"]
    assert own == json.loads(json.dumps(store.manifest(store.add(tmp_path / "own")).contract.to_json()))
    for name, says in (("chunk_length", 8), ("crop", "centre square"), ("normalizer_digest", "00"), ("model_image_px", [1, 1])):
        altered = write_policy(tmp_path / name, conventions=None, contract={**own, name: says})
        with pytest.raises(CheckpointError, match=rf"contract says {name} .*, but the model was saved with"):
            store.add(altered)
    for damaged in ({}, {**own, "crop_px": 3}, {**own, "env_spec": {}}):
        with pytest.raises(CheckpointError, match="damaged contract"):
            Contract.of_manifest({**read_manifest(tmp_path / "own"), "contract": damaged})


@pytest.mark.parametrize("kind", ["policy", "value"])
def test_the_shipped_weights_need_no_declaration(kind):
    shipped = Path(__file__).parent.parent / "weights"
    contract = Contract.of_manifest(read_manifest(shipped / "simpler_google" / kind))
    assert contract.conventions == Conventions(frame="base", rotation="axis_angle", gripper="positive_closes")
    assert contract.chunk_length == (6 if kind == "policy" else 0)
    assert sum(file.stat().st_size for file in shipped.rglob("*") if file.is_file()) < 25e6


def test_a_contract_follows_a_change_of_the_model_and_keeps_its_conventions(tmp_path):
    manifest = read_manifest(write_policy(tmp_path / "policy"))
    changed_manifest = {**manifest, "config": {**manifest["config"], "use_indicator": False}}
    renewed = json.loads(json.dumps(with_contract(changed_manifest, Conventions())["contract"]))
    assert renewed == {**manifest["contract"], "instruction_form": "hashed text"}
    with pytest.raises(CheckpointError, match="gripper convention is declared 'positive_closes'"):
        with_contract(manifest, Conventions(gripper="positive_closes"))


def test_other_normalisation_gives_another_digest(tmp_path, store, checkpoint):
    other = {"action": {"low": [-1, -1], "high": [1, 2]}, "state": {"low": [0, 0], "high": [1, 1]}}
    changed_id = store.add(write_policy(tmp_path / "other", normalization=other))
    digests = [store.manifest(name).contract.normalizer_digest for name in (checkpoint, changed_id)]
    assert digests[0] != digests[1]
