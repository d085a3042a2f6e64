"""Averages of one training are judged on the same episodes, and the table has all of them."""

from __future__ import annotations

import itertools

import pytest

from actors.outcomes import Outcome
from benchmarks import bench_averages
from benchmarks.bench_averages import DECAYS, SCHEDULES, Judged, table, train_and_judge


def test_the_table_pools_the_seeds_and_shows_each() -> None:
    def outcomes(count: int) -> tuple[Outcome, ...]:
        return tuple(Outcome(seed=i, is_success=i < count, is_success_once=i < count, num_steps=4) for i in range(10))

    found = [
        Judged(seed=seed, schedule=schedule, decay=decay, outcomes=outcomes(3 + seed), held_out_loss=0.5 + seed / 10)
        for seed in range(2)
        for schedule in SCHEDULES
        for decay in DECAYS
    ]
    lines = table(found)
    assert len(lines) == 2 + len(SCHEDULES) * len(DECAYS)
    assert "7/20 | 30 %, 40 % | 4.00 | 0.5000, 0.6000 |" in lines[2]


@pytest.mark.whole
def test_decays_share_a_training_and_its_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_DEMONSTRATIONS": 6, "NUM_HELD_OUT": 3, "HELD_OUT_WINDOWS": 8}.items():
        monkeypatch.setattr(bench_averages, name, value)
    found = list(train_and_judge(0, num_steps=3, num_episodes=2))
    assert [(judged.schedule, judged.decay) for judged in found] == list(itertools.product(SCHEDULES, DECAYS))
    assert {tuple(outcome.seed for outcome in judged.outcomes) for judged in found} == {(200_000, 200_001)}
    last, *averages = [judged.held_out_loss for judged in found if judged.schedule == "stays"]
    assert averages[0] == averages[1], "in three steps both decays are bounded alike"
    assert averages[0] != last
