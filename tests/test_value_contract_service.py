"""Every value model behind the real service: one deployment answers with whichever was asked for, as one process does."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from distributed_fakes import CountingLabels
from value_toys import KINDS, demonstrations, fake_config, fresh_model, refit

from configs import build
from value_service.client import RetryConfig, ValueClient
from value_service.labeler import Labeler, LabelerConfig, ValueCheckpoint

pytest.importorskip("ray")
from value_service.deployment import DeploymentConfig, start_value_service, stop_value_service


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = demonstrations(tmp_path_factory.mktemp("episodes") / "replay", 4)
    yield store
    store.close()


@pytest.mark.ray
def test_one_service_swaps_between_all_four_models(store, tmp_path, ray_cluster):
    """Versions 1..4 are four models; the replica holds two at once, so coming back to the first loads it again."""
    checkpoints = []
    for version, kind in enumerate(KINDS, start=1):
        refit(fresh_model(kind, store), store, tmp_path / kind, version=version, num_steps=2)
        checkpoints.append(ValueCheckpoint.of(version, tmp_path / kind))
    config, labeler = DeploymentConfig(name="four_models", num_replicas=1), LabelerConfig(batch_size=16)
    open_episodes = functools.partial(build.open_store, fake_config(), store.root, "reader")
    endpoint = start_value_service(build.load_value_model, open_episodes, labeler, config)
    try:
        labels = CountingLabels()
        client = ValueClient(endpoint, labels, RetryConfig(max_in_flight=2, request_timeout_s=120.0))
        ids, first = store.episode_ids(), checkpoints[0]
        for checkpoint in checkpoints:
            client.load(checkpoint)
            assert client.label_many(ids, checkpoint).num_labelled == len(ids)
        again = endpoint.label(ids[0], first, 120.0)
        client.close()
    finally:
        stop_value_service(config.name)
    for checkpoint in checkpoints:
        local = Labeler(build.load_value_model(checkpoint.path), labeler)
        for episode_id in ids:
            served, expected = labels.stored[episode_id, checkpoint.version], local.label(store.read(episode_id))
            np.testing.assert_allclose(served.value, expected.value, atol=1e-5)
            np.testing.assert_allclose(served.advantage, expected.advantage, atol=2e-5)
    np.testing.assert_allclose(again.value, labels.stored[ids[0], first.version].value, atol=1e-6)
    values = [labels.stored[ids[0], checkpoint.version].value for checkpoint in checkpoints]
    assert len({value.tobytes() for value in values}) == len(KINDS), "four models, or the test shows nothing"
