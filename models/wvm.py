"""WVM: a chunk of values by flow matching, read off a video generator that also predicts the future (arXiv:2606.24742).

Hops 5 and 8 of the tour. Video and text only: no state, no action. One clip (papers.md 2.2)::

    frames   [ -h | -h+1 .. 0 | 1 .. h ]      h = 4: with Wan's autoencoder one latent each, the first discarded
               |    current      future       current is clean, future is noised, values are noised by a time of their own
    values   [ prefix | v_-h+1 .. v_0 ]       read current frames and each other; see models/wvm_network.py

The flow runs on x = 2 V + 1 in [-1, 1], so that with returns whose successes go from -1 to 0 (``failure_cost_ratio`` 0) x is the
paper's progress 2 p - 1.

Differs from the paper where that is silent (docs/models/wvm.md): the prefix of a chunk is predicted from the chunk before, inside
the window, so that a value depends on its window alone; and current frames do not attend to the future (``VideoAttention``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from numpy.typing import NDArray
from torch import nn

from core.errors import SpecError
from core.specs import EnvSpec
from core.windows import WindowBatch
from models.codecs import LatentCodec
from models.config_record import from_record, to_record
from models.flow import add_noise, draw_tau, euler_sample, velocity_target
from models.latent_cache import LatentCache
from models.loading import load_exactly, require_prefixes, tensors_under
from models.noise import normal
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.text import TextEmbedder
from models.value import ValuePrediction
from models.value_checkpoint import ValueParts, manifest_config, value_parts, value_to_checkpoint
from models.value_inputs import (
    camera_frames,
    require_finite,
    require_fitting,
    require_state,
    require_targets,
    selected_cameras,
    shared_instructions,
)
from models.viva_config import InferenceNoise, Prediction
from models.wan import read_transformer, share_text, transformer_from_tensors
from models.wvm_clips import Chunks, augmented_order, first_frame, random_prefix, window_spec
from models.wvm_config import PrefixToken, ValueHead, VideoAttention, WvmConfig, wvm_config
from models.wvm_network import ValueTransformer, VideoContext, read_video, with_joint_blocks

__all__ = ["Wvm", "WvmConfig", "wvm_config"]


class Wvm(nn.Module):
    """A ValueModel (models/value.py).

    Invariant: the value of a window depends on its frames and instruction and on the weights, not on what else is in the batch
    (up to the rounding of batched products).
    """

    model = "wvm"

    def __init__(
        self,
        config: WvmConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        transformer: WanTransformer3DModel | None = None,
    ) -> None:
        """Assemble a value model, with fresh weights unless a video ``transformer`` is given.

        Raises:
            SpecError: if the parts do not fit together.
        """
        super().__init__()
        require_fitting(config, codec, text)
        normalization.require_spec(env_spec)
        if config.chunk_frames % codec.temporal_ratio:
            raise SpecError(
                f"wvm chunk_frames is {config.chunk_frames}; expected a multiple of {codec.temporal_ratio}, the frames a latent "
                "of this codec"
            )
        self.config = config
        self.env_spec = env_spec
        self.camera = selected_cameras((config.camera,) if config.camera else (), env_spec)[0]
        self.window_spec = window_spec(config, env_spec)
        self.normalization = normalization
        self.version = 0
        self.latent_cache: LatentCache | None = None
        """Give it one where the same windows are labelled again (models/latent_cache.py)."""
        self.codec = codec
        self.text = text
        self.transformer = with_joint_blocks(transformer or WanTransformer3DModel(**config.transformer_config()))
        self.transformer.requires_grad_(not config.is_video_frozen)
        self.value = ValueTransformer(config, codec.temporal_ratio)
        share_text(self.transformer.blocks)
        share_text(self.value.blocks)

    # -- predicting -----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, windows: WindowBatch) -> ValuePrediction:
        """See models.value.ValueModel.

        Returns:
            ``extras``: ``chunk`` [B, n], the values of the n frames up to the present from the chunk that ends there;
            ``value_spread`` [B], the standard deviation of the estimates that were averaged.

        Raises:
            SpecError: if the windows do not match ``env_spec`` and ``window_spec``.
            NonFiniteError: if a value is not finite.
        """
        frames = self._frames(windows)
        starts = zip(windows.episode_id, windows.t.tolist(), strict=True)
        steps = [[(episode, t + offset) for offset in self.window_spec.image_offsets] for episode, t in starts]
        chunks = Chunks.cut(frames, windows.instruction, steps, self.config)
        text = shared_instructions([windows.instruction[b] for b in chunks.window], self.text).to(self.device)
        current = self._current_latents(chunks)
        context = self._context(current, text)
        estimate = (self._chained(chunks, context, text) - 1) / 2
        of_present = torch.stack([estimate[:, j, place] for j, place in enumerate(chunks.place)], dim=1)
        value = of_present.mean(dim=1).cpu().numpy()
        require_finite(value, f"WVM version {self.version}")
        extras = {"chunk": estimate[:, 0].cpu().numpy(), "value_spread": of_present.std(dim=1, correction=0).cpu().numpy()}
        return ValuePrediction(value=value, extras=extras)

    def _chained(self, chunks: Chunks, context: VideoContext, text: torch.Tensor) -> torch.Tensor:
        """Values [B, J, n] in [-1, 1] of the last chunks of all chains; equal chunks after equal prefixes are predicted once."""
        chunk, previous = np.unique(chunks.of_link[0], return_inverse=True)
        rows = torch.from_numpy(chunk).to(self.device)
        values = self._sampled(torch.zeros(len(rows), device=self.device), context.rows(rows), _rows(text, rows))
        for link in chunks.of_link[1:]:
            pairs = np.stack([link.ravel(), previous.ravel()])
            (chunk, before), previous = np.unique(pairs, axis=1, return_inverse=True)
            rows = torch.from_numpy(chunk).to(self.device)
            values = self._sampled(values[torch.from_numpy(before).to(self.device), -1], context.rows(rows), _rows(text, rows))
        return values[torch.from_numpy(previous.reshape(chunks.of_link.shape[1:])).to(self.device)]

    def _sampled(self, prefix: torch.Tensor, context: VideoContext, text: torch.Tensor) -> torch.Tensor:
        """Predict the chunks [B, n] after prefixes [B], in [-1, 1]."""
        noise = self._starting_point().to(self.device).expand(len(prefix), -1)
        if self.config.head is ValueHead.REGRESSION:
            return self._output(prefix, torch.zeros_like(noise), torch.ones_like(prefix), text, context).clamp(-1, 1)
        return euler_sample(
            lambda chunk, tau: self._output(prefix, chunk, tau, text, context),
            noise,
            num_steps=self.config.denoise_steps,
            shift=1.0,
        ).clamp(-1, 1)

    def _starting_point(self) -> torch.Tensor:
        """[1, n]: the same at every call, so that values differ between windows by what is seen only."""
        if self.config.noise is InferenceNoise.ZERO:
            return torch.zeros(1, self.config.num_predicted)
        return torch.randn(1, self.config.num_predicted, generator=torch.Generator().manual_seed(self.config.noise_seed))

    def _context(self, current: torch.Tensor, text: torch.Tensor) -> VideoContext:
        """What the value reads of current latents [B, C, F, h, w] when the future is not known."""
        future = None
        if self.config.attention is VideoAttention.FULL:
            noise = torch.randn(current.shape[1:], generator=torch.Generator().manual_seed(self.config.noise_seed))
            future = noise.to(self.device).expand_as(current)
        tau = torch.ones(len(current), device=self.device)
        return read_video(self.transformer, current, future, tau, text, self.config.attention)[0]

    # -- training -------------------------------------------------------------------------------------------------

    def loss(self, windows: WindowBatch, value_target: NDArray[np.float32], generator: torch.Generator) -> ExampleLoss:
        """See models.value.ValueModel: error of the value chunk + lambda x error of the future video, mean squares both.

        Args:
            windows: cut by ``window_spec``.
            value_target: [B, 2h + 1], of the frames -h .. h.
            generator: draws clips' directions, prefixes, noise and times; the two streams have times of their own.

        Raises:
            SpecError: if windows do not match ``env_spec`` and ``window_spec``, or a target is outside [-1, 0] or NaN.
        """
        config, h = self.config, self.config.chunk_frames
        require_targets(value_target, (len(windows), 2 * h + 1))
        order = augmented_order(len(windows), config, generator)
        rows = np.arange(len(windows))[:, None]
        clip = self._frames(windows)[rows, order - h - first_frame(config)]
        values = torch.from_numpy(2 * value_target[rows, order] + 1).to(self.device)
        text = shared_instructions(windows.instruction, self.text).to(self.device)

        has_video = config.video_weight > 0
        latents = self._latents(clip if has_video else clip[:, : h + 1])
        num_current = h // self.codec.temporal_ratio
        current, future = latents[:, :, :num_current], latents[:, :, num_current:]
        noise = normal(future.shape, generator).to(self.device)
        video_tau = draw_tau(len(windows), generator, shift=config.video_tau_shift).to(self.device)
        noised = add_noise(future, noise, video_tau) if has_video else None
        context, predicted = read_video(self.transformer, current, noised, video_tau, text, config.attention)

        first = 0 if config.prefix is PrefixToken.EXTRA else 1
        prefix = random_prefix(values[:, first], config, generator)
        per_example = value_error = self._value_error(prefix, values[:, first + 1 : h + 1], text, context, generator)
        metrics = {"value_loss": float(value_error.detach().mean())}
        if predicted is not None:
            wanted = future if config.video_prediction is Prediction.SAMPLE else velocity_target(future, noise)
            video_error = (predicted - wanted).square().mean(dim=(1, 2, 3, 4))
            per_example = value_error + config.video_weight * video_error
            metrics["video_loss"] = float(video_error.detach().mean())
        return ExampleLoss(per_example=per_example, metrics=metrics)

    def _value_error(
        self,
        prefix: torch.Tensor,
        clean: torch.Tensor,
        text: torch.Tensor,
        context: VideoContext,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """[B], of chunks [B, n]."""
        if self.config.head is ValueHead.REGRESSION:
            output = self._output(prefix, torch.zeros_like(clean), torch.ones_like(prefix), text, context)
            return (output - clean).square().mean(dim=1)
        noise = normal(clean.shape, generator).to(self.device)
        tau = draw_tau(len(clean), generator, shift=1.0).to(self.device)
        output = self._output(prefix, add_noise(clean, noise, tau), tau, text, context)
        return (output - velocity_target(clean, noise)).square().mean(dim=1)

    def _output(
        self, prefix: torch.Tensor, chunk: torch.Tensor, tau: torch.Tensor, text: torch.Tensor, context: VideoContext
    ) -> torch.Tensor:
        """The value transformer's output [B, n], float32."""
        predicted: torch.Tensor = self.value(torch.cat([prefix[:, None], chunk], dim=1), tau, text, context)
        return predicted

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        config: WvmConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        codec: LatentCodec,
        text: TextEmbedder,
        dtype: torch.dtype | None = None,
    ) -> Wvm:
        """Start from the video weights of a local diffusers directory; the value transformer is fresh, as in the paper.

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
            env_spec=self.env_spec, normalization=self.normalization, codec=self.codec, text=self.text, version=self.version
        )
        networks = {"transformer": self.transformer, "value": self.value}
        return value_to_checkpoint(self.model, to_record(self.config), parts, networks)

    @classmethod
    def from_checkpoint(cls, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> Wvm:
        """Rebuild from :meth:`to_checkpoint`; tensors are copied.

        Raises:
            CheckpointError: if keys are missing, unexpected or of another shape.
            NonFiniteError: if a weight is NaN or infinite.
        """
        parts = value_parts(tensors, manifest, who="WVM", has_codec=True)
        config = from_record(WvmConfig, manifest_config(manifest, who="WVM"), who="WVM")
        require_prefixes(tensors, {"transformer", "value", "codec", "text"}, who="WVM checkpoint")
        video = tensors_under(tensors, "transformer")
        transformer = transformer_from_tensors(config.transformer_config(), video, "WVM checkpoint, video")
        model = cls(config, parts.env_spec, parts.normalization, parts.required_codec, parts.text, transformer)
        load_exactly(model.value, tensors_under(tensors, "value"), "WVM checkpoint, value")
        model.version = parts.version
        return model

    # -- shared ---------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.value.place.device

    def _frames(self, windows: WindowBatch) -> NDArray[np.uint8]:
        """[B, F, H, W, 3], checked and letterboxed."""
        require_state(windows, self.env_spec, num_offsets=1)
        return camera_frames(windows, self.camera, self.config.image_shape, num_frames=len(self.window_spec.image_offsets))

    def _current_latents(self, chunks: Chunks) -> torch.Tensor:
        """[U, C, F, h, w] of the frames of chunks."""
        if self.codec.temporal_ratio == 1:  # what becomes of a frame does not depend on its clip: one latent for all of them
            latents = self._kept(chunks.frame_names, lambda rows: self.codec.encode(chunks.frames[rows]), len(chunks.frames))
            return latents[torch.from_numpy(chunks.clips[:, 1:])].transpose(1, 2).to(self.device)

        def names() -> list[tuple[bytes, ...]]:
            of_frame = chunks.frame_names()
            return [tuple(of_frame[frame] for frame in clip) for clip in chunks.clips.tolist()]

        return self._kept(names, lambda rows: self._latents(chunks.frames[chunks.clips[rows]]), len(chunks.clips)).to(self.device)

    def _kept(
        self, names: Callable[[], Sequence[Hashable]], encode: Callable[[NDArray[np.int64]], torch.Tensor], count: int
    ) -> torch.Tensor:
        if self.latent_cache is None:
            return encode(np.arange(count))
        return self.latent_cache.latents(names(), self.codec, encode)

    def _latents(self, clips: NDArray[np.uint8]) -> torch.Tensor:
        """[B, C, F', h, w] of all frames but the first, which a video autoencoder needs and nobody reads."""
        if self.codec.temporal_ratio == 1:
            return self.codec.encode_video(clips[:, 1:]).transpose(1, 2).to(self.device)
        return self.codec.encode_video(clips)[:, 1:].transpose(1, 2).to(self.device)


def _rows(text: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The texts of some clips; one that all share stays one."""
    return text if len(text) == 1 else text[index]
