"""The value model interface: windows in, V in [-1, 0] out, higher is better.

Hop 5 of the tour. Adapters to this convention live in each model: 201-bin expectation -> V; ViVa cost-to-go G -> -G/2;
WVM progress p -> p - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from core.specs import EnvSpec
from core.windows import WindowBatch, WindowSpec
from models.policy import ExampleLoss


@dataclass(frozen=True, kw_only=True)
class ValuePrediction:
    """What a value model says of B windows."""

    value: NDArray[np.float32]
    """[B], in [-1, 0]."""
    extras: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """What the model adds, for example ViVa's ``{"future_state": [B, S]}``, in StateSpec units."""


class ValueModel(Protocol):
    """A value model that can label and be trained."""

    env_spec: EnvSpec
    window_spec: WindowSpec
    version: int

    def predict(self, windows: WindowBatch) -> ValuePrediction:
        """Values of B windows; deterministic (the same windows give the same values)."""
        ...

    def loss(self, windows: WindowBatch, value_target: NDArray[np.float32], generator: torch.Generator) -> ExampleLoss:
        """Training loss of each window.

        Args:
            windows: cut by ``window_spec``.
            value_target: [B], or [B, O] where ``window_spec.value_offsets`` asks for several; in [-1, 0].
            generator: draws noise and diffusion times.
        """
        ...

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and a JSON-like manifest from which ``models.presets.from_checkpoint`` rebuilds this model exactly."""
        ...
