from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from robot_drivers.states import TRANSITIONS, RefusedError, State, Trigger, next_state

DELIBERATE = {Trigger.ARM, Trigger.HAND_BACK, Trigger.TAKE_OVER, Trigger.HOME, Trigger.ACKNOWLEDGE, Trigger.RESET}
"""A person's acts."""


def test_every_pair_leads_to_a_state_or_is_refused_with_what_would_do():
    for state, trigger in itertools.product(State, Trigger):
        if (state, trigger) in TRANSITIONS:
            assert next_state(state, trigger) in State
            continue
        with pytest.raises(RefusedError, match=f"{trigger.value} does nothing in state {state.value}; it is possible in [a-z]"):
            next_state(state, trigger)


@pytest.mark.parametrize("state", State)
def test_stop_works_everywhere_and_only_reset_leaves_it_for_disarmed(state):
    assert next_state(state, Trigger.STOP) is State.ESTOP
    left = {(trigger, end) for (start, trigger), end in TRANSITIONS.items() if start is State.ESTOP and end is not State.ESTOP}
    assert left == {(Trigger.RESET, State.DISARMED)}


def test_a_fault_is_left_by_acknowledgement_or_a_stop_alone():
    left = {(trigger, end) for (start, trigger), end in TRANSITIONS.items() if start is State.FAULT}
    assert left == {(Trigger.ACKNOWLEDGE, State.DISARMED), (Trigger.STOP, State.ESTOP)}


@pytest.mark.parametrize("state", State)
def test_motion_begins_by_a_persons_act_only(state):
    for (start, trigger), end in TRANSITIONS.items():
        if start is state and end.moves and end is not start:
            assert trigger in {Trigger.HAND_BACK, Trigger.TAKE_OVER, Trigger.HOME}


@pytest.mark.parametrize("state", [state for state in State if state.moves])
@pytest.mark.parametrize("trigger", [Trigger.MISSING, Trigger.WRONG, Trigger.LINK_DOWN, Trigger.STOP, Trigger.DISARM])
def test_whatever_goes_wrong_ends_motion(state, trigger):
    assert not next_state(state, trigger).moves


class Supervised(RuleBasedStateMachine):
    """Any order of triggers: what may move was armed since the last latch, and nothing resumes by itself."""

    def __init__(self):
        super().__init__()
        self.state = State.DISCONNECTED
        self.was_armed = False
        self.last = None

    @rule(trigger=st.sampled_from(Trigger))
    def happens(self, trigger):
        try:
            following = next_state(self.state, trigger)
        except RefusedError:
            return
        if following in (State.DISCONNECTED, State.DISARMED, State.FAULT, State.ESTOP):
            self.was_armed = False
        elif trigger is Trigger.ARM:
            self.was_armed = True
        self.last, self.state = (self.state, trigger), following

    @invariant()
    def moves_only_if_armed_since_the_last_latch(self):
        assert self.was_armed or not self.state.moves

    @invariant()
    def hold_and_latches_end_by_a_deliberate_act(self):
        if self.last and self.last[0] in (State.HOLD, State.FAULT, State.ESTOP) and self.state.moves:
            assert self.last[1] in DELIBERATE


Supervised.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSupervised = Supervised.TestCase
