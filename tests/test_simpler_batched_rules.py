"""Success rules as functions of tensors: each environment by itself, and each condition by itself."""

from __future__ import annotations

import pytest
import torch

from envs.simpler.rules import PickProgress, judge_drawer, judge_move_near, judge_pick, judge_put_on


def test_each_environment_is_judged_by_itself():
    """Four episodes: lifted in the grasp, grasped only, held up against the table, thrown up after a grasp."""
    progress, last = PickProgress.start(4), None
    for step in range(7):
        progress, last = judge_pick(
            progress,
            is_grasped=torch.tensor([True, True, True, step < 3]),
            is_free=torch.tensor([step > 0, False, False, step == 2]),
            rise_m=torch.tensor([0.05, 0.0, 0.05, 0.05]),
            require_lifting=True,
            success_from_stats=True,
        )
    assert last.is_grasped_long.tolist() == [True, True, True, False]
    assert last.is_lifted.tolist() == [True, False, False, False]
    assert progress.significant_lifts.tolist() == [6, 0, 0, 1]
    assert last.success.tolist() == [True, False, False, False]


def test_a_lift_of_five_steps_counts_afterwards_only_if_statistics_do():
    for from_stats in (True, False):
        progress = PickProgress.start(1)
        for step in range(8):
            is_up = torch.tensor([step < 5])
            progress, verdict = judge_pick(
                progress,
                is_grasped=is_up,
                is_free=is_up,
                rise_m=0.03 * is_up,
                require_lifting=True,
                success_from_stats=from_stats,
            )
        assert bool(verdict.success) is from_stats


SETTLED_M = torch.tensor([[0.0, 0.0, 0.9], [0.5, 0.0, 0.9], [0.0, 0.5, 0.9], [1.6, 0.0, -1.0]])
"""Source, target, bystander, and a model that takes no part."""


def near(places):
    """The verdict on source, target, bystander and absent model; each place replaces the settled one where given."""
    positions = SETTLED_M.expand(len(places), -1, -1).clone()
    for env, moved in enumerate(places):
        for index, place in moved.items():
            positions[env, index] = torch.tensor(place)
    count = len(places)
    return judge_move_near(
        positions_m=positions,
        centers_m=positions,
        settled_m=SETTLED_M.expand(count, -1, -1),
        is_present=torch.tensor([True, True, True, False]).expand(count, -1),
        source=torch.zeros(count, dtype=torch.int64),
        target=torch.ones(count, dtype=torch.int64),
        reach_m=torch.full((count,), 0.06),
    )


def test_near_needs_all_of_its_conditions():
    beside = (0.35, 0.0, 0.9)
    verdict = near(
        [
            {0: beside},
            {},
            {0: beside, 2: (0.0, 0.5, 0.87)},  # the bystander fell over
            {0: beside, 1: (0.5, 0.0, 0.7)},  # the target fell off the table
            {1: (0.1, 0.0, 0.9)},  # the target came to the source
            {0: beside, 2: (0.3, 0.0, 0.9)},  # the bystander is nearer, and moved more
            {0: (0.3, 0.0, 0.9)},  # 0.2 m away, of 0.16 allowed
            {0: beside, 3: (1.6, 0.0, -90.0)},  # what takes no part falls
        ]
    )
    assert verdict.success.tolist() == [True, False, False, False, False, False, False, True]
    assert verdict.is_all_standing.tolist() == [True, True, False, False, True, True, True, True]
    assert verdict.is_source_moved.tolist() == [True, False, True, True, False, False, True, True]
    assert verdict.is_other_moved.tolist() == [False, False, False, False, True, True, False, False]
    assert verdict.is_near.tolist() == [True, False, True, True, True, True, False, True]
    assert verdict.is_closest.tolist() == [True, True, True, True, True, False, True, True]


def test_roles_differ_between_environments():
    positions = SETTLED_M[:3].expand(2, -1, -1).clone()
    positions[:, 2] = torch.tensor([0.0, 0.15, 0.9])
    verdict = judge_move_near(
        positions_m=positions,
        centers_m=positions,
        settled_m=SETTLED_M[:3].expand(2, -1, -1),
        is_present=torch.ones(2, 3, dtype=torch.bool),
        source=torch.tensor([2, 0]),
        target=torch.tensor([0, 2]),
        reach_m=torch.full((2,), 0.06),
    )
    assert verdict.is_near.tolist() == [True, True]
    assert verdict.success.tolist() == [True, False]  # only the first one's source has been moved


def put(offset_m, *, is_free=(True,), grasped_steps=(0,), is_grasped=(False,)):
    """The verdict on a 3 cm cube whose centre is this far from the target's."""
    offsets = torch.tensor(offset_m)
    count = len(offsets)
    target = torch.tensor([0.1, 0.2, 0.9]).expand(count, -1)
    return judge_put_on(
        torch.tensor(grasped_steps).expand(count),
        is_grasped=torch.tensor(is_grasped).expand(count),
        source_center_m=target + offsets,
        target_center_m=target,
        target_m=target,
        settled_m=torch.tensor([[0.3, 0.2, 0.9], [0.1, 0.2, 0.9]]).expand(count, -1, -1),
        half_m=torch.full((count, 2, 3), 0.015),
        gap_m=0.02,
        is_free=torch.tensor(is_free).expand(count),
    )


def test_on_means_above_close_and_free():
    offsets = [[0.0, 0.0, 0.03], [0.024, 0.0, 0.03], [0.025, 0.0, 0.03], [0.0, 0.0, 0.049], [0.0, 0.0, 0.051], [0.0, 0.0, -0.01]]
    _, verdict = put(offsets)
    assert verdict.success.tolist() == [True, True, False, True, False, False]
    assert verdict.is_source_moved.all()
    assert not verdict.is_target_moved.any()
    _, verdict = put(offsets[:2], is_free=(False, True))
    assert verdict.success.tolist() == [False, True]


def test_a_long_grasp_is_five_steps_in_a_row():
    steps, verdict = put([[0.0, 0.0, 0.1]] * 3, grasped_steps=(4, 3, 9), is_grasped=(True, True, False))
    assert steps.tolist() == [5, 4, 0]
    assert verdict.is_grasped_long.tolist() == [True, False, False]


@pytest.mark.parametrize(("verb", "expected"), [("open", [False, False, False, True]), ("close", [True, True, False, False])])
def test_limits_of_a_drawer_are_inclusive(verb, expected):
    assert judge_drawer(torch.tensor([0.0, 0.05, 0.1, 0.15]), verb=verb).tolist() == expected
