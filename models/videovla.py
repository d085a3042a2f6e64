"""VideoVLA: one network denoises the future video and the action chunk together.

Hops 2 and 8 of the tour. Acting and imagining are one joint draw (:meth:`VideoVla.sample`); training is velocity
prediction on both parts at one shared diffusion time. The network is in models/videovla_network.py.

Paper and released code differ in how the present frame is told, in the sampler and in more; both are here, chosen by name in
models/videovla_config.py (docs/adr/0018). The released checkpoint's layout is converted by models/videovla_convert.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel
from numpy.typing import NDArray
from torch import nn

from core.errors import AssetError, CheckpointError, NonFiniteError, SpecError
from core.experience import ActionChunk, Observation
from core.labels import Indicator
from core.specs import EnvSpec
from core.windows import WindowBatch
from models.codecs import LatentCodec, codec_from_tensors
from models.loading import load_exactly, require_prefixes, tensors_under
from models.noise import normal, stratified, uniform
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.text import TextEmbedder, text_from_tensors, with_indicator
from models.videovla_config import (
    AttentionMask,
    Guidance,
    NoiseCoupling,
    VideoVlaConfig,
    config_from_json,
    config_to_json,
)
from models.videovla_network import VideoVlaNetwork
from models.videovla_sampling import Trajectory, denoise_steps

__all__ = ["VideoActionSample", "VideoVla", "VideoVlaConfig"]

_CONDITION_LOG_SIGMA = (-3.0, 0.5)
"""Mean and standard deviation of the logarithm of the noise on the present frame's pixels (released code)."""


_Velocity = Callable[[torch.Tensor, torch.Tensor, int, int], list[torch.Tensor]]
"""(video, actions, video tau, action tau) -> velocities of both."""


@dataclass(frozen=True, kw_only=True)
class VideoActionSample:
    """One joint draw: what to do and what that is expected to look like."""

    chunk: ActionChunk
    frames: Mapping[str, NDArray[np.uint8]]
    """Camera name -> uint8 [F, H, W, 3], the future frames."""
    present: Mapping[str, NDArray[np.uint8]]
    """Camera name -> uint8 [H, W, 3], the observation as the codec shows it: as blurred as ``frames`` are."""


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

    # -- acting ---------------------------------------------------------------------------------------------------

    def sample_actions(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[ActionChunk]:
        """See models.policy.Policy."""
        return self._chunks(self._denoise(observations, instructions, generators)[1], observations)

    def continue_actions(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        generators: Sequence[torch.Generator],
        committed: Sequence[NDArray[np.float32]],
    ) -> list[ActionChunk]:
        """See models.policy.ContinuingPolicy.

        The prefix freezing of real-time chunking (Black et al. 2025, arXiv:2506.07339), by inpainting: while it is drawn, the
        network sees the committed actions at their place with the noise of the moment. Needs no training. Differs from the
        paper in that what comes after them is free (no soft mask, no guidance by a gradient).
        """
        self._require_committed(committed, len(observations))
        actions = self._denoise(observations, instructions, generators, committed)[1]
        return [
            replace(chunk, actions=np.concatenate([kept, chunk.actions[len(kept) :]]))  # exact, whatever rounding did to them
            for chunk, kept in zip(self._chunks(actions, observations), committed, strict=True)
        ]

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
        camera, video = self.config.camera, self.codec.decode_video(latents)
        return [
            VideoActionSample(chunk=chunk, frames={camera: frames[1:]}, present={camera: frames[0]})
            for chunk, frames in zip(self._chunks(actions, observations), video, strict=True)
        ]

    @torch.inference_mode()
    def _denoise(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        generators: Sequence[torch.Generator],
        committed: Sequence[NDArray[np.float32]] = (),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw latents [B, 1 + F, C, h, w], the present one first, and normalised actions [B, H, A], on the device, float32."""
        self._require_observations(observations, instructions, generators)
        config, device = self.config, self.device
        images = np.stack([observation.images[config.camera] for observation in observations])
        present = self.codec.encode(self._resized(images)).to(device)
        video_shape = (config.num_noised_latents, *config.latent_shape)
        action_shape = (config.action_horizon, self.env_spec.action.dim)
        drawn = [(normal(video_shape, generator), normal(action_shape, generator)) for generator in generators]
        video, actions = (torch.stack(noise).to(device) for noise in zip(*drawn, strict=True))
        velocity = self._guided_velocity(present, instructions)
        kept, is_kept = self._at_their_place(committed, actions)
        video_path, action_path = Trajectory(config, generators), Trajectory(config, generators)
        for step in denoise_steps(config):
            v_video, v_actions = velocity(video, actions, step.video_tau, step.action_tau)
            v_actions = torch.where(is_kept, self._velocity_towards(kept, actions, step.action_tau), v_actions)
            video = video_path.step(v_video, video) if step.moves_video else video
            actions = action_path.step(v_actions, actions) if step.moves_actions else actions
        future = video[:, -(config.num_latents - 1) :]
        return torch.cat([present[:, None], future], dim=1), actions

    def _at_their_place(
        self, committed: Sequence[NDArray[np.float32]], actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Committed actions, normalised, in the shape of ``actions`` [B, H, A], and where they are, [B, H, 1]."""
        kept, is_kept = torch.zeros_like(actions), torch.zeros_like(actions[..., :1], dtype=torch.bool)
        for index, first in enumerate(committed):
            kept[index, : len(first)] = torch.from_numpy(self.normalization.action.normalize(first)).to(self.device)
            is_kept[index, : len(first)] = True
        return kept, is_kept

    def _velocity_towards(self, clean: torch.Tensor, noisy: torch.Tensor, tau: int) -> torch.Tensor:
        """The velocity at ``noisy`` under which every sampler ends at ``clean``."""
        signal = self._noise.alphas_cumprod[tau].to(noisy)
        return (signal.sqrt() * noisy - clean) / (1 - signal).sqrt()

    def _guided_velocity(self, present: torch.Tensor, instructions: Sequence[str]) -> _Velocity:
        """The field that a draw follows: under the asked-for text, led away from the other branch where guidance asks (RECAP).

        What does not depend on noise (texts and, under ``attention=block_causal``, the prefix) is computed here, once.
        """
        config, count = self.config, len(instructions)
        positive = Indicator.POSITIVE if config.use_indicator else Indicator.ABSENT
        branches = [self._embedded(instructions, [positive] * count)]
        if config.guidance_scale != 1.0 and config.guidance is Guidance.TEXT:
            branches.append(torch.zeros_like(branches[0]))
        elif config.guidance_scale != 1.0 and config.use_indicator:
            branches.append(self._embedded(instructions, [Indicator.ABSENT] * count))
        text, number = torch.cat(branches), len(branches)
        seen = present.repeat(number, 1, 1, 1)
        is_cacheable = config.attention is AttentionMask.BLOCK_CAUSAL
        prefix = self.network.encode_prefix(seen, text) if is_cacheable else None

        def velocity(video: torch.Tensor, actions: torch.Tensor, video_tau: int, action_tau: int) -> list[torch.Tensor]:
            video_times = torch.full((len(text),), video_tau, device=self.device)
            action_times = video_times if action_tau == video_tau else torch.full_like(video_times, action_tau)
            predicted = self.network(
                seen,
                video.repeat(number, 1, 1, 1, 1),
                actions.repeat(number, 1, 1),
                text,
                video_times,
                action_times,
                prefix,
            )
            if number == 1:
                return [v.float() for v in predicted]
            halves = [v.float().chunk(2) for v in predicted]
            return [other + config.guidance_scale * (asked - other) for asked, other in halves]

        return velocity

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
        example's tau uniform and takes most of the noise of the time draw out of the gradient. Where the coupling is
        asynchronous, video and actions have a draw each.
        """
        config, device, count = self.config, self.device, len(windows)
        frames = self._frames(windows)
        latents = self.codec.encode_video(frames).to(device)
        actions, is_pad = self._action_targets(windows)
        told = indicator if config.use_indicator else np.full(count, Indicator.ABSENT, np.int8)
        text = self._embedded(windows.instruction, told.tolist())
        video_tau = self._drawn_tau(count, generator)
        action_tau = video_tau if config.coupling is NoiseCoupling.SYNCHRONOUS else self._drawn_tau(count, generator)
        video = latents[:, -config.num_noised_latents :]
        video_noise, action_noise = normal(video.shape, generator).to(device), normal(actions.shape, generator).to(device)
        v_video, v_actions = self.network(
            self._condition(frames[:, 0], latents[:, 0], generator),
            self._noise.add_noise(video, video_noise, video_tau),
            self._noise.add_noise(actions, action_noise, action_tau),
            _dropped(text, config.text_dropout, generator),
            video_tau,
            action_tau,
        )
        video_error = (v_video.float() - self._noise.get_velocity(video, video_noise, video_tau)).square().flatten(1).mean(dim=1)
        error = (v_actions.float() - self._noise.get_velocity(actions, action_noise, action_tau)).square().mean(dim=2)
        action_error = (error * ~is_pad).sum(dim=1) / (~is_pad).sum(dim=1).clamp_min(1)
        return ExampleLoss(
            per_example=config.video_weight * video_error + action_error,
            metrics={
                "video_loss": float(video_error.detach().mean()),
                "action_loss": float(action_error.detach().mean()),
            },
        )

    def _drawn_tau(self, count: int, generator: torch.Generator) -> torch.Tensor:
        steps = self.config.noise.num_train_timesteps
        return (stratified(count, generator) * steps).long().clamp_max(steps - 1).to(self.device)

    def _condition(self, images: NDArray[np.uint8], clean: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """What the network is told of the present [B, C, h, w]: its clean latent, unless training is asked to disturb it.

        Differs from the released code in that disturbed pixels are clipped and rounded to bytes, as cameras do.
        """
        if self.config.is_condition_noised:
            mean, std = _CONDITION_LOG_SIGMA
            sigma = torch.exp(mean + std * normal((len(images), 1, 1, 1), generator)).cpu()
            grey = torch.from_numpy(images).float() + 127.5 * sigma * normal(images.shape, generator).cpu()
            clean = self.codec.encode(grey.round().clamp(0, 255).to(torch.uint8).numpy()).to(self.device)
        return _dropped(clean, self.config.condition_dropout, generator)

    def _frames(self, windows: WindowBatch) -> NDArray[np.uint8]:
        """Present and future frames [B, 1 + F, H, W, 3] in the model's size."""
        config, camera = self.config, self.config.camera
        action_shape = (len(windows), config.action_horizon, self.env_spec.action.dim)
        frames = windows.images.get(camera)
        if frames is None or frames.shape[1] != config.num_future_frames + 1 or windows.action.shape != action_shape:
            found = None if frames is None else frames.shape
            raise SpecError(
                f"windows have {camera} images {found} and actions {windows.action.shape}; expected "
                f"{config.num_future_frames + 1} frames and actions {action_shape}: cut them by this policy's window_spec"
            )
        return self._resized(frames)

    def _action_targets(self, windows: WindowBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean normalised actions [B, H, A] and their padding, bool [B, H]."""
        clip = self.config.action_clip
        # Padding is the middle of the range, whatever was stored: it must not tell its neighbours anything of its own.
        actions = np.clip(self.normalization.action.normalize(windows.action), -clip, clip) * ~windows.action_is_pad[..., None]
        return torch.from_numpy(actions).to(self.device), torch.from_numpy(windows.action_is_pad).to(self.device)

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
            "config": config_to_json(self.config),
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
            NonFiniteError: if a weight is NaN or infinite.
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
        require_prefixes(tensors, {"network", "codec", "text"}, who="VideoVLA checkpoint")
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
            if observation.state.shape != (self.env_spec.state.dim,):  # not read, but such an observation is another robot's
                raise SpecError(f"observation {index}: state is {observation.state.shape}; expected ({self.env_spec.state.dim},)")

    def _require_committed(self, committed: Sequence[NDArray[np.float32]], count: int) -> None:
        if len(committed) != count:
            raise SpecError(f"committed actions of {len(committed)} chunks, but {count} observations; expected the same number")
        most, dim = self.config.action_horizon - 1, self.env_spec.action.dim
        for index, actions in enumerate(committed):
            if actions.ndim != 2 or len(actions) > most or actions.shape[1] != dim:
                raise SpecError(f"committed actions {index} are {actions.shape}; expected (at most {most}, {dim})")
            if not np.isfinite(actions).all():
                raise NonFiniteError(f"committed actions {index} hold NaN or infinity; they cannot have been sent to a robot")


def _dropped(condition: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Zero whole examples of ``condition`` [B, ...]; nothing is drawn where nothing can be dropped."""
    if probability == 0:
        return condition
    is_kept = uniform((len(condition),), generator) >= probability
    return condition * is_kept.to(condition.device).reshape(-1, *[1] * (condition.ndim - 1))


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
