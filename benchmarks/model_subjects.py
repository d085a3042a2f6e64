"""Every model at every preset with random weights, and something for it to look at: what is measured depends on sizes only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan, WanTransformer3DModel

from core.experience import Collection, Episode, EpisodeEnd, Observation, Provenance, Source
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from models.codecs import CogVideoXVaeCodec, LatentCodec, PatchCodec, WanVaeCodec
from models.normalization import Normalization
from models.presets import build_text, videovla_config
from models.text import PrecomputedT5, TextEmbedder, with_every_indicator
from models.value_config import AnyValueConfig, ValueKind, value_model_config
from models.videovla import VideoVla
from models.videovla_config import AttentionMask, VideoVlaConfig
from models.videovla_network import VideoVlaNetwork
from models.viva import Viva
from models.vlm_value import VlmValue, VlmValueConfig
from models.wan import in_precision
from models.wvm import Wvm, WvmConfig

INSTRUCTION = "pick coke can"
ACTION_DIM, STATE_DIM, CONTROL_HZ = 7, 8, 5.0
NUM_CAMERAS = {"tiny": 1, "5b": 3}
IMAGE_SHAPE = {"tiny": (128, 160), "5b": (256, 256)}


def env_spec(preset: str) -> EnvSpec:
    """One camera at ``tiny``, and three at ``5b``, as ViVa's robot has."""
    height, width = IMAGE_SHAPE[preset]
    names = ("head", "left_wrist", "right_wrist")[: NUM_CAMERAS[preset]]
    return EnvSpec(
        cameras=tuple(CameraSpec(name=name, height_px=height, width_px=width) for name in names),
        state=StateSpec(names=tuple(f"q{i}" for i in range(STATE_DIM)), units=("rad",) * STATE_DIM),
        action=ActionSpec(
            names=tuple(f"a{i}" for i in range(ACTION_DIM)),
            units=("1",) * ACTION_DIM,
            low=(-1.0,) * ACTION_DIM,
            high=(1.0,) * ACTION_DIM,
            control_hz=CONTROL_HZ,
        ),
    )


def episode(spec: EnvSpec, num_steps: int, seed: int = 0) -> Episode:
    """Random images and states."""
    rng = np.random.default_rng(seed)
    return Episode.of_one_source(
        Source.SCRIPTED,
        images={
            camera.name: rng.integers(0, 256, (num_steps + 1, camera.height_px, camera.width_px, 3), dtype=np.uint8)
            for camera in spec.cameras
        },
        state=rng.uniform(-1, 1, (num_steps + 1, spec.state.dim)).astype(np.float32),
        executed_action=rng.uniform(-1, 1, (num_steps, spec.action.dim)).astype(np.float32),
        instruction=INSTRUCTION,
        end=EpisodeEnd.SUCCESS,
        env_spec=spec,
        provenance=Provenance(env="random", task="none", seed=seed, collection=Collection.DEMONSTRATION),
    )


def observations(of: Episode, count: int) -> list[Observation]:
    """The first ``count`` of an episode."""
    return [of.observation(t) for t in range(count)]


def policy(preset: str, *, device: torch.device, dtype: torch.dtype, **changes: Any) -> VideoVla:
    """A VideoVLA whose every weight is random, in the precision its loader would leave them in."""
    spec = env_spec(preset)
    config = dataclasses.replace(videovla_config(preset), camera=spec.cameras[0].name, **changes)
    torch.manual_seed(0)
    with device:
        network = VideoVlaNetwork(config, spec.action.dim).to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():  # fresh ones are the identity: nothing would depend on what is computed
            parameter.normal_(std=0.02)
    return VideoVla(config, spec, _normalization(spec), _codec(config, device, dtype), _text(config), network).eval()


def value_model(kind: ValueKind, preset: str, *, device: torch.device, dtype: torch.dtype, **changes: Any) -> Any:
    """A value model with fresh weights, in the precision its loader would leave them in."""
    spec, config = env_spec(preset), value_model_config(preset, kind).selected()
    config = dataclasses.replace(config, **changes)
    torch.manual_seed(0)
    if isinstance(config, VlmValueConfig):
        with device:
            vlm = VlmValue(config, spec, _normalization(spec), _text(config))
        vlm.network.to(dtype)
        return vlm.eval()
    parts = (spec, _normalization(spec), _codec(config, device, dtype), _text(config))
    with device:
        transformer = WanTransformer3DModel(**config.transformer_config())
        if isinstance(config, WvmConfig):
            model: Viva | Wvm = Wvm(config, *parts, transformer)
        else:
            model = Viva(config, *parts, transformer)
    for network in (model.transformer, *([model.value] if isinstance(model, Wvm) else [])):
        for name, parameter in network.named_parameters():
            parameter.data = in_precision(name, parameter.data, dtype)
    return model.eval()


def network_passes(
    drawing: VideoVla, batch: int, steps: int, *, is_cached: bool = True
) -> Callable[[], list[tuple[torch.Tensor, torch.Tensor]]]:
    """The network's passes of ``batch`` draws; with block-causal attention the prefix is kept unless ``is_cached`` is false.

    The noised inputs stay the same from step to step: a pass costs what it costs.
    """
    network, config, device = drawing.network, drawing.config, drawing.device
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator, device=device)

    present, video = normal(*config.latent_shape), normal(config.num_noised_latents, *config.latent_shape)
    actions = normal(config.action_horizon, drawing.env_spec.action.dim)
    text = normal(config.text_length, config.text_dim)
    times = [torch.full((batch,), tau, device=device) for tau in np.linspace(999, 99, steps).astype(int).tolist()]
    is_cached = is_cached and config.attention is AttentionMask.BLOCK_CAUSAL

    @torch.inference_mode()
    def passes() -> list[tuple[torch.Tensor, torch.Tensor]]:
        prefix = network.encode_prefix(present, text) if is_cached else None
        return [network(present, video, actions, text, tau, tau, prefix) for tau in times]

    return passes


def drawn_chunks(drawing: VideoVla, seen: Episode, batch: int) -> Callable[[], np.ndarray]:
    """Chunks [B, H, A] for the first observations, as an actor asks for them."""
    looks, told = observations(seen, batch), [INSTRUCTION] * batch

    def draw() -> np.ndarray:
        generators = [torch.Generator(drawing.device).manual_seed(seed) for seed in range(batch)]
        return np.stack([chunk.actions for chunk in drawing.sample_actions(looks, told, generators)])

    return draw


def _normalization(spec: EnvSpec) -> Normalization:
    some = episode(dataclasses.replace(spec, cameras=()), 64)
    return Normalization.fit(some.executed_action, some.state, spec.action)


def _codec(config: Any, device: torch.device, dtype: torch.dtype) -> LatentCodec:
    if config.codec == PatchCodec.kind:
        basis = torch.linalg.qr(torch.randn(3 * config.latent_px**2, config.latent_channels)).Q
        mean = torch.full((config.image_height_px, config.image_width_px, 3), 128.0)
        return PatchCodec(mean, basis, torch.full((config.latent_channels,), 0.02)).to(device)
    kinds: dict[str, Any] = {CogVideoXVaeCodec.kind: (CogVideoXVaeCodec, cogvideox_vae), WanVaeCodec.kind: (WanVaeCodec, wan_vae)}
    codec, make = kinds[config.codec]
    with device:
        return codec(make().to(dtype), config.image_height_px, config.image_width_px).to(device)


def cogvideox_vae() -> AutoencoderKLCogVideoX:
    """CogVideoX-5B's sizes; they are diffusers' defaults."""
    return AutoencoderKLCogVideoX(scaling_factor=0.7)


def wan_vae() -> AutoencoderKLWan:
    """Wan2.2-TI2V-5B's sizes (its ``vae/config.json``), with latents of mean 0 and standard deviation 1."""
    return AutoencoderKLWan(
        base_dim=160,
        decoder_base_dim=256,
        z_dim=48,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
    )


def _text(config: VideoVlaConfig | AnyValueConfig) -> TextEmbedder:
    if config.text != PrecomputedT5.kind:
        return build_text(config)
    texts = with_every_indicator([INSTRUCTION])
    shape = (len(texts), config.text_length, config.text_dim)
    return PrecomputedT5(texts, torch.randn(shape), torch.ones(shape[:2], dtype=torch.bool))
