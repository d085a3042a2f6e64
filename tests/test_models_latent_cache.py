"""Latents that labelling keeps: the labels are those made without, whichever model, version or codec; and memory is bounded."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from model_toys import ACTION_DIM, CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts, square_images
from value_toys import INSTRUCTION, small_value_config, small_value_model

from checkpoints.directory import read_checkpoint, write_checkpoint
from configs.load import load_config
from core.errors import ConfigError
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from models import presets
from models.codecs import WanVaeCodec
from models.latent_cache import CachesLatents, LatentCache
from value_service.labeler import Labeler, LabelerConfig, ValueCheckpoint, VersionedLabeler

LATENT_KINDS = ("viva", "wvm")
"""The value-only variant is ViVa's class."""
FRAME_BYTES = 24 * 4 * 5 * 4


@pytest.fixture(autouse=True)
def encoded(monkeypatch):
    """How many images were encoded, a call each."""
    counts, encode = [], presets.PatchCodec.encode

    def counted(codec, images):
        counts.append(len(images))
        return encode(codec, images)

    monkeypatch.setattr(presets.PatchCodec, "encode", counted)
    return counts


def square_episode(steps=5, seed=0):
    """A square walks to the right."""
    rng = np.random.default_rng(seed)
    centres = np.stack([np.linspace(5, WIDTH - 5, steps + 1), np.full(steps + 1, HEIGHT / 2)], axis=1)
    return Episode.of_one_source(
        Source.SCRIPTED,
        images={CAMERA: square_images(centres, rng)},
        state=rng.uniform(-1, 1, (steps + 1, STATE_DIM)).astype(np.float32),
        executed_action=np.zeros((steps, ACTION_DIM), np.float32),
        instruction=INSTRUCTION,
        end=EpisodeEnd.SUCCESS,
        env_spec=ENV_SPEC,
        provenance=Provenance(env="fake", task="middle", seed=seed, collection=Collection.DEMONSTRATION),
    )


@pytest.fixture
def publish(tmp_path):
    """``(model, version) -> checkpoint``."""

    def write(model, version):
        model.version = version
        write_checkpoint(tmp_path / str(version), *model.to_checkpoint())
        return ValueCheckpoint.of(version, tmp_path / str(version))

    return write


def load(path):
    return presets.from_checkpoint(*read_checkpoint(path))


def labeler(**changes):
    return VersionedLabeler(load, LabelerConfig(**{"batch_size": 4, **changes}))


@pytest.mark.parametrize("kind", LATENT_KINDS)
def test_labels_are_those_made_without_under_every_version_and_nothing_is_encoded_twice(kind, publish, encoded):
    versions = [publish(small_value_model(kind, seed=seed), seed) for seed in (1, 2)]
    episodes = [square_episode(seed=seed) for seed in (0, 1)]
    keeping, plain = labeler(), labeler(latent_cache_bytes=0)
    for round_, checkpoint in enumerate(versions):
        for episode in episodes:
            encoded.clear()
            kept = keeping.label(episode, checkpoint)
            assert sum(encoded) == (6 if round_ == 0 else 0)
            for again in (kept, keeping.label(episode, checkpoint)):
                expected = plain.label(episode, checkpoint)
                np.testing.assert_allclose(again.value, expected.value, rtol=0, atol=1e-6)
                np.testing.assert_allclose(again.advantage, expected.advantage, rtol=0, atol=2e-6)
    values = [keeping.label(episodes[0], checkpoint).value for checkpoint in versions]
    assert abs(values[0] - values[1]).max() > 1e-4, "versions must differ, or the test shows nothing"


@pytest.mark.parametrize("kind", LATENT_KINDS)
def test_a_version_with_another_codec_gets_latents_of_its_own(kind, publish, encoded):
    normalization, other, text = small_parts(seed=5)
    torch.manual_seed(0)
    changed = presets.build_value_model(small_value_config(kind), ENV_SPEC, normalization, other, text)
    first, second = publish(small_value_model(kind), 1), publish(changed, 2)
    episode, keeping = square_episode(), labeler()
    keeping.label(episode, first)
    encoded.clear()
    found = keeping.label(episode, second)
    assert sum(encoded) == 6
    expected = Labeler(load(second.path), LabelerConfig(batch_size=4)).label(episode)
    np.testing.assert_allclose(found.value, expected.value, rtol=0, atol=1e-6)
    encoded.clear()
    keeping.label(episode, first)
    assert sum(encoded) == 0, "the first version's latents are still there"


@pytest.mark.parametrize("kind", LATENT_KINDS)
def test_memory_is_bounded_and_the_labels_hold(kind, publish, encoded):
    checkpoint = publish(small_value_model(kind), 1)
    episodes = [square_episode(seed=seed) for seed in range(2)]
    keeping, plain = labeler(latent_cache_bytes=8 * FRAME_BYTES), labeler(latent_cache_bytes=0)
    for episode in (*episodes, episodes[0]):
        found, expected = keeping.label(episode, checkpoint), plain.label(episode, checkpoint)
        np.testing.assert_allclose(found.value, expected.value, rtol=0, atol=1e-6)
        assert 0 < keeping.num_latent_bytes <= 8 * FRAME_BYTES
    assert plain.num_latent_bytes == 0


def test_a_model_that_reads_pixels_is_left_alone(publish):
    keeping = labeler()
    keeping.label(square_episode(), publish(small_value_model("vlm"), 1))
    assert keeping.num_latent_bytes == 0
    assert not isinstance(small_value_model("vlm"), CachesLatents)


def test_a_codec_that_no_model_needs_is_freed():
    cache, codec = LatentCache(10**6), small_parts()[1]
    cache.latents(["a"], codec, lambda rows: torch.zeros(len(rows), 3))
    gone = weakref.ref(codec)
    del codec
    gc.collect()
    assert gone() is None


def test_clips_of_an_autoencoder_with_memory_are_kept_whole(wan_codec):
    """Where a latent holds four frames, what is kept is named by all frames of its clip."""
    normalization, _, text = small_parts()
    torch.manual_seed(0)
    config = small_value_config("wvm", codec="wan_vae", image_width_px=48, latent_channels=8, latent_px=16)
    model = presets.build_value_model(config, ENV_SPEC, normalization, wan_codec, text)
    episode, config = square_episode(), LabelerConfig(batch_size=4)
    plain = Labeler(model, config).values(episode)
    model.latent_cache = cache = LatentCache(10**7)
    for misses in (True, False):
        before = cache.num_misses
        np.testing.assert_allclose(Labeler(model, config).values(episode), plain, rtol=0, atol=1e-5)
        assert (cache.num_misses > before) == misses


@pytest.fixture
def wan_codec():
    """Wan's autoencoder, small: 16 px and 4 frames a latent, 8 channels, 32 x 48 px."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=8,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 8,
        latents_std=[1.0] * 8,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
    )
    return WanVaeCodec(vae, HEIGHT, 48)


def test_the_limit_is_a_key_of_every_experiment():
    assert load_config("smoke").labeler.latent_cache_bytes == 1024**3
    assert load_config("smoke", ["labeler.latent_cache_bytes=0"]).labeler.latent_cache_bytes == 0


def test_less_than_no_bytes_are_refused():
    with pytest.raises(ConfigError, match="latent_cache_bytes is -1; expected 0"):
        LabelerConfig(latent_cache_bytes=-1)
