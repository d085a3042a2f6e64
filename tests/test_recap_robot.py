"""RECAP with a robot: a real supervisor process, its worker and a simulated one in their own processes, a scripted operator."""

from __future__ import annotations

import numpy as np
import pytest
from real_supervisor import experiment, supervisor_process, write_start
from scripted_operator import ScriptedOperator

from configs.build import open_store
from configs.load import load_config
from core.experience import Collection, EpisodeEnd, Source
from core.labels import Indicator
from core.specs import CameraSpec
from core.windows import WindowSpec
from envs.real_senses import robot_env_spec
from learners.batch import StepTable
from learners.display import Display
from learners.extraction import judge
from learners.recap import main, run_recap
from learners.run_directory import RunDirectory
from replay.label_store import LabelStore
from replay.sampler import MixConfig, WindowSampler


@pytest.fixture
def supervisor(tmp_path):
    with supervisor_process(tmp_path):
        yield tmp_path


@pytest.fixture
def operator(supervisor):
    person = ScriptedOperator(supervisor / "s.sock", supervisor / "tokens")
    yield person
    person.close()


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_iteration_with_a_robot_and_its_twin(supervisor, operator, execution):
    file = experiment(supervisor)
    spec = robot_env_spec(operator.client.welcome, (CameraSpec(name="front", height_px=32, width_px=32),))
    start = write_start(load_config(file, family="robot"), spec, supervisor)
    shown = f"env.robot.value_checkpoint={supervisor / 'value'}"
    config = load_config(file, [*start, shown, f"execution={execution}"], family="robot")
    run = RunDirectory(supervisor / "run")
    (row,) = run_recap(config, run.path, display=Display(quiet=True))
    assert row["iteration"] == 1
    assert row["num_rollouts"] == 6

    store = open_store(config, run.replay, "reader")
    episodes = [store.read(e) for e in store.episode_ids()]
    assert {episode.env_spec for episode in episodes} == {spec}
    real = [episode for episode in episodes if episode.provenance.env == "robot"]
    simulated = [episode for episode in episodes if episode.provenance.env == "fake"]
    assert len(real) + len(simulated) == 7
    assert len(real) >= 2
    assert simulated
    assert {e.provenance.collection for e in simulated} == {Collection.ROLLOUT}  # what is measured is the robot

    for episode in real:
        assert episode.end in (EpisodeEnd.SUCCESS, EpisodeEnd.FAILURE)
        assert episode.provenance.annotations["label"]["operator"] == "ada"
        told = operator.steps[episode.provenance.annotations["supervisor_episode_id"]]
        first = next(i for i, step in enumerate(told) if step.source in ("policy", "human"))
        executed = np.array([step.executed_action for step in told[first : first + episode.num_steps]], np.float32)
        np.testing.assert_array_equal(episode.executed_action, executed)
        assert (episode.source == Source.POLICY).any()
    corrected = [episode for episode in real if (episode.source == Source.HUMAN).any()]
    assert corrected
    assert any((episode.source == Source.HOLD).any() for episode in real)

    ids = [episode.episode_id for episode in [*real, *simulated] if episode.provenance.collection is Collection.ROLLOUT]
    labels = LabelStore(run.labels)
    table = StepTable.build(store, ids, lambda e: labels.get(e, 1))
    judgement = judge(table, {task: np.inf for task in table.task}, config.extraction)  # nothing is good enough, but a correction
    np.testing.assert_array_equal(judgement.indicator == Indicator.POSITIVE, table.source == Source.HUMAN)
    np.testing.assert_array_equal(judgement.indicator == Indicator.ABSENT, table.source == Source.HOLD)
    sample = WindowSampler(store, MixConfig(), seed=0, ids=ids).sample(500, WindowSpec(action_horizon=6))
    source = {episode.episode_id: episode.source for episode in episodes}
    for episode_id, t, is_pad in zip(sample.windows.episode_id, sample.windows.t, sample.windows.action_is_pad, strict=True):
        of_targets = source[episode_id][t : t + 6]
        assert of_targets[0] != Source.HOLD
        np.testing.assert_array_equal(is_pad[: len(of_targets)], of_targets == Source.HOLD)
    assert operator.status.value is None or -1 <= operator.status.value <= 0
    assert not operator.status.arms[0].is_moving


def test_a_robot_without_a_supervisor_is_refused_in_one_line(tmp_path, capsys):
    assert main(["--env", "robot", "--run", str(tmp_path / "run")]) == 2
    assert "recap.policy_checkpoint is not set" in capsys.readouterr().err


def test_a_robot_with_a_twin_and_no_policy_is_refused_in_one_line(tmp_path, capsys):
    assert main(["--config", experiment(tmp_path), "--run", str(tmp_path / "run")]) == 2
    assert "recap.policy_checkpoint is not set" in capsys.readouterr().err
