"""Where the robot stood when the real cabinet was photographed: the drawer tasks' starts under visual matching."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Standpoint:
    """Where the robot stands in front of the cabinet: m, m, and rad beside facing -x."""

    x: float
    y: float
    yaw: float


STANDPOINTS: Mapping[str, Standpoint] = MappingProxyType(
    {
        "a0": Standpoint(0.644, -0.179, -0.03),
        "a1": Standpoint(0.765, -0.182, -0.02),
        "a2": Standpoint(0.889, -0.203, -0.06),
        "b0": Standpoint(0.652, 0.009, 0.0),
        "b1": Standpoint(0.752, 0.009, 0.0),
        "b2": Standpoint(0.851, 0.035, 0.0),
        "c0": Standpoint(0.665, 0.224, 0.0),
        "c1": Standpoint(0.765, 0.222, -0.025),
        "c2": Standpoint(0.865, 0.222, -0.025),
    }
)
"""By the name of the photograph taken there (``open_drawer_{name}``)."""
