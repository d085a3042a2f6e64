from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from model_toys import CAMERA, HEIGHT, WIDTH, square_windows

from core.errors import AssetError, CheckpointError, SpecError
from models.codecs import CogVideoXVaeCodec, PatchCodec, WanVaeCodec, codec_from_tensors, reconstruction_error


def frames(count=48, seed=0):
    return square_windows(count, np.random.default_rng(seed)).images[CAMERA][:, 0]


@pytest.fixture(scope="module")
def patch_codec():
    return PatchCodec.fit(frames(), patch_px=8, channels=24)


def cogvideox_vae():
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.7,
    )


def wan_vae():
    torch.manual_seed(0)
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        is_residual=True,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[0.5, 1.0, 2.0, 1.5],
    )


class TestPatchCodec:
    def test_basis_is_orthonormal_and_latents_have_unit_variance_on_average(self, patch_codec):
        identity = patch_codec.basis.T @ patch_codec.basis
        torch.testing.assert_close(identity, torch.eye(24), atol=1e-5, rtol=0)
        latents = patch_codec.encode(frames())
        assert latents.shape == (48, 24, 4, 5)
        assert latents.dtype == torch.float32
        variance = latents.square().mean(dim=(0, 2, 3))
        assert variance.mean() == pytest.approx(1.0, abs=0.02)
        assert variance[0] > 3 * variance[-1], "leading components keep a larger share"

    def test_whitening_one_makes_all_channels_equal(self):
        codec = PatchCodec.fit(frames(), patch_px=8, channels=24, whitening=1.0)
        variance = codec.encode(frames()).square().mean(dim=(0, 2, 3))
        np.testing.assert_allclose(variance.numpy(), 1, atol=0.1)

    def test_all_channels_lose_nothing(self):
        images = frames()
        codec = PatchCodec.fit(images, patch_px=4, channels=48)
        assert np.abs(codec.decode(codec.encode(images)).astype(int) - images).max() <= 1

    def test_few_channels_keep_most_of_frames_not_fitted_on(self, patch_codec):
        error = reconstruction_error(patch_codec, frames(seed=1))
        assert error.variance_kept > 0.85
        assert error.psnr_db > 25

    def test_more_channels_lose_less(self):
        kept = [reconstruction_error(PatchCodec.fit(frames(), 8, c), frames()).variance_kept for c in (2, 8, 48)]
        assert kept == sorted(kept)
        assert kept[0] < kept[2] - 0.05

    def test_clips_are_encoded_frame_by_frame(self, patch_codec):
        clips = frames(12).reshape(4, 3, HEIGHT, WIDTH, 3)
        latents = patch_codec.encode_video(clips)
        assert latents.shape == (4, 3, 24, 4, 5)
        torch.testing.assert_close(latents[:, 1], patch_codec.encode(clips[:, 1]))
        assert (patch_codec.decode_video(latents)[:, 2] == patch_codec.decode(latents[:, 2])).all()

    def test_autocast_does_not_reach_the_codec(self, patch_codec):
        with torch.autocast("cpu", torch.bfloat16):
            latents = patch_codec.encode(frames(2))
        torch.testing.assert_close(latents, patch_codec.encode(frames(2)))

    def test_fit_is_deterministic(self, patch_codec):
        assert torch.equal(PatchCodec.fit(frames(), patch_px=8, channels=24).basis, patch_codec.basis)

    def test_nothing_is_trainable(self, patch_codec):
        assert list(patch_codec.parameters()) == []

    def test_tensors_round_trip_is_exact(self, patch_codec):
        again = codec_from_tensors(*patch_codec.to_tensors())
        assert torch.equal(again.encode(frames(3)), patch_codec.encode(frames(3)))

    @pytest.mark.parametrize(
        "images",
        [
            np.zeros((2, HEIGHT, WIDTH, 3), np.float32),
            np.zeros((2, HEIGHT + 8, WIDTH, 3), np.uint8),
            np.zeros((2, HEIGHT, WIDTH, 1), np.uint8),
            np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        ],
    )
    def test_other_images_are_refused(self, patch_codec, images):
        with pytest.raises(SpecError, match=r"expected uint8 \(N, 32, 40, 3\)"):
            patch_codec.encode(images)

    def test_other_latents_are_refused(self, patch_codec):
        with pytest.raises(SpecError, match=r"expected \(N, 24, 4, 5\)"):
            patch_codec.decode(torch.zeros(1, 24, 5, 4))

    def test_frames_that_cannot_be_cut_are_refused(self):
        with pytest.raises(SpecError, match="32x40 px cannot be cut into 12 px"):
            PatchCodec.fit(frames(), patch_px=12)

    def test_too_few_frames_are_refused(self):
        with pytest.raises(SpecError, match="give more frames"):
            PatchCodec.fit(frames(1), patch_px=8, channels=160)


@pytest.mark.parametrize(("make", "codec_class", "ratio"), [(cogvideox_vae, CogVideoXVaeCodec, 8), (wan_vae, WanVaeCodec, 16)])
class TestRealAutoencoders:
    def clips(self):
        return np.random.default_rng(0).integers(0, 256, (2, 5, 32, 48, 3), dtype=np.uint8)

    def test_loads_a_diffusers_directory_and_scales_its_latents(self, make, codec_class, ratio, tmp_path):
        vae = make()
        vae.save_pretrained(tmp_path / "vae")
        codec = codec_class.from_pretrained(tmp_path, 32, 48)
        assert codec.latent_shape == (4, 32 // ratio, 48 // ratio)
        assert codec.temporal_ratio == 4
        images = self.clips()[:, 0]
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
        with torch.no_grad():
            raw = vae.eval().encode(pixels).latent_dist.mode()[:, :, 0]
        if codec_class is CogVideoXVaeCodec:
            expected = raw * 0.7
        else:
            expected = (raw - torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 4, 1, 1)) / torch.tensor([0.5, 1.0, 2.0, 1.5]).view(
                1, 4, 1, 1
            )
        torch.testing.assert_close(codec.encode(images), expected)

    def test_clips_have_one_latent_for_the_first_frame_and_one_for_each_further_four(self, make, codec_class, ratio):
        codec = codec_class(make(), 32, 48)
        latents = codec.encode_video(self.clips())
        assert latents.shape == (2, 2, *codec.latent_shape)
        assert torch.equal(latents[:, 0], codec.encode(self.clips()[:, 0]))
        decoded = codec.decode_video(latents)
        assert decoded.shape == (2, 5, 32, 48, 3)
        assert decoded.dtype == np.uint8
        assert codec.decode(latents[:, 0]).shape == (2, 32, 48, 3)

    def test_is_frozen_and_round_trips(self, make, codec_class, ratio):
        codec = codec_class(make(), 32, 48)
        assert not any(parameter.requires_grad for parameter in codec.parameters())
        again = codec_from_tensors(*codec.to_tensors())
        assert torch.equal(again.encode(self.clips()[:, 0]), codec.encode(self.clips()[:, 0]))

    def test_bad_input_is_refused(self, make, codec_class, ratio, tmp_path):
        with pytest.raises(AssetError, match=r"vae/config\.json is missing"):
            codec_class.from_pretrained(tmp_path, 32, 48)
        with pytest.raises(SpecError, match=f"multiples of {ratio} px"):
            codec_class(make(), 30, 48)
        codec = codec_class(make(), 32, 48)
        with pytest.raises(SpecError, match="1 \\+ a multiple of 4"):
            codec.encode_video(self.clips()[:, :4])


def test_unknown_or_damaged_codec_is_refused(patch_codec):
    with pytest.raises(CheckpointError, match="unknown codec 'jpeg'"):
        codec_from_tensors({}, {"kind": "jpeg"})
    tensors, record = patch_codec.to_tensors()
    del tensors["basis"]
    with pytest.raises(CheckpointError, match="patch codec cannot be rebuilt"):
        codec_from_tensors(tensors, record)
