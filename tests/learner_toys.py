"""A policy and a source of windows small enough to know the right answer."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from core.experience import ActionChunk, Observation
from core.ids import EpisodeId
from core.specs import EnvSpec
from core.windows import WindowBatch, WindowSpec, observation_windows
from models.noise import normal
from models.policy import ExampleLoss
from models.value import ValuePrediction

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
        noise = 0.01 * normal((len(windows),), generator)
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

    def sample(self, n: int, spec: WindowSpec, *, rows: range | None = None) -> Any:
        drawn = self._rng.integers(0, self.num_steps, n)
        t = drawn if rows is None else drawn[rows.start : rows.stop]
        n = len(t)
        windows = WindowBatch(
            images={},
            state=np.zeros((n, 1, 1), np.float32),
            action=t.astype(np.float32)[:, None, None],
            action_is_pad=np.zeros((n, 1), bool),
            instruction=("",) * n,
            episode_id=(EPISODE,) * n,
            t=t,
        )
        return SimpleNamespace(windows=windows, episode_id=(EPISODE,) * len(drawn), t=drawn)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]


# -- a policy and a value model of the fake reaching task whose best weights are known ------------------------------------


def reach_features(windows: WindowBatch) -> torch.Tensor:
    """[B, 2]: from the hand (red) to the goal (green), in cells of the picture, cut to -1..1: the optimal action."""
    return _to_goal(windows.images["camera"][:, 0]).clamp(-1.0, 1.0)


def _to_goal(image: np.ndarray) -> torch.Tensor:
    height, width = image.shape[1:3]
    red, green = (image[..., 0] > 150), (image[..., 1] > 150)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)

    def centre(mask: np.ndarray) -> np.ndarray:
        return (mask[..., None] * grid).sum(axis=(1, 2)) / np.maximum(mask.sum(axis=(1, 2)), 1)[:, None]

    delta = np.where(green.any(axis=(1, 2))[:, None], centre(green) - centre(red), 0.0)
    return torch.from_numpy((delta * 9 / np.array([width, height])).astype(np.float32))


class ReachPolicy(torch.nn.Module):
    """Goes gain[indicator] of the way that the optimal action goes; draws with a little noise."""

    model = "toy_reach_policy"

    def __init__(self, env_spec: EnvSpec, *, use_indicator: bool = True) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(3))
        """For absent, negative, positive."""
        self.env_spec = env_spec
        self.window_spec = WindowSpec(action_horizon=1)
        self.use_indicator = use_indicator
        self.version = 0

    def sample_actions(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[ActionChunk]:
        windows = observation_windows(tuple(observations), tuple(instructions))
        gain = self.gain[2 if self.use_indicator else 0].detach()
        mean = gain * reach_features(windows)
        noise = torch.stack([0.2 * torch.randn(1, 2, generator=generator) for generator in generators])
        return [
            ActionChunk(actions=(m[None] + n).clamp(-1, 1).numpy(), policy_version=self.version, observation_time_s=o.time_s)
            for m, n, o in zip(mean, noise, observations, strict=True)
        ]

    def loss(self, windows: WindowBatch, indicator: np.ndarray, generator: torch.Generator) -> ExampleLoss:
        told = indicator if self.use_indicator else np.full(len(windows), -1)
        mean = self.gain[torch.from_numpy(told.astype(np.int64)) + 1][:, None] * reach_features(windows)
        per_example = (mean - torch.from_numpy(windows.action[:, 0])).square().mean(dim=1)
        return ExampleLoss(per_example=per_example, metrics={"action_loss": float(per_example.detach().mean())})

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        config = {"use_indicator": self.use_indicator, "action_horizon": 1}
        return dict(self.state_dict()), _manifest(self, "policy", config)


class ReachValue(torch.nn.Module):
    """V falls with the distance to the goal."""

    model = "toy_reach_value"

    def __init__(self, env_spec: EnvSpec) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.env_spec = env_spec
        self.window_spec = WindowSpec()
        self.version = 0

    def _value(self, windows: WindowBatch) -> torch.Tensor:
        return -torch.sigmoid(self.net(_to_goal(windows.images["camera"][:, 0]).abs()))[:, 0]

    def predict(self, windows: WindowBatch) -> ValuePrediction:
        with torch.no_grad():
            return ValuePrediction(value=self._value(windows).numpy())

    def loss(self, windows: WindowBatch, value_target: np.ndarray, generator: torch.Generator) -> ExampleLoss:
        per_example = (self._value(windows) - torch.from_numpy(value_target)).square()
        return ExampleLoss(per_example=per_example, metrics={})

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return dict(self.state_dict()), _manifest(self, "value", {})


def toy_from_checkpoint(tensors: dict[str, torch.Tensor], manifest: dict[str, Any]) -> Any:
    """Stands in for ``models.presets.from_checkpoint``."""
    env_spec = EnvSpec.from_json(manifest["env_spec"])
    model: Any = ReachValue(env_spec)
    if manifest["kind"] == "policy":
        model = ReachPolicy(env_spec, use_indicator=manifest["config"]["use_indicator"])
    model.load_state_dict(tensors)
    model.version = manifest["version"]
    return model


def _manifest(model: Any, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    (camera,) = model.env_spec.cameras
    return {
        "kind": kind,
        "model": model.model,
        "config": {"image_height_px": camera.height_px, "image_width_px": camera.width_px, **config},
        "env_spec": model.env_spec.to_json(),
        "normalization": {},
        "version": model.version,
        "extra": {},
    }
