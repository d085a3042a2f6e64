"""The supervisor's states, and the one table that says what leads where. Whatever the table does not list is refused."""

from __future__ import annotations

import enum

from core.errors import RecapError


class RefusedError(RecapError, PermissionError):
    """A request that the supervisor does not follow now; the message says why, and what would help."""


class Role(enum.StrEnum):
    """What a client or a person may do. Anyone may stop."""

    VIEW = "view"
    POLICY = "policy"
    """Propose actions, begin and end episodes; of the robot actor alone."""
    OPERATE = "operate"
    """Arm, take over, hand back, home, label, reset."""
    SUPERVISE = "supervise"
    """And take control from another operator."""


class State(enum.StrEnum):
    """What the robot is allowed to do."""

    DISCONNECTED = "disconnected"
    """No arm, or not all of them."""
    DISARMED = "disarmed"
    """Connected; nothing moves."""
    ARMED_IDLE = "armed_idle"
    """A person has let it move; nobody does."""
    POLICY = "policy"
    HUMAN = "human"
    HOMING = "homing"
    HOLD = "hold"
    """Standing because something was missing: an action, an observation, an operator's hand. Goes on by a deliberate act."""
    FAULT = "fault"
    """Latched: something is wrong with arm or policy, a person has to acknowledge it."""
    ESTOP = "estop"
    """Latched: somebody pressed stop."""

    @property
    def moves(self) -> bool:
        """Whether targets are sent to the arms."""
        return self in (State.POLICY, State.HUMAN, State.HOMING)

    @property
    def is_latched(self) -> bool:
        """Whether only a named person's word leaves it."""
        return self in (State.FAULT, State.ESTOP)


class Trigger(enum.StrEnum):
    """What can happen."""

    LINK_UP = "link_up"
    LINK_DOWN = "link_down"
    ARM = "arm"
    DISARM = "disarm"
    HAND_BACK = "hand_back"
    TAKE_OVER = "take_over"
    RELEASE = "release"
    HOME = "home"
    HOMED = "homed"
    EPISODE_OVER = "episode_over"
    MISSING = "missing"
    """A stale action or observation, an expired lease, late ticks."""
    WRONG = "wrong"
    """A controller's fault, a tracking error, a storm of clamps, a number that is not finite, a silent arm."""
    ACKNOWLEDGE = "acknowledge"
    STOP = "stop"
    RESET = "reset"


_MOVING = (State.POLICY, State.HUMAN, State.HOMING)
_ARMED = (State.ARMED_IDLE, *_MOVING, State.HOLD)

TRANSITIONS: dict[tuple[State, Trigger], State] = {
    (State.DISCONNECTED, Trigger.LINK_UP): State.DISARMED,
    (State.DISARMED, Trigger.LINK_DOWN): State.DISCONNECTED,
    **{(state, Trigger.LINK_DOWN): State.FAULT for state in _ARMED},
    (State.DISARMED, Trigger.ARM): State.ARMED_IDLE,
    **{(state, Trigger.DISARM): State.DISARMED for state in _ARMED},
    (State.ARMED_IDLE, Trigger.HAND_BACK): State.POLICY,
    (State.HOLD, Trigger.HAND_BACK): State.POLICY,
    **{(state, Trigger.TAKE_OVER): State.HUMAN for state in _ARMED},
    (State.HUMAN, Trigger.RELEASE): State.HOLD,
    (State.ARMED_IDLE, Trigger.HOME): State.HOMING,
    (State.HOLD, Trigger.HOME): State.HOMING,
    (State.HOMING, Trigger.HOMED): State.ARMED_IDLE,
    (State.POLICY, Trigger.EPISODE_OVER): State.ARMED_IDLE,
    **{(state, Trigger.MISSING): State.HOLD for state in _MOVING},
    **{(state, Trigger.WRONG): State.FAULT for state in (State.DISARMED, *_ARMED)},
    (State.FAULT, Trigger.ACKNOWLEDGE): State.DISARMED,
    **{(state, Trigger.STOP): State.ESTOP for state in State},
    (State.ESTOP, Trigger.RESET): State.DISARMED,
}
"""(state, trigger) -> state."""


def next_state(state: State, trigger: Trigger) -> State:
    """Look up the table.

    Raises:
        RefusedError: if nothing is listed; the message says in which states the trigger does something.
    """
    if (state, trigger) not in TRANSITIONS:
        possible = ", ".join(start.value for start, listed in TRANSITIONS if listed is trigger)
        raise RefusedError(f"{trigger.value} does nothing in state {state.value}; it is possible in {possible}")
    return TRANSITIONS[state, trigger]
