"""ViVa as a value model: its sequence, its predictions, what it learns, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from model_toys import CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts
from viva_toys import INSTRUCTION, generator, seen_by_the_network, subset, toy_config, toy_model, toy_windows

from core.errors import ConfigError, NonFiniteError, SpecError
from core.specs import CameraSpec
from core.windows import WindowBatch
from models.flow import velocity_target
from models.viva import InferenceNoise, Prediction, Viva
from models.viva_frames import frame_to_value, letterbox, repeat_to_frame, value_to_frame

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


def test_nan_weights_give_an_error_that_names_the_window():
    model = toy_model()
    with torch.no_grad():
        model.transformer.proj_out.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"value of window 0 is nan; .* damaged"):
        model.predict(toy_windows())


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
