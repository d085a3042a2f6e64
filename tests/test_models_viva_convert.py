"""The released ViVa layout: a small Wan network with its original names and its computation, written out from its description."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from model_toys import CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts, square_images
from safetensors.torch import save_file
from torch.nn.functional import gelu, layer_norm, linear, silu

from core.errors import AssetError, CheckpointError, NonFiniteError
from core.ids import EpisodeId
from core.specs import CameraSpec
from core.windows import WindowBatch
from models.viva import Viva, VivaConfig
from models.viva_config import BLACK_VIEW, InferenceNoise, Prediction, viva_config
from models.viva_convert import read_released_transformer, released_transformer

CONFIG = VivaConfig(
    image_height_px=HEIGHT,
    image_width_px=WIDTH,
    latent_channels=24,
    latent_px=8,
    text_length=8,
    text_dim=16,
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=16,
    ffn_dim=48,
    time_embed_dim=16,
    patch_height=2,
    prediction=Prediction.FLOW,
    noise=InferenceNoise.FIXED,
)
DIM, HEADS, EPS = 32, 2, 1e-6


def released_tensors(config=CONFIG, dim=DIM):
    """Random weights under Wan's own names, as ViVa's training script saves them."""
    c, f = config.latent_channels, config.ffn_dim
    patch = (1, config.patch_height, config.patch_width)
    shapes = {
        "patch_embedding": (dim, c, *patch),
        "text_embedding.0": (dim, config.text_dim),
        "text_embedding.2": (dim, dim),
        "time_embedding.0": (dim, config.time_embed_dim),
        "time_embedding.2": (dim, dim),
        "time_projection.1": (6 * dim, dim),
        "head.head": (c * math.prod(patch), dim),
    }
    plain = {"head.modulation": (1, 2, dim)}
    for i in range(config.num_layers):
        for attention in ("self_attn", "cross_attn"):
            shapes |= {f"blocks.{i}.{attention}.{part}": (dim, dim) for part in "qkvo"}
            plain |= {f"blocks.{i}.{attention}.norm_{part}.weight": (dim,) for part in "qk"}
        shapes |= {f"blocks.{i}.ffn.0": (f, dim), f"blocks.{i}.ffn.2": (dim, f), f"blocks.{i}.norm3": (dim,)}
        plain |= {f"blocks.{i}.modulation": (1, 6, dim)}
    for name, shape in shapes.items():
        plain |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(0)
    return {f"video_model.wan_model.{n}": 0.2 * torch.randn(shape, generator=generator) for n, shape in plain.items()}


class Released:
    """What Wan's transformer computes, from its description: nothing of diffusers is used."""

    def __init__(self, tensors):
        self.tensors = {name.removeprefix("video_model.wan_model."): tensor for name, tensor in tensors.items()}

    def layer(self, name, x):
        return linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def heads(self, name, norm, x):
        x = self.layer(name, x)
        if norm:
            x = x * (x.square().mean(dim=-1, keepdim=True) + EPS).rsqrt() * self.tensors[f"{norm}.weight"]
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def rotated(self, x, grid):
        places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij"), dim=-1)
        size = x.shape[-1]
        angles = []
        for axis, dim in enumerate((size - 4 * (size // 6), 2 * (size // 6), 2 * (size // 6))):
            frequency = 10000.0 ** (-torch.arange(0, dim, 2) / dim)
            angles.append(places[..., axis].reshape(-1, 1) * frequency)
        angle = torch.cat(angles, dim=1)
        even, odd = x[..., ::2], x[..., 1::2]
        turned = torch.stack([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], dim=-1)
        return turned.flatten(-2)

    def attention(self, name, x, context, grid=None):
        q, k = self.heads(f"{name}.q", f"{name}.norm_q", x), self.heads(f"{name}.k", f"{name}.norm_k", context)
        if grid:
            q, k = self.rotated(q, grid), self.rotated(k, grid)
        weight = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        mixed = weight @ self.heads(f"{name}.v", None, context)
        return self.layer(f"{name}.o", mixed.transpose(1, 2).flatten(2))

    def __call__(self, latents, timestep, text):
        frames, (ph, pw) = latents.shape[2], (CONFIG.patch_height, CONFIG.patch_width)
        grid = (frames, latents.shape[3] // ph, latents.shape[4] // pw)
        kernel, bias = (self.tensors[f"patch_embedding.{kind}"] for kind in ("weight", "bias"))
        x = torch.nn.functional.conv3d(latents, kernel, bias, stride=(1, ph, pw)).flatten(2).transpose(1, 2)
        half = CONFIG.time_embed_dim // 2
        angle = timestep[:, None] * 10000.0 ** (-torch.arange(half) / half)
        time = self.layer("time_embedding.0", torch.cat([angle.cos(), angle.sin()], dim=1))
        time = self.layer("time_embedding.2", silu(time))
        six = self.layer("time_projection.1", silu(time)).unflatten(1, (6, DIM))
        words = self.layer("text_embedding.2", gelu(self.layer("text_embedding.0", text), approximate="tanh"))
        for i in range(CONFIG.num_layers):
            block = f"blocks.{i}"
            m = (self.tensors[f"{block}.modulation"] + six)[:, :, None].unbind(dim=1)
            read = layer_norm(x, (DIM,), eps=EPS) * (1 + m[1]) + m[0]
            x = x + self.attention(f"{block}.self_attn", read, read, grid) * m[2]
            weight, bias = (self.tensors[f"{block}.norm3.{kind}"] for kind in ("weight", "bias"))
            x = x + self.attention(f"{block}.cross_attn", layer_norm(x, (DIM,), weight, bias, EPS), words)
            read = layer_norm(x, (DIM,), eps=EPS) * (1 + m[4]) + m[3]
            x = x + self.layer(f"{block}.ffn.2", gelu(self.layer(f"{block}.ffn.0", read), approximate="tanh")) * m[5]
        shift, scale = (self.tensors["head.modulation"] + time[:, None])[:, :, None].unbind(dim=1)
        x = self.layer("head.head", layer_norm(x, (DIM,), eps=EPS) * (1 + scale) + shift)
        x = x.unflatten(2, (1, ph, pw, CONFIG.latent_channels)).unflatten(1, grid)
        return torch.einsum("bfhwpqrc->bcfphqwr", x).reshape(latents.shape)


def windows(count=3, cameras=(CAMERA,)):
    rng = np.random.default_rng(0)
    return WindowBatch(
        images={name: square_images(rng.uniform(6, 26, (count, 2)), rng)[:, None] for name in cameras},
        state=rng.normal(size=(count, 2, STATE_DIM)).astype(np.float32),
        action=np.zeros((count, 0, 3), np.float32),
        action_is_pad=np.zeros((count, 0), bool),
        instruction=("go to the middle",) * count,
        episode_id=(EpisodeId("0" * 32),) * count,
        t=np.arange(count),
    )


def test_converted_network_computes_what_the_released_one_does():
    tensors = released_tensors()
    latents = torch.randn(2, 24, 5, 4, 5, generator=torch.Generator().manual_seed(1))
    text = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(2))
    timestep = torch.tensor([1000.0, 250.0])
    with torch.no_grad():
        ours = released_transformer(tensors, CONFIG)(latents, timestep, text, return_dict=False)[0]
        theirs = Released(tensors)(latents, timestep, text)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_full_size_has_as_many_tensors_as_the_released_file():
    layers = viva_config("5b").num_layers
    small = len(released_tensors())
    assert small == 15 + 27 * CONFIG.num_layers
    assert 15 + 27 * layers == 825, "counted in the released checkpoint"


def test_file_predicts_and_round_trips(tmp_path):
    save_file(released_tensors(), tmp_path / "model.safetensors")
    model = Viva(CONFIG, ENV_SPEC, *small_parts(), read_released_transformer(tmp_path / "model.safetensors", CONFIG))
    value = model.predict(windows()).value
    assert np.ptp(value) > 0
    again = Viva.from_checkpoint(*model.to_checkpoint())
    np.testing.assert_array_equal(again.predict(windows()).value, value)


@pytest.mark.parametrize("prefix", ["module.video_model.wan_model.", "dit.", ""])
def test_other_prefixes_and_files_with_the_autoencoder_load_too(prefix):
    tensors = {name.replace("video_model.wan_model.", prefix): tensor for name, tensor in released_tensors().items()}
    tensors["video_model.vae.encoder.conv1.weight"] = torch.zeros(1)
    expected = released_transformer(released_tensors(), CONFIG).state_dict()
    for name, tensor in released_transformer(tensors, CONFIG).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, k: t.pop(k), CheckpointError, r"missing \['proj_out\.bias'\], unexpected \[\]"),
        (lambda t, k: t.update({"value_head.weight": torch.zeros(1)}), CheckpointError, r"unexpected \['value_head\.weight'\]"),
        (lambda t, k: t.update({"dit.head.head.bias": t[k]}), CheckpointError, r"holds head\.head\.bias twice"),
        (lambda t, k: t.update({k: torch.zeros(5)}), CheckpointError, r"proj_out\.bias is \(5,\)"),
        (lambda t, k: t.update({k: torch.full_like(t[k], torch.inf)}), NonFiniteError, r"proj_out\.bias holds NaN or infinity"),
    ],
)
def test_damaged_tensors_are_refused(change, error, message):
    tensors = released_tensors()
    change(tensors, "video_model.wan_model.head.head.bias")
    with pytest.raises(error, match=message):
        released_transformer(tensors, CONFIG)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(AssetError, match="no ViVa checkpoint at"):
        read_released_transformer(tmp_path / "model.safetensors", CONFIG)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_released_transformer(tmp_path / "model.safetensors", CONFIG)


def test_a_robot_with_one_camera_shows_black_in_the_other_places():
    """[left wrist, right wrist, head], as the released network was trained."""
    config = dataclasses.replace(CONFIG, cameras=(BLACK_VIEW, BLACK_VIEW, CAMERA))
    model = Viva(config, ENV_SPEC, *small_parts(), released_transformer(released_tensors(), CONFIG))
    views = model.encode_windows(windows()).views
    black = model.codec.encode(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8))
    assert torch.equal(views[:, 0], black)
    assert torch.equal(views[:, 1], black)
    assert torch.equal(views[:, 2], model.codec.encode(windows().images[CAMERA][:, 0]))
    three = ("left", "right", CAMERA)
    spec = dataclasses.replace(ENV_SPEC, cameras=tuple(CameraSpec(name=n, height_px=HEIGHT, width_px=WIDTH) for n in three))
    full = Viva(dataclasses.replace(CONFIG, cameras=three), spec, *small_parts(), model.transformer)
    seen = dataclasses.replace(windows(cameras=three), state=windows().state)
    dark = dataclasses.replace(
        seen, images={**{n: np.zeros_like(seen.images[n]) for n in three[:2]}, CAMERA: windows().images[CAMERA]}
    )
    np.testing.assert_array_equal(full.predict(dark).value, model.predict(windows()).value)
