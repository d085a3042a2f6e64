"""Weights and episodes through Ray's object store, for workers that do not see the run's folder."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_fakes import FakeRunner, FileEpisodes, importable_by_workers, make_episode

from checkpoints.directory import read_checkpoint, write_checkpoint
from cluster.placement import PlacementConfig
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from core.errors import CheckpointError, StorageFullError
from replay.episode_store import EpisodeStore

pytest.importorskip("ray")
import ray

from cluster.carried_weights import CarriedCheckpoint, WeightsInbox
from cluster.episode_writer import start_writer
from cluster.ray_pool import RayRolloutPool


def checkpoint(folder: Path, version: int) -> PolicyCheckpoint:
    path = folder / f"policy_{version:03d}"
    write_checkpoint(path, {"w": torch.full((3,), float(version))}, {"kind": "policy", "version": version})
    return PolicyCheckpoint.of(version, path)


def test_a_carried_checkpoint_is_the_same_to_the_bit_and_the_older_one_goes(tmp_path: Path) -> None:
    inbox = WeightsInbox(tmp_path / "inbox")
    for version in (1, 2):
        sent = checkpoint(tmp_path, version)
        got = inbox.unpack(sent, CarriedCheckpoint.of(Path(sent.path)))
        assert got.version == version
        assert got == inbox.unpack(sent, CarriedCheckpoint.of(Path(sent.path))), "one version is unpacked once"
        for file in ("model.safetensors", "manifest.json"):
            assert (Path(got.path) / file).read_bytes() == (Path(sent.path) / file).read_bytes()
    assert len(list((tmp_path / "inbox").iterdir())) == 1


def test_a_checkpoint_altered_on_its_way_is_refused_where_it_is_loaded(tmp_path: Path) -> None:
    sent = checkpoint(tmp_path, 1)
    carried = CarriedCheckpoint.of(Path(sent.path))
    altered = CarriedCheckpoint(manifest=carried.manifest, weights=carried.weights ^ np.uint8(1))
    got = WeightsInbox(tmp_path / "inbox").unpack(sent, altered)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        read_checkpoint(Path(got.path))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        CarriedCheckpoint.of(tmp_path / "nothing")


@pytest.fixture(scope="module")
def cluster(request):
    with importable_by_workers():
        yield request.getfixturevalue("ray_cluster")


@pytest.mark.ray
def test_weights_are_put_once_a_version_whatever_the_number_of_workers_and_episodes(cluster, tmp_path: Path) -> None:
    policies = [checkpoint(tmp_path, version) for version in (1, 2)]
    asked = iter([policies[0]] * 5 + [policies[1]] * 5)
    placement = PlacementConfig(num_rollout_workers=2, cpus_per_rollout_worker=0.5, are_weights_carried=True)
    episodes = tmp_path / "episodes"
    episodes.mkdir()
    pool = RayRolloutPool(FakeRunner, functools.partial(FileEpisodes, episodes), FileEpisodes(episodes), placement)
    try:
        reports = list(pool.collect([EpisodeSpec(seed=seed) for seed in range(10)], policy=lambda: next(asked)))
    finally:
        pool.close()
    assert sorted(report.policy_version for report in reports) == [1] * 5 + [2] * 5
    assert pool.weights is not None
    assert pool.weights.num_puts == 2


@pytest.mark.ray
def test_episodes_sent_to_a_writer_are_acknowledged_when_committed_and_survive_its_death(cluster, tmp_path: Path) -> None:
    sink = start_writer(functools.partial(EpisodeStore, tmp_path))
    store = EpisodeStore(tmp_path, writer_name="reader")
    acknowledged = []
    for seed in range(8):
        if seed in (3, 6):
            os.kill(ray.get(sink.writer.pid.remote()), signal.SIGKILL)
        acknowledged.append(sink.append(make_episode(4, seed=seed)))
        store.refresh()
        assert acknowledged[-1] in store.episode_ids()
    assert len(store.episode_ids()) == len(set(acknowledged)) == 8
    again = make_episode(4, seed=0, episode_id=acknowledged[0])
    assert sink.append(again) == acknowledged[0], "a repeated call stores nothing twice"
    store.refresh()
    assert len(store.episode_ids()) == 8
    assert (store.read(acknowledged[5]).state == make_episode(4, seed=5).state).all()
    ray.kill(sink.writer)
    store.close()


@pytest.mark.ray
def test_a_pool_plays_through_the_writer_and_its_errors_come_back_as_themselves(cluster, tmp_path: Path) -> None:
    sink = start_writer(functools.partial(FileEpisodes, tmp_path))
    placement = PlacementConfig(num_rollout_workers=2, cpus_per_rollout_worker=0.5)
    policy = PolicyCheckpoint(version=1, path="/runs/policy_1")
    pool = RayRolloutPool(FakeRunner, sink, FileEpisodes(tmp_path), placement)
    try:
        reports = list(pool.collect([EpisodeSpec(seed=seed) for seed in range(6)], policy=policy))
    finally:
        pool.close()
    assert {line["id"] for line in FileEpisodes(tmp_path).committed()} == {report.episode_id for report in reports}
    full = start_writer(FullDisk)
    with pytest.raises(StorageFullError, match="disk full"):
        full.append(make_episode(2))
    ray.kill(full.writer)
    ray.kill(sink.writer)


class FullDisk:
    """A store without room."""

    def __init__(self, name: str) -> None:
        self.name = name

    def append(self, episode):
        raise StorageFullError(28, f"disk full: {json.dumps(self.name)}")
