"""Tiny parts with known answers for the tests of the value service and of the rollout pools.

In a module of their own because Ray's workers import them by name. None of them needs torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.errors import CheckpointError, ConfigError
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.ids import EpisodeId, new_episode_id
from core.labels import Labels
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from core.windows import WindowBatch, WindowSpec


@contextlib.contextmanager
def importable_by_workers() -> Iterator[None]:
    """Within it, Ray starts workers that can import this module."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield


SPEC = EnvSpec(
    cameras=(CameraSpec(name="front", height_px=2, width_px=3),),
    state=StateSpec(names=("q",), units=("rad",)),
    action=ActionSpec(names=("dx", "grip"), units=("m", "1"), low=(-1.0, -1.0), high=(1.0, 1.0), control_hz=3.0),
)


def make_episode(
    steps: int,
    *,
    seed: int = 0,
    end: EpisodeEnd = EpisodeEnd.SUCCESS,
    task: str = "lift",
    policy_version: int = 0,
    episode_id: EpisodeId | None = None,
    collection: Collection = Collection.ROLLOUT,
    spec: EnvSpec = SPEC,
) -> Episode:
    """An episode whose arrays are drawn from its seed."""
    rng = np.random.default_rng(seed)
    action = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    episode = Episode.of_one_source(
        Source.POLICY,
        images={"front": rng.integers(0, 256, (steps + 1, 2, 3, 3)).astype(np.uint8)},
        state=rng.normal(size=(steps + 1, 1)).astype(np.float32),
        executed_action=action,
        policy_version=policy_version,
        instruction="lift",
        end=end,
        env_spec=spec,
        provenance=Provenance(env="fake", task=task, seed=seed, collection=collection),
        episode_id=episode_id or new_episode_id(),
    )
    return replace(episode, policy_action=action)


class RampValue:
    """A value model with V(o_t) = -0.9 + 0.01 t + version / 1000: its labels say which version made them."""

    env_spec = SPEC
    window_spec = WindowSpec(image_offsets=(0,), state_offsets=(0,))

    def __init__(self, version: int, delay_s: float = 0.0) -> None:
        self.version = version
        self.delay_s = delay_s

    def predict(self, windows: WindowBatch) -> Any:
        time.sleep(self.delay_s)
        return SimpleNamespace(value=(-0.9 + 0.01 * windows.t + self.version / 1000).astype(np.float32))


def write_ramp(directory: Path, version: int, *, delay_s: float = 0.0) -> Path:
    """A checkpoint of a RampValue."""
    path = directory / f"value_{version}"
    path.mkdir()
    (path / "ramp.json").write_text(json.dumps({"version": version, "delay_s": delay_s}))
    return path


def load_ramp(path: Path) -> RampValue:
    """The factory that the service is given."""
    try:
        return RampValue(**json.loads((path / "ramp.json").read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"damaged checkpoint {path}: {error}") from error


class GeneratedEpisodes:
    """Stands in for a replay store: any id can be read, its episode is drawn from it."""

    def refresh(self) -> None:
        """Everything is there already."""

    def read(self, episode_id: EpisodeId) -> Episode:
        seed = int(episode_id[:8], 16)
        return make_episode(5 + seed % 7, seed=seed, end=list(EpisodeEnd)[seed % 3], episode_id=episode_id)


class CountingLabels:
    """A label store in memory that refuses to be told the same thing twice."""

    def __init__(self) -> None:
        self.stored: dict[tuple[EpisodeId, int], Labels] = {}

    def put(self, labels: Labels) -> None:
        assert labels.key not in self.stored, f"{labels.key} doubled"
        self.stored[labels.key] = labels

    def unlabelled(self, value_version: int, episode_ids: Iterable[EpisodeId]) -> list[EpisodeId]:
        return [e for e in episode_ids if (e, value_version) not in self.stored]


class FakeRunner:
    """A rollout worker whose episodes depend on the seed and the policy version alone.

    Reset options make it misbehave: ``kill_once`` names a file, and the worker dies mid-episode if it is not there yet;
    ``kill`` dies always; ``hang_once`` names a file, and the worker stops for ever (SIGSTOP) if it is not there
    yet; ``error`` raises; ``crash`` raises what nobody raises on purpose; ``delay_s`` takes time.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = -1
        self.is_closed = False

    def load_policy(self, path: Path) -> None:
        self.version = int(path.name.removeprefix("policy_"))

    def run_episode(self, seed: int, *, collection: Collection, options: dict[str, Any] | None) -> Episode:
        options = options or {}
        time.sleep(options.get("delay_s", 0.0))
        if "error" in options:
            raise ConfigError(options["error"])
        if "crash" in options:
            raise RuntimeError(options["crash"])
        if "kill_once" in options and not Path(options["kill_once"]).exists():
            Path(options["kill_once"]).touch()
            os.kill(os.getpid(), 9)
        if "hang_once" in options and not Path(options["hang_once"]).exists():
            Path(options["hang_once"]).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if "kill" in options:
            os.kill(os.getpid(), 9)
        return make_episode(3 + seed % 5, seed=seed, policy_version=self.version, collection=collection)

    def close(self) -> None:
        self.is_closed = True


class FileEpisodes:
    """Stands in for the replay store: one JSON line an episode, appended to the writer's file.

    ``kill_after_append`` names a file; where it is not there yet, the process dies between the commit and the report.
    """

    def __init__(self, root: Path, writer: str = "reader", *, kill_after_append: Path | None = None) -> None:
        self._root, self._writer, self._kill_after_append = root, writer, kill_after_append
        self._lines: dict[EpisodeId, dict[str, Any]] = {}

    def append(self, episode: Episode) -> EpisodeId:
        line = {
            "id": episode.episode_id,
            "end": episode.end.value,
            "num_steps": episode.num_steps,
            "seed": episode.provenance.seed,
            "policy_version": int(episode.policy_version[0]),
            "collection": episode.provenance.collection.value,
            "action_sum": float(episode.executed_action.sum()),
        }
        with (self._root / f"{self._writer}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._kill_after_append is not None and not self._kill_after_append.exists():
            self._kill_after_append.touch()
            os.kill(os.getpid(), 9)
        return episode.episode_id

    def refresh(self) -> None:
        lines = [json.loads(line) for path in sorted(self._root.glob("*.jsonl")) for line in path.read_text().splitlines()]
        assert len({line["id"] for line in lines}) == len(lines), "an episode was committed twice"
        self._lines = {EpisodeId(line["id"]): line for line in lines}

    def episode_ids(self) -> tuple[EpisodeId, ...]:
        return tuple(self._lines)

    def info(self, episode_id: EpisodeId) -> Any:
        line = self._lines[episode_id]
        return SimpleNamespace(**{**line, "end": EpisodeEnd(line["end"])})

    def committed(self) -> list[dict[str, Any]]:
        """All lines, in the order of their seeds."""
        self.refresh()
        return sorted(self._lines.values(), key=lambda line: line["seed"])
