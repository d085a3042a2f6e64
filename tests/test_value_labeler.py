from __future__ import annotations

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from distributed_fakes import (
    SPEC,
    CountingLabels,
    GeneratedEpisodes,
    RampValue,
    load_ramp,
    make_episode,
    write_ramp,
)

from core.clock import ManualClock
from core.errors import CheckpointError, ConfigError, NonFiniteError, SpecError, WorkerError
from core.experience import EpisodeEnd
from core.ids import new_episode_id
from core.windows import WindowSpec
from value_service.advantages import AdvantageConfig, n_step_advantage
from value_service.client import EndpointBusyError, ReplicaLostError, RetryConfig, ValueClient
from value_service.labeler import Labeler, LabelerConfig, ValueCheckpoint, VersionedLabeler
from value_service.local_client import LocalValueClient
from value_service.returns import ReturnConfig, step_rewards, value_targets


class RecordingValue(RampValue):
    """Notes the windows it was given."""

    window_spec = WindowSpec(image_offsets=(0, 2), state_offsets=(0,), action_horizon=3)

    def __init__(self, version: int = 7) -> None:
        super().__init__(version)
        self.batches: list = []

    def predict(self, windows):
        self.batches.append(windows)
        return super().predict(windows)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6, 7, 100])
def test_every_observation_is_valued_once_in_order(batch_size):
    model, episode = RecordingValue(), make_episode(5)
    labels = Labeler(model, LabelerConfig(batch_size=batch_size)).label(episode)
    assert [t for batch in model.batches for t in batch.t] == [0, 1, 2, 3, 4, 5]
    assert max(len(batch) for batch in model.batches) <= batch_size
    np.testing.assert_allclose(labels.value, -0.9 + 0.01 * np.arange(6) + 0.007, atol=1e-6)
    assert labels.key == (episode.episode_id, 7)


def test_windows_are_cut_as_the_model_declares():
    model, episode = RecordingValue(), make_episode(5)
    Labeler(model, LabelerConfig()).label(episode)
    (batch,) = model.batches
    assert batch.images["front"].shape == (6, 2, 2, 3, 3)
    np.testing.assert_array_equal(batch.images["front"][4, 1], episode.images["front"][5])
    assert batch.action.shape == (6, 3, 2)


@pytest.mark.parametrize("end", list(EpisodeEnd))
def test_labels_are_the_pure_functions(end):
    config = LabelerConfig(returns=ReturnConfig(per_task_length_steps={"lift": 40}), advantage=AdvantageConfig(lookahead_s=2 / 3))
    labels = Labeler(RampValue(1), config).label(make_episode(9, end=end))
    reward = step_rewards(9, end, config.returns, task="lift")
    np.testing.assert_array_equal(labels.return_, value_targets(9, end, config.returns, task="lift")[:-1])
    np.testing.assert_allclose(labels.advantage, n_step_advantage(labels.value, reward, end, 2), atol=1e-6)
    assert labels.target == "recap c_fail=1 t_ref=40"
    assert np.isnan(labels.return_).all() == end.bootstraps()


class ConstantValue(RampValue):
    """Answers with a given array."""

    def __init__(self, value):
        super().__init__(3)
        self.value = np.asarray(value, np.float32)

    def predict(self, windows):
        return SimpleNamespace(value=self.value[: len(windows)])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_names_episode_and_step(bad):
    episode = make_episode(3)
    with pytest.raises(NonFiniteError, match=rf"version 3, episode {episode.episode_id}, step 2"):
        Labeler(ConstantValue([-0.5, -0.5, bad, -0.5]), LabelerConfig()).label(episode)


def test_a_value_in_another_unit_is_refused():
    with pytest.raises(SpecError, match=r"step 1: the value is 0\.69999"):
        Labeler(ConstantValue([-0.5, 0.7, -0.5, -0.5]), LabelerConfig()).label(make_episode(3))


def test_rounding_at_the_ends_is_clipped():
    labels = Labeler(ConstantValue([-1.000001, 0.000001, -0.5, -0.5]), LabelerConfig()).label(make_episode(3))
    assert labels.value.tolist()[:2] == [-1.0, 0.0]


def test_an_answer_of_another_length_is_refused():
    with pytest.raises(SpecError, match=r"\(2,\) for 4 windows"):
        Labeler(ConstantValue([-0.5, -0.5]), LabelerConfig()).label(make_episode(3))


def test_an_episode_of_another_environment_is_refused():
    camera = dataclasses.replace(SPEC.cameras[0], name="wrist")
    model = RampValue(1)
    model.env_spec = dataclasses.replace(SPEC, cameras=(camera,))
    with pytest.raises(SpecError, match="another cameras specification"):
        Labeler(model, LabelerConfig()).label(make_episode(3))


def test_a_batch_of_no_window_is_refused():
    with pytest.raises(ConfigError, match="batch_size is 0"):
        LabelerConfig(batch_size=0)


# --- versions ---------------------------------------------------------------------------------------------------------


def test_the_wanted_version_labels_and_the_last_two_stay(tmp_path):
    labeler = VersionedLabeler(load_ramp, LabelerConfig())
    checkpoints = {v: ValueCheckpoint.of(v, write_ramp(tmp_path, v)) for v in (1, 2, 3)}
    episode = make_episode(4)
    for version in (1, 2, 1, 3):
        assert labeler.label(episode, checkpoints[version]).key.value_version == version
    assert labeler.versions == (1, 3)  # 2 was used least recently
    assert labeler.label(episode, checkpoints[2]).key.value_version == 2


def test_a_loaded_version_needs_its_checkpoint_no_more(tmp_path):
    path = write_ramp(tmp_path, 1)
    labeler = VersionedLabeler(load_ramp, LabelerConfig())
    labeler.load(ValueCheckpoint.of(1, path))
    (path / "ramp.json").unlink()
    path.rmdir()
    assert labeler.label(make_episode(2), ValueCheckpoint.of(1, path)).num_steps == 2


def test_an_unknown_version_without_a_checkpoint_is_refused(tmp_path):
    labeler = VersionedLabeler(load_ramp, LabelerConfig())
    labeler.load(ValueCheckpoint.of(1, write_ramp(tmp_path, 1)))
    with pytest.raises(CheckpointError, match=r"version 9 is not loaded \(loaded are \[1\]\).*nowhere does not exist"):
        labeler.label(make_episode(2), ValueCheckpoint.of(9, tmp_path / "nowhere"))


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    labeler = VersionedLabeler(load_ramp, LabelerConfig())
    with pytest.raises(CheckpointError, match="holds value version 1; version 2 was asked for"):
        labeler.load(ValueCheckpoint.of(2, write_ramp(tmp_path, 1)))


def test_one_version_from_two_places_is_refused(tmp_path):
    labeler = VersionedLabeler(load_ramp, LabelerConfig())
    labeler.load(ValueCheckpoint.of(1, write_ramp(tmp_path, 1)))
    (tmp_path / "other").mkdir()
    with pytest.raises(CheckpointError, match="give the new checkpoint its own version"):
        labeler.load(ValueCheckpoint.of(1, write_ramp(tmp_path / "other", 1)))


def test_checkpoint_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ValueCheckpoint.of(1, "runs/value_1").path == str(tmp_path / "runs/value_1")


# --- clients ----------------------------------------------------------------------------------------------------------


class FlakyEndpoint:
    """Labels, after raising what it was told to raise."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.labeler = VersionedLabeler(load_ramp, LabelerConfig())
        self.episodes = GeneratedEpisodes()
        self.num_asked = 0
        self._lock = threading.Lock()

    def label(self, episode, checkpoint, timeout_s):
        with self._lock:
            self.num_asked += 1
            error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return self.labeler.label(self.episodes.read(episode), checkpoint)

    def load(self, checkpoint, timeout_s):
        if self.errors:
            raise self.errors.pop(0)
        self.labeler.load(checkpoint)
        return 1


@pytest.fixture
def checkpoint(tmp_path):
    return ValueCheckpoint.of(1, write_ramp(tmp_path, 1))


@pytest.fixture(params=["local", "service"])
def client(request):
    store = CountingLabels()
    if request.param == "local":
        return LocalValueClient(VersionedLabeler(load_ramp, LabelerConfig()), GeneratedEpisodes(), store), store
    return ValueClient(FlakyEndpoint(), store, clock=ManualClock()), store


def test_both_clients_label_all_and_only_once(client, checkpoint):
    client, store = client
    ids, progress = [new_episode_id() for _ in range(10)], []
    client.load(checkpoint)
    first = client.label_many(ids[:4], checkpoint)
    assert (first.num_labelled, first.num_already_there) == (4, 0)
    second = client.label_many([*ids, ids[9]], checkpoint, lambda done, total: progress.append((done, total)))
    assert (second.num_labelled, second.num_already_there) == (6, 4)
    assert progress == [(done, 10) for done in range(5, 11)]
    assert set(store.stored) == {(episode_id, 1) for episode_id in ids}
    expected = Labeler(RampValue(1), LabelerConfig()).label(GeneratedEpisodes().read(ids[3]))
    np.testing.assert_array_equal(store.stored[(ids[3], 1)].advantage, expected.advantage)
    client.close()


def test_both_clients_pass_on_what_the_labelling_says(client, tmp_path):
    client, store = client
    with pytest.raises(CheckpointError, match="does not exist"):
        client.label_many([new_episode_id() for _ in range(5)], ValueCheckpoint.of(1, tmp_path / "nowhere"))
    assert not store.stored


def test_lost_and_refused_requests_are_asked_again(checkpoint):
    store, clock = CountingLabels(), ManualClock()
    endpoint = FlakyEndpoint(ReplicaLostError("died"), EndpointBusyError("full"), EndpointBusyError("full"))
    ids = [new_episode_id() for _ in range(6)]
    report = ValueClient(endpoint, store, RetryConfig(max_in_flight=3), clock=clock).label_many(ids, checkpoint)
    assert (report.num_labelled, report.num_lost, report.num_busy) == (6, 1, 2)
    assert len(store.stored) == 6
    assert endpoint.num_asked == 9
    assert clock.monotonic_s() > 0


def test_loading_is_insisted_on_too(checkpoint):
    endpoint = FlakyEndpoint(ReplicaLostError("died"))
    ValueClient(endpoint, CountingLabels(), clock=ManualClock()).load(checkpoint)
    assert endpoint.labeler.versions == (1,)


def test_a_service_that_keeps_dying_is_given_up(checkpoint):
    store, clock = CountingLabels(), ManualClock()
    endpoint = FlakyEndpoint(*[ReplicaLostError("out of memory")] * 100)
    config = RetryConfig(max_in_flight=1, max_attempts=5, first_backoff_s=1, max_backoff_s=4)
    episode_id = new_episode_id()
    with pytest.raises(WorkerError, match=f"label episode {episode_id} under value version 1: 5 requests lost.*out of memory"):
        ValueClient(endpoint, store, config, clock=clock).label_many([episode_id], checkpoint)
    assert endpoint.num_asked == 5
    assert 0.5 * (1 + 2 + 4 + 4) <= clock.monotonic_s() <= 1 + 2 + 4 + 4  # doubling, then bounded, with jitter


def test_a_queue_that_stays_full_is_given_up_after_a_time(checkpoint):
    clock = ManualClock()
    endpoint = FlakyEndpoint(*[EndpointBusyError("full")] * 1000)
    config = RetryConfig(max_in_flight=1, max_busy_s=100, max_backoff_s=10)
    with pytest.raises(WorkerError, match="refused by a full queue"):
        ValueClient(endpoint, CountingLabels(), config, clock=clock).label_many([new_episode_id()], checkpoint)
    assert 100 <= clock.monotonic_s() <= 110


def test_labels_stored_before_a_failure_are_kept(checkpoint):
    store = CountingLabels()
    endpoint = FlakyEndpoint(None, None, None, NonFiniteError("step 3 is nan"))
    ids = [new_episode_id() for _ in range(8)]
    with pytest.raises(NonFiniteError, match="step 3 is nan"):
        ValueClient(endpoint, store, RetryConfig(max_in_flight=1), clock=ManualClock()).label_many(ids, checkpoint)
    assert 0 < len(store.stored) < 8
    report = ValueClient(endpoint, store, clock=ManualClock()).label_many(ids, checkpoint)
    assert report.num_already_there + report.num_labelled == 8
    assert len(store.stored) == 8


def test_an_answer_to_another_question_is_refused(checkpoint):
    class Confused(FlakyEndpoint):
        def label(self, episode, checkpoint, timeout_s):
            return super().label(new_episode_id(), checkpoint, timeout_s)

    with pytest.raises(WorkerError, match="the service answered with"):
        ValueClient(Confused(), CountingLabels(), clock=ManualClock()).label_many([new_episode_id()], checkpoint)


@pytest.mark.parametrize("bad", [{"max_in_flight": 0}, {"max_attempts": 0}, {"first_backoff_s": 0.0}, {"max_backoff_s": 0.01}])
def test_impossible_retry_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RetryConfig(**bad)
