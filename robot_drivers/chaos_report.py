"""What a chaos run found, and how it is published."""

from __future__ import annotations

import collections
import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from robot_drivers.chaos_checks import StateChange

_MAX_LISTED = 50


@dataclass(kw_only=True)
class Findings:
    """Of one run."""

    seconds: float
    """It lasted."""
    happened: collections.Counter[str]
    """What was drawn and carried out."""
    changes: list[StateChange]
    num_samples: int = 0
    """Of motion, of all arms."""
    num_targets: int = 0
    """That reached the arm which logs them."""
    path_m: dict[str, float] = field(default_factory=dict)
    """By arm."""
    standing_s: list[float] = field(default_factory=list)
    """From each end of motion to each arm's last movement."""
    violations: list[str] = field(default_factory=list)

    @property
    def moving_s(self) -> float:
        """How long the supervisor was in a state in which arms may move."""
        spans = itertools.pairwise(self.changes)
        return sum(following.time_s - change.time_s for change, following in spans if change.after.moves)


def report(found: Findings, command: str) -> str:
    """As Markdown."""
    standing_ms = 1000 * np.array(found.standing_s or [math.nan])
    low, middle, high, most = np.percentile(standing_ms, [0, 50, 95, 100])
    times = collections.Counter(f"{change.before.value} -> {change.after.value}" for change in found.changes)
    lines = [
        f"`{command}`: {found.seconds:.0f} s, two arms, {found.moving_s:.0f} s of them in motion, "
        f"{len(found.changes)} changes of state, {found.num_targets} targets and "
        f"{found.num_samples} samples of motion checked; the tools went "
        + " and ".join(f"{path_m:.1f} m ({name})" for name, path_m in found.path_m.items())
        + ".",
        "",
        f"Each arm stood after an end of motion ({len(found.standing_s)} times): least {low:.0f} ms, median {middle:.0f} ms, "
        f"95 % {high:.0f} ms, most {most:.0f} ms.",
        "",
        f"**Violations: {len(found.violations)}.**" + "".join(f"\n- {text}" for text in found.violations[:_MAX_LISTED]),
        "",
        "| what happened | times | | change of state | times |",
        "|---|---|---|---|---|",
    ]
    columns = itertools.zip_longest(found.happened.most_common(), times.most_common(), fillvalue=("", ""))
    lines += [f"| {what} | {count} | | {change} | {often} |" for (what, count), (change, often) in columns]
    return "\n".join(lines) + "\n"
