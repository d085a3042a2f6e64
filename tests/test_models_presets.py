from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from model_toys import ENV_SPEC, generators, observation, small_parts, small_policy

from core.errors import CheckpointError, ConfigError
from models import presets
from models.videovla import VideoVla
from models.viva import Viva
from models.vlm_value import vlm_value_config
from models.wvm import wvm_config

MODELS = ("videovla", "viva", "wvm", "vlm", "value_only")


@functools.cache
def counts():
    return {(count.model, count.preset): count for count in presets.parameter_counts()}


def test_real_sizes_are_the_published_ones():
    found = counts()
    assert found["videovla", "5b"].backbone == 5_570_283_072, "CogVideoX-5B's transformer"
    assert found["viva", "5b"].backbone == 4_999_787_712, "Wan2.2-TI2V-5B's transformer"
    for model in MODELS:
        assert found[model, "tiny"].total < 5e6


def test_value_transformer_of_wvm_adds_the_published_0_7_billion():
    """Table: about 5.0 B video, 0.7 B value, 5.7 B in all."""
    wvm = counts()["wvm", "5b"]
    assert wvm.backbone == 4_999_787_712
    assert round((wvm.total - wvm.backbone) / 1e9, 1) == 0.7
    assert round(wvm.total / 1e9, 1) == 5.7


def test_vlm_has_siglip_so400m_and_the_size_of_the_published_value_model():
    """SigLIP-so400m-patch14-384's image encoder has 428,225,600 parameters, 15,238,352 of them in the pooling head left out."""
    vlm = counts()["vlm", "5b"]
    assert vlm.backbone == 428_225_600 - 15_238_352
    assert round(vlm.total / 1e9, 2) == 0.67, "pi*0.6's value model has 670 M"


def test_cogvideox_5b_numbers():
    """As in the published transformer/config.json, and VideoVLA's 49 frames of 256 x 256 px."""
    config = presets.videovla_config("5b")
    published = {
        "num_attention_heads": 48,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "time_embed_dim": 512,
        "text_embed_dim": 4096,
        "num_layers": 42,
        "patch_size": 2,
        "sample_frames": 49,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "use_rotary_positional_embeddings": True,
    }
    assert published.items() <= config.transformer_config().items()
    assert (config.num_latents, config.num_video_tokens) == (13, 3328)


def test_tiny_sequence_is_short():
    config = presets.videovla_config("tiny")
    assert config.num_video_tokens + config.action_horizon + config.text_length == 58
    assert config.window_spec().image_offsets == (0, 6)


def test_command_prints_a_table_or_json(capsys):
    presets.main(["--json"])
    records = json.loads(capsys.readouterr().out)
    assert {(record["model"], record["preset"]) for record in records} == {
        (model, preset) for model in MODELS for preset in ("tiny", "5b")
    }
    presets.main([])
    assert "5,570,283,072" in capsys.readouterr().out


@pytest.mark.parametrize(
    "make", [presets.videovla_config, presets.viva_config, presets.value_model_config, wvm_config, vlm_value_config]
)
def test_unknown_preset_is_refused(make):
    with pytest.raises(ConfigError, match=r"unknown.* preset '7b'"):
        make("7b")


def test_policy_and_value_model_share_one_fitted_codec():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (16, 128, 160, 3), dtype=np.uint8)
    codec = presets.fit_codec(presets.videovla_config("tiny"), frames)
    assert codec.latent_shape == presets.viva_config("tiny").latent_shape == (160, 4, 5)


def test_what_needs_weights_is_not_built():
    frames = np.zeros((4, 256, 256, 3), np.uint8)
    with pytest.raises(ConfigError, match="'cogvideox_vae' is not fitted"):
        presets.fit_codec(presets.videovla_config("5b"), frames)
    with pytest.raises(ConfigError, match="'precomputed_t5' needs weights"):
        presets.build_text(presets.videovla_config("5b"))


def test_build_policy_and_value_model():
    normalization, codec, _ = small_parts()
    config = small_policy().config
    assert isinstance(presets.build_policy(config, ENV_SPEC, normalization, codec), VideoVla)
    value_config = presets.VivaConfig(
        image_height_px=32, image_width_px=40, latent_channels=24, latent_px=8, text_length=8, text_dim=16, num_layers=1
    )
    value_model = presets.build_value_model(value_config, ENV_SPEC, normalization, codec)
    assert isinstance(value_model, Viva)
    again = presets.from_checkpoint(*value_model.to_checkpoint())
    assert isinstance(again, Viva)


def test_checkpoint_names_its_model():
    policy = small_policy()
    tensors, manifest = policy.to_checkpoint()
    again = presets.from_checkpoint(tensors, json.loads(json.dumps(manifest)))
    arguments = [observation()], ["go to the middle"]
    left, right = (p.sample_actions(*arguments, generators(0))[0].actions for p in (policy, again))
    assert (left == right).all()
    with pytest.raises(CheckpointError, match=r"unknown model 'pi0'; known are \['videovla', 'viva', 'vlm', 'wvm'\]"):
        presets.from_checkpoint({"w": torch.zeros(1)}, {"model": "pi0"})
