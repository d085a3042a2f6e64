"""VideoVLA's checkpoints: its own, and a pretrained directory of CogVideoX's layout."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from model_toys import (
    CAMERA,
    ENV_SPEC,
    POSITIVE,
    WORDS,
    chunk,
    generators,
    observation,
    small_parts,
    small_policy,
    square_windows,
)

from core.errors import AssetError, CheckpointError, NonFiniteError, SpecError
from core.specs import CameraSpec, require_same_spec
from models.codecs import CogVideoXVaeCodec
from models.text import PrecomputedT5, with_every_indicator
from models.videovla import VideoVla
from models.videovla_config import (
    Conditioning,
    NoiseScheduleConfig,
    VideoVlaConfig,
)


def through_json(checkpoint):
    tensors, manifest = checkpoint
    return tensors, json.loads(json.dumps(manifest))


class TestCheckpoint:
    @pytest.mark.parametrize("form", [{}, {"conditioning": Conditioning.CHANNELS, "num_robots": 3, "robot_id": 2}])
    def test_round_trip_is_exact(self, form):
        policy = small_policy(**form, noise=NoiseScheduleConfig(snr_shift_scale=2.0), guidance_scale=1.5)
        policy.version = 3
        again = VideoVla.from_checkpoint(*through_json(policy.to_checkpoint()))
        assert (again.config, again.env_spec, again.version) == (policy.config, policy.env_spec, 3)
        assert again.normalization == policy.normalization
        assert (chunk(again) == chunk(policy)).all()

    def test_is_a_copy(self):
        policy = small_policy()
        before = chunk(policy)
        again = VideoVla.from_checkpoint(*policy.to_checkpoint())
        with torch.no_grad():
            again.network.action_out.bias.add_(1)
        assert (chunk(policy) == before).all()

    def test_loaded_policy_trains(self):
        policy = VideoVla.from_checkpoint(*small_policy().to_checkpoint())
        windows = square_windows(4, np.random.default_rng(0))
        policy.loss(windows, POSITIVE[:4], torch.Generator()).per_example.mean().backward()
        assert all(parameter.grad is not None for parameter in policy.network.parameters())

    def test_precision_is_kept(self):
        policy = small_policy()
        policy.network.bfloat16()
        again = VideoVla.from_checkpoint(*policy.to_checkpoint())
        assert again.network.action_in.weight.dtype == torch.bfloat16
        assert (chunk(again) == chunk(policy)).all()

    def test_missing_and_unexpected_tensors_are_listed(self):
        tensors, manifest = small_policy().to_checkpoint()
        tensors["network.extra"] = tensors.pop("network.action_in.weight")
        with pytest.raises(CheckpointError, match=r"missing \['action_in.weight'\], unexpected \['extra'\]"):
            VideoVla.from_checkpoint(tensors, manifest)

    def test_tensors_of_no_part_are_listed(self):
        tensors, manifest = small_policy().to_checkpoint()
        with pytest.raises(CheckpointError, match=r"unexpected \['adapter.weight'\]"):
            VideoVla.from_checkpoint({**tensors, "adapter.weight": torch.zeros(1)}, manifest)

    def test_other_shape_is_refused(self):
        tensors, manifest = small_policy().to_checkpoint()
        tensors["network.action_in.weight"] = torch.zeros(32, 9)
        with pytest.raises(CheckpointError, match=r"action_in.weight is \(32, 9\); expected \(32, 3\)"):
            VideoVla.from_checkpoint(tensors, manifest)

    def test_damaged_manifest_is_refused(self):
        tensors, manifest = small_policy().to_checkpoint()
        with pytest.raises(CheckpointError, match="lacks 'normalization'"):
            VideoVla.from_checkpoint(tensors, {k: v for k, v in manifest.items() if k != "normalization"})
        with pytest.raises(CheckpointError, match="num_wings"):
            VideoVla.from_checkpoint(tensors, {**manifest, "config": {**manifest["config"], "num_wings": 2}})

    def test_nan_weights_are_refused_on_loading_and_on_acting(self):
        policy = small_policy()
        with torch.no_grad():
            policy.network.action_out.weight[0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"action_out.weight holds NaN"):
            VideoVla.from_checkpoint(*policy.to_checkpoint())
        with pytest.raises(NonFiniteError, match=r"actions\[0, 0\] is nan"):
            chunk(policy)
        with torch.no_grad():
            policy.network.transformer.proj_out.weight[0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match="imagined frames"):
            policy.imagine([observation()], [WORDS], generators(0))

    def test_an_observation_of_another_robot_is_refused(self):
        look = dataclasses.replace(observation(), state=np.zeros(9, np.float32))
        with pytest.raises(SpecError, match=r"observation 0: state is \(9,\); expected \(4,\)"):
            small_policy().sample_actions([look], [WORDS], generators(0))

    def test_another_environment_is_refused(self):
        policy = VideoVla.from_checkpoint(*small_policy().to_checkpoint())
        other = dataclasses.replace(ENV_SPEC, cameras=(CameraSpec(name=CAMERA, height_px=64, width_px=80),))
        with pytest.raises(SpecError, match="cameras specification"):
            require_same_spec(policy.env_spec, other, what="checkpoint")


class TestPretrainedDirectory:
    """CogVideoX-5B's layout (transformer/, vae/), small and with random weights."""

    CONFIG = VideoVlaConfig(
        image_height_px=32,
        image_width_px=48,
        codec="cogvideox_vae",
        latent_channels=4,
        latent_px=8,
        temporal_ratio=4,
        text="precomputed_t5",
        text_length=5,
        text_dim=16,
        num_future_frames=8,
        future_frame_interval_steps=1,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        time_embed_dim=16,
        patch_size=2,
        denoise_steps=2,
    )
    SPEC = dataclasses.replace(ENV_SPEC, cameras=(CameraSpec(name=CAMERA, height_px=32, width_px=48),))

    @pytest.fixture
    def directory(self, tmp_path):
        torch.manual_seed(0)
        # CogVideoX-5B says 60 x 90 latents and 49 frames there, whatever size it is used at.
        arguments = {**self.CONFIG.transformer_config(), "sample_height": 60, "sample_width": 90, "sample_frames": 49}
        CogVideoXTransformer3DModel(**arguments).save_pretrained(tmp_path / "transformer")
        vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4)
        vae.save_pretrained(tmp_path / "vae")
        return tmp_path

    def load(self, directory, config=CONFIG):
        texts = with_every_indicator([WORDS])
        text = PrecomputedT5(texts, torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool))
        codec = CogVideoXVaeCodec.from_pretrained(directory, 32, 48)
        return VideoVla.from_pretrained(directory, config, self.SPEC, small_parts()[0], codec, text)

    def test_acts_imagines_trains_and_round_trips(self, directory):
        policy = self.load(directory)
        saved = CogVideoXTransformer3DModel.from_pretrained(directory / "transformer")
        for name, tensor in saved.state_dict().items():
            assert torch.equal(tensor, policy.network.transformer.state_dict()[name]), name
        trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert trained == {f"network.{name}" for name, _ in policy.network.named_parameters()}, "the codec is frozen"
        rng = np.random.default_rng(0)
        seen = dataclasses.replace(observation(), images={CAMERA: rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)})
        [sample] = policy.sample([seen], [WORDS], generators(0))
        assert sample.frames[CAMERA].shape == (8, 32, 48, 3)
        frames = rng.integers(0, 256, (2, 9, 32, 48, 3), dtype=np.uint8)
        windows = dataclasses.replace(square_windows(2, rng), images={CAMERA: frames})
        assert policy.window_spec.image_offsets == tuple(range(9))
        assert torch.isfinite(policy.loss(windows, POSITIVE[:2], torch.Generator()).per_example).all()
        again = VideoVla.from_checkpoint(*through_json(policy.to_checkpoint()))
        [same] = again.sample([seen], [WORDS], generators(0))
        assert (same.chunk.actions == sample.chunk.actions).all()
        assert (same.frames[CAMERA] == sample.frames[CAMERA]).all()

    def test_other_dimensions_are_named(self, directory):
        with pytest.raises(CheckpointError, match=r"'num_layers': \(1, 2\)"):
            self.load(directory, dataclasses.replace(self.CONFIG, num_layers=2))

    def test_missing_transformer_is_refused(self, directory):
        (directory / "transformer" / "config.json").unlink()
        with pytest.raises(AssetError, match=r"transformer/config\.json is missing"):
            self.load(directory)
