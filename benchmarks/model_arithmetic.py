"""How much the ``5b`` networks have to compute, counted on the meta device: nothing is allocated and nothing runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from benchmarks.model_costs import H200, DeviceRates, counted_flops
from benchmarks.model_subjects import ACTION_DIM, NUM_CAMERAS, STATE_DIM, cogvideox_vae, wan_vae
from benchmarks.report import Section
from models.presets import videovla_config
from models.value_config import ValueKind, value_model_config
from models.videovla_config import AttentionMask
from models.videovla_network import VideoVlaNetwork
from models.vlm_value import VlmValueNetwork
from models.wan import share_text
from models.wvm_network import ValueTransformer, read_video, with_joint_blocks

STEPS = (1, 4, 10)
BATCH = 32
META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class PassCount:
    """One part of a model at work on one example."""

    name: str
    flops: int
    num_parameters: int
    tokens: str = ""
    is_step: bool = True
    """Whether it is repeated a denoising step."""

    def floor_s(self, rates: DeviceRates) -> float:
        """The least time on such a device, where many examples share the reading of the weights."""
        return self.flops / rates.bf16_flops_per_s

    def weights_s(self, rates: DeviceRates) -> float:
        """The least time to read the weights once, which one example alone has to wait for."""
        return 2 * self.num_parameters / rates.bytes_per_s


def arithmetic_section() -> Section:
    """Passes, what they add up to at 1, 4 and 10 steps, and the goals."""
    rows = []
    for once, step, what, goal in uses():
        floors = [1000 * ((once.floor_s(H200) if once else 0) + steps * step.floor_s(H200)) for steps in STEPS]
        floors = floors if step.is_step else floors[:1]
        for part, ends in (
            (once, ("", "", "", "")),
            (step, (*(f"{ms:.1f}" for ms in floors), *[""] * (len(STEPS) - len(floors)), goal)),
        ):
            if part:
                cells = (part.name, part.tokens, f"{part.num_parameters / 1e9:.2f} B", f"{part.flops / 1e12:.2f}")
                times = (f"{1000 * part.floor_s(H200):.2f}", f"{1000 * part.weights_s(H200):.2f}")
                rows.append((*cells, *times, what if part is step else "", *ends))
    return Section(
        question="Arithmetic, not a measurement: what `5b` has to compute, and the floor that this implies on an H200",
        headings=(
            *("one pass of", "tokens", "parameters", "TFLOP", "ms at the peak", "ms to read the weights", "floor, ms, of"),
            *(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS),
            "goal",
        ),
        rows=rows,
        notes=(
            "No GPU was used. Operations counted on torch's meta device, one example, no guidance. The peak is the published "
            f"dense bf16 rate of an {H200.name}, {H200.bf16_flops_per_s / 1e12:.0f} TFLOP/s, which no real product reaches; "
            f"memory {H200.bytes_per_s / 1e12:.1f} TB/s. Floors are at the peak, batched, so without waiting for weights.",
            "`python -m benchmarks.bench_models --gpu` measures the same on a GPU, against the rate of a product measured there. "
            "It has not been run on one yet.",
        ),
    )


def uses() -> list[tuple[PassCount | None, PassCount, str, str]]:
    """(once a use, once a denoising step, the use, its goal)."""
    pairs: list[tuple[PassCount | None, PassCount, str, str]] = []
    chunk_goal = "1.3 x the measured floor"
    videovla = videovla_pass()
    pairs.append((None, videovla, "a chunk, network alone", chunk_goal))
    pairs.append((cogvideox_vae_pass(), videovla, "a chunk with its image", ""))
    prefix, step = videovla_block_causal()
    pairs.append((prefix, step, "a chunk, block-causal", chunk_goal))
    pairs.append((None, wan_pass(ValueKind.VIVA), "a value, alone", ""))
    viva = wan_pass(ValueKind.VIVA, count=BATCH)
    pairs.append((None, viva, "a value, latents kept", "20 ms"))
    pairs.append((wan_vae_pass(), viva, "a value with its images", "20 ms"))
    pairs.append((None, wan_pass(ValueKind.VALUE_ONLY, count=BATCH), "a value, latents kept", ""))
    video, value = wvm_passes(count=BATCH)
    pairs.append((video, value, "a value, latents kept", ""))
    pairs.append((None, vlm_pass(), "a value with its images", ""))
    return pairs


def videovla_pass(preset: str = "5b") -> PassCount:
    """One denoising step of the policy, full attention."""
    network, inputs = _videovla(preset, AttentionMask.BIDIRECTIONAL)
    config = videovla_config(preset)
    tokens = f"{config.text_length} + {config.num_video_tokens} + {config.action_horizon}"
    return PassCount(name="VideoVLA", flops=_flops(lambda: network(**inputs)), num_parameters=_parameters(network), tokens=tokens)


def videovla_block_causal(preset: str = "5b") -> tuple[PassCount, PassCount]:
    """The prefix, and a step that reads it from the cache."""
    network, inputs = _videovla(preset, AttentionMask.BLOCK_CAUSAL)
    prefix = network.encode_prefix(inputs["present"], inputs["text"])
    config, count = videovla_config(preset), _parameters(network)
    rest = config.num_video_tokens - config.num_frame_tokens + config.action_horizon
    return (
        PassCount(
            name="VideoVLA block-causal, the prefix once",
            flops=_flops(lambda: network.encode_prefix(inputs["present"], inputs["text"])),
            num_parameters=count,
            tokens=str(config.text_length + config.num_frame_tokens),
        ),
        PassCount(
            name="VideoVLA block-causal, the rest",
            flops=_flops(lambda: network(**inputs, prefix=prefix)),
            num_parameters=count,
            tokens=str(rest),
        ),
    )


def wan_pass(kind: ValueKind, preset: str = "5b", count: int = 1) -> PassCount:
    """One denoising step of ViVa, or of its value-only variant, with as many views as the preset has cameras.

    Of one example among ``count`` that share their text.
    """
    config = value_model_config(preset, kind).viva
    views = NUM_CAMERAS[preset]
    frames = views + (4 if kind is ValueKind.VIVA else 2)  # blank, state, future state, value; or blank, value
    with META:
        transformer = WanTransformer3DModel(**config.transformer_config())
        channels, height, width = config.latent_shape
        latents = torch.zeros(count, channels, frames, height, width)
        tau, text = torch.zeros(count), torch.zeros(1, config.text_length, config.text_dim)
    share_text(transformer.blocks)
    tokens = frames * (height // config.patch_height) * (width // config.patch_width)
    return PassCount(
        name=f"{'ViVa' if kind is ValueKind.VIVA else 'value-only video'}, {views} view{'s' * (views > 1)}{_among(count)}",
        flops=_flops(lambda: transformer(latents, tau, text)) // count,
        num_parameters=_parameters(transformer),
        tokens=str(tokens),
    )


def wvm_passes(preset: str = "5b", count: int = 1) -> tuple[PassCount, PassCount]:
    """The video of a chunk, once; and the two passes of the value transformer that a labelled frame adds, a denoising step.

    Of one frame among ``count`` that share their text.
    """
    config = value_model_config(preset, ValueKind.WVM).wvm
    num_current = 1 if preset == "5b" else config.chunk_frames
    with META:
        transformer = with_joint_blocks(WanTransformer3DModel(**config.transformer_config()))
        value = ValueTransformer(config, frames_per_latent=config.chunk_frames // num_current)
        channels, height, width = config.latent_shape
        current = torch.zeros(count, channels, num_current, height, width)
        tau, text = torch.zeros(count), torch.zeros(1, config.text_length, config.text_dim)
        chunk = torch.zeros(count, config.num_predicted + 1)
    share_text(transformer.blocks)
    share_text(value.blocks)
    context = read_video(transformer, current, None, tau, text, config.attention)[0]
    tokens = num_current * (height // config.patch_height) * (width // config.patch_width)
    video = _flops(lambda: read_video(transformer, current, None, tau, text, config.attention))
    return (
        PassCount(
            name=f"WVM, video{_among(count)}", flops=video // count, num_parameters=_parameters(transformer), tokens=str(tokens)
        ),
        PassCount(
            name="WVM, value, two passes",
            flops=2 * _flops(lambda: value(chunk, tau, text, context)) // count,
            num_parameters=_parameters(value),
            tokens=str(chunk.shape[1]),
        ),
    )


def vlm_pass(preset: str = "5b") -> PassCount:
    """The baseline, all cameras."""
    config = value_model_config(preset, ValueKind.VLM).vlm
    views = NUM_CAMERAS[preset]
    with META:
        network = VlmValueNetwork(config, num_cameras=views, state_dim=STATE_DIM)
        pixels = torch.zeros(1, views, 3, *config.image_shape)
        words, state = torch.zeros(1, config.text_length, config.text_dim), torch.zeros(1, STATE_DIM)
    tokens = views * (config.image_px // config.patch_px) ** 2 + config.text_length + 1 + config.has_state_input
    return PassCount(
        name=f"VLM, {views} view{'s' * (views > 1)}",
        flops=_flops(lambda: network(pixels, words, state)),
        num_parameters=_parameters(network),
        tokens=str(tokens),
        is_step=False,
    )


def wan_vae_pass() -> PassCount:
    """Wan2.2's autoencoder on ViVa's three views, an image each."""
    config = value_model_config("5b", ValueKind.VIVA).viva
    views = NUM_CAMERAS["5b"]
    with META:
        vae = wan_vae().eval()
        images = torch.zeros(views, 3, 1, *config.image_shape)
    encoder = (vae.encoder, vae.quant_conv)
    return PassCount(
        name=f"Wan2.2 autoencoder, {views} images",
        flops=_flops(lambda: vae.encode(images)),
        num_parameters=sum(_parameters(part) for part in encoder),
        tokens=f"{views} x {config.image_shape[0]}x{config.image_shape[1]} px",
    )


def cogvideox_vae_pass() -> PassCount:
    """CogVideoX's autoencoder on the policy's present image."""
    config = videovla_config("5b")
    with META:
        vae = cogvideox_vae().eval()
        image = torch.zeros(1, 3, 1, *config.image_shape)
    return PassCount(
        name="CogVideoX autoencoder, 1 image",
        flops=_flops(lambda: vae.encode(image)),
        num_parameters=_parameters(vae.encoder),
        tokens=f"{config.image_shape[0]}x{config.image_shape[1]} px",
    )


def _videovla(preset: str, attention: AttentionMask) -> tuple[VideoVlaNetwork, dict[str, Any]]:
    config = dataclasses.replace(videovla_config(preset), attention=attention)
    with META:
        network = VideoVlaNetwork(config, ACTION_DIM)
        tau = torch.zeros(1, dtype=torch.long)
        inputs = {
            "present": torch.zeros(1, *config.latent_shape),
            "video": torch.zeros(1, config.num_noised_latents, *config.latent_shape),
            "actions": torch.zeros(1, config.action_horizon, ACTION_DIM),
            "text": torch.zeros(1, config.text_length, config.text_dim),
            "video_tau": tau,
            "action_tau": tau,
        }
    return network, inputs


@torch.inference_mode()
def _flops(call: Callable[[], object]) -> int:
    return counted_flops(call)


def _among(count: int) -> str:
    return f", of {count} with one text" if count > 1 else ""


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
