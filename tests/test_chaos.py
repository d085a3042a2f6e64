"""The chaos run: every check finds what it is there for and nothing else, and a minute of it leaves nothing to find."""

from __future__ import annotations

import collections
import math
from pathlib import Path

import numpy as np
import pytest

from robot_drivers import chaos_checks as checks
from robot_drivers.chaos import Chaos, main
from robot_drivers.chaos_report import Findings, report
from robot_drivers.emulators.simulated import Received
from robot_drivers.emulators.simulated_arm import MotionSample
from robot_drivers.limits import Box, read_robot_config
from robot_drivers.states import State

CONFIG = Path(__file__).parent.parent / "configs/robots/fake.yaml"
LIMITS = read_robot_config(CONFIG).arms[0].limits
TICK_S = 0.01


def sample(time_s: float, y_m: float = 0.0, speed_m_s: float = 0.0) -> MotionSample:
    return MotionSample(time_s=time_s, position_m=(0.3, y_m, 0.3), speed_m_s=speed_m_s, speed_rad_s=0.0, gripper_opening=1.0)


def moves(y_m: list[float], *, generation: int = 1, first: int = 0, per_tick: int = 2) -> list[Received]:
    return [
        Received(
            time_s=index * TICK_S,
            command="move",
            generation=generation,
            sequence=first + per_tick * index,
            position_m=(0.3, y, 0.3),
        )
        for index, y in enumerate(y_m)
    ]


STOP = Received(time_s=1.0, command="stop")


def over_limits(received: list[Received]) -> list[str]:
    return checks.over_limits(received, LIMITS, tick_s=TICK_S, sequences_per_tick=2)


def test_a_tool_outside_its_box_is_found_beyond_the_margin_only() -> None:
    box = Box(low_m=(0.2, -0.1, 0.2), high_m=(0.4, 0.1, 0.4))
    samples = [sample(0.0, 0.0), sample(1.0, 0.1005), sample(2.0, -0.102)]
    assert checks.outside_box(samples, box, margin_m=0.002) == []
    (found,) = checks.outside_box(samples, box, margin_m=0.001)
    assert "at 2.000 s" in found
    assert checks.outside_box([], box, margin_m=0.0) == []


def test_a_smooth_motion_passes_and_a_fast_or_a_jerky_one_does_not() -> None:
    ramp = np.cumsum(np.minimum(np.arange(40) * 0.9 * LIMITS.max_linear_acceleration_m_s2 * TICK_S, 0.2)) * TICK_S
    assert over_limits(moves(ramp.tolist())) == []
    fast = [0.003 * index for index in range(5)]
    assert any("m/s" in text for text in over_limits(moves(fast)))
    assert over_limits(moves([0.0, 0.0, 0.001, 0.0])), "0.1 m/s one way and back within two ticks"
    skipped = moves(ramp.tolist())
    del skipped[10:13]
    assert over_limits(skipped) == [], "targets that were replaced on the way show in the sequence"


def test_motions_are_told_apart_by_generation_and_by_stops() -> None:
    here, there = [0.0] * 3, [0.05] * 3
    assert over_limits([*moves(here), STOP, *moves(there, generation=2, first=6)]) == []
    assert over_limits([*moves(here), *moves(there, generation=2, first=6)]) == []
    assert over_limits([*moves(here), *moves(there, first=6)])


def test_a_generation_that_comes_back_is_found() -> None:
    assert checks.reused_generations([*moves([0.0]), STOP, *moves([0.0], generation=2, first=10)]) == []
    (stopped,) = checks.reused_generations([*moves([0.0]), STOP, *moves([0.0], generation=1, first=10)])
    assert "generation 1 moved again; 1 was stopped" in stopped
    (older,) = checks.reused_generations([*moves([0.0], generation=3), *moves([0.0], generation=2, first=10)])
    assert "generation 2 came after 3" in older
    (repeated,) = checks.reused_generations([*moves([0.0], first=4), *moves([0.0], generation=2, first=4)])
    assert "target 4 came after 4" in repeated


def change(time_s: float, before: State, after: State) -> checks.StateChange:
    return checks.StateChange(time_s=time_s, before=before, after=after)


def test_a_change_that_is_not_in_the_table_is_found() -> None:
    good = [change(0, State.HOLD, State.POLICY), change(1, State.POLICY, State.ESTOP), change(2, State.ESTOP, State.DISARMED)]
    assert checks.unlisted_changes(good) == []
    assert checks.unlisted_changes([change(0, State.ESTOP, State.POLICY)]) == ["estop -> policy"]
    assert checks.unlisted_changes([good[0], good[2]]) == ["a change from estop after one to policy"]


def test_how_long_an_arm_still_moved_counts_until_motion_begins_again() -> None:
    changes = [
        change(1.0, State.HUMAN, State.HOLD),
        change(1.5, State.HOLD, State.ESTOP),
        change(3.0, State.HOLD, State.POLICY),
        change(4.0, State.POLICY, State.FAULT),
    ]
    samples = [
        sample(0.9, speed_m_s=0.1), sample(1.2, speed_m_s=0.1), sample(2.5), sample(3.5, speed_m_s=0.1), sample(4.5),
    ]  # fmt: skip
    assert [(c.time_s, pytest.approx(standing_s)) for c, standing_s in checks.standing_times_s(changes, samples)] == [
        (1.0, 0.2),
        (4.0, 0.0),
    ]
    late = [*samples[:3], sample(2.9, speed_m_s=0.1), *samples[3:]]
    assert checks.standing_times_s(changes, late)[0][1] == pytest.approx(1.9)


def test_the_report_lists_violations_first() -> None:
    found = Findings(
        seconds=60.0,
        happened=collections.Counter({"stop": 2}),
        changes=[change(1.0, State.HUMAN, State.HOLD)],
        num_samples=7,
        num_targets=5,
        path_m={"left": 1.0},
        standing_s=[0.01, 0.03],
        violations=["it flew"],
    )
    text = report(found, "python -m this")
    assert "**Violations: 1.**\n- it flew" in text
    assert "median 20 ms" in text
    assert "| stop | 2 | | human -> hold | 1 |" in text
    assert "**Violations: 0.**" in report(Findings(seconds=1.0, happened=collections.Counter(), changes=[]), "x")


def test_time_in_motion_is_from_its_beginning_to_the_next_change() -> None:
    times = [(0.0, State.ARMED_IDLE), (1.0, State.HUMAN), (3.5, State.HOLD), (4.0, State.POLICY), (4.25, State.ESTOP)]
    changes = [checks.StateChange(time_s=time_s, before=State.DISARMED, after=after) for time_s, after in times]
    assert Findings(seconds=9.0, happened=collections.Counter(), changes=changes).moving_s == pytest.approx(2.75)


def test_a_config_that_cannot_be_read_ends_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_a_minute_of_everything_at_once_breaks_nothing(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, CONFIG, seed=7)
    try:
        found = chaos.run(60.0)
    finally:
        chaos.close()
    assert found.violations == []
    assert found.num_targets > 100
    assert all(path_m > 0.05 for path_m in found.path_m.values())
    assert math.isfinite(max(found.standing_s))
