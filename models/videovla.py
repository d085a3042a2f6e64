"""VideoVLA: one network denoises the future video and the action chunk together.

Hops 2 and 8 of the tour. Acting and imagining are one joint draw (:meth:`VideoVla.sample`); training is velocity
prediction on both parts at one shared diffusion time. The network is in models/videovla_network.py.

Differs from the released VideoVLA code: the present frame is a clean prefix that is never noised nor supervised (the
paper's form), where that code concatenates it on channels and supervises all frames; and sampling is DDIM (the paper)
where that code runs DPM-Solver++ SDE.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from numpy.typing import NDArray
from torch import nn

from core.errors import AssetError, CheckpointError, ConfigError, NonFiniteError, SpecError
from core.experience import ActionChunk, Observation
from core.labels import Indicator
from core.specs import EnvSpec
from core.windows import WindowBatch
from models.codecs import LatentCodec, codec_from_tensors
from models.loading import load_exactly, tensors_under
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.text import TextEmbedder, text_from_tensors, with_indicator
from models.videovla_network import NoiseScheduleConfig, VideoVlaConfig, VideoVlaNetwork


@dataclass(frozen=True, kw_only=True)
class VideoActionSample:
    """One joint draw: what to do and what that is expected to look like."""

    chunk: ActionChunk
    frames: Mapping[str, NDArray[np.uint8]]
    """Camera name -> uint8 [F, H, W, 3], the future frames."""


class VideoVla(nn.Module):
    """A VideoPolicy (models/policy.py) around :class:`VideoVlaNetwork`.

    Invariant: what it draws for an observation depends on that observation, its instruction, its generator and the
    weights, not on what else is in the batch (up to the rounding of batched products).
    """

    model = "videovla"

    def __init__(
        self,
        config: VideoVlaConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        network: VideoVlaNetwork | None = None,
    ) -> None:
        """Assemble a policy, with fresh weights unless a ``network`` is given.

        Raises:
            SpecError: if the parts do not fit together.
        """
        super().__init__()
        _require_fitting(config, env_spec, codec, text)
        normalization.require_spec(env_spec)
        self.config = config
        self.env_spec = env_spec
        self.window_spec = config.window_spec()
        self.normalization = normalization
        self.version = 0
        self.codec = codec
        self.text = text
        self.network = network or VideoVlaNetwork(config, env_spec.action.dim)
        self._noise = config.noise.scheduler()
        # A sampler remembers its time steps, so training gets another instance.
        self._sampler = config.noise.scheduler()
        self._sampler.set_timesteps(config.denoise_steps)

    # -- acting ---------------------------------------------------------------------------------------------------

    def sample_actions(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[ActionChunk]:
        """See models.policy.Policy."""
        return self._chunks(self._denoise(observations, instructions, generators)[1], observations)

    def imagine(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[Mapping[str, NDArray[np.uint8]]]:
        """See models.policy.VideoPolicy; frames have the model's image size, ``future_frame_interval_steps`` apart."""
        return [sample.frames for sample in self.sample(observations, instructions, generators)]

    def sample(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[VideoActionSample]:
        """Chunk and frames of one joint draw: with equal generators, the chunks of sample_actions and the frames of imagine."""
        latents, actions = self._denoise(observations, instructions, generators)
        if not torch.isfinite(latents).all():
            raise NonFiniteError(
                f"imagined frames of policy version {self.version} hold NaN or infinity; its weights are damaged"
            )
        frames = self.codec.decode_video(latents)[:, 1:]
        chunks = self._chunks(actions, observations)
        return [VideoActionSample(chunk=c, frames={self.config.camera: f}) for c, f in zip(chunks, frames, strict=True)]

    @torch.inference_mode()
    def _denoise(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents [B, 1 + F, C, h, w], the present one first, and normalised actions [B, H, A], on the device, float32."""
        self._require_observations(observations, instructions, generators)
        config, device = self.config, self.device
        images = np.stack([observation.images[config.camera] for observation in observations])
        present = self.codec.encode(self._resized(images)).to(device)[:, None]
        future_shape = (config.num_latents - 1, *config.latent_shape)
        action_shape = (config.action_horizon, self.env_spec.action.dim)
        drawn = [(_normal(future_shape, generator), _normal(action_shape, generator)) for generator in generators]
        future, actions = (torch.stack(noise).to(device) for noise in zip(*drawn, strict=True))
        positive = Indicator.POSITIVE if config.use_indicator else Indicator.ABSENT
        branches = [self._embedded(instructions, [positive] * len(observations))]
        if config.use_indicator and config.guidance_scale != 1.0:
            branches.append(self._embedded(instructions, [Indicator.ABSENT] * len(observations)))
        for tau in self._sampler.timesteps:
            v_future, v_actions = self._guided_velocity(torch.cat([present, future], dim=1), actions, branches, tau)
            future = self._sampler.step(v_future, tau, future, return_dict=False)[0]
            actions = self._sampler.step(v_actions, tau, actions, return_dict=False)[0]
        return torch.cat([present, future], dim=1), actions

    def _guided_velocity(
        self, latents: torch.Tensor, actions: torch.Tensor, branches: list[torch.Tensor], tau: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Velocities under the first branch's text, guided away from the second's where there is one (RECAP, App.)."""
        count = len(branches)
        predicted = self.network(
            latents.repeat(count, 1, 1, 1, 1),
            actions.repeat(count, 1, 1),
            torch.cat(branches),
            tau.to(self.device).expand(count * len(latents)),
        )
        if count == 1:
            return tuple(v.float() for v in predicted)
        halves = [v.float().chunk(2) for v in predicted]
        return tuple(absent + self.config.guidance_scale * (positive - absent) for positive, absent in halves)

    def _chunks(self, actions: torch.Tensor, observations: Sequence[Observation]) -> list[ActionChunk]:
        clipped = actions.clamp(-self.config.action_clip, self.config.action_clip).cpu().numpy()
        return [
            ActionChunk(actions=a, policy_version=self.version, observation_time_s=observation.time_s)
            for a, observation in zip(self.normalization.action.unnormalize(clipped), observations, strict=True)
        ]

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, windows: WindowBatch, indicator: NDArray[np.int8], generator: torch.Generator) -> ExampleLoss:
        """See models.policy.Policy: per example, video_weight x video velocity error + action velocity error.

        tau is uniform and stratified over the batch: each of B equal slices of time is drawn once, which keeps every
        example's tau uniform and takes most of the noise of the time draw out of the gradient.
        """
        config, device = self.config, self.device
        latents, actions, is_pad = self._targets(windows)
        told = indicator if config.use_indicator else np.full(len(windows), Indicator.ABSENT, np.int8)
        text = self._embedded(windows.instruction, told.tolist())
        steps = config.noise.num_train_timesteps
        slices = torch.randperm(len(windows), generator=generator, device=generator.device)
        offset = torch.rand(len(windows), generator=generator, device=generator.device)
        tau = ((slices + offset) * (steps / len(windows))).long().clamp_max(steps - 1).to(device)
        present, future = latents[:, :1], latents[:, 1:]
        video_noise, action_noise = _normal(future.shape, generator).to(device), _normal(actions.shape, generator).to(device)
        v_future, v_actions = self.network(
            torch.cat([present, self._noise.add_noise(future, video_noise, tau)], dim=1),
            self._noise.add_noise(actions, action_noise, tau),
            text,
            tau,
        )
        video = (v_future.float() - self._noise.get_velocity(future, video_noise, tau)).square().flatten(1).mean(dim=1)
        error = (v_actions.float() - self._noise.get_velocity(actions, action_noise, tau)).square().mean(dim=2)
        action = (error * ~is_pad).sum(dim=1) / (~is_pad).sum(dim=1).clamp_min(1)
        return ExampleLoss(
            per_example=config.video_weight * video + action,
            metrics={"video_loss": float(video.detach().mean()), "action_loss": float(action.detach().mean())},
        )

    def _targets(self, windows: WindowBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clean latents [B, 1 + F, C, h, w], clean normalised actions [B, H, A], padding bool [B, H]."""
        config, camera = self.config, self.config.camera
        action_shape = (len(windows), config.action_horizon, self.env_spec.action.dim)
        frames = windows.images.get(camera)
        if frames is None or frames.shape[1] != config.num_future_frames + 1 or windows.action.shape != action_shape:
            found = None if frames is None else frames.shape
            raise SpecError(
                f"windows have {camera} images {found} and actions {windows.action.shape}; expected "
                f"{config.num_future_frames + 1} frames and actions {action_shape}: cut them by this policy's window_spec"
            )
        latents = self.codec.encode_video(self._resized(frames)).to(self.device)
        clip = config.action_clip
        # Padding is the middle of the range, whatever was stored: it must not tell its neighbours anything of its own.
        actions = np.clip(self.normalization.action.normalize(windows.action), -clip, clip) * ~windows.action_is_pad[..., None]
        return latents, torch.from_numpy(actions).to(self.device), torch.from_numpy(windows.action_is_pad).to(self.device)

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        config: VideoVlaConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        **kwargs: Any,
    ) -> VideoVla:
        """Start from the video weights of a local diffusers directory; only the action mappings and positions are fresh.

        Args:
            directory: holds ``transformer/``, as CogVideoX-5B does.
            config: must describe that transformer.
            env_spec: of the environment.
            normalization: fitted on its data.
            codec: for example ``CogVideoXVaeCodec.from_pretrained(directory, ...)``.
            text: for example a ``PrecomputedT5``.
            **kwargs: passed to diffusers, for example ``torch_dtype``.

        Raises:
            AssetError: if there is no transformer in ``directory``.
            CheckpointError: if it has other dimensions than ``config``.
        """
        folder = Path(directory) / "transformer"
        if not (folder / "config.json").is_file():
            raise AssetError(f"{folder / 'config.json'} is missing; expected a diffusers directory with transformer/")
        transformer = CogVideoXTransformer3DModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, **kwargs)
        # With rotary embeddings the nominal video size is only a note; weights of any size load.
        nominal = {"sample_height", "sample_width", "sample_frames"}
        wanted = {key: value for key, value in config.transformer_config().items() if key not in nominal}
        differing = {key: (transformer.config[key], value) for key, value in wanted.items() if transformer.config[key] != value}
        if differing:
            raise CheckpointError(
                f"{folder} differs from the configuration in (found, expected): {differing}; use a matching preset"
            )
        network = VideoVlaNetwork(config, env_spec.action.dim, transformer)
        return cls(config, env_spec, normalization, codec, text, network.to(transformer.dtype))

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See models.policy.Policy; codec and text embeddings included, so that a checkpoint stands alone."""
        codec_tensors, codec_record = self.codec.to_tensors()
        text_tensors, text_record = self.text.to_tensors()
        tensors = {f"network.{name}": tensor.detach() for name, tensor in self.network.state_dict().items()}
        tensors |= {f"codec.{name}": tensor for name, tensor in codec_tensors.items()}
        tensors |= {f"text.{name}": tensor for name, tensor in text_tensors.items()}
        manifest = {
            "kind": "policy",
            "model": self.model,
            "config": dataclasses.asdict(self.config),
            "env_spec": self.env_spec.to_json(),
            "normalization": self.normalization.to_json(),
            "codec": codec_record,
            "text": text_record,
            "version": self.version,
            "created_by": "viva-recap",
            "extra": {},
        }
        return tensors, manifest

    @classmethod
    def from_checkpoint(cls, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> VideoVla:
        """Rebuild from :meth:`to_checkpoint`; tensors are copied.

        Raises:
            CheckpointError: if keys are missing, unexpected or of another shape.
        """
        try:
            config = config_from_json(manifest["config"])
            env_spec = EnvSpec.from_json(manifest["env_spec"])
            normalization = Normalization.from_json(manifest["normalization"])
            codec = codec_from_tensors(tensors_under(tensors, "codec"), manifest["codec"])
            text = text_from_tensors(tensors_under(tensors, "text"), manifest["text"])
            version = int(manifest["version"])
        except KeyError as error:
            raise CheckpointError(f"VideoVLA manifest lacks {error}; it has {sorted(manifest)}. Save the policy again") from None
        with torch.device("meta"):
            network = VideoVlaNetwork(config, env_spec.action.dim)
        load_exactly(network, tensors_under(tensors, "network"), "VideoVLA checkpoint")
        policy = cls(config, env_spec, normalization, codec, text, network)
        policy.version = version
        return policy

    # -- shared ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.action_in.weight.device

    def _embedded(self, instructions: Sequence[str], indicators: Sequence[int]) -> torch.Tensor:
        texts = [with_indicator(text, indicator) for text, indicator in zip(instructions, indicators, strict=True)]
        return self.text.embed(texts)[0].to(self.device)

    def _resized(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[..., H, W, 3] in the camera's size -> in the model's size; the whole view is kept, its aspect is not."""
        if images.shape[-3:-1] == self.config.image_shape:
            return images
        flat = torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2).float()
        sized = nn.functional.interpolate(flat, size=self.config.image_shape, mode="bicubic", antialias=True)
        pixels = sized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return pixels.reshape(*images.shape[:-3], *pixels.shape[1:])

    def _require_observations(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> None:
        if not len(observations) == len(instructions) == len(generators) > 0:
            raise SpecError(
                f"{len(observations)} observations, {len(instructions)} instructions and {len(generators)} generators; "
                "expected the same number of each, at least one"
            )
        name = self.config.camera
        camera = next(camera for camera in self.env_spec.cameras if camera.name == name)
        for index, observation in enumerate(observations):
            if name not in observation.images:
                raise SpecError(f"observation {index} has cameras {sorted(observation.images)}; expected {name!r} among them")
            image, expected = observation.images[name], (camera.height_px, camera.width_px, 3)
            if image.shape != expected or image.dtype != np.uint8:
                raise SpecError(f"observation {index}: {name} is {image.dtype} {image.shape}; expected uint8 {expected}")


def config_from_json(record: Mapping[str, Any]) -> VideoVlaConfig:
    """Rebuild a config from ``dataclasses.asdict``.

    Raises:
        CheckpointError: if it has unknown keys or impossible values.
    """
    try:
        return VideoVlaConfig(**{**record, "noise": NoiseScheduleConfig(**record["noise"])})
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"VideoVLA configuration in the checkpoint is not one of this version: {error}") from None


def _normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def _require_fitting(config: VideoVlaConfig, env_spec: EnvSpec, codec: LatentCodec, text: TextEmbedder) -> None:
    if config.camera not in {camera.name for camera in env_spec.cameras}:
        names = [camera.name for camera in env_spec.cameras]
        raise SpecError(f"the policy looks through {config.camera!r}; the environment has {names}. Set policy.camera")
    found = {
        "image_shape": codec.image_shape,
        "latent_shape": codec.latent_shape,
        "temporal_ratio": codec.temporal_ratio,
        "text_length": text.length,
        "text_dim": text.dim,
    }
    for name, value in found.items():
        if value != getattr(config, name):
            raise SpecError(f"codec or text embedder has {name} {value}; the policy's configuration says {getattr(config, name)}")
