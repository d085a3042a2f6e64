"""The VLM-style baseline's own promises: bins, what its tokens say, and SigLIP from a local directory."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from model_toys import ENV_SPEC, small_parts
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
from value_toys import INSTRUCTION, clip_windows, small_value_config, small_value_model

from checkpoints.directory import read_checkpoint, write_checkpoint
from core.errors import AssetError, CheckpointError, ConfigError, SpecError
from core.specs import CameraSpec
from models.siglip import read_vision, siglip_text
from models.text import HashedText
from models.value_bins import BinTarget, bin_centres, expectation, target_distribution
from models.vlm_value import VlmValue

# -- bins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(BinTarget))
@pytest.mark.parametrize("num_bins", [2, 51, 201])
def test_targets_become_distributions_with_that_mean(form, num_bins):
    value = torch.cat([torch.linspace(-1, 0, 37), bin_centres(num_bins)])
    probability = target_distribution(value, num_bins, form)
    assert probability.shape == (len(value), num_bins)
    assert (probability >= 0).all()
    torch.testing.assert_close(probability.sum(dim=1), torch.ones(len(value)))
    error = (probability @ bin_centres(num_bins) - value).abs().max()
    if form is BinTarget.TWO_HOT:
        assert error < 1e-6, "the expectation of a two-hot target is the target"
    elif form is BinTarget.ONE_HOT:
        assert error <= 0.5 / (num_bins - 1) + 1e-6
    else:
        assert error < 1 / (num_bins - 1)


def test_two_hot_uses_the_two_neighbours_and_the_ends_one():
    probability = target_distribution(torch.tensor([-1.0, -0.9975, -0.5, 0.0]), 201, BinTarget.TWO_HOT)
    assert (probability > 1e-3).sum(dim=1).tolist() == [1, 2, 1, 1]
    assert probability[1, :2].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert probability[3, -1] == 1


def test_expectation_inverts_a_distribution_and_tells_its_width():
    value = torch.tensor([-0.93, -0.31, 0.0])
    mean, spread = expectation(target_distribution(value, 201, BinTarget.TWO_HOT).log())
    torch.testing.assert_close(mean, value, atol=1e-5, rtol=0)
    assert (spread <= 0.5 / 200 + 1e-5).all()
    mean, spread = expectation(torch.zeros(1, 201))
    assert mean.item() == pytest.approx(-0.5)
    assert spread.item() == pytest.approx(np.sqrt(1 / 12), abs=0.01)


def test_cross_entropy_is_least_where_the_target_is_predicted():
    target = torch.tensor([-0.4225])
    wanted = target_distribution(target, 201, BinTarget.TWO_HOT)
    losses = {
        shift: torch.nn.functional.cross_entropy(
            (target_distribution(target + shift, 201, BinTarget.TWO_HOT) + 1e-4).log(), wanted
        )
        for shift in (-0.1, 0.0, 0.1)
    }
    assert min(losses, key=losses.__getitem__) == 0.0


# -- what it reads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_state_input", [False, True])
def test_the_state_is_read_only_where_asked(has_state_input):
    model = small_value_model("vlm", has_state_input=has_state_input)
    windows, _ = clip_windows(model, count=2)
    moved = dataclasses.replace(windows, state=windows.state + 0.5)
    is_same = np.array_equal(model.predict(moved).value, model.predict(windows).value)
    assert is_same is not has_state_input


def test_cameras_are_told_apart():
    wrist = CameraSpec(name="wrist", height_px=32, width_px=40)
    env_spec = dataclasses.replace(ENV_SPEC, cameras=(*ENV_SPEC.cameras, wrist))
    model = small_value_model("vlm", env_spec=env_spec)
    windows, _ = clip_windows(model, count=2)
    (name,), other = windows.images, np.zeros_like(next(iter(windows.images.values())))
    one_way = model.predict(dataclasses.replace(windows, images={name: windows.images[name], "wrist": other})).value
    swapped = model.predict(dataclasses.replace(windows, images={name: other, "wrist": windows.images[name]})).value
    assert not np.allclose(one_way, swapped, atol=1e-7)


@pytest.mark.parametrize("form", list(BinTarget))
def test_every_target_form_learns(form):
    model = small_value_model("vlm", target=form, num_bins=51)
    windows, target = clip_windows(model, count=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model.loss(windows, target, torch.Generator()).per_example.mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


# -- SigLIP -----------------------------------------------------------------------------------------------------------

WORDS = ["<pad>", "</s>", "<unk>", "go", "to", "the", "middle", "leave", "it", "alone"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A random SigLIP, as transformers saves one."""
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shared, "vocab_size": len(WORDS), "max_position_embeddings": 8, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config={**shared, "image_size": 32, "patch_size": 8})).save_pretrained(
        folder
    )
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def siglip_config(**changes):
    sizes = {"vision_width": 16, "vision_layers": 1, "vision_heads": 2, "vision_ffn_dim": 32}
    return small_value_config("vlm", text="precomputed_t5", **sizes, **changes)


def from_siglip(directory, **changes):
    normalization, _, _ = small_parts()
    return VlmValue.from_pretrained(directory, siglip_config(**changes), ENV_SPEC, normalization, [INSTRUCTION])


def test_siglip_encoders_load_predict_learn_and_round_trip_without_their_directory(siglip, tmp_path):
    model = from_siglip(siglip)
    pretrained = SiglipModel.from_pretrained(siglip, local_files_only=True)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = pretrained.vision_model(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(model.network.vision(pixel_values=pixels).last_hidden_state, wanted)
        tokens = torch.tensor([[3, 4, 5, 6, 0, 0, 0, 0]])
        torch.testing.assert_close(model.text.embed([INSTRUCTION])[0], pretrained.text_model(input_ids=tokens).last_hidden_state)
    windows, target = clip_windows(model, count=2)
    loss = model.loss(windows, target, torch.Generator()).per_example.sum()
    loss.backward()
    assert model.network.vision.embeddings.patch_embedding.weight.grad.abs().max() > 0
    tensors, manifest = model.to_checkpoint()
    write_checkpoint(tmp_path / "value", tensors, json.loads(json.dumps(manifest)))
    again = VlmValue.from_checkpoint(*read_checkpoint(tmp_path / "value"))
    np.testing.assert_array_equal(again.predict(windows).value, model.predict(windows).value)
    with pytest.raises(SpecError, match="no precomputed embedding of 'open the drawer'"):
        again.predict(dataclasses.replace(windows, instruction=("open the drawer",) * 2))


def test_a_frozen_image_encoder_keeps_its_weights(siglip):
    model = from_siglip(siglip, is_vision_frozen=True)
    windows, target = clip_windows(model, count=2)
    model.loss(windows, target, torch.Generator()).per_example.sum().backward()
    assert all(parameter.grad is None for parameter in model.network.vision.parameters())
    assert model.network.head.weight.grad.abs().max() > 0


def test_directories_that_are_no_siglip_or_another_one_are_refused(siglip, tmp_path):
    with pytest.raises(AssetError, match=r"config\.json is missing; expected a local SigLIP directory"):
        from_siglip(tmp_path)
    with pytest.raises(CheckpointError, match=r"\{'num_hidden_layers': \(1, 2\)\}; use a matching preset"):
        read_vision(siglip, {**siglip_config().vision_config(), "num_hidden_layers": 2})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match="describes a 'clip'; expected 'siglip'"):
        siglip_text([INSTRUCTION], tmp_path)
    (tmp_path / "config.json").write_text((siglip / "config.json").read_text())
    with pytest.raises(AssetError, match="holds no safetensors weights"):
        read_vision(tmp_path, siglip_config().vision_config())


def test_missing_siglip_weights_are_listed_rather_than_made_up(siglip, tmp_path):
    shutil.copytree(siglip, tmp_path / "siglip")
    file = tmp_path / "siglip" / "model.safetensors"
    tensors = load_file(file)
    del tensors["vision_model.embeddings.patch_embedding.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing \[.*patch_embedding\.weight'\]"):
        read_vision(tmp_path / "siglip", siglip_config().vision_config())


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_bins": 1}, "num_bins is 1; expected at least 2"),
        ({"image_px": 0}, "image_px is 0; expected a positive"),
        ({"vision_heads": 3}, "vision_width is 32; expected a multiple of vision_heads 3"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_value_config("vlm", **changes)


def test_text_of_another_size_is_refused():
    normalization, _, _ = small_parts()
    with pytest.raises(SpecError, match="text_dim 32; the value model's configuration says 16"):
        VlmValue(small_value_config("vlm"), ENV_SPEC, normalization, HashedText(length=8, dim=32))
