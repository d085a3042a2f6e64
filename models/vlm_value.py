"""The VLM-style baseline: image and text encoders, a small transformer over their tokens, and a 201-bin head (pi*0.6, Sec. V-B).

Hops 5 and 8 of the tour. One observation, no history and no future::

    cls | image tokens, a camera after the other | text tokens | state        -> transformer -> cls -> logits of K bins

The image encoder is transformers' ``SiglipVisionModel``: small and random in ``tiny``, a SigLIP directory's in ``full``. Text
comes embedded (models/text.py), in ``full`` by SigLIP's own text encoder (models/siglip.py).

Differs from pi*0.6: a language model's place is taken by a transformer of our own over the encoders' tokens, because neither its
670 M backbone nor its web co-training data are public; the head, its loss and its size are the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from core.errors import SpecError
from core.specs import EnvSpec
from core.windows import WindowBatch, WindowSpec
from models.config_record import from_record, to_record
from models.loading import load_exactly, require_prefixes, tensors_under
from models.normalization import Normalization
from models.policy import ExampleLoss
from models.siglip import read_vision, siglip_text
from models.text import TextEmbedder
from models.value import ValuePrediction
from models.value_bins import expectation, target_distribution
from models.value_checkpoint import ValueParts, manifest_config, value_parts, value_to_checkpoint
from models.value_inputs import (
    camera_frames,
    embedded_instructions,
    normalized_state,
    require_finite,
    require_targets,
    selected_cameras,
)
from models.vlm_value_config import VlmValueConfig, vlm_value_config

__all__ = ["VlmValue", "VlmValueConfig", "VlmValueNetwork", "vlm_value_config"]


class VlmValueNetwork(nn.Module):
    """Pixels, words and state to logits."""

    def __init__(
        self, config: VlmValueConfig, *, num_cameras: int, state_dim: int, vision: SiglipVisionModel | None = None
    ) -> None:
        """Fresh weights, but for the image encoder's where a ``vision`` is given."""
        super().__init__()
        width = config.fusion_width
        self.vision = vision if vision is not None else SiglipVisionModel(SiglipVisionConfig(**config.vision_config()))
        self.vision.requires_grad_(not config.is_vision_frozen)
        self.from_vision = nn.Linear(config.vision_width, width)
        self.from_text = nn.Linear(config.text_dim, width)
        self.from_state = nn.Linear(state_dim, width) if config.has_state_input else None
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.camera = nn.Parameter(torch.randn(num_cameras, 1, width) * 0.02)
        self.word = nn.Parameter(torch.randn(config.text_length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            config.fusion_heads,
            config.fusion_ffn_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.fusion = nn.TransformerEncoder(layer, config.fusion_layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, config.num_bins)

    def forward(self, pixels: torch.Tensor, words: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Logits of the bins.

        Args:
            pixels: [B, V, 3, H, W] in [-1, 1].
            words: [B, L, D].
            state: [B, S] in [-1, 1].

        Returns:
            [B, K].
        """
        seen = self.vision(pixel_values=pixels.flatten(0, 1)).last_hidden_state.unflatten(0, pixels.shape[:2])
        tokens = [
            self.cls.expand(len(pixels), -1, -1),
            (self.from_vision(seen) + self.camera).flatten(1, 2),
            self.from_text(words) + self.word,
        ]
        if self.from_state is not None:
            tokens.append(self.from_state(state)[:, None])
        logits: torch.Tensor = self.head(self.fusion(torch.cat(tokens, dim=1))[:, 0])
        return logits


class VlmValue(nn.Module):
    """A ValueModel (models/value.py).

    Invariant: the value of a window depends on its present images, state and instruction and on the weights only.
    """

    model = "vlm"

    def __init__(
        self,
        config: VlmValueConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        text: TextEmbedder,
        vision: SiglipVisionModel | None = None,
    ) -> None:
        """Assemble a value model, with fresh weights unless a ``vision`` encoder is given.

        Raises:
            SpecError: if the parts do not fit together.
        """
        super().__init__()
        normalization.require_spec(env_spec)
        for name, value in {"text_length": text.length, "text_dim": text.dim}.items():
            if value != getattr(config, name):
                raise SpecError(f"text embedder has {name} {value}; the value model's configuration says {getattr(config, name)}")
        self.config = config
        self.env_spec = env_spec
        self.cameras = selected_cameras(config.cameras, env_spec)
        self.window_spec = WindowSpec()
        self.normalization = normalization
        self.version = 0
        self.text = text
        self.network = VlmValueNetwork(config, num_cameras=len(self.cameras), state_dim=env_spec.state.dim, vision=vision)

    @torch.inference_mode()
    def predict(self, windows: WindowBatch) -> ValuePrediction:
        """See models.value.ValueModel; only the present of the windows is read.

        Returns:
            ``extras``: ``value_spread`` [B], the standard deviation of the predicted distribution.

        Raises:
            SpecError: if the windows do not match ``env_spec``.
            NonFiniteError: if a value is not finite.
        """
        mean, spread = expectation(self._logits(windows))
        value = mean.cpu().numpy()
        require_finite(value, f"VLM value version {self.version}")
        return ValuePrediction(value=value, extras={"value_spread": spread.cpu().numpy()})

    def loss(self, windows: WindowBatch, value_target: NDArray[np.float32], generator: torch.Generator) -> ExampleLoss:
        """See models.value.ValueModel: cross-entropy with the target's distribution; nothing is drawn.

        Raises:
            SpecError: if windows do not match ``env_spec``, or a target is outside [-1, 0] or NaN.
        """
        del generator
        require_targets(value_target, (len(windows),))
        logits = self._logits(windows)
        target = torch.from_numpy(value_target).to(self.device)
        wanted = target_distribution(target, self.config.num_bins, self.config.target)
        cross_entropy = nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
        error = (expectation(logits.detach())[0] - target).abs().mean()
        return ExampleLoss(
            per_example=cross_entropy,
            metrics={"value_loss": float(cross_entropy.detach().mean()), "value_absolute_error": float(error)},
        )

    def _logits(self, windows: WindowBatch) -> torch.Tensor:
        views = [camera_frames(windows, camera, self.config.image_shape, num_frames=1)[:, 0] for camera in self.cameras]
        pixels = torch.from_numpy(np.stack(views, axis=1)).to(self.device).permute(0, 1, 4, 2, 3)
        state = normalized_state(windows, 0, self.env_spec, self.normalization).to(self.device)
        words = embedded_instructions(windows.instruction, self.text).to(self.device)
        dtype = self.network.head.weight.dtype
        logits: torch.Tensor = self.network((pixels.float() / 127.5 - 1).to(dtype), words.to(dtype), state.to(dtype))
        return logits

    # -- loading and saving ---------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        config: VlmValueConfig,
        env_spec: EnvSpec,
        normalization: Normalization,
        instructions: Sequence[str],
    ) -> VlmValue:
        """Start from both encoders of a local SigLIP directory; fusion and head are fresh.

        Args:
            directory: as SigLIP-so400m-patch14-384 is laid out.
            config: must describe its image encoder.
            env_spec: of the environment.
            normalization: fitted on its data.
            instructions: every one that the model will be given; they are embedded now, once.

        Raises:
            AssetError: if ``directory`` lacks a part.
            CheckpointError: if it has other sizes than ``config``, or lacks weights.
        """
        text = siglip_text(instructions, directory, length=config.text_length)
        return cls(config, env_spec, normalization, text, read_vision(directory, config.vision_config()))

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See models.value.ValueModel; text embeddings included, so that a checkpoint stands alone."""
        parts = ValueParts(
            env_spec=self.env_spec, normalization=self.normalization, codec=None, text=self.text, version=self.version
        )
        return value_to_checkpoint(self.model, to_record(self.config), parts, {"network": self.network})

    @classmethod
    def from_checkpoint(cls, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> VlmValue:
        """Rebuild from :meth:`to_checkpoint`; tensors are copied.

        Raises:
            CheckpointError: if keys are missing, unexpected or of another shape.
            NonFiniteError: if a weight is NaN or infinite.
        """
        parts = value_parts(tensors, manifest, who="VLM value", has_codec=False)
        config = from_record(VlmValueConfig, manifest_config(manifest, who="VLM value"), who="VLM value")
        require_prefixes(tensors, {"network", "text"}, who="VLM value checkpoint")
        model = cls(config, parts.env_spec, parts.normalization, parts.text)
        load_exactly(model.network, tensors_under(tensors, "network"), "VLM value checkpoint")
        model.version = parts.version
        return model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.cls.device
