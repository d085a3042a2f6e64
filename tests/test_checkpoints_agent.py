from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_toys import (
    ARM,
    CHUNK,
    WHO,
    add_policy,
    episodes,
    make_promotion,
    open_canary,
    pass_evaluation,
    pass_shadow,
    record_episodes,
)

from checkpoints.acceptance import Verdict
from checkpoints.agent import AgentConfig, RobotAgent, SwapRefusedError
from checkpoints.agent_memory import Running
from checkpoints.directory import read_checkpoint
from checkpoints.policy import GateKind
from checkpoints.tables import robot_rows
from core.clock import ManualClock
from core.errors import CheckpointError, ConfigError


class Robot:
    """An arm that takes whatever it is handed; time passes only in inference and between crashes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.promotion = make_promotion(root / "store")
        self.live = ARM
        self.clock = ManualClock()
        self.latency_s = 0.05
        self.actions = np.zeros((CHUNK, 2), np.float32)
        self.unix_time_s = 1000.0
        self.swaps: list[tuple[float, Running]] = []
        self.agent = self.restarted()

    def restarted(self) -> RobotAgent[float]:
        self.agent = RobotAgent(
            AgentConfig(robot="arm1", cache=self.root / "robot", max_latency_s=0.1),
            self.promotion,
            capabilities=lambda: self.live,
            load=lambda directory: float(read_checkpoint(directory)[0]["weight"][0]),
            infer=self.infer,
            swap=lambda weight, running: self.swaps.append((weight, running)),
            clock=self.clock,
            unix_time_s=lambda: self.unix_time_s,
        )
        return self.agent

    def infer(self, weight: float) -> np.ndarray:
        self.clock.advance_s(self.latency_s)
        return self.actions

    def crash(self) -> None:
        self.unix_time_s += 10.0
        with pytest.raises(RuntimeError, match="segfault"), self.agent.episode():
            raise RuntimeError("segfault")

    @property
    def weight(self) -> float:
        """Of what was handed over last."""
        return self.swaps[-1][0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store with three checkpoints of weights 1, 2, 3, which may all go to the robot."""
    root = tmp_path_factory.mktemp("prepared")
    promotion = make_promotion(root / "store")
    promotion.register(ARM, by="tester")
    found = [add_policy(promotion, root, weight) for weight in (1.0, 2.0, 3.0)]
    for checkpoint in found:
        pass_evaluation(promotion, checkpoint)
        pass_shadow(promotion, checkpoint)
        record_episodes(promotion, open_canary(promotion, checkpoint), episodes("s" * 30, speed_fraction=0.5))
    return root / "store", found


@pytest.fixture
def robot(tmp_path, prepared):
    shutil.copytree(prepared[0], tmp_path / "store")
    return Robot(tmp_path)


@pytest.fixture
def ids(prepared):
    return prepared[1]


def promote(robot: Robot, checkpoint: str) -> None:
    robot.promotion.promote(checkpoint, "robot:arm1", **WHO)


def two_ran(robot, ids) -> None:
    for checkpoint in ids[:2]:
        promote(robot, checkpoint)
        robot.agent.between_episodes()


def test_it_becomes_what_its_channel_says_and_reports_it(robot, ids):
    two_ran(robot, ids)
    assert [(weight, running.generation) for weight, running in robot.swaps] == [(1.0, 1), (2.0, 2)]
    assert robot.agent.between_episodes() == Running(checkpoint_id=ids[1], generation=2)
    assert len(robot.swaps) == 2
    (row,) = robot_rows(robot.promotion)
    assert (row["desired"], row["actual"], row["generation"]) == (ids[1], ids[1], 2)
    robot.promotion.rollback("robot:arm1", **WHO)
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert robot.weight == 1.0


def test_the_last_two_are_kept_on_its_disk(robot, ids):
    two_ran(robot, ids)
    promote(robot, ids[2])
    robot.agent.between_episodes()
    kept = [path.name for path in (robot.root / "robot/checkpoints").iterdir() if path.is_dir()]
    assert sorted(kept) == sorted(ids[1:])


def test_nothing_is_swapped_in_an_episode(robot, ids):
    two_ran(robot, ids[:1])
    with robot.agent.episode() as running:
        promote(robot, ids[1])
        with pytest.raises(SwapRefusedError, match="in the middle of an episode"):
            robot.agent.between_episodes()
        assert running.checkpoint_id == ids[0]
    assert robot.weight == 1.0
    robot.agent.between_episodes()
    assert robot.weight == 2.0


def test_an_episode_needs_preparation_and_does_not_nest(robot, ids):
    with pytest.raises(SwapRefusedError, match="begins after between_episodes"), robot.agent.episode():
        pass
    two_ran(robot, ids)
    with pytest.raises(SwapRefusedError, match="not inside another"), robot.agent.episode(), robot.agent.episode():
        pass


def test_with_nothing_promoted_there_is_nothing_to_run(robot):
    with pytest.raises(CheckpointError, match="nothing to run: nothing was promoted to robot:arm1"):
        robot.agent.between_episodes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latency_s": 0.2}, r"took up to 0\.200 s; this robot accepts 0\.1 s"),
        ({"actions": np.full((CHUNK, 2), np.nan, np.float32)}, "NaN"),
        ({"actions": np.zeros((CHUNK, 3), np.float32)}, r"shape \(4, 3\); the contract says \(4, 2\)"),
    ],
)
def test_what_fails_its_warm_up_does_not_replace_what_runs(robot, ids, change, message, monkeypatch):
    two_ran(robot, ids[:1])
    good_infer = robot.infer

    def infer(weight):
        if weight != 2.0:
            return good_infer(weight)
        for name, value in change.items():
            setattr(robot, name, value)
        return good_infer(weight)

    monkeypatch.setattr(robot, "infer", infer)
    robot.restarted()
    robot.agent.between_episodes()
    promote(robot, ids[1])
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert robot.weight == 1.0
    assert re.search(message, robot_rows(robot.promotion)[0]["refused_because"])
    num_swaps = len(robot.swaps)
    assert robot.agent.between_episodes().checkpoint_id == ids[0]  # it is not tried again every episode
    assert len(robot.swaps) == num_swaps


def test_what_does_not_fit_the_robot_as_it_is_now_is_not_run(robot, ids):
    two_ran(robot, ids)
    robot.live = dataclasses.replace(ARM, max_chunk_length=2)
    with pytest.raises(CheckpointError, match="a chunk has 4 actions, the robot queues at most 2"):
        robot.agent.between_episodes()
    robot.live = ARM
    assert robot.agent.between_episodes().checkpoint_id == ids[1]


def test_the_agent_of_one_robot_refuses_another(robot, ids):
    robot.live = dataclasses.replace(ARM, robot="arm2")
    with pytest.raises(ConfigError, match="calls itself 'arm2', the agent is for 'arm1'"):
        robot.agent.between_episodes()


def test_a_damaged_copy_in_the_store_is_not_run(robot, ids):
    two_ran(robot, ids[:1])
    promote(robot, ids[1])
    for file in robot.promotion.store.manifest(ids[1]).files:
        blob = robot.promotion.store.root / "blobs/sha256" / file.sha256
        blob.write_bytes(blob.read_bytes()[:-1])
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert "is damaged" in robot_rows(robot.promotion)[0]["refused_because"]


def test_a_damaged_copy_on_the_robot_is_pulled_again(robot, ids):
    two_ran(robot, ids)
    weights = robot.root / "robot/checkpoints" / ids[1] / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    robot.restarted().between_episodes()
    assert weights.read_bytes() == whole
    assert robot.weight == 2.0


def test_it_goes_on_with_what_it_has_when_the_store_is_out_of_reach(robot, ids):
    two_ran(robot, ids)
    shutil.move(robot.root / "store", robot.root / "elsewhere")
    (robot.root / "store").write_text("a mount that is gone")
    assert robot.agent.between_episodes().checkpoint_id == ids[1]
    assert robot.restarted().between_episodes().checkpoint_id == ids[1]
    assert robot.weight == 2.0


# -- crashes -----------------------------------------------------------------------------------------------------------


def test_a_crash_loop_returns_to_the_previous_and_freezes(robot, ids):
    two_ran(robot, ids)
    for _ in range(2):
        robot.crash()
        assert robot.agent.between_episodes().checkpoint_id == ids[1]
    robot.crash()
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert robot.weight == 1.0
    pin = robot.promotion.pin("arm1")
    assert pin.is_pinned
    assert pin.by == "agent of arm1"
    assert "crash loop: 3 crashes" in pin.reason
    assert "RuntimeError: segfault" in pin.reason
    with pytest.raises(CheckpointError, match="pinned by agent of arm1"):
        promote(robot, ids[2])
    assert robot.restarted().between_episodes().checkpoint_id == ids[0]  # frozen over a restart
    robot.promotion.rollback("robot:arm1", **WHO)
    robot.promotion.set_pin("arm1", is_pinned=False, **WHO)
    promote(robot, ids[2])
    assert robot.agent.between_episodes().checkpoint_id == ids[2]


def test_a_process_that_dies_in_an_episode_counts_as_a_crash(robot, ids):
    two_ran(robot, ids)
    for _ in range(3):
        robot.agent.episode().__enter__()  # and never leaves: kill -9
        robot.restarted()
        robot.agent.between_episodes()
    assert robot.agent.memory.running.checkpoint_id == ids[0]
    assert robot.promotion.pin("arm1").is_pinned


def test_crashes_long_apart_are_no_loop(robot, ids):
    two_ran(robot, ids)
    for _ in range(6):
        robot.crash()
        robot.unix_time_s += 400.0
        assert robot.agent.between_episodes().checkpoint_id == ids[1]


def test_a_crash_loop_with_nothing_before_leaves_the_robot_without_a_policy(robot, ids):
    two_ran(robot, ids[:1])
    for _ in range(2):
        robot.crash()
        robot.agent.between_episodes()
    robot.crash()
    with pytest.raises(CheckpointError, match="has nothing to run: crash loop"):
        robot.agent.between_episodes()


def test_a_freeze_while_the_store_is_out_of_reach_is_told_later(robot, ids):
    two_ran(robot, ids)
    shutil.move(robot.root / "store", robot.root / "elsewhere")
    (robot.root / "store").write_text("a mount that is gone")
    for _ in range(3):
        robot.crash()
        robot.agent.between_episodes()
    assert robot.weight == 1.0
    (robot.root / "store").unlink()
    shutil.move(robot.root / "elsewhere", robot.root / "store")
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert robot.promotion.pin("arm1").is_pinned


# -- canaries ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(robot, ids, tmp_path):
    """A fourth checkpoint that waits for its canary; the first runs."""
    two_ran(robot, ids[:1])
    return add_policy(robot.promotion, tmp_path, 4.0)


def test_a_canary_runs_slowly_until_its_verdict(robot, ids, fresh):
    gate = open_canary(robot.promotion, fresh)
    running = robot.agent.between_episodes()
    assert (running.checkpoint_id, running.speed_fraction, robot.weight) == (fresh, 0.5, 4.0)
    assert running.canary == gate.record.name
    gate = record_episodes(robot.promotion, gate, episodes("s" * 30, speed_fraction=0.5))
    assert gate.judgement.verdict is Verdict.PASS
    assert robot.agent.between_episodes().checkpoint_id == ids[0]  # a pass is no promotion
    assert robot.agent.memory.running.speed_fraction == 1.0
    pass_evaluation(robot.promotion, fresh)
    pass_shadow(robot.promotion, fresh)
    promote(robot, fresh)
    assert robot.agent.between_episodes() == Running(checkpoint_id=fresh, generation=4)


def test_a_canary_that_crashes_once_has_failed(robot, ids, fresh):
    open_canary(robot.promotion, fresh)
    robot.agent.between_episodes()
    robot.crash()
    gate = robot.promotion.gates.latest(fresh, GateKind.CANARY, ARM.digest)
    assert (gate.judgement.verdict, gate.judgement.is_closed) == (Verdict.FAIL, True)
    assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert not robot.promotion.pin("arm1").is_pinned


def test_a_canary_ends_when_the_store_is_out_of_reach(robot, ids, fresh):
    """Nobody could stop it, or count its episodes."""
    open_canary(robot.promotion, fresh)
    robot.agent.between_episodes()
    shutil.move(robot.root / "store", robot.root / "elsewhere")
    (robot.root / "store").write_text("a mount that is gone")
    assert robot.agent.between_episodes().checkpoint_id == ids[0]


def test_a_canary_that_cannot_run_does_not_disturb_what_does(robot, ids, fresh, monkeypatch):
    open_canary(robot.promotion, fresh)
    for file in robot.promotion.store.manifest(fresh).files:
        (robot.promotion.store.root / "blobs/sha256" / file.sha256).unlink()
    for _ in range(3):
        assert robot.agent.between_episodes().checkpoint_id == ids[0]
    assert [weight for weight, _ in robot.swaps] == [1.0]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"max_latency_s": 0.0}, {"max_latency_s": float("nan")}, {"num_warm_up": 0}, {"crash_limit": 0}]
)
def test_impossible_configurations_are_refused(tmp_path, change):
    with pytest.raises(ConfigError, match="must be positive"):
        AgentConfig(**{"robot": "arm1", "cache": tmp_path, "max_latency_s": 0.1, **change})


def test_a_damaged_memory_is_named(robot, ids):
    two_ran(robot, ids)
    (robot.root / "robot/agent.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"agent\.json is damaged .* remove it"):
        robot.restarted()
