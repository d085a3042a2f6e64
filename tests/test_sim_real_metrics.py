"""SIMPLER's metrics against the numbers of its own tables; the tests between two evaluations against hand calculations."""

from __future__ import annotations

import math

import pytest

from actors.comparisons import (
    compare_paired,
    compare_unpaired,
    holm_adjusted,
    mean_maximum_rank_violation,
    pearson_correlation,
)
from envs.simpler.published import REAL, SIMULATED
from envs.simpler.tasks import TASKS

EXPECTED = {  # MMRV, Pearson
    "google_robot_pick_coke_can": (0.031333, 0.975434),
    "google_robot_move_near": (0.111000, 0.856097),
    "google_robot_open_drawer": (0.0, 0.983166),
    "google_robot_close_drawer": (0.123333, 0.771233),
    "google_robot_place_apple_in_closed_top_drawer": (0.0, 0.969172),
    "widowx_spoon_on_towel": (0.0, 0.826944),
    "widowx_carrot_on_plate": (0.111333, 0.571368),
    "widowx_stack_cube": (0.0, 0.999997),
    "widowx_put_eggplant_in_basket": (0.0, 0.989415),
}


@pytest.mark.parametrize("task", SIMULATED)
def test_the_published_tables_give_the_published_metrics(task: str) -> None:
    simulated, real = list(SIMULATED[task].values()), list(REAL[task].values())
    assert list(SIMULATED[task]) == list(REAL[task])
    assert mean_maximum_rank_violation(simulated, real) == pytest.approx(EXPECTED[task][0], abs=1e-6)
    assert pearson_correlation(simulated, real) == pytest.approx(EXPECTED[task][1], abs=1e-6)


def test_the_tables_name_tasks_and_hang_together() -> None:
    assert set(EXPECTED) == set(SIMULATED) <= set(REAL) <= set(TASKS)
    poses = [f"google_robot_pick_{pose}_coke_can" for pose in ("horizontal", "vertical", "standing")]
    for policy, score in REAL["google_robot_pick_coke_can"].items():
        assert score == pytest.approx(sum(REAL[pose][policy] for pose in poses) / 3, abs=1e-3)


def test_rank_violations_are_measured_in_reality_and_ties_count() -> None:
    # The simulator swaps the first two, which reality has 0.5 apart; the third is right.
    assert mean_maximum_rank_violation([0.2, 0.1, 0.9], [0.0, 0.5, 1.0]) == pytest.approx((0.5 + 0.5 + 0) / 3)
    # Told apart in reality only: wrong for the better one, which is not above the other in the simulator.
    assert mean_maximum_rank_violation([0.3, 0.3], [0.1, 0.4]) == pytest.approx((0.0 + 0.3) / 2)
    assert mean_maximum_rank_violation([0.1, 0.9], [0.1, 0.2]) == 0.0
    assert mean_maximum_rank_violation([0.9, 0.1], [0.1, 0.2]) != mean_maximum_rank_violation([0.1, 0.2], [0.9, 0.1])


def test_correlation_of_what_does_not_vary_and_of_what_is_the_same() -> None:
    assert pearson_correlation([0.2, 0.2, 0.2], [0.1, 0.5, 0.9]) == pytest.approx(0.0, abs=1e-6)
    assert pearson_correlation([0.2, 0.3], [0.5, 0.6]) == 1.0
    assert pearson_correlation([0.0, 1.0], [1.0, 0.0]) == pytest.approx(-1.0, abs=1e-6)
    for metric in (pearson_correlation, mean_maximum_rank_violation):
        with pytest.raises(ValueError, match="same two policies"):
            metric([0.1, 0.2], [0.1, 0.2, 0.3])


def test_mcnemar_by_hand() -> None:
    pairs = [(True, False)] * 9 + [(False, True)] * 2 + [(True, True)] * 20 + [(False, False)] * 19
    found = compare_paired(pairs)
    by_hand = 2 * sum(math.comb(11, k) for k in range(3)) / 2**11
    assert found.p_value == pytest.approx(by_hand)
    assert (found.only_a, found.only_b, found.num_a, found.num_b) == (9, 2, 50, 50)
    assert (found.success_a, found.success_b) == (0.58, 0.44)
    assert found.difference == pytest.approx(0.14)
    assert compare_paired([(True, True)] * 5).p_value == 1.0
    with pytest.raises(ValueError, match="no common start"):
        compare_paired([])


def test_barnard_against_a_published_example() -> None:
    # A vaccine trial that scipy's documentation works through: 7 of 15 against 12 of 15, one-sided p 0.0341.
    found = compare_unpaired([True] * 7 + [False] * 8, [True] * 12 + [False] * 3)
    assert found.p_value == pytest.approx(0.0682, abs=2e-3)
    assert found.only_a is None
    assert compare_unpaired([True] * 4, [True] * 6).p_value == 1.0
    assert compare_unpaired([False] * 4, [False] * 6).p_value == 1.0
    with pytest.raises(ValueError, match="B 0"):
        compare_unpaired([True], [])


def test_barnard_sees_more_than_chance_only_where_there_is_more() -> None:
    assert compare_unpaired([True] * 45 + [False] * 5, [True] * 20 + [False] * 30).p_value < 1e-5
    assert compare_unpaired([True] * 26 + [False] * 24, [True] * 25 + [False] * 25).p_value > 0.5


def test_holm() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([]) == []
