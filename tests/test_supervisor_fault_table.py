from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from robot_drivers.fault_table import Reaction, main, measure, table
from robot_drivers.limits import read_robot_config
from robot_drivers.states import State

CONFIG = Path(__file__).parent.parent / "configs/robots/fake.yaml"


def test_the_table_shows_median_and_worst():
    reactions = [Reaction(state=State.HOLD, noticed_s=t, standing_s=2 * t, path_m=t / 10) for t in (0.01, 0.02, 0.09)]
    assert table("fake", {"silence": reactions}).splitlines()[-1] == (
        "| silence | hold | 20 (90) ms | 40 (180) ms | 2.0 (9.0) mm |"
    )


def test_a_config_that_cannot_be_read_ends_with_a_message(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.slow
def test_every_cause_ends_in_the_state_that_the_safety_page_says():
    config = read_robot_config(CONFIG)
    patient = dataclasses.replace(config.watchdog, late_tick_s=60.0, tracking_error_s=60.0)
    found = measure("fake", dataclasses.replace(config, lease_ttl_s=1.0, watchdog=patient), rounds=1)
    assert {cause: reactions[0].state for cause, reactions in found.items()} == {
        "stop": State.ESTOP,
        "release": State.HOLD,
        "silence": State.HOLD,
        "freeze": State.FAULT,
        "drop": State.FAULT,
        "collision": State.FAULT,
        "junk": State.FAULT,
        "estop": State.ESTOP,
    }
    assert all(math.isfinite(reactions[0].noticed_s) for reactions in found.values())
