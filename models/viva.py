"""ViVa: a video generator that predicts, as two more latent frames, the future state and the value (arXiv:2604.08168).

Hops 5 and 8 of the tour. The latent video of one window (C x h x w a frame; papers.md 1.3)::

    [ blank | state q_t | one view a camera ]   [ future state q_t+K | value V_t ]
      clean condition                             noised by one tau, denoised together

A state vector fills its frame by repetition and is read out as the mean of its complete copies; a value fills its frame as a
constant and is read out as the frame's mean. The network is diffusers' ``WanTransformer3DModel``, unchanged, with full
attention, text by cross-attention, and the same diffusion time for every token, clean ones included (as the released code;
Wan's own image-to-video gives clean tokens time 0). Real Wan2.2-TI2V-5B weights load as they are.

The value's latent is z = -2V - 1 in [-1, 1], for V in [-1, 0]. With the returns of ``value_service.returns`` under which a
failure costs as much as all steps together (``failure_cost_ratio`` 1), V = -G/2 with the paper's cost-to-go G in [0, 2], and
z = G - 1: failures are the upper half, the paper's "outcome shift". With ``failure_cost_ratio`` 0 there is no shift, V = -v with
the released code's v in [0, 1], and z = 2v - 1, exactly that code's. So the switch is in the target, not here.

Two switches make the paper's ablation, a video generator that predicts the value only (its Table "VG-only"): without
``has_future_state`` the value's frame is the only target, without ``has_state_input`` the state's frame is left out.

Differs from the paper: values are deterministic (the noise that sampling starts from is fixed, or zero), and ``tiny`` draws
training times much closer to pure noise; see ``VivaConfig.tau_shift``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from numpy.typing import NDArray
from torch import nn

from core.errors import SpecError
from core.ids import EpisodeId
from core.specs import CameraSpec, EnvSpec
from core.windows import WindowBatch, WindowSpec
from models.codecs import LatentCodec
from models.flow import NUM_TRAIN_TIMESTEPS, add_noise, draw_tau, euler_sample, velocity_target
from models.latent_cache import LatentCache
from models.loading import require_prefixes, tensors_under
from models.noise import normal
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.text import TextEmbedder
from models.value import ValuePrediction
from models.value_checkpoint import ValueParts, manifest_config, value_parts, value_to_checkpoint
from models.value_inputs import (
    camera_frames,
    normalized_state,
    require_finite,
    require_fitting,
    require_targets,
    selected_cameras,
    shared_instructions,
)
from models.viva_config import BLACK_VIEW, InferenceNoise, Prediction, VivaConfig, config_from_json, config_to_json, viva_config
from models.viva_frames import average_copies, frame_to_value, repeat_to_frame, value_to_frame
from models.wan import read_transformer, share_text, transformer_from_tensors

__all__ = ["EncodedWindows", "InferenceNoise", "Prediction", "Viva", "VivaConfig", "viva_config"]


@dataclass(frozen=True, kw_only=True)
class EncodedWindows:
    """The present of B windows as the network reads it; worth keeping where windows are read again (the VAE dominates)."""

    views: torch.Tensor
    """[B, V, C, h, w], a latent a camera."""
    state: torch.Tensor
    """[B, S] in [-1, 1]."""
    text: torch.Tensor
    """[B, L, D], or [1, L, D]: the same for all."""

    def __len__(self) -> int:
        return len(self.state)


class Viva(nn.Module):
    """A ValueModel (models/value.py).

    Invariant: the value of a window depends on its present images, state and instruction and on the weights, not on what else
    is in the batch (up to the rounding of batched products), nor on the window's future.
    """

    model = "viva"

    def __init__(
        self,
        config: VivaConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        transformer: WanTransformer3DModel | None = None,
    ) -> None:
        """Assemble a value model, with fresh weights unless a ``transformer`` is given.

        Raises:
            SpecError: if the parts do not fit together.
        """
        super().__init__()
        require_fitting(config, codec, text)
        _require_room(config, env_spec)
        normalization.require_spec(env_spec)
        self.config = config
        self.env_spec = env_spec
        self.cameras = selected_cameras([name for name in config.cameras if name != BLACK_VIEW], env_spec)
        self.latent_cache: LatentCache | None = None
        """Give it one where the same windows are labelled again (models/latent_cache.py)."""
        future = (env_spec.action.steps(config.future_offset_s),) if config.has_future_state else ()
        self.window_spec = WindowSpec(state_offsets=(0, *future))
        self.normalization = normalization
        self.version = 0
        self.codec = codec
        self.text = text
        self.transformer = transformer if transformer is not None else WanTransformer3DModel(**config.transformer_config())
        share_text(self.transformer.blocks)

    # -- predicting -----------------------------------------------------------------------------------------------

    def predict(self, windows: WindowBatch) -> ValuePrediction:
        """See models.value.ValueModel; only the present of the windows is read.

        Returns:
            ``extras``: ``future_state`` [B, S] at t + K, in StateSpec units, where it is predicted; with several noise
            draws also ``value_spread`` [B], the standard deviation of the draws.

        Raises:
            SpecError: if the windows do not match ``env_spec``.
            NonFiniteError: if a value is not finite.
        """
        return self.predict_from_latents(self.encode_windows(windows))

    def encode_windows(self, windows: WindowBatch) -> EncodedWindows:
        """The part of :meth:`predict` that does not change while the network learns."""
        # Checked for all, also those whose latents are held already.
        frames = {camera.name: self._frames(camera, windows) for camera in self.cameras}
        order = self.config.cameras or tuple(frames)
        frames[BLACK_VIEW] = np.zeros_like(next(iter(frames.values())))

        def encode(rows: NDArray[np.int64]) -> torch.Tensor:
            return torch.stack([self.codec.encode(frames[name][rows]) for name in order], dim=1)

        everything = np.arange(len(windows))
        cache = self.latent_cache
        views = encode(everything) if cache is None else cache.latents(_names(windows, order), self.codec, encode)
        return EncodedWindows(
            views=views.to(self.device),
            state=self._normalized_state(windows, 0),
            text=shared_instructions(windows.instruction, self.text).to(self.device),
        )

    @torch.inference_mode()
    def predict_from_latents(self, encoded: EncodedWindows) -> ValuePrediction:
        """The other part of :meth:`predict`: ``denoise_steps`` passes of the network a noise draw."""
        config, condition = self.config, self._condition(encoded)
        draws = [
            euler_sample(
                lambda target, tau: self._velocity(condition, target, encoded.text, tau),
                noise.to(self.device).expand(len(encoded), -1, -1, -1, -1),
                num_steps=config.denoise_steps,
                shift=config.tau_shift,
            )
            for noise in self._starting_points()
        ]
        values = torch.stack([frame_to_value(target[:, :, -1]) for target in draws])
        value = values.mean(dim=0).cpu().numpy()
        require_finite(value, f"ViVa version {self.version}")
        extras = {}
        if config.has_future_state:
            states = torch.stack([average_copies(target[:, :, 0], self.env_spec.state.dim) for target in draws])
            extras["future_state"] = self.normalization.state.unnormalize(states.mean(dim=0).cpu().numpy())
        if config.num_noise_draws > 1:
            extras["value_spread"] = values.std(dim=0).cpu().numpy()
        return ValuePrediction(value=value, extras=extras)

    def _starting_points(self) -> torch.Tensor:
        """[draws, 1, C, targets, h, w]: the same at every call, so that values differ between windows by what is seen only."""
        channels, height, width = self.config.latent_shape
        shape = (self.config.num_noise_draws, 1, channels, 1 + self.config.has_future_state, height, width)
        if self.config.noise is InferenceNoise.ZERO:
            return torch.zeros(shape)
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.config.noise_seed))

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, windows: WindowBatch, value_target: NDArray[np.float32], generator: torch.Generator) -> ExampleLoss:
        """See models.value.ValueModel: lambda_prop x error of the future state's frame + lambda_val x error of the value's.

        Errors are mean squares of what the network predicts (``VivaConfig.prediction``), over all elements of the frame.

        Raises:
            SpecError: if windows do not match ``env_spec`` and ``window_spec``, or a target is outside [-1, 0] or NaN.
        """
        config, shape = self.config, self.config.latent_shape
        require_targets(value_target, (len(windows),))
        if config.has_future_state and windows.state.shape[1] != 2:
            raise SpecError(
                f"windows have {windows.state.shape[1]} states each; expected 2, now and {config.future_offset_s} s later: cut "
                "them by this model's window_spec"
            )
        encoded = self.encode_windows(windows)
        future = [repeat_to_frame(self._normalized_state(windows, 1), shape)] if config.has_future_state else []
        value = value_to_frame(torch.from_numpy(value_target).to(self.device), shape)
        clean = torch.stack([*future, value], dim=2)
        noise = normal(clean.shape, generator).to(self.device)
        tau = draw_tau(len(windows), generator, shift=config.tau_shift).to(self.device)
        predicted = self._output(self._condition(encoded), add_noise(clean, noise, tau), encoded.text, tau)
        wanted = clean if config.prediction is Prediction.SAMPLE else velocity_target(clean, noise)
        error = (predicted - wanted).square().mean(dim=(1, 3, 4))
        value_error = error[:, -1]
        metrics = {"value_loss": float(value_error.detach().mean())}
        if not config.has_future_state:
            return ExampleLoss(per_example=config.value_weight * value_error, metrics=metrics)
        metrics["future_state_loss"] = float(error[:, 0].detach().mean())
        return ExampleLoss(
            per_example=config.future_state_weight * error[:, 0] + config.value_weight * value_error, metrics=metrics
        )

    def _condition(self, encoded: EncodedWindows) -> torch.Tensor:
        """The clean frames: [B, C, 2 + V, h, w], or one less without the state."""
        state = repeat_to_frame(encoded.state, self.config.latent_shape)
        frames = [torch.zeros_like(state), *([state] if self.config.has_state_input else []), *encoded.views.unbind(dim=1)]
        return torch.stack(frames, dim=2)

    def _velocity(self, condition: torch.Tensor, target: torch.Tensor, text: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Predicted velocity of the target frames, like ``target``, float32."""
        output = self._output(condition, target, text, tau)
        if self.config.prediction is Prediction.FLOW:
            return output
        return (target - output) / tau.reshape(-1, 1, 1, 1, 1)

    def _output(self, condition: torch.Tensor, target: torch.Tensor, text: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """The network's prediction for the target frames, like ``target``, float32; ``tau`` [B] goes to every token."""
        dtype = self.transformer.patch_embedding.weight.dtype
        latents = torch.cat([condition, target], dim=2).to(dtype)
        sample = self.transformer(latents, tau * NUM_TRAIN_TIMESTEPS, text.to(dtype), return_dict=False)[0]
        return sample[:, :, condition.shape[2] :].float()

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        config: VivaConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        dtype: torch.dtype | None = None,
    ) -> Viva:
        """Start from the video weights of a local diffusers directory; nothing has to be added to them.

        Args:
            directory: holds ``transformer/``, as Wan2.2-TI2V-5B does.
            config: must describe that transformer.
            env_spec: of the environment.
            normalization: fitted on its data.
            codec: for example ``WanVaeCodec.from_pretrained(directory, ...)``.
            text: for example a ``PrecomputedT5`` computed with ``zeroes_padding=True``.
            dtype: for example ``torch.bfloat16``; None: as stored.

        Raises:
            AssetError: if ``directory`` lacks a part.
            CheckpointError: if it has other sizes than ``config``, or is damaged.
        """
        transformer = read_transformer(directory, config.transformer_config(), dtype)
        return cls(config, env_spec, normalization, codec, text, transformer)

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See models.value.ValueModel; codec and text embeddings included, so that a checkpoint stands alone."""
        parts = ValueParts(
            env_spec=self.env_spec,
            normalization=self.normalization,
            codec=self.codec,
            text=self.text,
            version=self.version,
        )
        return value_to_checkpoint(self.model, config_to_json(self.config), parts, {"transformer": self.transformer})

    @classmethod
    def from_checkpoint(cls, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> Viva:
        """Rebuild from :meth:`to_checkpoint`; tensors are copied.

        Raises:
            CheckpointError: if keys are missing, unexpected or of another shape.
            NonFiniteError: if a weight is NaN or infinite.
        """
        parts = value_parts(tensors, manifest, who="ViVa", has_codec=True)
        config = config_from_json(manifest_config(manifest, who="ViVa"))
        require_prefixes(tensors, {"transformer", "codec", "text"}, who="ViVa checkpoint")
        weights = tensors_under(tensors, "transformer")
        transformer = transformer_from_tensors(config.transformer_config(), weights, "ViVa checkpoint")
        model = cls(config, parts.env_spec, parts.normalization, parts.required_codec, parts.text, transformer)
        model.version = parts.version
        return model

    # -- shared ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.transformer.device

    def _frames(self, camera: CameraSpec, windows: WindowBatch) -> NDArray[np.uint8]:
        """The present images of one camera, letterboxed: [B, H, W, 3]."""
        return camera_frames(windows, camera, self.config.image_shape, num_frames=1)[:, 0]

    def _normalized_state(self, windows: WindowBatch, offset: int) -> torch.Tensor:
        """[B, S]."""
        return normalized_state(windows, offset, self.env_spec, self.normalization).to(self.device)


def _names(windows: WindowBatch, cameras: Sequence[str]) -> list[tuple[EpisodeId, int, tuple[str, ...]] | None]:
    """[B], of the present images of windows, for good; None for live observations."""
    steps = zip(windows.episode_id, windows.t.tolist(), strict=True)
    return [(episode, t, tuple(cameras)) if episode else None for episode, t in steps]


def _require_room(config: VivaConfig, env_spec: EnvSpec) -> None:
    size = int(np.prod(config.latent_shape))
    if env_spec.state.dim > size:
        raise SpecError(f"a state of {env_spec.state.dim} entries does not fit into a latent frame of {size}")
