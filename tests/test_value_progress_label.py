"""The label curves of the Suboptimal-Value-Bench."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import SpecError
from value_service.progress_label import Interval, progress_label


def test_without_flaws_it_is_a_line() -> None:
    np.testing.assert_allclose(progress_label(5), [0, 0.25, 0.5, 0.75, 1.0])


def test_a_hesitation_is_the_published_one() -> None:
    total, m, n = 21, 6, 10
    label = progress_label(total, hesitations=[Interval(m, n)])
    assert label[0] == 0
    assert label[-1] == 1
    assert label[m : n + 1] == pytest.approx(m / (total - 1 - (n - m)))
    pace = np.delete(np.diff(label), slice(m, n))
    assert pace == pytest.approx(np.full(len(pace), pace[0]))  # a pause does not change the pace around it


@pytest.mark.parametrize(("total", "m", "n"), [(30, 10, 14), (21, 8, 11)])
def test_a_retry_is_the_published_one(total: int, m: int, n: int) -> None:
    label, x = progress_label(total, retries=[Interval(m, n)]), n - m
    assert label[m] == pytest.approx(m / (total - 2 * x))
    assert label[n] == pytest.approx((m - x) / (total - 2 * x))
    assert np.all(np.diff(label[m : n + 1]) < 0)
    assert label[-1] == 1


def test_more_steps_back_than_were_gained_leave_nothing_not_less() -> None:
    assert progress_label(40, retries=[Interval(2, 8)])[8] == 0


def test_several_intervals_share_the_scale() -> None:
    label = progress_label(31, hesitations=[Interval(4, 8)], retries=[Interval(12, 15)])
    remaining = 31 - 1 - 4 - 6 + 1
    assert label[4] == label[8] == pytest.approx(4 / remaining)
    assert label[12] == pytest.approx(8 / remaining)
    assert label[15] == pytest.approx(5 / remaining)


@pytest.mark.parametrize(
    ("total", "hesitations", "retries", "message"),
    [
        (10, [], [(2, 7)], r"T - 2x <= 0"),
        (20, [], [(10, 18)], r"leave a peak above 1"),
        (10, [(0, 3)], [], r"expected 0 < start < stop < 9"),
        (10, [(3, 3)], [], r"expected 0 < start < stop < 9"),
        (10, [(3, 9)], [], r"expected 0 < start < stop < 9"),
        (20, [(5, 9)], [(7, 10)], r"start=7, stop=10\) begins before the one until 9 has ended"),
    ],
)
def test_intervals_without_a_label_are_refused(
    total: int, hesitations: list[tuple[int, int]], retries: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        progress_label(total, hesitations=[Interval(*one) for one in hesitations], retries=[Interval(*one) for one in retries])
