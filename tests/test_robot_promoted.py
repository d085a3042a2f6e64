"""The checkpoint agent and a robot's worker: contract and warm-up before, swaps between episodes, a canary slow and recorded."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_toys import WHO, episodes, make_promotion, pass_evaluation, pass_shadow, record_episodes, write_policy

from actors.robot_promoted import PromotedEpisodes
from actors.robot_runner import RobotRunner
from checkpoints.agent import AgentConfig
from checkpoints.agent_memory import Running
from checkpoints.contract import Conventions, LiveCapabilities
from checkpoints.directory import read_checkpoint
from checkpoints.gate_record import Binding
from checkpoints.policy import GateKind
from checkpoints.tables import robot_rows
from core.errors import CheckpointError
from robot_drivers import messages as m
from tests.real_robot_rig import InlineExecutor, Rig, StepPolicy

ROBOT = Conventions(frame="base", rotation="axis_angle", gripper="positive_opens")


def forever(rig):
    """A person who lets every episode run for a second."""
    yield from rig.pause(0.1)
    rig.robot.must(m.Arm)
    while True:
        while rig.robot.status().episode_id is None:
            yield
        rig.robot.must(m.HandBack)
        yield from rig.pause(1.0)
        rig.mark(m.Label.SUCCESS)
        while rig.robot.status().episode_id is not None:
            yield


class Promoted:
    """A robot whose policies move as far as their weight says."""

    def __init__(self, root):
        self.root, self.rig = root, Rig(forever)
        self.promotion = make_promotion(root / "store")
        env = self.rig.env
        self.runner = RobotRunner(env, replan_steps=3, load_policy=self.load, executor=InlineExecutor(self.rig), run="r")
        self.episodes = PromotedEpisodes(
            self.runner,
            self.promotion,
            AgentConfig(robot=env.welcome.robot, cache=root / "cache", max_latency_s=1.0),
            conventions=ROBOT,
            load=self.load,
        )
        self.live = LiveCapabilities(
            robot=env.welcome.robot,
            env_spec=env.env_spec,
            conventions=ROBOT,
            max_chunk_length=256,
            safety_digest=env.welcome.limits_digest,
        )
        self.promotion.register(self.live, by="tester")

    def load(self, directory):
        return StepPolicy(move=float(read_checkpoint(directory)[0]["weight"][0]), horizon=4)

    def add(self, weight, conventions=ROBOT):
        spec = self.rig.env.env_spec.to_json()
        folder = write_policy(self.root / f"policy_{weight}", weight, conventions=conventions, env_spec=spec)
        checkpoint = self.promotion.store.add(folder)
        pass_evaluation(self.promotion, checkpoint)
        return checkpoint

    def canary(self, checkpoint):
        pass_shadow(self.promotion, checkpoint, self.live)
        binding = Binding(name=self.live.robot, digest=self.live.digest)
        return self.promotion.gates.open(checkpoint, GateKind.CANARY, binding, **WHO)

    def promote(self, weight):
        checkpoint = self.add(weight)
        record_episodes(self.promotion, self.canary(checkpoint), episodes("s" * 30, speed_fraction=0.5))
        self.promotion.promote(checkpoint, f"robot:{self.live.robot}", **WHO)
        return checkpoint

    def play(self):
        return self.episodes.play(lambda: self.runner.run_episode(0))


@pytest.fixture
def robot(tmp_path):
    return Promoted(tmp_path)


def test_what_is_promoted_plays_the_next_episode_and_is_reported(robot):
    with pytest.raises(CheckpointError, match="nothing was promoted"):
        robot.play()
    first = robot.promote(0.01)
    played = robot.play()
    assert played.robot.checkpoint == first
    assert played.robot.requested_action[0, 1] == pytest.approx(0.01)
    second = robot.promote(0.005)

    def swapping():
        episode = robot.runner.run_episode(0)
        assert robot.episodes.agent.memory.running.checkpoint_id == first
        return episode

    robot.promotion.rollback(f"robot:{robot.live.robot}", **WHO)
    assert robot.episodes.play(swapping).robot.checkpoint == first
    robot.promotion.promote(second, f"robot:{robot.live.robot}", **WHO)
    assert robot.play().robot.requested_action[0, 1] == pytest.approx(0.005)
    (row,) = robot_rows(robot.promotion)
    assert (row["desired"], row["actual"]) == (second, second)


def test_a_canary_moves_at_its_fraction_of_the_speed_and_every_episode_is_kept(robot):
    robot.promote(0.01)
    robot.play()
    gate = robot.canary(robot.add(0.004))
    played = robot.play()
    assert robot.episodes.agent.memory.running == Running(
        checkpoint_id=gate.record.checkpoint_id, generation=2, speed_fraction=0.5, canary=gate.record.name
    )
    slowed = [0, 0.002, 0, 0, 0, 0, 1.0]  # but not the gripper
    np.testing.assert_allclose(played.robot.requested_action[0], slowed, atol=1e-7)
    assert played.provenance.annotations["speed_fraction"] == 0.5
    (kept,) = robot.promotion.gates.open_canary(robot.live.digest).record.episodes
    assert (kept.key, kept.is_success, kept.is_intervened, kept.speed_fraction) == (played.episode_id, True, False, 0.5)


def test_a_policy_that_means_another_gripper_never_plays(robot):
    settled = robot.promote(0.01)
    robot.play()
    closes = Conventions(frame="base", rotation="axis_angle", gripper="positive_closes")
    other = robot.add(0.02, conventions=closes)
    pass_shadow(robot.promotion, other, robot.live)
    binding = Binding(name=robot.live.robot, digest=robot.live.digest)
    robot.promotion.gates.open(other, GateKind.CANARY, binding, **WHO)
    assert robot.play().robot.checkpoint == settled
    assert any("gripper convention" in why for why in robot.episodes.agent.memory.refusals.values())
