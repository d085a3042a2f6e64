"""WVM's own promises: the mask and what follows from it, chunks, prefixes, augmentation, pretrained weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from model_toys import CAMERA, ENV_SPEC, HEIGHT, WIDTH, small_parts
from torch import nn
from value_toys import INSTRUCTION, clip_windows, small_value_config, small_value_model

from core.errors import AssetError, CheckpointError, ConfigError, SpecError
from core.specs import CameraSpec
from models.codecs import WanVaeCodec
from models.flow import NUM_TRAIN_TIMESTEPS
from models.text import HashedText
from models.viva_config import InferenceNoise, Prediction
from models.wvm import Wvm
from models.wvm_clips import Chunks, augmented_order, first_frame, random_prefix
from models.wvm_config import PrefixToken, ValueHead, VideoAttention, wvm_config
from models.wvm_network import ValueTransformer, _conditions, _rotated, read_video, with_joint_blocks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    """A video transformer, a value transformer and their inputs for two clips; weights large enough to matter."""
    config = small_value_config("wvm")
    torch.manual_seed(0)
    video = with_joint_blocks(WanTransformer3DModel(**config.transformer_config()))
    value = ValueTransformer(config, frames_per_latent=1)
    with torch.no_grad():
        for parameter in (*video.parameters(), *value.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(1)))
    shape = (2, 24, 4, 4, 5)
    inputs = {
        "current": torch.randn(shape, generator=generator(2)),
        "future": torch.randn(shape, generator=generator(3)),
        "tau": torch.tensor([0.3, 0.8]),
        "text": torch.randn(2, 8, 16, generator=generator(4)),
        "chunk": torch.randn(2, 5, generator=generator(5)),
    }
    return video.eval(), value.eval(), inputs


def read(video, inputs, attention, **changes):
    inputs = {**inputs, **changes}
    with torch.no_grad():
        return read_video(video, inputs["current"], inputs["future"], inputs["tau"], inputs["text"], attention)


def answered(value, context, inputs):
    with torch.no_grad():
        return value(inputs["chunk"], inputs["tau"], inputs["text"], context)


# -- the mask ---------------------------------------------------------------------------------------------------------


def test_full_video_attention_is_diffusers_own_forward(network):
    video, _, inputs = network
    _, output = read(video, inputs, VideoAttention.FULL)
    tokens_of_frames = torch.cat([torch.zeros(2, 4), inputs["tau"][:, None].expand(2, 4)], dim=1)
    times = tokens_of_frames.repeat_interleave(10, dim=1) * NUM_TRAIN_TIMESTEPS
    with torch.no_grad():
        latents = torch.cat([inputs["current"], inputs["future"]], dim=2)
        diffusers_own = WanTransformer3DModel(**small_value_config("wvm").transformer_config()).eval()
        diffusers_own.load_state_dict(video.state_dict())
        wanted = diffusers_own(latents, times, inputs["text"], return_dict=False)[0][:, :, 4:]
    torch.testing.assert_close(output, wanted, atol=1e-5, rtol=1e-5)


def test_without_the_future_the_value_reads_exactly_the_same_where_the_mask_hides_it(network):
    video, value, inputs = network
    with_future, _ = read(video, inputs, VideoAttention.CAUSAL)
    skipped, output = read(video, inputs, VideoAttention.CAUSAL, future=None)
    assert output is None
    wanted = answered(value, with_future, inputs)
    torch.testing.assert_close(answered(value, skipped, inputs), wanted, atol=1e-6, rtol=1e-6)
    other, _ = read(video, inputs, VideoAttention.CAUSAL, future=inputs["future"] + 1, tau=torch.ones(2))
    torch.testing.assert_close(answered(value, other, inputs), wanted, atol=1e-6, rtol=1e-6)


def test_with_full_attention_the_future_leaks_into_the_value(network):
    video, value, inputs = network
    first, _ = read(video, inputs, VideoAttention.FULL)
    other, _ = read(video, inputs, VideoAttention.FULL, future=inputs["future"] + 1)
    assert (answered(value, first, inputs) - answered(value, other, inputs)).abs().max() > 1e-4


def test_two_passes_are_one_joint_attention_with_the_asymmetric_mask(network):
    """The paper's mixture of transformers, written out: all tokens in one attention, value columns hidden from video rows."""
    video, value, inputs = network
    context, _ = read(video, inputs, VideoAttention.CAUSAL, future=None)
    wanted = answered(value, context, inputs)
    with torch.no_grad():
        rotary = video.rope(inputs["current"])
        pixels = video.patch_embedding(inputs["current"]).flatten(2).transpose(1, 2)
        numbers = value.value_in(inputs["chunk"][..., None]) + value.place
        num_video, num_value = pixels.shape[1], numbers.shape[1]
        video_conditions = _conditions(video.condition_embedder, inputs["tau"], inputs["text"], torch.zeros(num_video).bool())
        is_noised = torch.arange(num_value) > 0
        value_conditions = _conditions(value.condition_embedder, inputs["tau"], inputs["text"], is_noised)
        corner = torch.tensor(value.latent_of_token) * value.tokens_per_latent
        rotaries = (rotary, (rotary[0][:, corner], rotary[1][:, corner]))
        mask = torch.ones(num_video + num_value, num_video + num_value).bool()
        mask[:num_video, num_video:] = False
        for blocks in zip(video.blocks, value.blocks, strict=True):
            streams = []
            for block, hidden, conditions, places in zip(
                blocks, (pixels, numbers), (video_conditions, value_conditions), rotaries, strict=True
            ):
                table = (block.scale_shift_table.unsqueeze(0) + conditions[1]).unbind(dim=2)
                normed, heads = block.norm1(hidden) * (1 + table[1]) + table[0], (block.attn1.heads, -1)
                query = _rotated(block.attn1.norm_q(block.attn1.to_q(normed)).unflatten(2, heads), places)
                key = _rotated(block.attn1.norm_k(block.attn1.to_k(normed)).unflatten(2, heads), places)
                streams.append((query, key, block.attn1.to_v(normed).unflatten(2, heads), table))
            joint = [torch.cat([stream[part] for stream in streams], dim=1).transpose(1, 2) for part in range(3)]
            attended = nn.functional.scaled_dot_product_attention(*joint, attn_mask=mask).transpose(1, 2).flatten(2)
            results = []
            for block, hidden, conditions, part, stream in zip(
                blocks,
                (pixels, numbers),
                (video_conditions, value_conditions),
                attended.split([num_video, num_value], dim=1),
                streams,
                strict=True,
            ):
                table = stream[3]
                after = hidden + block.attn1.to_out[0](part) * table[2]
                after = after + block.attn2(block.norm2(after), conditions[2])
                results.append(after + block.ffn(block.norm3(after) * (1 + table[4]) + table[3]) * table[5])
            pixels, numbers = results
        shift, scale = (value.scale_shift_table.unsqueeze(0) + value_conditions[0].unsqueeze(2)).unbind(dim=2)
        output = value.proj_out(value.norm_out(numbers) * (1 + scale) + shift)[:, 1:, 0]
    torch.testing.assert_close(output, wanted, atol=1e-5, rtol=1e-5)


def test_the_values_gradient_reaches_the_video_unless_it_is_frozen():
    for is_frozen in (False, True):
        model = small_value_model("wvm", is_video_frozen=is_frozen, video_weight=0.0)
        windows, target = clip_windows(model, count=2)
        model.loss(windows, target, generator()).per_example.sum().backward()
        touched = any(p.grad is not None and p.grad.abs().max() > 0 for p in model.transformer.parameters())
        assert touched is not is_frozen
        assert model.value.value_in.weight.grad.abs().max() > 0


# -- clips ------------------------------------------------------------------------------------------------------------


def test_augmentation_has_the_published_shares():
    order = augmented_order(4000, wvm_config("tiny"), generator())
    rising, falling = (order == np.arange(9)).all(axis=1), (order == np.arange(9)[::-1]).all(axis=1)
    plateau = (order == 4).all(axis=1)
    assert (rising | falling | plateau).all()
    assert [rising.mean(), falling.mean(), plateau.mean()] == pytest.approx([0.5, 0.45, 0.05], abs=0.03)
    never = dataclasses.replace(wvm_config("tiny"), rewind_ratio=0.0)
    assert (augmented_order(50, never, generator()) == np.arange(9)).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_prefixes_are_randomised_as_often_as_said(share):
    config = dataclasses.replace(wvm_config("tiny"), prefix_randomization=share)
    prefix = torch.full((4000,), 0.123)
    drawn = random_prefix(prefix, config, generator())
    changed = drawn != prefix
    assert float(changed.float().mean()) == pytest.approx(share, abs=0.03)
    if share:
        assert drawn[changed].min() < -0.95
        assert drawn[changed].max() > 0.95
        assert abs(drawn[changed].mean()) < 0.1


def test_window_reads_one_chunk_before_and_learns_from_the_clip():
    model = small_value_model("wvm")  # 3 Hz: one environment step a frame
    assert model.window_spec.image_offsets == tuple(range(-8, 5))
    assert model.window_spec.value_offsets == tuple(range(-4, 5))
    slow = small_value_model("wvm", frame_interval_s=1.0, num_chained_chunks=0)
    assert slow.window_spec.image_offsets == tuple(range(-12, 13, 3))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, (3, 2, 1, 0)),
        ({"overlap_stride": 3}, (3, 0)),
        ({"overlap_stride": 4}, (3,)),
        ({"prefix": PrefixToken.FIRST}, (2, 1, 0)),
    ],
)
def test_chunks_that_hold_the_present_frame_are_found_wherever_they_end(changes, place):
    config = small_value_config("wvm", **changes)
    num_frames = config.chunk_frames - first_frame(config) + 1
    episode = np.arange(200, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    present = [40, 41]
    frames = np.stack([episode[t + first_frame(config) :][:num_frames] for t in present])
    steps = [range(t, t + num_frames) for t in present]
    chunks = Chunks.cut(frames, (INSTRUCTION,) * 2, steps, config)
    assert chunks.place == place
    n = config.num_predicted
    for b, t in enumerate(present):
        for j, where in enumerate(place):
            last, before = (chunks.frames[chunks.clips[chunks.of_link[link, b, j]], 0, 0, 0] for link in (-1, 0))
            assert last[-n:][where] == t
            assert before[-1] == last[-1] - n  # what the chain's first chunk predicts last is the second's prefix
    if not changes:
        assert len(chunks.clips) == 9, "neighbouring windows share their chunks: ends 36..44, not 2 x 8"


def test_equal_frames_under_another_instruction_are_another_chunk():
    config = small_value_config("wvm", num_chained_chunks=0, overlap_stride=4)
    frames = np.zeros((2, config.chunk_frames - first_frame(config) + 1, 2, 2, 3), np.uint8)
    steps = [range(frames.shape[1])] * 2
    assert len(Chunks.cut(frames, ("go", "go"), steps, config).clips) == 1
    assert len(Chunks.cut(frames, ("go", "stay"), steps, config).clips) == 2


def test_frames_that_only_claim_to_be_the_same_step_are_kept_apart():
    config = small_value_config("wvm", num_chained_chunks=0, overlap_stride=4)
    num_frames = config.chunk_frames - first_frame(config) + 1
    frames = np.random.default_rng(0).integers(0, 256, (3, num_frames, 2, 2, 3), dtype=np.uint8)
    frames[2] = frames[0]
    chunks = Chunks.cut(frames, ("go",) * 3, [range(num_frames)] * 3, config)
    first = num_frames - 2 * config.chunk_frames - 1
    for b in range(3):
        clip = chunks.frames[chunks.clips[chunks.of_link[-1, b, 0]]]
        np.testing.assert_array_equal(clip, frames[b, first : first + config.chunk_frames + 1])


def test_the_value_is_the_mean_of_the_overlapping_chunks():
    model = small_value_model("wvm", num_chained_chunks=0)
    alone = small_value_model("wvm", num_chained_chunks=0, overlap_stride=4)
    windows, _ = clip_windows(model, count=1)
    later = [dataclasses.replace(windows, images={CAMERA: np.roll(windows.images[CAMERA], -end, axis=1)}) for end in range(4)]
    estimates = [alone.predict(window).extras["chunk"][0, 3 - end] for end, window in enumerate(later)]
    prediction = model.predict(windows)
    assert prediction.value[0] == pytest.approx(np.mean(estimates), abs=1e-5)
    assert prediction.extras["value_spread"][0] == pytest.approx(np.std(estimates), abs=1e-5)
    assert prediction.extras["chunk"].shape == (1, 4)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"head": ValueHead.REGRESSION},
        {"attention": VideoAttention.FULL},
        {"prefix": PrefixToken.FIRST},
        {"video_weight": 0.0},
        {"video_prediction": Prediction.FLOW},
        {"denoise_steps": 4, "noise": InferenceNoise.FIXED},
        {"prefix_randomization": 1.0, "num_chained_chunks": 0},
        {"prefix_randomization": 0.0, "num_chained_chunks": 2},
        {"overlap_stride": 3},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_every_ablation_predicts_learns_and_round_trips(changes):
    model = small_value_model("wvm", **changes)
    windows, target = clip_windows(model, count=3)
    value = model.predict(windows).value
    assert ((value >= -1) & (value <= 0)).all()
    loss = model.loss(windows, target, generator())
    loss.per_example.sum().backward()
    assert ("video_loss" in loss.metrics) is (model.config.video_weight > 0)
    again = Wvm.from_checkpoint(*model.to_checkpoint())
    assert again.config == model.config
    np.testing.assert_array_equal(again.predict(windows).value, value)


def test_the_state_is_not_read():
    model = small_value_model("wvm")
    windows, _ = clip_windows(model, count=2)
    moved = dataclasses.replace(windows, state=windows.state + 1)
    np.testing.assert_array_equal(model.predict(moved).value, model.predict(windows).value)


def test_the_named_camera_is_looked_through():
    wrist = CameraSpec(name="wrist", height_px=24, width_px=24)
    env_spec = dataclasses.replace(ENV_SPEC, cameras=(*ENV_SPEC.cameras, wrist))
    model = small_value_model("wvm", env_spec=env_spec, camera="wrist")
    windows, _ = clip_windows(model, count=1)
    views = np.random.default_rng(0).integers(0, 256, (1, 13, 24, 24, 3), dtype=np.uint8)
    seen = model.predict(dataclasses.replace(windows, images={"wrist": views})).value
    assert seen.shape == (1,)
    with pytest.raises(SpecError, match=r"looks through \['front'\]"):
        small_value_model("wvm", camera="front")


# -- pretrained weights -----------------------------------------------------------------------------------------------


def wan_config():
    """As Wan2.2 is laid out, tiny: an autoencoder of 8 px and 4 frames a latent."""
    return small_value_config("wvm", codec="wan_vae", latent_channels=6, value_width=32)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A random transformer and autoencoder in a diffusers directory."""
    folder = tmp_path_factory.mktemp("wan")
    torch.manual_seed(0)
    WanTransformer3DModel(**wan_config().transformer_config()).save_pretrained(folder / "transformer")
    AutoencoderKLWan(
        base_dim=8, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 6, latents_std=[1.0] * 6,
    ).save_pretrained(folder / "vae")  # fmt: skip
    return folder


def test_pretrained_video_weights_and_a_four_frame_autoencoder(wan):
    codec = WanVaeCodec.from_pretrained(wan, HEIGHT, WIDTH)
    normalization, _, text = small_parts()
    torch.manual_seed(1)
    model = Wvm.from_pretrained(wan, wan_config(), ENV_SPEC, normalization, codec, text)
    stored = WanTransformer3DModel(**wan_config().transformer_config())
    assert model.transformer.state_dict().keys() == stored.state_dict().keys()
    assert model.value.latent_of_token == [0, 0, 0, 0, 0], "four frames of values, one latent of video"
    windows, target = clip_windows(model, count=2)
    loss = model.loss(windows, target, generator())
    assert {"value_loss", "video_loss"} == loss.metrics.keys()
    loss.per_example.sum().backward()
    assert np.isfinite(model.predict(windows).value).all()
    clips = windows.images[CAMERA][:, -9:]
    whole, without_future = codec.encode_video(clips), codec.encode_video(clips[:, :5])
    torch.testing.assert_close(without_future, whole[:, :2])  # latents of current frames know nothing of the future either
    with pytest.raises(AssetError, match=r"config\.json is missing"):
        Wvm.from_pretrained(wan / "vae", wan_config(), ENV_SPEC, normalization, codec, text)
    with pytest.raises(CheckpointError, match="differs from the configuration"):
        Wvm.from_pretrained(wan, dataclasses.replace(wan_config(), num_layers=3), ENV_SPEC, normalization, codec, text)
    with pytest.raises(SpecError, match="chunk_frames is 6; expected a multiple of 4"):
        Wvm(dataclasses.replace(wan_config(), chunk_frames=6), ENV_SPEC, normalization, codec, text)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk_frames": 0}, "chunk_frames is 0; expected a positive"),
        ({"chunk_frames": 1, "prefix": PrefixToken.FIRST}, "with prefix=first; expected at least 2"),
        ({"prefix_randomization": 1.5}, r"prefix_randomization is 1\.5; expected a number in \[0, 1\]"),
        ({"rewind_ratio": -0.1}, r"rewind_ratio is -0\.1"),
        ({"video_weight": -1.0}, r"video_weight is -1\.0; expected 0 or more"),
        ({"patch_height": 3}, "images are 32x40 px; expected multiples of 24x8 px"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        small_value_config("wvm", **changes)


def test_parts_that_do_not_fit_are_refused():
    normalization, codec, _ = small_parts()
    with pytest.raises(SpecError, match="text_dim 32; the value model's configuration says 16"):
        Wvm(small_value_config("wvm"), ENV_SPEC, normalization, codec, HashedText(length=8, dim=32))
