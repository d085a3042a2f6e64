"""Maps actions and states to about [-1, 1] and back; the statistics travel in the checkpoint.

Hops 2 and 8 of the tour: inside every model, on its way in and out. Actions use the 1 % and 99 % quantiles, commands such
as the gripper's the action space's limits (CogACT and OpenVLA's rule, VideoVLA's own is not published), states minimum and
maximum (ViVa). Nothing is clipped
here, so that :meth:`RangeNormalizer.unnormalize` is the inverse everywhere; a policy that clips says so in its config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from core.errors import CheckpointError, NonFiniteError, SpecError
from core.specs import ActionSpec, EnvSpec

SMALLEST_RANGE = 1e-4
"""Entries that vary less (0.1 mm, 0.006 degrees) carry noise only: they are shifted but not stretched."""


@dataclass(frozen=True, kw_only=True)
class RangeNormalizer:
    """Maps each entry's [low, high] to [-1, 1], linearly.

    Example:
        >>> normalizer = RangeNormalizer(low=(0.0, 5.0), high=(2.0, 5.0))
        >>> normalizer.normalize(np.float32([[2.0, 5.5]])).tolist()
        [[1.0, 0.5]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise SpecError(f"normalizer has {len(self.low)} low and {len(self.high)} high bounds; expected the same number, > 0")
        bounds = np.array([self.low, self.high])
        if not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
            raise SpecError(f"normalizer bounds {self.low}..{self.high} must be finite and low <= high; fit them again")

    @property
    def dim(self) -> int:
        """Number of entries."""
        return len(self.low)

    def normalize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map [..., D] in physical units to [..., D] in about [-1, 1], float32.

        Raises:
            SpecError: if the last axis is not D long.
        """
        centre, half = self._centre_and_half()
        return ((self._checked(values) - centre) / half).astype(np.float32)

    def unnormalize(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inverse of :meth:`normalize`, exact up to the rounding of float32."""
        centre, half = self._centre_and_half()
        return (self._checked(values) * half + centre).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {"low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_json`.

        Raises:
            CheckpointError: if the record is not one.
        """
        try:
            return cls(low=tuple(map(float, record["low"])), high=tuple(map(float, record["high"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"damaged normalisation record {record!r} ({error}); expected low and high, D numbers each"
            ) from None

    def _centre_and_half(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low, high = np.array(self.low), np.array(self.high)
        is_constant = high - low < SMALLEST_RANGE
        return (low + high) / 2, np.where(is_constant, 1.0, (high - low) / 2)

    def _checked(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        if values.shape[-1:] != (self.dim,):
            raise SpecError(
                f"array of shape {values.shape} given to a normalizer of {self.dim} entries; expected [..., {self.dim}]"
            )
        return np.asarray(values, np.float64)


@dataclass(frozen=True, kw_only=True)
class ActionNormalizer(RangeNormalizer):
    """Actions by their 1 % and 99 % quantiles, so that a few wild steps do not squeeze the rest; commands by their limits."""

    @classmethod
    def fit(cls, actions: NDArray[np.float32], spec: ActionSpec | None = None) -> ActionNormalizer:
        """Take the quantiles of ``actions`` [N, A]; where ``spec`` is given, its limits for entries of unit "1".

        Those are commands, not distances: demonstrations that never open the gripper must not make a policy that cannot
        learn it from a correction.

        Where both quantiles coincide though the entry does vary (a gripper command that is sent in fewer than one step
        in a hundred), minimum and maximum stand in: a rare command must not become a huge number.

        Raises:
            SpecError, NonFiniteError: if there is nothing finite to fit.
        """
        _require_fittable(actions, "actions")
        low, high = np.quantile(actions.astype(np.float64), [0.01, 0.99], axis=0)
        is_rare = high - low < SMALLEST_RANGE
        low, high = np.where(is_rare, actions.min(axis=0), low), np.where(is_rare, actions.max(axis=0), high)
        if spec is not None:
            is_command = (np.array(spec.units) == "1") & np.isfinite(spec.low) & np.isfinite(spec.high)
            low, high = np.where(is_command, spec.low, low), np.where(is_command, spec.high, high)
        return cls(low=tuple(low.tolist()), high=tuple(high.tolist()))


@dataclass(frozen=True, kw_only=True)
class StateNormalizer(RangeNormalizer):
    """States by minimum and maximum, as ViVa does."""

    @classmethod
    def fit(cls, states: NDArray[np.float32]) -> StateNormalizer:
        """Take minimum and maximum of ``states`` [N, S].

        Raises:
            SpecError, NonFiniteError: if there is nothing finite to fit.
        """
        _require_fittable(states, "states")
        return cls(low=tuple(map(float, states.min(axis=0))), high=tuple(map(float, states.max(axis=0))))


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Both normalisers of one model."""

    action: ActionNormalizer
    state: StateNormalizer

    @classmethod
    def fit(
        cls, actions: NDArray[np.float32], states: NDArray[np.float32], action_spec: ActionSpec | None = None
    ) -> Normalization:
        """Fit on actions [N, A] and states [M, S]; see the two classes."""
        return cls(action=ActionNormalizer.fit(actions, action_spec), state=StateNormalizer.fit(states))

    def require_spec(self, env_spec: EnvSpec) -> None:
        """Refuse statistics of another robot.

        Raises:
            SpecError: if the number of entries differs.
        """
        found, expected = (self.action.dim, self.state.dim), (env_spec.action.dim, env_spec.state.dim)
        if found != expected:
            raise SpecError(
                f"normalisation has (action, state) entries {found}; the environment has {expected}. Fit it on this environment"
            )

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {"action": self.action.to_json(), "state": self.state.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Normalization:
        """Rebuild from :meth:`to_json`.

        Raises:
            CheckpointError: if the record is not one.
        """
        missing = {"action", "state"} - set(record)
        if missing:
            raise CheckpointError(f"normalisation record lacks {sorted(missing)}; it has {sorted(record)}")
        return cls(action=ActionNormalizer.from_json(record["action"]), state=StateNormalizer.from_json(record["state"]))


def _require_fittable(values: NDArray[np.float32], what: str) -> None:
    if values.ndim != 2 or len(values) == 0:
        raise SpecError(f"cannot fit normalisation on {what} of shape {values.shape}; expected [N, D] with N > 0")
    bad = np.argwhere(~np.isfinite(values))
    if bad.size:
        raise NonFiniteError(f"cannot fit normalisation: {what}{bad[0].tolist()} is {values[tuple(bad[0])]}")
