"""The main job on two Ray nodes: one of them is killed, and nothing is lost, doubled or different."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.chaos.faults import FAULTS
from benchmarks.chaos.rounds import Rounds

(NODE,) = (fault for fault in FAULTS if fault.name == "node")


def test_without_root_a_fault_that_needs_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reasons = {fault.name: reason for fault in FAULTS if (reason := fault.missing())}
    assert reasons.keys() == {"disk", "node", "network"}
    assert all("root" in reason for reason in reasons.values())


def test_without_ip_its_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "iproute2" in NODE.missing()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_node_killed_with_its_workers_costs_time_and_nothing_else(tmp_path: Path) -> None:
    if reason := NODE.missing():
        pytest.skip(reason)
    rounds = Rounds(tmp_path)
    rounds.prepare()
    row = rounds.run(NODE, seed=0)
    assert row["is_clean"], row
    assert row["acknowledged"] >= 28, "24 collected and 4 to evaluate"
