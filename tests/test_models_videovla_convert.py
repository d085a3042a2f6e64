"""The released VideoVLA layout: a small network with its names and its computation, written out from its description."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from model_toys import ENV_SPEC, generators, observation, small_config, small_parts
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, silu

from core.errors import CheckpointError, NonFiniteError
from models.videovla import VideoVla
from models.videovla_config import Conditioning
from models.videovla_convert import convert_names, released_config, released_network
from models.videovla_network import VideoVlaNetwork

CONFIG = small_config(
    conditioning=Conditioning.CHANNELS, num_robots=3, robot_id=2, norm_eps=1e-6, num_future_frames=2, patch_size=1, num_layers=2
)
WIDTH, HEADS, ACTION_DIM, EPS = 32, 2, 7, 1e-6


def released_tensors(seed=0):
    """Random weights under the release's names (docs: papers.md 3.3)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = CONFIG.text_length + CONFIG.num_video_tokens
    channels, time = CONFIG.latent_channels, CONFIG.time_embed_dim
    shapes = {
        "time_embed.0": (time, WIDTH),
        "time_embed.2": (time, time),
        "mixins.patch_embed.proj": (WIDTH, 2 * channels, 1, 1),
        "mixins.patch_embed.text_proj": (WIDTH, CONFIG.text_dim),
        "mixins.patch_embed.action_proj": (WIDTH, ACTION_DIM),
        "mixins.final_layer.linear": (channels, WIDTH),
        "mixins.final_layer.adaLN_modulation.1": (2 * WIDTH, time),
        "mixins.final_layer.action_linear": (ACTION_DIM, WIDTH),
        "mixins.final_layer.action_adaLN_modulation.1": (2 * WIDTH, time),
    }
    norms = {"mixins.final_layer.norm_final": WIDTH, "mixins.final_layer.action_norm_final": WIDTH}
    norms["transformer.final_layernorm"] = WIDTH
    for layer in range(CONFIG.num_layers):
        block = f"transformer.layers.{layer}"
        shapes |= {
            f"{block}.attention.query_key_value": (3 * WIDTH, WIDTH),
            f"{block}.attention.dense": (WIDTH, WIDTH),
            f"{block}.mlp.dense_h_to_4h": (4 * WIDTH, WIDTH),
            f"{block}.mlp.dense_4h_to_h": (WIDTH, 4 * WIDTH),
            f"mixins.adaln_layer.adaLN_modulations.{layer}.1": (12 * WIDTH, time),
        }
        norms |= {f"{block}.input_layernorm": WIDTH, f"{block}.post_attention_layernorm": WIDTH}
        norms |= {f"mixins.adaln_layer.{kind}_layernorm_list.{layer}": WIDTH // HEADS for kind in ("query", "key")}
    tensors = {
        "mixins.pos_embed.pos_embedding": (1, tokens, WIDTH),
        "mixins.pos_embed.action_pos_embedding": (1, CONFIG.action_horizon, WIDTH),
        "mixins.pos_embed.action_robotid_embedding.weight": (CONFIG.num_robots, WIDTH),
        "mixins.pos_embed.freqs_sin": (CONFIG.num_video_tokens, WIDTH // HEADS),
        "mixins.pos_embed.freqs_cos": (CONFIG.num_video_tokens, WIDTH // HEADS),
    }
    for name, shape in shapes.items():
        tensors |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        tensors |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    return {f"model.diffusion_model.{n}": 0.2 * torch.randn(shape, generator=generator) for n, shape in tensors.items()}


class Released:
    """What the released network computes, token by token, from its description: nothing of ours is used."""

    def __init__(self, tensors):
        self.tensors = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in tensors.items()}

    def layer(self, name, x):
        return linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, name, x):
        return layer_norm(x, x.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], EPS)

    def modulated(self, name, x, shift, scale):
        return self.norm(name, x) * (1 + scale[:, None]) + shift[:, None]

    def rotated(self, x):
        """Neighbouring channels turn by the place in time (a quarter of them), row and column (three eighths each)."""
        frames, (_, rows, columns) = CONFIG.num_latents, CONFIG.latent_shape
        places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (frames, rows, columns)), indexing="ij"), dim=-1)
        size, angles = x.shape[-1], []
        for axis, dim in enumerate((size // 4, size // 8 * 3, size // 8 * 3)):
            frequency = 10000.0 ** (-torch.arange(0, dim, 2) / dim)
            angles.append(places[..., axis].reshape(-1, 1) * frequency)
        angle = torch.cat(angles, dim=1)
        even, odd = x[..., ::2], x[..., 1::2]
        turned = torch.stack([even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], dim=-1)
        return turned.flatten(-2)

    def attention(self, layer, x):
        words, actions = CONFIG.text_length, CONFIG.action_horizon
        q, k, v = self.layer(f"transformer.layers.{layer}.attention.query_key_value", x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        q = self.norm(f"mixins.adaln_layer.query_layernorm_list.{layer}", q)
        k = self.norm(f"mixins.adaln_layer.key_layernorm_list.{layer}", k)
        q, k = (
            torch.cat([part[:, :, :words], self.rotated(part[:, :, words:-actions]), part[:, :, -actions:]], dim=2)
            for part in (q, k)
        )
        weight = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(dim=-1)
        return self.layer(f"transformer.layers.{layer}.attention.dense", (weight @ v).transpose(1, 2).flatten(2))

    def __call__(self, present, video, actions, text, tau):
        words, horizon = CONFIG.text_length, CONFIG.action_horizon
        frequency = torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        angle = tau[:, None] * frequency
        time = self.layer("time_embed.0", torch.cat([angle.cos(), angle.sin()], dim=1))
        time = silu(self.layer("time_embed.2", silu(time)))
        condition = torch.zeros_like(video)
        condition[:, 0] = present
        pixels = torch.cat([video, condition], dim=2).permute(0, 1, 3, 4, 2).flatten(1, 3)
        kernel = self.tensors["mixins.patch_embed.proj.weight"][..., 0, 0]
        frames = linear(pixels, kernel, self.tensors["mixins.patch_embed.proj.bias"])
        x = torch.cat([self.layer("mixins.patch_embed.text_proj", text), frames], dim=1)
        x = x + self.tensors["mixins.pos_embed.pos_embedding"]
        control = self.layer("mixins.patch_embed.action_proj", actions) + self.tensors["mixins.pos_embed.action_pos_embedding"]
        control = control + self.tensors["mixins.pos_embed.action_robotid_embedding.weight"][CONFIG.robot_id]
        x = torch.cat([x, control], dim=1)
        for layer in range(CONFIG.num_layers):
            block = f"transformer.layers.{layer}"
            m = self.layer(f"mixins.adaln_layer.adaLN_modulations.{layer}.1", time).chunk(12, dim=1)

            def both(name, x, video_part, text_part):
                text_tokens = self.modulated(name, x[:, :words], *text_part[:2])
                return torch.cat([text_tokens, self.modulated(name, x[:, words:], *video_part[:2])], dim=1)

            def gated(x, video_gate, text_gate):
                return torch.cat([x[:, :words] * text_gate[:, None], x[:, words:] * video_gate[:, None]], dim=1)

            x = x + gated(self.attention(layer, both(f"{block}.input_layernorm", x, m[0:3], m[6:9])), m[2], m[8])
            hidden = self.layer(f"{block}.mlp.dense_h_to_4h", both(f"{block}.post_attention_layernorm", x, m[3:6], m[9:12]))
            x = x + gated(self.layer(f"{block}.mlp.dense_4h_to_h", gelu(hidden, approximate="tanh")), m[5], m[11])
        x = self.norm("transformer.final_layernorm", x)
        shift, scale = self.layer("mixins.final_layer.adaLN_modulation.1", time).chunk(2, dim=1)
        frames = self.modulated("mixins.final_layer.norm_final", x[:, words:-horizon], shift, scale)
        frames = self.layer("mixins.final_layer.linear", frames)
        _, rows, columns = CONFIG.latent_shape
        frames = frames.unflatten(1, (CONFIG.num_latents, rows, columns)).permute(0, 1, 4, 2, 3)
        shift, scale = self.layer("mixins.final_layer.action_adaLN_modulation.1", time).chunk(2, dim=1)
        control = self.modulated("mixins.final_layer.action_norm_final", x[:, -horizon:], shift, scale)
        return frames, self.layer("mixins.final_layer.action_linear", control)


def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = [
        (2, *CONFIG.latent_shape),
        (2, CONFIG.num_latents, *CONFIG.latent_shape),
        (2, CONFIG.action_horizon, ACTION_DIM),
        (2, CONFIG.text_length, CONFIG.text_dim),
    ]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_converted_network_computes_what_the_released_one_does():
    tensors = released_tensors()
    network, tau = released_network(CONFIG, tensors), torch.tensor([10, 900])
    with torch.no_grad():
        ours, theirs = network(*inputs(), tau, tau), Released(tensors)(*inputs(), tau)
    for left, right in zip(ours, theirs, strict=True):
        assert left.std() > 0.1
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_every_weight_is_used_once():
    tensors = released_tensors()
    converted = convert_names(tensors, CONFIG.text_length)
    tables = 2 * CONFIG.num_video_tokens * WIDTH // HEADS
    assert sum(t.numel() for t in converted.values()) == sum(t.numel() for t in tensors.values()) - tables
    assert converted.keys() == VideoVlaNetwork(CONFIG, ACTION_DIM).state_dict().keys()


def test_names_without_prefix_and_files_with_other_parts_load_too():
    tensors = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in released_tensors().items()}
    other = {"first_stage_model.encoder.conv_in.weight": torch.zeros(1), "conditioner.embedders.0.x": torch.zeros(1)}
    network, expected = released_network(CONFIG, {**tensors, **other}), released_network(CONFIG, released_tensors())
    for left, right in zip(network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(left, right)


def test_action_entries_can_be_put_in_our_order():
    rotation_first = [3, 4, 5, 0, 1, 2, 6]
    theirs = released_network(CONFIG, released_tensors())
    ours = released_network(CONFIG, released_tensors(), action_order=rotation_first)
    present, video, actions, text = inputs()
    tau = torch.tensor([10, 900])
    with torch.no_grad():
        expected = theirs(present, video, actions, text, tau, tau)[1]
        answer = ours(present, video, actions[..., rotation_first], text, tau, tau)[1]
    torch.testing.assert_close(answer, expected[..., rotation_first], atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match=r"action_order is \[0, 1\]; expected each of 0\.\.6 once"):
        released_network(CONFIG, released_tensors(), action_order=[0, 1])


def test_policy_around_it_acts_imagines_and_round_trips():
    spec = dataclasses.replace(
        ENV_SPEC,
        action=dataclasses.replace(ENV_SPEC.action, names=tuple("abcdefg"), units=("1",) * 7, low=(-1.0,) * 7, high=(1.0,) * 7),
    )
    normalization, codec, text = small_parts()
    action = dataclasses.replace(normalization.action, low=(-1.0,) * 7, high=(1.0,) * 7)
    parts = spec, dataclasses.replace(normalization, action=action), codec, text
    policy = VideoVla(CONFIG, *parts, released_network(CONFIG, released_tensors()))
    arguments = [observation()], ["go to the middle"]
    [sample] = policy.sample(*arguments, generators(0))
    assert sample.frames["overhead_camera"].shape == (2, 32, 40, 3)
    again = VideoVla.from_checkpoint(*policy.to_checkpoint())
    assert (again.sample(*arguments, generators(0))[0].chunk.actions == sample.chunk.actions).all()


def test_full_size_has_the_released_shapes():
    config = released_config(camera="overhead_camera")
    with torch.device("meta"):
        network = VideoVlaNetwork(config, 7)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["transformer.patch_embed.proj.weight"] == (3072, 32, 2, 2)
    assert shapes["text_position"] == (1, 226, 3072)
    assert shapes["video_position"] == (1, 3328, 3072)
    assert shapes["robot_embedding.weight"] == (100, 3072)
    gigabytes = 2 * sum(parameter.numel() for parameter in network.parameters()) / 1e9
    assert gigabytes == pytest.approx(11.2, abs=0.2), "the release's bfloat16 file has 11.4 GB"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t, k: t.pop(k), CheckpointError, r"missing \['action_out.bias'\], unexpected \[\]"),
        (lambda t, k: t.update(vision_proj=torch.zeros(1)), CheckpointError, r"unexpected \['vision_proj'\]"),
        (lambda t, k: t.update({k: torch.zeros(6)}), CheckpointError, r"action_out.bias is \(6,\); expected \(7,\)"),
        (lambda t, k: t.update({k: torch.full((7,), torch.nan)}), NonFiniteError, "action_out.bias holds NaN"),
    ],
)
def test_damaged_files_are_refused(change, error, message):
    tensors = released_tensors()
    change(tensors, "model.diffusion_model.mixins.final_layer.action_linear.bias")
    with pytest.raises(error, match=message):
        released_network(CONFIG, tensors)


def test_nothing_of_torchs_modules_is_shared_with_the_file():
    tensors = released_tensors()
    network = released_network(CONFIG, tensors)
    with torch.no_grad():
        nn.init.zeros_(network.action_out.bias)
    assert tensors["model.diffusion_model.mixins.final_layer.action_linear.bias"].any()
