"""SIMPLER's published success rates, real and simulated: what MMRV and Pearson's r are computed from.

Beside the tour. From upstream's ``simpler_env/utils/metrics.py`` (``REAL_PERF``, ``SIMPLER_PERF``); visual matching. A number of
one's own goes in the place of ``SIMULATED`` to ask whether it ranks these policies as reality does
(:mod:`actors.comparisons`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Scores = Mapping[str, Mapping[str, float]]
_GOOGLE_POLICIES = ("rt-2-x", "rt-1-converged", "rt-1-15pct", "rt-1-x", "rt-1-begin", "octo-base")
_WIDOWX_POLICIES = ("rt-1-x", "octo-base", "octo-small")


def _table(**rows: tuple[float, ...]) -> Scores:
    """Task -> policy -> success rate; six numbers are the Google robot's policies, three the WidowX's."""
    named = {task: _GOOGLE_POLICIES if len(row) == len(_GOOGLE_POLICIES) else _WIDOWX_POLICIES for task, row in rows.items()}
    return MappingProxyType({task: MappingProxyType(dict(zip(named[task], row, strict=True))) for task, row in rows.items()})


REAL = _table(
    google_robot_pick_coke_can=(0.907, 0.853, 0.920, 0.760, 0.133, 0.293),
    google_robot_pick_horizontal_coke_can=(0.92, 0.96, 1.0, 0.88, 0.20, 0.44),
    google_robot_pick_vertical_coke_can=(0.80, 0.88, 0.96, 0.56, 0.00, 0.20),
    google_robot_pick_standing_coke_can=(1.00, 0.72, 0.80, 0.84, 0.20, 0.24),
    google_robot_move_near=(0.733, 0.633, 0.583, 0.450, 0.017, 0.350),
    google_robot_open_drawer=(0.333, 0.815, 0.704, 0.519, 0.000, 0.148),
    google_robot_close_drawer=(0.630, 0.926, 0.889, 0.741, 0.000, 0.519),
    google_robot_place_apple_in_closed_top_drawer=(0.074, 0.185, 0.185, 0.407, 0.000, 0.000),
    widowx_spoon_on_towel=(0.000, 0.333, 0.417),
    widowx_carrot_on_plate=(0.000, 0.250, 0.083),
    widowx_stack_cube=(0.000, 0.000, 0.125),
    widowx_put_eggplant_in_basket=(0.000, 0.250, 0.400),
)
"""Task -> policy -> success rate on the real robot."""
SIMULATED = _table(
    google_robot_pick_coke_can=(0.787, 0.857, 0.710, 0.567, 0.027, 0.170),
    google_robot_move_near=(0.779, 0.442, 0.354, 0.317, 0.050, 0.042),
    google_robot_open_drawer=(0.157, 0.601, 0.463, 0.296, 0.000, 0.009),
    google_robot_close_drawer=(0.343, 0.861, 0.667, 0.891, 0.278, 0.444),
    google_robot_place_apple_in_closed_top_drawer=(0.037, 0.065, 0.130, 0.213, 0.000, 0.000),
    widowx_spoon_on_towel=(0.000, 0.125, 0.472),
    widowx_carrot_on_plate=(0.042, 0.083, 0.097),
    widowx_stack_cube=(0.000, 0.000, 0.042),
    widowx_put_eggplant_in_basket=(0.000, 0.431, 0.569),
)
"""Task -> policy -> success rate in upstream's simulator, visual matching."""
