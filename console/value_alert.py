"""When a robot asks for help: the policy acts, and the value model has come to expect less."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from core.errors import ConfigError
from robot_drivers.messages import Status
from robot_drivers.states import State


@dataclass(frozen=True, kw_only=True)
class ValueAlertConfig:
    """How much worse, and for how long."""

    drop: float = 0.15
    """Fall of the value below its highest of the last ``window_s``; values are in [-1, 0]."""
    window_s: float = 10.0
    below_threshold_s: float = 2.0
    """Advantage below the threshold for so long."""

    def __post_init__(self) -> None:
        for name in ("drop", "window_s", "below_threshold_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ValueAlertConfig.{name} is {getattr(self, name)}; expected more than 0")


class ValueAlert:
    """Watches one robot's statuses.

    Consumes: Statuses, in order. Produces: a reason to call a person, or none. It moves and stops nothing.
    """

    def __init__(self, config: ValueAlertConfig) -> None:
        self._config = config
        self._values: deque[tuple[float, float]] = deque()
        self._episode_id: str | None = None
        self._below_since_s: float | None = None

    def add(self, status: Status) -> str | None:
        """Take the newest status.

        Returns:
            Why help is needed, in words; None if it is not.
        """
        now_s = status.time_monotonic_s
        if status.state is State.FAULT:
            return "fault: a person has to look"
        if status.state is State.HOLD:
            return "holding: waits for a person"
        if status.state is not State.POLICY or status.value is None or status.episode_id != self._episode_id:
            self._episode_id = status.episode_id
            self._values.clear()
            self._below_since_s = None
        if status.state is not State.POLICY or status.value is None:
            return None
        self._values.append((now_s, status.value))
        while self._values[0][0] < now_s - self._config.window_s:
            self._values.popleft()
        fall = max(value for _, value in self._values) - status.value
        if fall >= self._config.drop:
            return f"value fell by {fall:.2f} within {self._config.window_s:.0f} s"
        is_below = status.advantage is not None and status.threshold is not None and status.advantage < status.threshold
        if not is_below:
            self._below_since_s = None
        elif self._below_since_s is None:
            self._below_since_s = now_s
        elif now_s - self._below_since_s >= self._config.below_threshold_s:
            return f"advantage below the threshold for {now_s - self._below_since_s:.0f} s"
        return None
