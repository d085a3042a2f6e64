"""What every value model owes: the service that labels with it, the learner that refits it, whoever loads its checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
from distributed_fakes import CountingLabels
from model_toys import CAMERA
from value_toys import KINDS, clip_windows, demonstrations, fresh_model, refit, small_value_model, window_rows

from checkpoints.directory import read_checkpoint, write_checkpoint
from configs import build
from core.errors import CheckpointError, NonFiniteError, SpecError
from core.labels import Indicator
from learners.batch import StepTable, ValueBatches
from learners.extraction import Extraction, ExtractionConfig, judge, task_thresholds
from models import presets
from models.value import ValuePrediction
from replay.sampler import MixConfig, WindowSampler
from value_service.labeler import LabelerConfig, ValueCheckpoint, VersionedLabeler
from value_service.local_client import LocalValueClient

STEPS = {"vlm": 150}
"""An image encoder that starts from nothing needs more than a codec that was fitted."""


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@functools.cache
def shared_model(kind):
    """One a kind for all tests that only read."""
    return small_value_model(kind)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- predicting -------------------------------------------------------------------------------------------------------


def test_predicts_one_value_a_window_in_range(kind):
    model = shared_model(kind)
    windows, _ = clip_windows(model)
    prediction = model.predict(windows)
    assert isinstance(prediction, ValuePrediction)
    assert (prediction.value.shape, prediction.value.dtype) == ((6,), np.float32)
    assert ((prediction.value >= -1) & (prediction.value <= 0)).all()
    for extra in prediction.extras.values():
        assert len(extra) == 6
        assert np.isfinite(extra).all()


def test_values_are_deterministic_and_do_not_depend_on_the_batch(kind):
    model = shared_model(kind)
    windows, _ = clip_windows(model)
    everything = model.predict(windows).value
    np.testing.assert_array_equal(model.predict(windows).value, everything)
    alone = np.concatenate([model.predict(window_rows(windows, [b])).value for b in range(6)])
    np.testing.assert_allclose(alone, everything, atol=1e-5)


def test_what_is_seen_and_what_is_asked_change_the_value(kind):
    model = small_value_model(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(1)) * 0.1)
    windows, _ = clip_windows(model, start=[0.1, 0.9])
    seen = model.predict(windows).value
    assert abs(seen[0] - seen[1]) > 1e-4
    other = model.predict(dataclasses.replace(windows, instruction=("leave it alone",) * 2)).value
    assert abs(other - seen).max() > 1e-4


# -- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_loss_falls_on_a_fixed_batch_and_the_values_follow(kind):
    model = small_value_model(kind, **({"rewind_ratio": 0.0, "prefix_randomization": 1.0} if kind == "wvm" else {}))
    windows, target = clip_windows(model, count=16, start=np.linspace(0, 0.9, 16))

    def value_loss():
        with torch.no_grad():
            return np.mean([model.loss(windows, target, generator(seed)).metrics["value_loss"] for seed in range(8)])

    before = value_loss()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(STEPS.get(kind, 60)):
        optimizer.zero_grad()
        loss = model.loss(windows, target, generator(100 + step)).per_example
        assert loss.shape == (16,)
        loss.mean().backward()
        optimizer.step()
    assert value_loss() < 0.6 * before
    present = target if target.ndim == 1 else target[:, target.shape[1] // 2]
    assert np.corrcoef(model.predict(windows).value, present)[0, 1] > 0.8


def test_equal_generators_give_equal_losses(kind):
    model = shared_model(kind)
    windows, target = clip_windows(model)
    first, again = (model.loss(windows, target, generator(3)).per_example for _ in range(2))
    assert torch.equal(first, again)


# -- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(kind, tmp_path):
    """A model and its checkpoint directory."""
    model = small_value_model(kind)
    model.version = 4
    tensors, manifest = model.to_checkpoint()
    write_checkpoint(tmp_path / "value", tensors, json.loads(json.dumps(manifest)))
    return model, tmp_path / "value"


def test_checkpoint_round_trip_is_bit_equal(saved):
    model, path = saved
    again = build.load_value_model(path, model.env_spec)
    assert type(again) is type(model)
    assert (again.version, again.config, again.window_spec) == (4, model.config, model.window_spec)
    old, new = model.to_checkpoint()[0], again.to_checkpoint()[0]
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    windows, _ = clip_windows(model)
    np.testing.assert_array_equal(again.predict(windows).value, model.predict(windows).value)


def test_missing_and_unexpected_keys_are_listed(saved):
    tensors, manifest = read_checkpoint(saved[1])
    name = next(key for key in tensors if key.partition(".")[0] not in ("codec", "text"))
    with pytest.raises(CheckpointError, match=rf"missing \['{name.partition('.')[2]}'\]".replace(".", r"\.")):
        presets.from_checkpoint({key: value for key, value in tensors.items() if key != name}, manifest)
    for extra in (f"{name}.lora", "adapter.weight"):
        with pytest.raises(CheckpointError, match=rf"unexpected \['[\w.]*{extra.rpartition('.')[2]}'\]"):
            presets.from_checkpoint({**tensors, extra: torch.zeros(1)}, manifest)
    with pytest.raises(CheckpointError, match=r"is .*; expected"):
        presets.from_checkpoint({**tensors, name: torch.zeros(3, 3, 3, 3)}, manifest)


def test_manifests_that_lack_something_or_are_of_another_version_are_refused(saved):
    tensors, manifest = read_checkpoint(saved[1])
    for key in ("config", "env_spec", "normalization", "text"):
        with pytest.raises(CheckpointError, match=f"manifest lacks '{key}'"):
            presets.from_checkpoint(tensors, {k: v for k, v in manifest.items() if k != key})
    with pytest.raises(CheckpointError, match=r"not one of this version: .*num_experts"):
        presets.from_checkpoint(tensors, {**manifest, "config": {**manifest["config"], "num_experts": 8}})


def test_nan_weights_are_refused_when_loaded_and_when_they_answer(saved):
    model, path = saved
    tensors, manifest = read_checkpoint(path)
    name = next(key for key in tensors if key.partition(".")[0] not in ("codec", "text") and tensors[key].is_floating_point())
    tensors[name] = tensors[name] * np.nan
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        presets.from_checkpoint(tensors, manifest)
    frozen = [key for key in tensors if key.startswith("codec.")]
    if frozen:
        damaged = {**read_checkpoint(path)[0], frozen[0]: tensors[frozen[0]] * np.nan}
        with pytest.raises(NonFiniteError, match=r"patch codec: .* holds NaN or infinity"):
            presets.from_checkpoint(damaged, manifest)
        with pytest.raises(CheckpointError, match=r"codec cannot be rebuilt \(missing \[\], unexpected \['lora'\]"):
            presets.from_checkpoint({**read_checkpoint(path)[0], "codec.lora": torch.zeros(1)}, manifest)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(np.nan)
    with pytest.raises(NonFiniteError, match=r"value of window 0 is nan; .* damaged"):
        model.predict(clip_windows(model)[0])


def test_half_written_checkpoints_are_never_loaded(saved):
    _, path = saved
    weights = max(path.iterdir(), key=lambda file: file.stat().st_size)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        build.load_value_model(path)
    weights.unlink()
    with pytest.raises(CheckpointError):
        build.load_value_model(path)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"images": {"wrist": w.images[CAMERA]}}, r"cameras \['wrist'\]; expected 'overhead_camera'"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:, :0]}}, r"uint8 \(6, 0, 32, 40, 3\); expected uint8"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:5]}}, r"5 images for 6 windows"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:, :, :-1]}}, r"31, 40, 3\); expected uint8 .*32, 40, 3"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA].astype(np.float32)}}, r"float32 \(6, .*; expected uint8"),
        (lambda w: {"state": w.state[..., :3]}, r"state is \(6, \d, 3\); expected \(6, G, 4\)"),
        (lambda w: {"instruction": ("go", "go", " ", "go", "go", "go")}, "window 2: the instruction is ' '"),
    ],
)
def test_windows_that_do_not_fit_are_refused(kind, change, message):
    model = shared_model(kind)
    windows, _ = clip_windows(model)
    with pytest.raises(SpecError, match=message):
        model.predict(dataclasses.replace(windows, **change(windows)))


@pytest.mark.parametrize("bad", [0.1, -1.1, np.nan])
def test_targets_that_are_no_returns_are_refused(kind, bad):
    model = shared_model(kind)
    windows, target = clip_windows(model)
    with pytest.raises(SpecError, match=r"value_target is \(5,.*; expected \(6,"):
        model.loss(windows, target[:5], generator())
    target[3] = bad
    with pytest.raises(SpecError, match=r"value_target\[3.* is .*; expected a number in"):
        model.loss(windows, target, generator())


# -- one learner, one service, every method ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """A store with 8 episodes of the fake task."""
    store = demonstrations(tmp_path_factory.mktemp("episodes") / "replay", 8)
    yield store
    store.close()


@pytest.fixture(scope="module", params=KINDS)
def refitted(request, episodes, tmp_path_factory):
    """A checkpoint that the learner published after a few steps on stored episodes."""
    path = tmp_path_factory.mktemp(request.param) / "value_003"
    for metrics in refit(fresh_model(request.param, episodes), episodes, path, version=3):
        assert np.isfinite(metrics["loss"])
        assert metrics["value_loss"] >= 0
    return request.param, path


@pytest.fixture(scope="module")
def labels(refitted, episodes):
    """What the service says of the stored episodes with that checkpoint."""
    label_store = CountingLabels()
    client = LocalValueClient(VersionedLabeler(build.load_value_model, LabelerConfig(batch_size=16)), episodes, label_store)
    ids = episodes.episode_ids()
    assert client.label_many(ids, ValueCheckpoint.of(3, refitted[1])).num_labelled == len(ids)
    return label_store.stored


def test_the_service_labels_with_what_the_learner_published(refitted, labels, episodes):
    for episode_id in episodes.episode_ids():
        label = labels[(episode_id, 3)]
        assert label.value.shape == (episodes.info(episode_id).num_steps + 1,)
        assert np.isfinite(label.advantage).all()


@pytest.mark.parametrize("method", list(Extraction))
def test_labels_drive_every_extraction_method(labels, episodes, method):
    ids = episodes.episode_ids()
    table = StepTable.build(episodes, ids, lambda e: labels[(e, 3)])
    judgement = judge(table, task_thresholds(table, ids, 0.4), ExtractionConfig(method=method))
    assert judgement.weight.shape == judgement.indicator.shape == (table.index.num_rows,)
    assert judgement.weight.sum() > 0
    if method is Extraction.RECAP:
        assert (judgement.indicator == Indicator.POSITIVE).any()
    if method is Extraction.AWR:
        assert np.ptp(judgement.weight) > 0


def test_targets_at_offsets_are_those_of_the_episode(episodes):
    model = fresh_model("wvm", episodes)
    ids = episodes.episode_ids()
    targets = {e: -np.arange(episodes.info(e).num_steps + 1, dtype=np.float32) / 100 for e in ids}
    windows = WindowSampler(episodes, MixConfig(), seed=0)
    batch = ValueBatches(windows, model.window_spec, targets, batch_size=32).draw(np.random.default_rng(0))
    offsets = model.window_spec.value_offsets
    for row, (episode_id, t) in enumerate(zip(batch.windows.episode_id, batch.windows.t, strict=True)):
        wanted = np.clip(t + np.array(offsets), 0, len(targets[episode_id]) - 1)
        np.testing.assert_allclose(batch.target[row], -wanted / 100, atol=1e-6)
