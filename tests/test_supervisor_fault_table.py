"""The fault table: reactions read from logs, records that are kept and gone on from, tables, one rehearsal of each arm."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from core.errors import CorruptDataError, RecapError
from robot_drivers.emulators.simulated_arm import ArmEvent, MotionSample
from robot_drivers.fault_table import CAUSES, append_record, fill, latencies, main, read_records, report, table
from robot_drivers.limits import read_robot_config
from robot_drivers.rehearsal import SUBJECTS, BusyError, Reaction, rehearse
from robot_drivers.states import State

CONFIG = Path(__file__).parent.parent / "configs/robots/fake.yaml"


def reaction(time_s: float = 0.01, **changes: object) -> Reaction:
    fields = {
        "state": State.HOLD,
        "noticed_s": time_s,
        "stopped_by": "stop slow",
        "told_s": 1.5 * time_s,
        "standing_s": 2 * time_s,
        "path_m": time_s / 10,
    }
    return Reaction(**(fields | changes))  # type: ignore[arg-type]


GOES_ON = reaction(state=State.HUMAN, noticed_s=math.nan, stopped_by="", told_s=math.nan, standing_s=math.nan)


def test_a_reaction_is_read_from_the_arms_own_log() -> None:
    def sample(time_s: float, y_m: float, speed_m_s: float) -> MotionSample:
        return MotionSample(time_s=time_s, position_m=(0.3, y_m, 0.3), speed_m_s=speed_m_s, speed_rad_s=0.0, gripper_opening=1.0)

    found = Reaction.read_from(
        caused_s=10.0,
        states=[(10.02, State.FAULT), (10.5, State.ESTOP)],
        events=[ArmEvent(time_s=10.01, name="target"), ArmEvent(time_s=10.03, name="stop", detail="slow")],
        samples=[sample(10.0, 0.0, 0.05), sample(10.01, 0.0005, 0.05), sample(10.04, 0.001, 0.002), sample(10.05, 0.001, 0.0)],
        final=State.ESTOP,
    )
    assert found.state is State.FAULT
    assert found.stopped_by == "stop slow"
    assert (found.noticed_s, found.told_s, found.standing_s) == pytest.approx((0.02, 0.03, 0.04))
    assert found.path_m == pytest.approx(0.001)
    on = Reaction.read_from(caused_s=10.0, states=[], events=[], samples=[sample(10.0, 0.0, 0.05)], final=State.HUMAN)
    assert math.isnan(on.standing_s)
    assert math.isnan(on.noticed_s)
    assert on.stopped_by == ""


def test_records_are_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "runs/records.jsonl"
    assert read_records(path) == {}
    append_record(path, "realman", "stop", reaction())
    append_record(path, "realman", "junk", GOES_ON)
    again = read_records(path)
    assert again["realman", "stop"] == [reaction()]
    assert math.isnan(again["realman", "junk"][0].standing_s)
    with path.open("a") as file:
        file.write('{"subject": "realman"}\n')
    with pytest.raises(CorruptDataError, match="line 3"):
        read_records(path)


def test_a_run_goes_on_where_it_ended_and_says_what_is_missing() -> None:
    asked, kept = [], []

    def measure(subject: str, cause: str) -> Reaction:
        asked.append(cause)
        if cause == "junk":
            raise BusyError("too busy")
        if cause == "drop":
            raise RecapError("the arm is gone")
        return reaction()

    records = {("realman", "stop"): [reaction()]}
    missing = fill(
        records,
        subjects=["realman"],
        causes=["stop", "junk", "drop"],
        rounds=2,
        measure=measure,
        keep=lambda subject, cause, found: kept.append((subject, cause)),
    )
    assert kept == [("realman", "stop")]
    assert asked.count("stop") == 1
    assert asked.count("junk") == 2 * 5
    assert asked.count("drop") == 2
    assert len(missing) == 4
    assert missing[0] == "realman, junk, round 1: too busy"


def test_the_tables_show_medians_and_worst_and_what_goes_on() -> None:
    records = {
        ("realman", "silence"): [reaction(t) for t in (0.01, 0.02, 0.09)],
        ("realman", "junk"): [GOES_ON],
        ("xarm", "silence"): [reaction(0.01, stopped_by="")],
    }
    assert table("realman", records).splitlines()[2:] == [
        "| silence | hold | 20 (90) ms | stop slow | 30 (135) ms | 40 (180) ms | 2.0 (9.0) mm |",
        "| junk | human | - | - | - | goes on | - |",
    ]
    some = table("realman", {("realman", "split"): [GOES_ON, reaction()]})
    assert some.endswith(
        "| split | hold/human | 10 (10) ms | - / stop slow | 15 (15) ms | 1 of 2 went on; 20 (20) ms | 1.0 (1.0) mm |"
    )
    assert latencies(records).splitlines()[2:] == ["| silence | 4 | 20 ms | 30 ms | 159 ms | 180 ms | 1.5 mm | 9.0 mm |"]
    assert "python -m this" in report(records, "python -m this")


def test_a_config_that_cannot_be_read_ends_with_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tmp_path / "none.yaml"), "--records", str(tmp_path / "records")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_cause_ends_in_the_state_that_the_safety_page_says(subject: str) -> None:
    config = read_robot_config(CONFIG)
    patient = dataclasses.replace(config.watchdog, late_tick_s=60.0, tracking_error_s=60.0, stale_state_s=0.4)
    patient_config = dataclasses.replace(config, lease_ttl_s=0.6, watchdog=patient)
    # A Realman's controller may forget these two before it has reported them: docs/results/safety.md.
    forgotten = ("collision", "singularity") if subject == "realman" else ()
    found = {cause: rehearse(subject, patient_config, cause) for cause in CAUSES if cause not in forgotten}
    assert dict.fromkeys(forgotten, State.FAULT) | {cause: reaction.state for cause, reaction in found.items()} == {
        "stop": State.ESTOP,
        "release": State.HOLD,
        "silence": State.HOLD,
        **dict.fromkeys(("freeze", "drop", "delay:0.5", "collision", "singularity"), State.FAULT),
        **dict.fromkeys(("partial", "split", "junk"), State.HUMAN),
        "estop": State.FAULT if subject == "realman" else State.ESTOP,  # a Realman does not read it back
    }
    ended = [reaction for reaction in found.values() if not reaction.state.moves]
    assert all(math.isfinite(reaction.noticed_s) and math.isfinite(reaction.standing_s) for reaction in ended)
