"""What must hold whatever happens, checked on what the arms themselves logged: pure functions that return violations in words."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from robot_drivers.emulators.simulated import Received
from robot_drivers.emulators.simulated_arm import MotionSample
from robot_drivers.limits import ArmLimits, Box
from robot_drivers.states import TRANSITIONS, State

_STANDING_M_S = 1e-3
_ROUNDING = 1e-6
"""Relative, of a limit."""
_MOVES = frozenset((before, after) for (before, _), after in TRANSITIONS.items())


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """As the supervisor published it."""

    time_s: float
    """On this host's monotonic clock."""
    before: State
    after: State


def outside_box(samples: Sequence[MotionSample], box: Box, *, margin_m: float) -> list[str]:
    """The tool is never outside its box.

    Args:
        samples: of the arm.
        box: of its limits.
        margin_m: that the arm itself may overshoot a target by.
    """
    if not samples:
        return []
    positions = np.array([sample.position_m for sample in samples])
    is_out = ((positions < np.array(box.low_m) - margin_m) | (positions > np.array(box.high_m) + margin_m)).any(axis=1)
    return [
        f"at {samples[i].time_s:.3f} s the tool was at {samples[i].position_m}, outside its box"
        for i in np.flatnonzero(is_out).tolist()
    ]


def over_limits(received: Sequence[Received], limits: ArmLimits, *, tick_s: float, sequences_per_tick: int) -> list[str]:
    """No two targets of one motion ask for more speed, no three for more acceleration, than is allowed.

    Args:
        received: as it reached the arm; targets that were replaced on the way are missing, which their sequences show.
        limits: of the arm.
        tick_s: between two targets.
        sequences_per_tick: how many arms count together.
    """
    found = []
    for motion in _motions(received):
        ticks = np.array([target.sequence for target in motion]) / sequences_per_tick
        positions = np.array([target.position_m for target in motion])
        steps = np.diff(ticks) * tick_s
        velocities = np.diff(positions, axis=0) / steps[:, None]
        speeds = np.linalg.norm(velocities, axis=1)
        is_fast = speeds > limits.max_linear_speed_m_s * (1 + _ROUNDING)
        found += [f"target {motion[i + 1].sequence} asks for {speeds[i]:.4f} m/s" for i in np.flatnonzero(is_fast)]
        is_even = np.isclose(steps[1:], tick_s) & np.isclose(steps[:-1], tick_s)
        accelerations = np.linalg.norm(np.diff(velocities, axis=0), axis=1) / tick_s
        is_hard = is_even & (accelerations > limits.max_linear_acceleration_m_s2 * (1 + _ROUNDING) + _ROUNDING)
        found += [f"target {motion[i + 2].sequence} asks for {accelerations[i]:.3f} m/s^2" for i in np.flatnonzero(is_hard)]
    return found


def _motions(received: Sequence[Received]) -> Iterator[list[Received]]:
    """Targets of one generation, in order, with no stop between them."""
    motion: list[Received] = []
    for command in received:
        if motion and (command.command == "stop" or command.generation != motion[-1].generation):
            if len(motion) > 2:
                yield motion
            motion = []
        if command.command == "move":
            motion.append(command)
    if len(motion) > 2:
        yield motion


def reused_generations(received: Sequence[Received]) -> list[str]:
    """Generations and sequences only grow, and none that was stopped comes back."""
    found, newest, ended, last_sequence = [], -1, -1, -1
    for command in received:
        if command.command == "stop":
            ended = newest
            continue
        if command.generation <= ended:
            found.append(f"at {command.time_s:.3f} s generation {command.generation} moved again; {ended} was stopped")
        elif command.generation < newest:
            found.append(f"at {command.time_s:.3f} s generation {command.generation} came after {newest}")
        if command.sequence <= last_sequence:
            found.append(f"at {command.time_s:.3f} s target {command.sequence} came after {last_sequence}")
        newest, last_sequence = max(newest, command.generation), max(last_sequence, command.sequence)
    return found


def unlisted_changes(changes: Sequence[StateChange]) -> list[str]:
    """Every change of state is one of the table, and begins where the last one ended."""
    found = [
        f"{change.before.value} -> {change.after.value}" for change in changes if (change.before, change.after) not in _MOVES
    ]
    for last, change in itertools.pairwise(changes):
        if change.before is not last.after:
            found.append(f"a change from {change.before.value} after one to {last.after.value}")
    return found


def standing_times_s(changes: Sequence[StateChange], samples: Sequence[MotionSample]) -> list[tuple[StateChange, float]]:
    """How long after each end of motion the arm's last movement was, until motion began again.

    Returns:
        The change, and seconds from it; what moved later than it should have shows as a long time.
    """
    times = [sample.time_s for sample in samples]
    found = []
    for index, change in enumerate(changes):
        if change.after.moves or not change.before.moves:
            continue
        begins = [later.time_s for later in changes[index + 1 :] if later.after.moves]
        start, end = bisect.bisect(times, change.time_s), bisect.bisect(times, begins[0] if begins else float("inf"))
        moved = [sample.time_s for sample in samples[start:end] if sample.speed_m_s > _STANDING_M_S]
        found.append((change, (moved[-1] if moved else change.time_s) - change.time_s))
    return found
