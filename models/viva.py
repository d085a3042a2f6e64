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

from core.errors import CheckpointError, NonFiniteError, SpecError
from core.specs import CameraSpec, EnvSpec
from core.windows import WindowBatch, WindowSpec
from models.codecs import LatentCodec, codec_from_tensors
from models.flow import NUM_TRAIN_TIMESTEPS, add_noise, draw_tau, euler_sample, velocity_target
from models.loading import tensors_under
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.text import TextEmbedder, text_from_tensors
from models.value import ValuePrediction
from models.viva_config import InferenceNoise, Prediction, VivaConfig, config_from_json, config_to_json, viva_config
from models.viva_frames import average_copies, frame_to_value, letterbox, repeat_to_frame, value_to_frame
from models.wan import read_transformer, transformer_from_tensors

__all__ = ["EncodedWindows", "InferenceNoise", "Prediction", "Viva", "VivaConfig", "viva_config"]


@dataclass(frozen=True, kw_only=True)
class EncodedWindows:
    """The present of B windows as the network reads it; worth keeping where windows are read again (the VAE dominates)."""

    views: torch.Tensor
    """[B, V, C, h, w], a latent a camera."""
    state: torch.Tensor
    """[B, S] in [-1, 1]."""
    text: torch.Tensor
    """[B, L, D]."""

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
        _require_fitting(config, env_spec, codec, text)
        normalization.require_spec(env_spec)
        self.config = config
        self.env_spec = env_spec
        self.cameras = _cameras(config, env_spec)
        self.window_spec = WindowSpec(state_offsets=(0, env_spec.action.steps(config.future_offset_s)))
        self.normalization = normalization
        self.version = 0
        self.codec = codec
        self.text = text
        self.transformer = transformer if transformer is not None else WanTransformer3DModel(**config.transformer_config())

    # -- predicting -----------------------------------------------------------------------------------------------

    def predict(self, windows: WindowBatch) -> ValuePrediction:
        """See models.value.ValueModel; only the present of the windows is read.

        Returns:
            ``extras``: ``future_state`` [B, S] at t + K, in StateSpec units; with several noise draws also ``value_spread`` [B],
            the standard deviation of the draws.

        Raises:
            SpecError: if the windows do not match ``env_spec``.
            NonFiniteError: if a value is not finite.
        """
        return self.predict_from_latents(self.encode_windows(windows))

    def encode_windows(self, windows: WindowBatch) -> EncodedWindows:
        """The part of :meth:`predict` that does not change while the network learns."""
        views = [self._view(camera, windows) for camera in self.cameras]
        for index, instruction in enumerate(windows.instruction):
            if not instruction.strip():
                raise SpecError(
                    f"window {index}: the instruction is {instruction!r}; expected words, for example 'pick coke can'"
                )
        return EncodedWindows(
            views=torch.stack(views, dim=1).to(self.device),
            state=self._normalized_state(windows, 0),
            text=self._embedded(windows.instruction),
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
        values = torch.stack([frame_to_value(target[:, :, 1]) for target in draws])
        states = torch.stack([average_copies(target[:, :, 0], self.env_spec.state.dim) for target in draws])
        value = values.mean(dim=0).cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(value))
        if bad.size:
            raise NonFiniteError(
                f"ViVa version {self.version}: the value of window {bad[0]} is {value[bad[0]]}; expected a number in [-1, 0]. "
                "The weights or the normalisation are damaged: retrain it or load an earlier checkpoint"
            )
        extras = {"future_state": self.normalization.state.unnormalize(states.mean(dim=0).cpu().numpy())}
        if config.num_noise_draws > 1:
            extras["value_spread"] = values.std(dim=0).cpu().numpy()
        return ValuePrediction(value=value, extras=extras)

    def _starting_points(self) -> torch.Tensor:
        """[draws, 1, C, 2, h, w]: the same at every call, so that values differ between windows by what is seen only."""
        channels, height, width = self.config.latent_shape
        shape = (self.config.num_noise_draws, 1, channels, 2, height, width)
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
        _require_targets(value_target, len(windows))
        if windows.state.shape[1] != 2:
            raise SpecError(
                f"windows have {windows.state.shape[1]} states each; expected 2, now and {config.future_offset_s} s later: cut "
                "them by this model's window_spec"
            )
        encoded = self.encode_windows(windows)
        future = repeat_to_frame(self._normalized_state(windows, 1), shape)
        value = value_to_frame(torch.from_numpy(value_target).to(self.device), shape)
        clean = torch.stack([future, value], dim=2)
        noise = torch.randn(clean.shape, generator=generator, device=generator.device).to(self.device)
        tau = draw_tau(len(windows), generator, shift=config.tau_shift).to(self.device)
        predicted = self._output(self._condition(encoded), add_noise(clean, noise, tau), encoded.text, tau)
        wanted = clean if config.prediction is Prediction.SAMPLE else velocity_target(clean, noise)
        error = (predicted - wanted).square().mean(dim=(1, 3, 4))
        state_error, value_error = error.unbind(dim=1)
        return ExampleLoss(
            per_example=config.future_state_weight * state_error + config.value_weight * value_error,
            metrics={
                "future_state_loss": float(state_error.detach().mean()),
                "value_loss": float(value_error.detach().mean()),
            },
        )

    def _condition(self, encoded: EncodedWindows) -> torch.Tensor:
        """The clean frames: [B, C, 2 + V, h, w]."""
        state = repeat_to_frame(encoded.state, self.config.latent_shape)
        frames = [torch.zeros_like(state), state, *encoded.views.unbind(dim=1)]
        return torch.stack(frames, dim=2)

    def _velocity(self, condition: torch.Tensor, target: torch.Tensor, text: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """Predicted velocity [B, C, 2, h, w] of the target frames, float32."""
        output = self._output(condition, target, text, tau)
        if self.config.prediction is Prediction.FLOW:
            return output
        return (target - output) / tau.reshape(-1, 1, 1, 1, 1)

    def _output(self, condition: torch.Tensor, target: torch.Tensor, text: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        """The network's prediction [B, C, 2, h, w] for the target frames, float32; ``tau`` [B] goes to every token."""
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
        codec_tensors, codec_record = self.codec.to_tensors()
        text_tensors, text_record = self.text.to_tensors()
        tensors = {f"transformer.{name}": tensor.detach() for name, tensor in self.transformer.state_dict().items()}
        tensors |= {f"codec.{name}": tensor for name, tensor in codec_tensors.items()}
        tensors |= {f"text.{name}": tensor for name, tensor in text_tensors.items()}
        manifest = {
            "kind": "value",
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
    def from_checkpoint(cls, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> Viva:
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
            raise CheckpointError(f"ViVa manifest lacks {error}; it has {sorted(manifest)}. Save the value model again") from None
        weights = tensors_under(tensors, "transformer")
        transformer = transformer_from_tensors(config.transformer_config(), weights, "ViVa checkpoint")
        model = cls(config, env_spec, normalization, codec, text, transformer)
        model.version = version
        return model

    # -- shared ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.transformer.device

    def _view(self, camera: CameraSpec, windows: WindowBatch) -> torch.Tensor:
        """The present image of one camera as latents [B, C, h, w]."""
        if camera.name not in windows.images:
            raise SpecError(f"windows have cameras {sorted(windows.images)}; expected {camera.name!r} among them")
        frames = windows.images[camera.name]
        expected = (camera.height_px, camera.width_px, 3)
        if frames.ndim != 5 or frames.shape[1] < 1 or frames.shape[2:] != expected or frames.dtype != np.uint8:
            raise SpecError(
                f"windows: {camera.name} is {frames.dtype} {frames.shape}; expected uint8 "
                f"(B, F, {camera.height_px}, {camera.width_px}, 3)"
            )
        if len(frames) != len(windows):
            raise SpecError(f"windows: {camera.name} has {len(frames)} images for {len(windows)} windows; expected one each")
        return self.codec.encode(letterbox(frames[:, 0], *self.config.image_shape))

    def _normalized_state(self, windows: WindowBatch, offset: int) -> torch.Tensor:
        """[B, S], clamped to [-1, 1] as in the released code: a state out of range must not become a large latent."""
        count, dim = len(windows), self.env_spec.state.dim
        if windows.state.ndim != 3 or windows.state.shape[::2] != (count, dim) or windows.state.shape[1] <= offset:
            raise SpecError(f"windows: state is {windows.state.shape}; expected ({count}, G, {dim}) with G > {offset}")
        normalized = self.normalization.state.normalize(windows.state[:, offset])
        return torch.from_numpy(np.clip(normalized, -1, 1)).to(self.device)

    def _embedded(self, instructions: Sequence[str]) -> torch.Tensor:
        """[B, L, D]; each instruction is embedded once, however many windows share it."""
        distinct = list(dict.fromkeys(instructions))
        for instruction in distinct:
            if not instruction.strip():
                index = instructions.index(instruction)
                raise SpecError(
                    f"window {index}: the instruction is {instruction!r}; expected words, for example 'pick coke can'"
                )
        row = {instruction: number for number, instruction in enumerate(distinct)}
        return self.text.embed(distinct)[0].to(self.device)[[row[instruction] for instruction in instructions]]


def _cameras(config: VivaConfig, env_spec: EnvSpec) -> tuple[CameraSpec, ...]:
    by_name = {camera.name: camera for camera in env_spec.cameras}
    missing = [name for name in config.cameras if name not in by_name]
    if missing:
        raise SpecError(f"the value model looks through {missing}; the environment has {list(by_name)}. Set value_model.cameras")
    return tuple(by_name[name] for name in config.cameras) or env_spec.cameras


def _require_fitting(config: VivaConfig, env_spec: EnvSpec, codec: LatentCodec, text: TextEmbedder) -> None:
    found = {
        "image_shape": codec.image_shape,
        "latent_shape": codec.latent_shape,
        "text_length": text.length,
        "text_dim": text.dim,
    }
    for name, value in found.items():
        if value != getattr(config, name):
            raise SpecError(
                f"codec or text embedder has {name} {value}; the value model's configuration says {getattr(config, name)}"
            )
    size = int(np.prod(config.latent_shape))
    if env_spec.state.dim > size:
        raise SpecError(f"a state of {env_spec.state.dim} entries does not fit into a latent frame of {size}")


def _require_targets(value_target: NDArray[np.float32], count: int) -> None:
    if value_target.shape != (count,):
        raise SpecError(f"value_target is {value_target.shape}; expected ({count},), one a window")
    bad = np.flatnonzero(~((value_target >= -1) & (value_target <= 0)))
    if bad.size:
        raise SpecError(
            f"value_target[{bad[0]}] is {value_target[bad[0]]}; expected a number in [-1, 0]. Truncated episodes have no "
            "return: leave them out"
        )
