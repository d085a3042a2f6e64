"""What a value model makes of the present, for the console: V now, and how the last seconds went against what they promised.

Hop 5 of the tour, live. Differs from the labels' advantage (``value_service.advantages``) in its date: A_t needs V at t + N, so
that what is shown now is the advantage of what was done N steps ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from core.errors import ConfigError
from core.experience import Observation
from core.windows import observation_windows
from models.value import ValueModel


@dataclass(frozen=True, kw_only=True)
class LiveValue:
    """One point of the console's curve."""

    value: float
    """V, in [-1, 0]."""
    advantage: float | None
    """Of what was done one look-ahead ago; None before that."""
    threshold: float | None
    """What counts as a positive advantage; None where none was chosen."""


ValueOf = Callable[[Observation, str], LiveValue]
"""(observation, instruction) -> value; called in a thread of its own, after the policy."""


class LiveAdvantage:
    """A :data:`ValueOf`: asks a value model about one observation after the other.

    Consumes: Observations. Produces: LiveValues. Waits for: the model. N-step, pi*0.6 (arXiv:2511.14759), App. F:
    A_t = r_t + ... + r_{t+N-1} + V(o_{t+N}) - V(o_t), with r = -``step_cost``.
    """

    def __init__(
        self, model: ValueModel, *, lookahead_s: float, control_hz: float, step_cost: float, threshold: float | None
    ) -> None:
        """Observations that come more than ``lookahead_s`` after each other begin anew: another episode.

        Args:
            model: of this robot.
            lookahead_s: N of the labels, in seconds.
            control_hz: environment steps a second.
            step_cost: of a step that does not end an episode, in the unit of V (``value_service.returns.step_rewards``).
            threshold: epsilon of the task, as the run chose it.

        Raises:
            ConfigError: if the model looks at more than the present.
        """
        if model.window_spec.image_offsets != (0,):
            raise ConfigError(
                f"{type(model).__name__} looks at frames {model.window_spec.image_offsets}; live values need a model that sees "
                "the present alone (viva, vlm)"
            )
        self._model = model
        self._lookahead_s = lookahead_s
        self._old_s = lookahead_s - 0.5 / control_hz  # to the nearest step
        self._cost_per_s = step_cost * control_hz
        self._threshold = threshold
        self._past: deque[tuple[float, float]] = deque()
        """(time_s, V), oldest first; the oldest is the newest that is at least one look-ahead old."""

    def __call__(self, observation: Observation, instruction: str) -> LiveValue:
        """The value of an observation, and the advantage of what was done before it."""
        value = float(self._model.predict(observation_windows((observation,), (instruction,))).value[0])
        now_s, past = observation.time_s, self._past
        if past and not 0 <= now_s - past[-1][0] <= self._lookahead_s:
            past.clear()
        past.append((now_s, value))
        while len(past) > 1 and now_s - past[1][0] >= self._old_s:
            past.popleft()
        advantage = None
        began_s, before = past[0]
        if now_s - began_s >= self._old_s:
            advantage = value - before - self._cost_per_s * (now_s - began_s)
        return LiveValue(value=value, advantage=advantage, threshold=self._threshold)
