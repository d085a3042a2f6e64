from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time

import numpy as np
import pytest
from distributed_fakes import (
    CountingLabels,
    GeneratedEpisodes,
    RampValue,
    importable_by_workers,
    load_ramp,
    make_episode,
    write_ramp,
)

from core.errors import CheckpointError, ConfigError, WorkerError
from core.ids import new_episode_id
from replay.episode_store import EpisodeStore, UnknownEpisodeError
from replay.label_store import LabelStore
from value_service.client import EndpointBusyError, ReplicaLostError, RetryConfig, ValueClient
from value_service.labeler import Labeler, LabelerConfig, ValueCheckpoint

ray = pytest.importorskip("ray")
from ray.serve.exceptions import RayServeException  # noqa: E402

from value_service import deployment  # noqa: E402
from value_service.deployment import DeploymentConfig, ServeEndpoint, start_value_service  # noqa: E402

PATIENT = RetryConfig(max_in_flight=8, request_timeout_s=60.0, max_attempts=30, max_backoff_s=1.0)


def test_impossible_shapes_are_refused():
    for name in ("num_replicas", "max_ongoing_requests", "max_queued_requests"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            DeploymentConfig(**{name: 0})


@pytest.mark.parametrize("where", ["start", "run"])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ray.exceptions.RayActorError(error_msg="the controller died\nwhile it started"), "RayActorError: the controller died"),
        (ray.exceptions.GetTimeoutError("no answer in 30 s"), "GetTimeoutError: no answer in 30 s"),
        (RayServeException("Client has already been shut down."), "RayServeException: Client has already been shut down."),
        (TimeoutError(), "TimeoutError: no reason given"),
    ],
)
def test_a_service_that_does_not_start_says_why_in_one_error(monkeypatch, where, error, told):
    def fails(*_, **__):
        raise error

    calls = {"start": lambda **_: None, "run": fails, where: fails, "status": fails}
    monkeypatch.setattr(deployment, "_require_room", lambda config: None)
    for name, call in calls.items():
        monkeypatch.setattr(deployment.serve, name, call)
    with pytest.raises(WorkerError, match=f"the value service did not start: {told}$"):
        start_value_service(load_ramp, GeneratedEpisodes, LabelerConfig(), DeploymentConfig())


@pytest.fixture(scope="module")
def service(request):
    """Two replicas with small queues."""
    with importable_by_workers():
        request.getfixturevalue("ray_cluster")
    config = DeploymentConfig(cpus_per_replica=0.5, max_ongoing_requests=2, max_queued_requests=4)
    yield start_value_service(load_ramp, GeneratedEpisodes, LabelerConfig(), config)
    deployment.stop_value_service(config.name)


@pytest.mark.ray
def test_labels_are_those_of_one_process(service, tmp_path):
    store, ids = CountingLabels(), [new_episode_id() for _ in range(12)]
    checkpoint = ValueCheckpoint.of(1, write_ramp(tmp_path, 1))
    client = ValueClient(service, store, PATIENT)
    client.load(checkpoint)
    assert client.label_many(ids, checkpoint).num_labelled == 12
    local = Labeler(RampValue(1), LabelerConfig())
    for episode_id in ids:
        expected, found = local.label(GeneratedEpisodes().read(episode_id)), store.stored[(episode_id, 1)]
        assert found.key == expected.key
        for name in ("value", "return_", "advantage"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.ray
def test_an_episode_can_travel_by_reference(service, tmp_path):
    class OwnEpisodes(GeneratedEpisodes):
        """Cannot be opened by a replica: only this process has it."""

        def __reduce__(self):
            raise TypeError("stays here")

    store, ids = CountingLabels(), [new_episode_id() for _ in range(3)]
    checkpoint = ValueCheckpoint.of(2, write_ramp(tmp_path, 2))
    ValueClient(ServeEndpoint(service._handle, OwnEpisodes), store, PATIENT).label_many(ids, checkpoint)
    assert set(store.stored) == {(episode_id, 2) for episode_id in ids}


@pytest.mark.ray
def test_a_full_queue_refuses_and_the_client_returns(service, tmp_path):
    checkpoint = ValueCheckpoint.of(3, write_ramp(tmp_path, 3, delay_s=0.1))
    refused = []

    def ask():
        try:
            service.label(new_episode_id(), checkpoint, 60.0)
        except EndpointBusyError:
            refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(20)]  # 2 replicas x 2 ongoing + 4 queued = 8 fit
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused
    store, ids = CountingLabels(), [new_episode_id() for _ in range(30)]
    eager = RetryConfig(max_in_flight=20, request_timeout_s=60.0, max_backoff_s=0.5)
    report = ValueClient(service, store, eager).label_many(ids, checkpoint)
    assert report.num_busy > 0
    assert set(store.stored) == {(episode_id, 3) for episode_id in ids}


@pytest.mark.ray
def test_a_new_version_under_load_drops_nothing(service, tmp_path):
    old, new = (ValueCheckpoint.of(v, write_ramp(tmp_path, v, delay_s=0.02)) for v in (4, 5))
    store, ids = CountingLabels(), [new_episode_id() for _ in range(60)]
    client = ValueClient(service, store, PATIENT)
    reports, started = [], threading.Event()
    thread = threading.Thread(target=lambda: reports.append(client.label_many(ids, old, lambda done, total: started.set())))
    thread.start()
    assert started.wait(60)
    ValueClient(service, CountingLabels(), PATIENT).load(new)
    swapped = CountingLabels()
    ValueClient(service, swapped, PATIENT).label_many(ids[:20], new)
    was_under_load = thread.is_alive() or len(store.stored) == 60
    thread.join()
    assert was_under_load
    assert reports[0].num_lost == 0
    assert set(store.stored) == {(episode_id, 4) for episode_id in ids}
    assert set(swapped.stored) == {(episode_id, 5) for episode_id in ids[:20]}
    for episode_id in ids[:20]:  # each version's labels are its own
        np.testing.assert_allclose(swapped.stored[(episode_id, 5)].value - store.stored[(episode_id, 4)].value, 0.001, atol=1e-6)


@pytest.mark.ray
def test_errors_of_the_labelling_come_back_as_themselves(service, tmp_path):
    client = ValueClient(service, CountingLabels(), PATIENT)
    nowhere = ValueCheckpoint.of(6, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not exist here"):
        client.load(nowhere)
    with pytest.raises(CheckpointError, match="does not exist here"):
        client.label_many([new_episode_id()], nowhere)


@pytest.mark.ray
def test_a_replica_killed_with_calls_executing_loses_and_doubles_nothing_and_the_next_learns_the_version_from_the_request(
    service, tmp_path
):
    checkpoint = ValueCheckpoint.of(7, write_ramp(tmp_path, 7, delay_s=0.05))
    store, ids = CountingLabels(), [new_episode_id() for _ in range(60)]
    client = ValueClient(service, store, PATIENT)
    client.load(checkpoint)
    before = set(service.replica_pids(60.0))
    victim = next(iter(before))

    def on_progress(done, total):
        if done == 5:
            os.kill(victim, signal.SIGKILL)

    report = client.label_many(ids, checkpoint, on_progress)
    assert report.num_lost > 0, "the kill hit no executing call: the test shows nothing"
    assert set(store.stored) == {(episode_id, 7) for episode_id in ids}  # CountingLabels refuses doubles
    assert client.label_many(ids, checkpoint).num_labelled == 0

    deadline_s = time.monotonic() + 60
    while True:
        with contextlib.suppress(ReplicaLostError):  # the dead one is still asked for a moment
            now = set(service.replica_pids(60.0))
            if len(now) == 2 and victim not in now:
                break
        assert time.monotonic() < deadline_s, "no replacement"
        time.sleep(0.2)
    assert client.label_many([new_episode_id() for _ in range(20)], checkpoint).num_labelled == 20


@pytest.mark.ray
def test_an_episode_committed_a_moment_ago_is_found_in_the_store(service, tmp_path):
    """The whole hop with the real stores; the replica has had its store open since before the second commit."""
    checkpoint = ValueCheckpoint.of(9, write_ramp(tmp_path, 9))
    config = DeploymentConfig(name="with_stores", num_replicas=1)
    open_store = functools.partial(EpisodeStore, tmp_path / "replay")
    deployed = start_value_service(load_ramp, open_store, LabelerConfig(), config)
    writer, label_store = EpisodeStore(tmp_path / "replay", writer_name="worker0"), LabelStore(tmp_path / "labels")
    client = ValueClient(deployed, label_store, PATIENT)
    for seed in range(4):
        episode_id = writer.append(make_episode(6, seed=seed))
        assert client.label_many(writer.episode_ids(), checkpoint).num_labelled == 1
        np.testing.assert_allclose(label_store.get(episode_id, 9).value, -0.9 + 0.01 * np.arange(7) + 0.009, atol=1e-6)
    with pytest.raises(UnknownEpisodeError):
        client.label_many([new_episode_id()], checkpoint)
    deployment.stop_value_service(config.name)


@pytest.mark.ray
def test_a_service_that_cannot_fit_is_refused_at_once(service):
    with pytest.raises(WorkerError, match="2 value replicas need 200 CPU; the cluster has 2"):
        start_value_service(load_ramp, GeneratedEpisodes, LabelerConfig(), DeploymentConfig(cpus_per_replica=100))


@pytest.mark.ray
def test_there_is_no_http(service):
    from ray import serve

    assert serve.status().proxies == {}
