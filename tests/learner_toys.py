"""A policy and a source of windows small enough to know the right answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from core.ids import EpisodeId
from core.windows import WindowBatch, WindowSpec
from models.policy import ExampleLoss

EPISODE = EpisodeId("0" * 32)


class ToyPolicy(torch.nn.Module):
    """Predicts a constant action a and b: b is added when it is told 'positive'. Its loss is (prediction - action)^2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(1))
        self.b = torch.nn.Parameter(torch.zeros(1))
        self.version = 0
        self.window_spec = WindowSpec(action_horizon=1)

    def loss(self, windows: WindowBatch, indicator: np.ndarray, generator: torch.Generator) -> ExampleLoss:
        noise = 0.01 * torch.randn(len(windows), generator=generator)
        told = torch.from_numpy((indicator == 1).astype(np.float32))
        prediction = self.a + self.b * told + noise
        per_example = (prediction - torch.from_numpy(windows.action[:, 0, 0])).square()
        return ExampleLoss(per_example=per_example, metrics={"action_loss": float(per_example.detach().mean())})

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(self.state_dict()), {"kind": "policy", "model": "toy", "version": self.version}


class ToyWindows:
    """Draws steps of one episode whose action is t."""

    def __init__(self, num_steps: int = 4, seed: int = 0) -> None:
        self.num_steps = num_steps
        self._rng = np.random.default_rng(seed)

    def sample(self, n: int, spec: WindowSpec) -> Any:
        t = self._rng.integers(0, self.num_steps, n)
        windows = WindowBatch(
            images={},
            state=np.zeros((n, 1, 1), np.float32),
            action=t.astype(np.float32)[:, None, None],
            action_is_pad=np.zeros((n, 1), bool),
            instruction=("",) * n,
            episode_id=(EPISODE,) * n,
            t=t,
        )
        return SimpleNamespace(windows=windows)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
