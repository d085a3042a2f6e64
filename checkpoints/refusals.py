"""Why a channel may not be moved, as data: a console shows every reason before somebody presses a button."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from checkpoints.gate_record import GateError
from checkpoints.policy import GateKind


class NotEvaluatedError(GateError):
    """Gates that a channel asks for were not passed; each with its reason."""

    def __init__(self, message: str, missing: Sequence[tuple[GateKind, str]]) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class RefusalKind(enum.StrEnum):
    """Why a channel may not be moved."""

    PIN = "pin"
    SAME = "same"
    """The channel points there already."""
    DAMAGE = "damage"
    """The checkpoint is not in the store, or cannot be read."""
    CONTRACT = "contract"
    """It does not fit the robot, or nobody knows the robot."""
    GATE = "gate"
    NOTHING_BEFORE = "nothing_before"
    STALE = "stale"
    """Somebody moved the channel since it was looked at."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One reason against a promotion or a rollback."""

    kind: RefusalKind
    text: str
    """For people."""
    gate: str = ""
    """Which kind of gate, where that is the reason."""
