"""The worker as a command, on a real supervisor process: demonstrations without a policy, and what its death leaves behind."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from real_supervisor import ROOT, experiment, supervisor_process, write_start
from scripted_operator import ScriptedOperator

from actors.collection import Purpose, committed, episode_seeds
from actors.robot_worker import main, seeds_to_play
from configs.build import checkpoint_env_spec
from configs.load import load_config
from core.experience import Collection, EpisodeEnd, Source
from core.specs import CameraSpec
from envs.real_senses import robot_env_spec
from learners.pretrain import main as pretrain
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
        (["--demonstrations", "--public-key", "lab.pem"], "--public-key goes with --agent STORE"),
        (["--demonstrations", "--checkpoint", "x"], "got ['--demonstrations', '--checkpoint']"),
        (["--agent", "x"], "--agent STORE needs --cache DIR"),
        (["--demonstrations"], "env.robot.name is empty"),
        (["--demonstrations", "--config", "nowhere"], "no configuration 'nowhere'"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["--store", str(tmp_path / "replay"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_worker_started_again_goes_on_with_the_seeds_that_pretraining_looks_for():
    wanted = episode_seeds(7, 0, 600)

    def store(seeds, collection=Collection.DEMONSTRATION):
        infos = [SimpleNamespace(provenance=SimpleNamespace(seed=seed, collection=collection)) for seed in seeds]
        return SimpleNamespace(episode_ids=lambda: range(len(infos)), info=infos.__getitem__)

    def first(count, *arguments):
        return list(itertools.islice(seeds_to_play(store(*arguments), Collection.DEMONSTRATION, 7), count))

    assert first(600, []) == wanted
    assert first(3, wanted[:2]) == wanted[2:5]
    assert first(2, [wanted[1], 12345]) == [wanted[0], wanted[2]]
    assert first(1, wanted[:2], Collection.ROLLOUT) == wanted[:1]


@pytest.mark.slow
def test_demonstrations_are_recorded_without_a_policy_and_make_one(folder, capsys):
    person = ScriptedOperator(folder / "s.sock", folder / "tokens", is_policy=False)
    replay, few = folder / "replay", ["num_steps=3", "batch_size=4", "warmup_steps=1"]
    options = ["--config", experiment(folder), "--demonstrations", "--episodes", "2", "--store", str(replay)]
    learning = [f"pretrain.{model}.{number}" for model in ("policy", "value") for number in few]
    learning += ["demonstrations=2", f"pretrain.store={replay}", "pretrain.codec_frames=50"]
    try:
        assert main(options) == 0
        assert "no policy" in capsys.readouterr().out
        person.is_policy = True
        assert pretrain(["--config", experiment(folder), "--run", str(folder / "start"), *learning]) == 0
    finally:
        person.close()
    spec = robot_env_spec(person.client.welcome, (CameraSpec(name="front", height_px=32, width_px=32),))
    assert {checkpoint_env_spec(folder / "start/checkpoints" / kind) for kind in ("policy", "value")} == {spec}
    store = EpisodeStore(folder / "replay")
    found = committed(store, Purpose(run=None, collection=Collection.DEMONSTRATION), episode_seeds(0, 0, 2))
    assert len(found) == 2  # pretraining on this store needs no others
    episodes = [store.read(e) for e in found.values()]
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
