"""The worker as a command, on a real supervisor process: demonstrations without a policy, and what its death leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from real_supervisor import ROOT, experiment, supervisor_process, write_start
from scripted_operator import ScriptedOperator

from actors.robot_worker import main
from configs.load import load_config
from core.experience import Collection, EpisodeEnd, Source
from core.specs import CameraSpec
from envs.real_senses import robot_env_spec
from replay.episode_store import EpisodeStore
from robot_drivers.states import State


@pytest.fixture
def folder(tmp_path):
    with supervisor_process(tmp_path):
        yield tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --demonstrations, --checkpoint DIR, --agent STORE; got none of them"),
        (["--demonstrations", "--checkpoint", "x"], "got ['--demonstrations', '--checkpoint']"),
        (["--agent", "x"], "--agent STORE needs --cache DIR"),
        (["--demonstrations"], "env.robot.name is empty"),
        (["--demonstrations", "--config", "nowhere"], "no configuration 'nowhere'"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["--store", str(tmp_path / "replay"), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_demonstrations_are_recorded_without_a_policy(folder, capsys):
    person = ScriptedOperator(folder / "s.sock", folder / "tokens", is_policy=False)
    options = ["--config", experiment(folder), "--demonstrations", "--episodes", "2", "--store", str(folder / "replay")]
    try:
        assert main(options) == 0
    finally:
        person.close()
    assert "no policy" in capsys.readouterr().out
    store = EpisodeStore(folder / "replay")
    episodes = [store.read(e) for e in store.episode_ids()]
    assert sorted(episode.end.value for episode in episodes) == [EpisodeEnd.FAILURE.value, EpisodeEnd.SUCCESS.value]
    for episode in episodes:
        assert episode.provenance.collection is Collection.DEMONSTRATION
        assert set(episode.source) <= {Source.HUMAN, Source.HOLD}
        assert (episode.intervention_id == -1).all()
        assert (episode.policy_version == -1).all()
        told = person.steps[episode.provenance.annotations["supervisor_episode_id"]]
        first = next(i for i, step in enumerate(told) if step.source == "human")
        executed = np.array([step.executed_action for step in told[first : first + episode.num_steps]], np.float32)
        np.testing.assert_array_equal(episode.executed_action, executed)


@pytest.mark.slow
def test_a_killed_worker_leaves_the_arm_held_until_a_person_hands_over_to_the_next(folder):
    person = ScriptedOperator(folder / "s.sock", folder / "tokens", plays_s=600)
    config = experiment(folder)
    spec = robot_env_spec(person.client.welcome, (CameraSpec(name="front", height_px=32, width_px=32),))
    write_start(load_config(config, family="robot"), spec, folder)
    options = ["--config", config, "--checkpoint", str(folder / "policy"), "--store", str(folder / "replay")]
    command = [sys.executable, "-m", "actors.robot_worker", *options]

    def wait_for(condition, timeout_s=120.0):
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until_s, person.status
            time.sleep(0.02)

    def worker():
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    first = worker()
    try:
        wait_for(lambda: any(step.source == "policy" for steps in list(person.steps.values()) for step in list(steps)))
        first.send_signal(signal.SIGKILL)
        first.wait()
        wait_for(lambda: person.status.state is State.HOLD)
        wait_for(lambda: not person.status.arms[0].is_moving)
        held, episode_id = person.status.arms[0].position_m, person.status.episode_id
        second = worker()
        try:
            time.sleep(5.0)  # it starts, sees that the robot was not sent home since, and waits for a person
            assert (person.status.state, person.status.arms[0].position_m) == (State.HOLD, held)
            assert person.status.episode_id == episode_id
        finally:
            second.kill()
            second.wait()
    finally:
        first.kill()
        first.wait()
        person.close()
    assert len(EpisodeStore(folder / "replay").episode_ids()) == 0
