from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from model_toys import CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts, square_images
from safetensors.torch import load_file

from checkpoints.directory import read_checkpoint, write_checkpoint
from core.errors import AssetError, CheckpointError, ConfigError, NonFiniteError, SpecError
from core.ids import EpisodeId
from core.specs import CameraSpec
from core.windows import WindowBatch
from models import presets
from models.codecs import WanVaeCodec
from models.flow import velocity_target
from models.text import HashedText, PrecomputedT5
from models.viva import InferenceNoise, Prediction, Viva, VivaConfig, viva_config
from models.viva_frames import average_copies, frame_to_value, letterbox, repeat_to_frame, value_to_frame

INSTRUCTION = "go to the middle"


def toy_config(**changes):
    return VivaConfig(
        **{
            "image_height_px": HEIGHT,
            "image_width_px": WIDTH,
            "latent_channels": 24,
            "latent_px": 8,
            "text_length": 8,
            "text_dim": 16,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "ffn_dim": 64,
            "time_embed_dim": 16,
            "patch_height": 2,
            **changes,
        }
    )


def toy_model(seed=0, env_spec=ENV_SPEC, **changes):
    torch.manual_seed(seed)
    return Viva(toy_config(**changes), env_spec, *small_parts())


def toy_windows(count=6, seed=0, x=None, instruction=INSTRUCTION):
    """A square at ``x`` (0 left .. 1 right); the state follows it, and is further right in the future."""
    rng = np.random.default_rng(seed)
    x = rng.random(count) if x is None else np.asarray(x, float)
    centres = np.stack([5 + x * (WIDTH - 10), np.full(len(x), HEIGHT / 2)], axis=1)
    state = np.zeros((len(x), 2, STATE_DIM), np.float32)
    state[:, 0, 0], state[:, 1, 0] = 4 * x - 2, 4 * np.minimum(1, x + 0.2) - 2
    return WindowBatch(
        images={CAMERA: square_images(centres, rng)[:, None]},
        state=state,
        action=np.zeros((len(x), 0, 3), np.float32),
        action_is_pad=np.zeros((len(x), 0), bool),
        instruction=(instruction,) * len(x),
        episode_id=(EpisodeId("0" * 32),) * len(x),
        t=np.arange(len(x)),
    )


def subset(windows, rows):
    return dataclasses.replace(
        windows,
        images={CAMERA: windows.images[CAMERA][rows]},
        state=windows.state[rows],
        action=windows.action[rows],
        action_is_pad=windows.action_is_pad[rows],
        instruction=tuple(np.array(windows.instruction)[rows]),
        episode_id=tuple(np.array(windows.episode_id)[rows]),
        t=windows.t[rows],
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seen_by_the_network(model, call):
    """What ``call`` gives the transformer: latents, diffusion times, text."""
    seen = []
    handle = model.transformer.register_forward_pre_hook(lambda module, args: seen.append([a.detach().clone() for a in args]))
    call()
    handle.remove()
    return seen


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 14, 60])
def test_state_round_trip_is_exact(length):
    vector = torch.randn(3, length, generator=generator())
    frame = repeat_to_frame(vector, (3, 4, 5))
    assert frame.shape == (3, 3, 4, 5)
    torch.testing.assert_close(average_copies(frame, length), vector, rtol=0, atol=1e-6)


def test_state_fills_the_frame_channel_major_and_the_cut_copy_is_not_read():
    frame = repeat_to_frame(torch.tensor([[0.0, 1.0, 2.0]]), (2, 2, 2))
    assert frame.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert frame[0, 1, 0].tolist() == [1, 2]
    frame[0, 1, 1] = 99.0
    assert average_copies(frame, 3).tolist() == [[0, 1, 2]]


def test_reading_a_state_averages_noise_away():
    vector = torch.randn(1, 8, generator=generator())
    frame = repeat_to_frame(vector, (48, 24, 20))
    noisy = frame + torch.randn(frame.shape, generator=generator(1))
    assert float((average_copies(noisy, 8) - vector).abs().max()) < 4 / (48 * 24 * 20 / 8) ** 0.5


def test_value_round_trip_is_exact_and_follows_both_conventions():
    value = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0])
    frame = value_to_frame(value, (2, 3, 4))
    assert torch.equal(frame_to_value(frame), value)
    cost_to_go = -2 * value
    assert torch.equal(frame[:, 0, 0, 0], cost_to_go - 1), "z = G - 1 (paper, with the outcome shift)"
    released = -value
    assert torch.equal(frame[:, 0, 0, 0], 2 * released - 1), "z = 2 v - 1 (released code)"


def test_values_read_out_are_clamped():
    assert frame_to_value(torch.full((1, 2, 2, 2), 1.3)).tolist() == [-1.0]
    assert frame_to_value(torch.full((1, 2, 2, 2), -1.3)).tolist() == [0.0]


def test_letterbox_keeps_the_aspect_and_pads_black():
    images = np.full((2, 40, 80, 3), 200, np.uint8)
    boxed = letterbox(images, 60, 40)
    assert boxed.shape == (2, 60, 40, 3)
    assert (boxed[:, 20:40] == 200).all()
    assert (boxed[:, :20] == 0).all()
    assert (boxed[:, 40:] == 0).all()
    assert letterbox(images, 40, 80) is images


# -- layout -----------------------------------------------------------------------------------------------------------


def test_the_network_is_diffusers_own():
    assert type(toy_model().transformer) is WanTransformer3DModel


@pytest.mark.parametrize(("control_hz", "offset_s", "steps"), [(3.0, 2.0, 6), (50.0, 1.0, 50), (3.0, 0.1, 1)])
def test_future_offset_is_seconds(control_hz, offset_s, steps):
    action = dataclasses.replace(ENV_SPEC.action, control_hz=control_hz)
    model = toy_model(env_spec=dataclasses.replace(ENV_SPEC, action=action), future_offset_s=offset_s)
    assert model.window_spec.state_offsets == (0, steps)
    assert model.window_spec.image_offsets == (0,)


def test_sequence_is_blank_state_view_and_noised_future_state_and_value():
    model, windows = toy_model(), toy_windows()
    value = np.linspace(-1, 0, 6, dtype=np.float32)
    [(latents, timestep, text)] = seen_by_the_network(model, lambda: model.loss(windows, value, generator()))
    shape = model.config.latent_shape
    assert latents.shape == (6, shape[0], 5, *shape[1:])
    assert not latents[:, :, 0].any()
    state = torch.from_numpy(model.normalization.state.normalize(windows.state[:, 0])).clamp(-1, 1)
    assert torch.equal(latents[:, :, 1], repeat_to_frame(state, shape))
    assert torch.equal(latents[:, :, 2], model.codec.encode(windows.images[CAMERA][:, 0]))
    # One tau a sample, the same for all its tokens: a vector of times, not one a token.
    assert timestep.shape == (6,)
    tau = (timestep / 1000)[:, None]
    noise = (latents[:, :, 4].flatten(1) - (1 - tau) * (-2 * torch.from_numpy(value)[:, None] - 1)) / tau
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(text, model.text.embed(windows.instruction[:1])[0])


def test_cameras_become_frames_in_the_configured_order_and_any_size_is_letterboxed():
    wrist = CameraSpec(name="wrist", height_px=64, width_px=64)
    spec = dataclasses.replace(ENV_SPEC, cameras=(wrist, *ENV_SPEC.cameras))
    windows = toy_windows()
    square = np.random.default_rng(0).integers(0, 256, (6, 1, 64, 64, 3), dtype=np.uint8)
    windows = dataclasses.replace(windows, images={**windows.images, "wrist": square})
    model = toy_model(env_spec=spec, cameras=(CAMERA, "wrist"))
    views = model.encode_windows(windows).views
    assert torch.equal(views[:, 0], model.codec.encode(windows.images[CAMERA][:, 0]))
    assert torch.equal(views[:, 1], model.codec.encode(letterbox(square[:, 0], HEIGHT, WIDTH)))
    everything = toy_model(env_spec=spec).encode_windows(windows).views
    assert torch.equal(everything, views.flip(1))
    assert toy_model(env_spec=spec, cameras=("wrist",)).predict(windows).value.shape == (6,)


@pytest.mark.parametrize("prediction", Prediction)
def test_loss_is_the_weighted_error_of_the_two_target_frames(prediction):
    model, windows = toy_model(future_state_weight=0.5, value_weight=2.0, prediction=prediction), toy_windows()
    value = np.linspace(-1, 0, 6, dtype=np.float32)
    loss = model.loss(windows, value, generator())
    [(latents, timestep, text)] = seen_by_the_network(model, lambda: model.loss(windows, value, generator()))
    shape = model.config.latent_shape
    future = torch.from_numpy(model.normalization.state.normalize(windows.state[:, 1])).clamp(-1, 1)
    clean = torch.stack([repeat_to_frame(future, shape), value_to_frame(torch.from_numpy(value), shape)], dim=2)
    tau = (timestep / 1000).reshape(-1, 1, 1, 1, 1)
    noise = (latents[:, :, 3:] - (1 - tau) * clean) / tau
    with torch.no_grad():
        predicted = model.transformer(latents, timestep, text).sample[:, :, 3:]
    wanted = velocity_target(clean, noise) if prediction is Prediction.FLOW else clean
    error = (predicted - wanted).square().mean(dim=(1, 3, 4))
    torch.testing.assert_close(loss.per_example, 0.5 * error[:, 0] + 2.0 * error[:, 1], rtol=1e-3, atol=1e-3)
    assert loss.metrics["value_loss"] == pytest.approx(float(error[:, 1].mean()), rel=1e-3)
    assert loss.metrics["future_state_loss"] == pytest.approx(float(error[:, 0].mean()), rel=1e-3)


# -- predictions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"noise": InferenceNoise.ZERO}, {"denoise_steps": 3}, {"noise": InferenceNoise.FIXED, "num_noise_draws": 3}]
)
def test_values_are_deterministic_and_do_not_depend_on_the_batch(changes):
    model, windows = toy_model(**changes), toy_windows()
    together = model.predict(windows)
    assert together.value.shape == (6,)
    assert together.value.dtype == np.float32
    assert ((together.value >= -1) & (together.value <= 0)).all()
    assert together.extras["future_state"].shape == (6, STATE_DIM)
    torch.manual_seed(1)
    np.testing.assert_array_equal(model.predict(windows).value, together.value)
    for rows in ([3], [5, 0, 2]):
        alone = model.predict(subset(windows, rows))
        np.testing.assert_allclose(alone.value, together.value[rows], atol=1e-5)
        np.testing.assert_allclose(alone.extras["future_state"], together.extras["future_state"][rows], atol=1e-4)


@pytest.mark.parametrize("noise", InferenceNoise)
@pytest.mark.parametrize("prediction", Prediction)
def test_one_step_reads_what_the_network_says_at_tau_one(noise, prediction):
    model, windows = toy_model(noise=noise, prediction=prediction), toy_windows()
    [(latents, timestep, text)] = seen_by_the_network(model, lambda: model.predict(windows))
    assert timestep.tolist() == [1000.0] * 6
    start = latents[:, :, 3:]
    assert start.any() == (noise is InferenceNoise.FIXED)
    assert torch.equal(start, start[:1].expand_as(start)), "the same for every window"
    with torch.no_grad():
        output = model.transformer(latents, timestep, text).sample[:, :, 3:]
    clean = output if prediction is Prediction.SAMPLE else start - output
    np.testing.assert_allclose(model.predict(windows).value, frame_to_value(clean[:, :, 1]), atol=1e-6)


def test_the_future_is_not_read_and_need_not_be_there():
    model, windows = toy_model(), toy_windows()
    changed = dataclasses.replace(windows, state=np.concatenate([windows.state[:, :1], windows.state[:, 1:] + 7], axis=1))
    present = dataclasses.replace(windows, state=windows.state[:, :1])
    for other in (changed, present):
        np.testing.assert_array_equal(model.predict(other).value, model.predict(windows).value)


def test_image_state_and_instruction_are_read():
    model, windows = toy_model(), toy_windows()
    value = model.predict(windows).value
    black = dataclasses.replace(windows, images={CAMERA: np.zeros_like(windows.images[CAMERA])})
    moved = dataclasses.replace(windows, state=windows.state[:, ::-1])
    told = dataclasses.replace(windows, instruction=("go to the left",) * 6)
    for other in (black, moved, told):
        assert np.abs(model.predict(other).value - value).max() > 1e-5


def test_several_draws_give_their_mean_and_spread():
    model, windows = toy_model(noise=InferenceNoise.FIXED, num_noise_draws=4), toy_windows()
    prediction = model.predict(windows)
    one = toy_model(noise=InferenceNoise.FIXED)
    assert prediction.extras["value_spread"].shape == (6,)
    assert (prediction.extras["value_spread"] > 0).all()
    assert "value_spread" not in one.predict(windows).extras
    other = toy_model(noise=InferenceNoise.FIXED, noise_seed=1)
    assert np.abs(one.predict(windows).value - other.predict(windows).value).max() > 1e-6


def test_latents_can_be_kept():
    model, windows = toy_model(), toy_windows()
    encoded = model.encode_windows(windows)
    np.testing.assert_array_equal(model.predict_from_latents(encoded).value, model.predict(windows).value)


# -- learning ---------------------------------------------------------------------------------------------------------


def train(model, windows, value, num_steps, batch_size=16):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rng, noise, losses = np.random.default_rng(0), generator(), []
    for step in range(num_steps):
        rows = rng.integers(0, len(windows), batch_size)
        loss = model.loss(subset(windows, rows), value[rows], noise).per_example.mean()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, 2 * (1 - step / num_steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_loss_falls_on_a_fixed_batch():
    model, windows = toy_model(), toy_windows(8)
    value = np.linspace(-1, 0, 8, dtype=np.float32)
    losses = train(model, windows, value, 40)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


@pytest.mark.whole
def test_learns_progress_and_that_failures_are_worth_less():
    """Going right is progress. Under the second instruction it always ended in failure: the same pictures, half a unit less."""
    x = np.random.default_rng(0).random(128)
    good, bad = toy_windows(x=x), toy_windows(x=x, instruction="push it over the edge")
    windows = WindowBatch(
        images={CAMERA: np.concatenate([good.images[CAMERA], bad.images[CAMERA]])},
        state=np.concatenate([good.state, bad.state]),
        action=np.concatenate([good.action, bad.action]),
        action_is_pad=np.concatenate([good.action_is_pad, bad.action_is_pad]),
        instruction=good.instruction + bad.instruction,
        episode_id=good.episode_id + bad.episode_id,
        t=np.concatenate([good.t, bad.t]),
    )
    value = np.concatenate([(x - 1) / 2, (x - 1) / 2 - 0.5]).astype(np.float32)
    model = toy_model(patch_height=4, patch_width=5)
    train(model, windows, value, 160)
    grid = np.linspace(0.05, 0.95, 10)
    success, failure = (
        model.predict(toy_windows(seed=9, x=grid, instruction=text)) for text in (INSTRUCTION, "push it over the edge")
    )
    assert np.corrcoef(success.value, grid)[0, 1] > 0.9
    gap = success.value - failure.value
    assert gap.min() > 0.1
    assert gap.mean() > 0.3
    future = success.extras["future_state"][:, 0]
    assert np.corrcoef(future, np.minimum(1, grid + 0.2))[0, 1] > 0.8


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip_is_exact(tmp_path):
    model, windows = toy_model(cameras=(CAMERA,), noise=InferenceNoise.FIXED, num_noise_draws=2), toy_windows()
    model.version = 7
    write_checkpoint(tmp_path / "value", *model.to_checkpoint())
    again = presets.from_checkpoint(*read_checkpoint(tmp_path / "value"))
    assert isinstance(again, Viva)
    assert (again.version, again.config, again.env_spec) == (7, model.config, model.env_spec)
    for name, array in model.predict(windows).extras.items():
        np.testing.assert_array_equal(again.predict(windows).extras[name], array)
    np.testing.assert_array_equal(again.predict(windows).value, model.predict(windows).value)
    value = np.zeros(6, np.float32)
    assert torch.equal(again.loss(windows, value, generator()).per_example, model.loss(windows, value, generator()).per_example)


def test_damaged_checkpoints_are_refused_by_name():
    tensors, manifest = toy_model().to_checkpoint()
    key = "transformer.proj_out.weight"
    without = {name: tensor for name, tensor in tensors.items() if name != key}
    with pytest.raises(CheckpointError, match=r"missing \['proj_out\.weight'\]"):
        Viva.from_checkpoint(without, manifest)
    with pytest.raises(CheckpointError, match=r"unexpected \['lora\.weight'\]"):
        Viva.from_checkpoint({**tensors, "transformer.lora.weight": torch.zeros(1)}, manifest)
    with pytest.raises(NonFiniteError, match=r"proj_out\.weight holds NaN"):
        Viva.from_checkpoint({**tensors, key: torch.full_like(tensors[key], torch.nan)}, manifest)
    with pytest.raises(CheckpointError, match="manifest lacks 'normalization'"):
        Viva.from_checkpoint(tensors, {name: record for name, record in manifest.items() if name != "normalization"})
    config = json.loads(json.dumps(manifest["config"]))
    with pytest.raises(CheckpointError, match=r"not one of this version: .*num_experts"):
        Viva.from_checkpoint(tensors, {**manifest, "config": {**config, "num_experts": 2}})


def test_nan_weights_give_an_error_that_names_the_window():
    model = toy_model()
    with torch.no_grad():
        model.transformer.proj_out.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"value of window 0 is nan; .* damaged"):
        model.predict(toy_windows())


# -- real sizes -------------------------------------------------------------------------------------------------------


def test_5b_is_wan_2_2_ti2v_at_the_papers_resolution():
    config = viva_config("5b")
    published = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "in_channels": 48,
        "out_channels": 48,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 14336,
        "num_layers": 30,
    }
    assert config.transformer_config() == published
    assert config.latent_shape == (48, 24, 20)
    assert 7 * (24 // config.patch_height) * (20 // config.patch_width) == 840, "tokens with three views"
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**config.transformer_config())
    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(5.0e9, rel=0.001)


@pytest.fixture
def pretrained(tmp_path):
    """A small random network in the layout of Wan2.2-TI2V-5B-Diffusers: sharded transformer/, vae/ of its kind."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16, "text_dim": 16}
    transformer = WanTransformer3DModel(patch_size=(1, 2, 2), in_channels=48, out_channels=48, **sizes)
    transformer.save_pretrained(tmp_path / "transformer", max_shard_size="60KB")
    vae = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
        latents_mean=[0.1] * 48,
        latents_std=[2.0] * 48,
    )
    vae.save_pretrained(tmp_path / "vae")
    return tmp_path


def pretrained_config(**changes):
    return dataclasses.replace(
        viva_config("5b"),
        **{
            "image_height_px": 64,
            "image_width_px": 32,
            "text_length": 4,
            "text_dim": 16,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "ffn_dim": 32,
            "time_embed_dim": 16,
            **changes,
        },
    )


def test_real_directory_layout_loads_trains_and_round_trips(pretrained):
    assert (pretrained / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists(), "sharded, as the real one"
    text = PrecomputedT5([INSTRUCTION], torch.randn(1, 4, 16, generator=generator()), torch.ones(1, 4, dtype=torch.bool))
    codec = WanVaeCodec.from_pretrained(pretrained, 64, 32)
    normalization = small_parts()[0]
    model = Viva.from_pretrained(pretrained, pretrained_config(), ENV_SPEC, normalization, codec, text)
    assert_holds_the_shards(model, pretrained)
    windows = toy_windows(2)
    value = model.predict(windows).value
    assert value.shape == (2,)
    loss = model.loss(windows, np.float32([-0.5, -0.2]), generator()).per_example
    loss.mean().backward()
    assert model.transformer.proj_out.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.codec.parameters())
    again = Viva.from_checkpoint(*model.to_checkpoint())
    np.testing.assert_array_equal(again.predict(windows).value, value)


def assert_holds_the_shards(model, directory):
    weights, saved = model.transformer.state_dict(), {}
    for shard in (directory / "transformer").glob("*.safetensors"):
        saved |= load_file(shard)
    assert weights.keys() == saved.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, saved[name].to(weight.dtype), rtol=0, atol=0)


def test_pretrained_weights_can_be_converted_while_loading(pretrained):
    parts = (ENV_SPEC, small_parts()[0], WanVaeCodec.from_pretrained(pretrained, 64, 32), HashedText(length=4, dim=16))
    model = Viva.from_pretrained(pretrained, pretrained_config(), *parts, torch.bfloat16)
    assert_holds_the_shards(model, pretrained)
    weights = model.transformer.state_dict()
    assert weights["blocks.0.ffn.net.2.weight"].dtype is torch.bfloat16
    assert weights["blocks.0.scale_shift_table"].dtype is torch.float32, "diffusers keeps it in full precision"
    # Not run here: torch 2.13's bfloat16 conv3d on CPUs gives garbage for frames as small as these.


def test_pretrained_weights_of_another_size_or_nowhere_are_refused(pretrained):
    parts = (ENV_SPEC, small_parts()[0], WanVaeCodec.from_pretrained(pretrained, 64, 32), HashedText(length=4, dim=16))
    with pytest.raises(CheckpointError, match=r"\{'num_layers': \(2, 3\)\}"):
        Viva.from_pretrained(pretrained, pretrained_config(num_layers=3), *parts)
    with pytest.raises(AssetError, match=r"transformer.config\.json is missing"):
        Viva.from_pretrained(pretrained / "vae", pretrained_config(), *parts)
    shard = max((pretrained / "transformer").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{shard.name} is damaged"):
        Viva.from_pretrained(pretrained, pretrained_config(), *parts)
    shard.unlink()
    with pytest.raises(AssetError, match=f"{shard.name} is missing"):
        Viva.from_pretrained(pretrained, pretrained_config(), *parts)


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"images": {"wrist": w.images[CAMERA]}}, r"cameras \['wrist'\]; expected 'overhead_camera'"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:, :, :-1]}}, r"uint8 \(6, 1, 31, 40, 3\); expected uint8 .*32, 40, 3"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA].astype(np.float32)}}, r"float32 \(6, 1, 32, 40, 3\); expected uint8"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:, :0]}}, r"uint8 \(6, 0, 32, 40, 3\)"),
        (lambda w: {"images": {CAMERA: w.images[CAMERA][:5]}}, r"5 images for 6 windows"),
        (lambda w: {"state": w.state[..., :3]}, r"state is \(6, 2, 3\); expected \(6, G, 4\)"),
        (lambda w: {"state": w.state[:, :0]}, r"state is \(6, 0, 4\)"),
        (lambda w: {"instruction": ("go", "go", " ", "go", "go", "go")}, "window 2: the instruction is ' '"),
    ],
)
def test_windows_that_do_not_fit_are_refused(change, message):
    windows = toy_windows()
    windows = dataclasses.replace(windows, **change(windows))
    with pytest.raises(SpecError, match=message):
        toy_model().predict(windows)


def test_training_needs_the_future_state_and_a_target_in_range():
    model, windows = toy_model(), toy_windows()
    value = np.full(6, -0.5, np.float32)
    with pytest.raises(SpecError, match=r"1 states each; expected 2, now and 2\.0 s later"):
        model.loss(dataclasses.replace(windows, state=windows.state[:, :1]), value, generator())
    with pytest.raises(SpecError, match=r"value_target is \(5,\); expected \(6,\)"):
        model.loss(windows, value[:5], generator())
    for bad in (0.1, -1.1, np.nan):
        value[3] = bad
        with pytest.raises(SpecError, match=r"value_target\[3\] is .*; expected a number in"):
            model.loss(windows, value, generator())


def test_parts_that_do_not_fit_are_refused():
    normalization, codec, text = small_parts()
    with pytest.raises(SpecError, match=r"text_dim 16; the value model's configuration says 64"):
        Viva(toy_config(text_dim=64), ENV_SPEC, normalization, codec, text)
    with pytest.raises(SpecError, match=r"latent_shape \(24, 4, 5\); the value model's configuration says \(12, 4, 5\)"):
        Viva(toy_config(latent_channels=12), ENV_SPEC, normalization, codec, text)
    with pytest.raises(SpecError, match=r"looks through \['wrist'\]; the environment has \['overhead_camera'\]"):
        Viva(toy_config(cameras=("wrist",)), ENV_SPEC, normalization, codec, text)
    other = dataclasses.replace(ENV_SPEC, state=dataclasses.replace(ENV_SPEC.state, names=("x",), units=("m",)))
    with pytest.raises(SpecError, match="normalisation has"):
        Viva(toy_config(), other, normalization, codec, text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoise_steps": 0}, "denoise_steps is 0; expected a positive"),
        ({"future_offset_s": -1.0}, r"future_offset_s is -1\.0"),
        ({"patch_height": 3}, "images are 32x40 px; expected multiples of 24x8 px"),
        ({"noise": InferenceNoise.ZERO, "num_noise_draws": 2}, "zero, which can be drawn once; num_noise_draws is 2"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        toy_config(**changes)
