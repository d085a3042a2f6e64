"""A shadow run's numbers on recorded episodes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from learner_toys import ReachPolicy, toy_from_checkpoint
from replay_episodes import episode_id, random_episode

from actors.shadow import main, shadow
from checkpoints.directory import write_checkpoint
from configs import build
from core.clock import ManualClock
from core.errors import ConfigError, SpecError
from core.experience import ActionChunk
from envs.fake import ReachEnv
from replay.episode_store import EpisodeStore

EPISODES = [random_episode(number, steps=6) for number in (1, 2)]
SPEC = EPISODES[0].env_spec


class Slow:
    """Takes 0.1 s longer with every call; ``answers`` are its chunks, in turn."""

    env_spec = SPEC

    def __init__(self, clock, answers):
        self.clock, self.answers, self.num_calls = clock, answers, 0

    def sample_actions(self, observations, instructions, generators):
        self.num_calls += 1
        self.clock.advance_s(0.1 * self.num_calls)
        actions = self.answers[self.num_calls % len(self.answers)]
        return [ActionChunk(actions=actions, policy_version=0, observation_time_s=observations[0].time_s)]


def actions(value):
    return np.full((4, SPEC.action.dim), value, np.float32)


def test_latency_limits_and_finiteness_are_counted():
    inside, outside = actions(np.float32(SPEC.action.low[0])), actions(0.0)
    outside[1, 0] = SPEC.action.high[0] + 1
    broken = actions(np.nan)
    clock = ManualClock(0.0)
    run = shadow(Slow(clock, [inside, outside, broken]), EPISODES, every_steps=2, clock=clock)
    assert (run.num_steps, run.num_not_finite) == (6, 2)  # calls 2 to 7: broken, inside, outside, broken, inside, outside
    assert run.outside_limits_fraction == pytest.approx(2 / 16)  # of the chunks that there were
    assert run.latency_p50_s == pytest.approx(0.45)  # without the first, which is a warm-up
    assert run.latency_p99_s == pytest.approx(0.2 + 0.99 * 0.5)


def test_nothing_to_compute_on_and_another_robot_are_refused():
    policy = Slow(ManualClock(0.0), [actions(0.0)])
    with pytest.raises(ConfigError, match="no recorded observation"):
        shadow(policy, [])
    with pytest.raises(ConfigError, match="every_steps is 0"):
        shadow(policy, EPISODES, every_steps=0)
    policy.env_spec = dataclasses.replace(SPEC, cameras=())
    with pytest.raises(SpecError, match="the policy was made for another cameras"):
        shadow(policy, EPISODES)


def test_the_command_prints_what_the_gate_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.presets, "from_checkpoint", toy_from_checkpoint)
    store = EpisodeStore(tmp_path / "replay", "w0")
    store.append(episode_of_reach())
    store.close()
    policy = ReachPolicy(ReachEnv(image_height_px=32, image_width_px=32).env_spec)
    write_checkpoint(tmp_path / "policy", *policy.to_checkpoint())
    words = [str(tmp_path / "policy"), str(tmp_path / "replay")]
    assert main(words) == 0
    printed = dict(word.split("=") for word in capsys.readouterr().out.split())
    assert (printed["num_steps"], printed["num_not_finite"], printed["outside_limits_fraction"]) == ("3", "0", "0")
    assert main([*words, "--json", "--every-steps", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["num_steps"] == 2
    assert main([words[0], str(tmp_path)]) != 0
    assert "no replay store at" in capsys.readouterr().err


def episode_of_reach():
    env = ReachEnv(image_height_px=32, image_width_px=32)
    observations = [env.reset(seed=0)[0], *(env.step(np.zeros(2, np.float32))[0] for _ in range(3))]
    plain = random_episode(3, steps=3)
    arrays = {name: np.zeros((3, 2), np.float32) for name in ("executed_action", "policy_action", "supervisor_action")}
    return dataclasses.replace(
        plain,
        episode_id=episode_id(7),
        env_spec=env.env_spec,
        images={"camera": np.stack([o.images["camera"] for o in observations])},
        state=np.stack([o.state for o in observations]).astype(np.float32),
        **arrays,
    )
