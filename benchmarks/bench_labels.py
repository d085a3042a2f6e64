"""What does labelling one episode cost: in one call, and frame by frame; in this process, and through Ray Serve?"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ray import serve

from actors.players import ScriptedPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from benchmarks.report import interleaved_medians_s, write_report
from checkpoints.directory import write_checkpoint
from cluster.launch import RayConfig, start_ray, stop_ray
from configs.build import load_value_model
from core.experience import Episode
from core.windows import episode_windows
from envs.fake import ReachEnv, ScriptedReacher
from models import presets
from models.normalization import Normalization
from replay.episode_store import EpisodeStore
from value_service.deployment import DeploymentConfig, start_value_service
from value_service.labeler import Labeler, LabelerConfig, ValueCheckpoint

REPEATS = 7
TIMEOUT_S = 120.0
LABELER = LabelerConfig(latent_cache_bytes=0)
"""Every repeat encodes the images: keeping latents is measured by ``python -m benchmarks models``."""


class FrameValues:
    """The alternative that was not built: a service that answers one frame a call."""

    def __init__(self, checkpoint: Path) -> None:
        torch.set_num_threads(1)
        self._model = load_value_model(checkpoint)

    def value(self, episode_of_one_frame: Episode, t: int) -> float:
        """V of one observation."""
        return float(self._model.predict(episode_windows(episode_of_one_frame, np.array([t]), self._model.window_spec)).value[0])


def main() -> None:
    """An episode of the fake environment with ViVa tiny, random weights: what is measured does not depend on them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = EpisodeStore(root / "replay")
        worker = RolloutWorker(ReachEnv(), ScriptedPlayer(ScriptedReacher(seed=0, quality="mixed")), RolloutConfig())
        episodes = [worker.run_episode(seed) for seed in range(20)]
        episode = max(episodes, key=lambda e: e.num_steps)
        store.append(episode)
        config = presets.VivaConfig()
        model = presets.build_value_model(
            config,
            episode.env_spec,
            Normalization.fit(episode.executed_action, episode.state),
            presets.fit_codec(config, episode.images["camera"]),
        )
        write_checkpoint(root / "value", *model.to_checkpoint())
        _measure(root, episode, store)


def _measure(root: Path, episode: Episode, store: EpisodeStore) -> None:
    labeler = Labeler(load_value_model(root / "value"), LABELER)
    frames = FrameValues(root / "value")
    start_ray(RayConfig(num_cpus=2))
    try:
        open_store = functools.partial(EpisodeStore, root / "replay", writer_name="reader")
        service = start_value_service(load_value_model, open_store, LABELER, DeploymentConfig(num_replicas=1))
        one_frame = serve.run(
            serve.deployment(FrameValues, ray_actor_options={"num_cpus": 0.5}).bind(root / "value"),
            name="frames",
            route_prefix=None,
        )
        checkpoint = ValueCheckpoint.of(0, root / "value")
        every_t = range(episode.num_steps + 1)
        ways = {
            "this process, whole episode": lambda: labeler.label(episode),
            "this process, frame by frame": lambda: [frames.value(episode, t) for t in every_t],
            "Ray Serve, whole episode by id": lambda: service.label(episode.episode_id, checkpoint, TIMEOUT_S),
            "Ray Serve, frame by frame": lambda: [one_frame.value.remote(_frame(episode, t), 0).result() for t in every_t],
        }
        medians = interleaved_medians_s(tuple(ways.values()), repeats=REPEATS)
    finally:
        stop_ray()
        store.close()
    write_report(
        "labels",
        question="Labelling one episode in one call, against a call a frame",
        headings=("way", "ms an episode (median)", "ratio to whole episode by id"),
        rows=[(way, f"{1000 * s:.1f}", f"{s / medians[2]:.1f}") for way, s in zip(ways, medians, strict=True)],
        notes=(
            f"ViVa tiny, {len(every_t)} observations of 128x160, one thread a process, {REPEATS} interleaved repeats.",
            "By id: the replica reads the episode from the replay store; nothing passes through the caller.",
        ),
    )


def _frame(episode: Episode, t: int) -> Episode:
    """An episode that holds observation ``t`` and the next: the least that a frame's call must carry."""
    start = min(t, episode.num_steps - 1)
    window = slice(start, start + 1)
    return replace(
        episode,
        images={name: frames[start : start + 2] for name, frames in episode.images.items()},
        state=episode.state[start : start + 2],
        time_s=episode.time_s[start : start + 2],
        **{
            name: getattr(episode, name)[window]
            for name in (
                "executed_action",
                "policy_action",
                "supervisor_action",
                "source",
                "intervention_id",
                "reward",
                "policy_version",
                "action_age_s",
            )
        },
    )
