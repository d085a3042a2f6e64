"""RECAP with a robot: a real supervisor process, its worker and a simulated one in their own processes, a scripted operator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scripted_operator import ScriptedOperator

from checkpoints.directory import write_checkpoint
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
from models import presets
from models.normalization import Normalization
from replay.label_store import LabelStore
from replay.sampler import MixConfig, WindowSampler

ROOT = Path(__file__).parent.parent
TWIN_STATE = ["arm.x = 0.02 * x + 0.35", "arm.y = 0.02 * y", "arm.z = 0.3", "arm.gripper = 1"]
TWIN_STATE += ["arm.qw = 0", "arm.qx = 1", "arm.qy = 0", "arm.qz = 0"]


@pytest.fixture
def supervisor(tmp_path):
    patient = OmegaConf.load(ROOT / "configs/robots/fake.yaml")  # a busy test machine is late, which is not what is tested here
    patient.watchdog.update({"late_tick_s": 60, "stale_state_s": 60, "tracking_error_s": 60, "stale_action_s": 3})
    patient.watchdog.update({"stale_observation_s": 3, "first_action_s": 30})
    patient.lease_ttl_s = 1.0
    OmegaConf.save(patient, tmp_path / "supervised.yaml")
    options = {"--config": "supervised.yaml", "--socket": "s.sock", "--tokens": "tokens"}
    command = [part for option, file in options.items() for part in (option, str(tmp_path / file))]
    process = subprocess.Popen(
        [sys.executable, "-m", "robot_drivers.supervisor", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert "listening on" in process.stdout.readline()
    yield tmp_path
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def operator(supervisor):
    person = ScriptedOperator(supervisor / "s.sock", supervisor / "tokens")
    yield person
    person.close()


def experiment(folder):
    """The models of the fake family, in a YAML file for the robot."""
    small = OmegaConf.load(ROOT / "configs/families/fake.yaml")
    small.env = {
        "family": "robot",
        "task": "push",
        "image_height_px": 32,
        "image_width_px": 32,
        "robot": {
            "name": "fake",
            "socket": str(folder / "s.sock"),
            "tokens": str(folder / "tokens"),
            "cameras": ["front=simulated@64x48"],
            "label_undo_s": 0.3,
            "twin": {
                "family": "fake",
                "action": ["dx = 50 * arm.dx", "dy = 50 * arm.dy"],
                "state": TWIN_STATE,
                "rollout_fraction": 0.5,
            },
        },
    }
    small.policy.update({"camera": "front", "action_horizon": 6})
    small.rollout.replan_steps = 3
    few = {"num_steps": 4, "batch_size": 8, "warmup_steps": 1}
    small.recap = {"iterations": 1, "episodes_per_iteration": 6, "is_start_evaluated": False, "policy": few, "value": few}
    small.evaluation = {"num_episodes": 1}
    small.tracking = {"num_videos": 0}
    small.execution = {"num_workers": 1}
    OmegaConf.save(small, folder / "experiment.yaml")
    return str(folder / "experiment.yaml")


def write_start(config, spec, folder):
    """A policy and a value model of the robot with fresh weights."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    actions = rng.normal(0.0, 0.004, (64, spec.action.dim)).astype(np.float32)
    normalization = Normalization.fit(actions, rng.normal(0.0, 0.1, (64, spec.state.dim)).astype(np.float32), spec.action)
    frames = rng.integers(0, 255, (50, 32, 32, 3)).astype(np.uint8)
    policy = presets.build_policy(config.policy, spec, normalization, presets.fit_codec(config.policy, frames))
    wanted = config.value.selected()
    value = presets.build_value_model(wanted, spec, normalization, presets.fit_codec(wanted, frames))
    for name, model in (("policy", policy), ("value", value)):
        write_checkpoint(folder / name, *model.to_checkpoint())
    return [f"recap.{name}_checkpoint={folder / name}" for name in ("policy", "value")]


@pytest.mark.slow
def test_an_iteration_with_a_robot_and_its_twin(supervisor, operator):
    file = experiment(supervisor)
    spec = robot_env_spec(operator.client.welcome, (CameraSpec(name="front", height_px=32, width_px=32),))
    start = write_start(load_config(file, family="robot"), spec, supervisor)
    config = load_config(file, [*start, f"env.robot.value_checkpoint={supervisor / 'value'}"], family="robot")
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
    assert main(["--env", "robot", "--run", str(tmp_path / "run")]) == 1
    assert "recap.policy_checkpoint is not set" in capsys.readouterr().err
