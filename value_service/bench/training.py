"""Trains one value model of the bench: the same episodes, the same number of samples and the same optimiser for every model.

Hops 7 to 9 of the tour, on one core and without a run directory. The target of a success is its elapsed share of time,
V = t/T - 1 (WVM; ViVa's released code), not the ground truth, which no real data has; a failure's is -1 throughout
(docs/adr/0008).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.directory import read_checkpoint
from core.experience import EpisodeEnd, imitation_target
from core.ids import EpisodeId, digest
from core.windows import WindowSpec
from learners.batch import ValueBatches
from learners.fit import fit
from learners.run_directory import write_json
from learners.train_state import OptimizerConfig
from learners.value_learner import ValueLearner
from models import presets
from models.normalization import Normalization
from models.value import ValueModel
from models.value_config import AnyValueConfig
from models.vlm_value import VlmValueConfig
from replay.episode_store import EpisodeStore
from replay.sampler import MixConfig, WindowSampler
from value_service.bench.truth import BenchEpisode, Split

_CODEC_FRAMES = 500
_SAVE_EVERY_STEPS = 200


def training_target(num_steps: int, end: EpisodeEnd) -> NDArray[np.float32]:
    """What a model learns of an episode of T steps.

    Returns:
        [T+1] float32 in [-1, 0].

    Example:
        >>> training_target(2, EpisodeEnd.SUCCESS).tolist()
        [-1.0, -0.5, 0.0]
    """
    if end is not EpisodeEnd.SUCCESS:
        return np.full(num_steps + 1, -1, np.float32)
    return np.linspace(-1, 0, num_steps + 1, dtype=np.float32)


def training_episodes(episodes: Sequence[BenchEpisode], robot: str, kinds: Sequence[Any]) -> list[EpisodeId]:
    """Ids of one robot's training split."""
    chosen = (e for e in episodes if e.robot == robot and e.truth.split is Split.TRAIN and e.truth.kind in kinds)
    return [e.episode_id for e in chosen]


def train(
    config: AnyValueConfig,
    store: EpisodeStore,
    ids: Sequence[EpisodeId],
    optimizer: OptimizerConfig,
    *,
    seed: int,
    folder: Path,
    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
) -> dict[str, Any]:
    """Train a model from fresh weights into ``folder/checkpoint``, or leave the one that is there.

    An interrupted training continues; one with another configuration or other episodes starts anew.

    Args:
        config: of the model.
        store: with the episodes.
        ids: to learn from, all of one robot.
        optimizer: says how many steps of how many windows.
        seed: of weights, draws and noise.
        folder: for the checkpoint and ``training.json``.
        on_step: told the step just taken and its metrics.

    Returns:
        What is in ``training.json``: ``core_s`` (CPU seconds of this process), ``num_parameters``, ``num_episodes``,
        ``num_frames``, losses.
    """
    recipe = digest({"config": repr(config), "optimizer": repr(optimizer), "seed": seed, "ids": sorted(map(str, ids))})
    record_path, checkpoint = folder / "training.json", folder / "checkpoint"
    if record_path.exists():
        record: dict[str, Any] = json.loads(record_path.read_text())
        if record["recipe"] == recipe and checkpoint.exists():
            return record
        shutil.rmtree(folder)
    states = folder / f"train_state_{recipe}"
    torch.manual_seed(seed)  # fresh weights come from torch's own generator
    infos = {e: store.info(e) for e in ids}
    spec = infos[ids[0]].env_spec
    steps = [store.steps(e) for e in ids]
    actions = np.concatenate([imitation_target(s.executed_action, s.supervisor_action) for s in steps])
    normalization = Normalization.fit(actions, np.concatenate([s.state for s in steps]), spec.action)
    codec = None
    if not isinstance(config, VlmValueConfig):
        codec = presets.fit_codec(config, _frames(store, ids, config.image_shape, seed))
    learner = ValueLearner(presets.build_value_model(config, spec, normalization, codec), optimizer, seed=seed)
    targets = {e: training_target(info.num_steps, info.end) for e, info in infos.items()}
    windows = WindowSampler(store, MixConfig(), seed=seed, ids=ids)
    batches = ValueBatches(windows, learner.model.window_spec, targets, batch_size=optimizer.batch_size)
    started_s = time.process_time()
    measured = fit(learner, batches, folder=states, save_every_steps=_SAVE_EVERY_STEPS, on_step=on_step)
    # A resumed fit tells the seconds of its last part only; scaled, they are those of a whole one.
    core_s = (time.process_time() - started_s) * optimizer.num_steps / max(measured.pop("num_steps_here"), 1)
    shutil.rmtree(checkpoint, ignore_errors=True)
    learner.publish(checkpoint, version=0, extra={"bench": recipe})
    record = {
        "recipe": recipe,
        "core_s": core_s,
        "num_parameters": sum(p.numel() for p in learner.state.module.parameters()),
        "num_episodes": len(ids),
        "num_frames": sum(info.num_steps + 1 for info in infos.values()),
        **measured,
    }
    write_json(record_path, record)
    shutil.rmtree(states, ignore_errors=True)
    return record


def trained(folder: Path, changes: Mapping[str, Any]) -> ValueModel:
    """The model of ``folder/checkpoint``, with changed keys of inference."""
    tensors, manifest = read_checkpoint(folder / "checkpoint")
    model = presets.from_checkpoint(tensors, {**manifest, "config": {**manifest["config"], **changes}})
    return model  # type: ignore[return-value]


def _frames(store: EpisodeStore, ids: Sequence[EpisodeId], shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Frames [N, H, W, 3] from anywhere in the episodes, in the model's size."""
    rng = np.random.default_rng([seed, 5])
    chosen = rng.integers(len(ids), size=_CODEC_FRAMES)
    t = rng.integers(np.array([store.info(e).num_steps + 1 for e in ids])[chosen])
    frames = next(iter(store.windows([ids[i] for i in chosen], t, WindowSpec()).images.values()))[:, 0]
    if frames.shape[1:3] == shape:
        return frames
    return np.stack([cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)
