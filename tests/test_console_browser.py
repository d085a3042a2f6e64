"""The console in Chromium, a real supervisor and an emulated Realman behind it; what moved is read from the arm's own log."""

from __future__ import annotations

import time

import pytest
from console_rig import CHROMIUM, ConsoleRig
from playwright.sync_api import expect, sync_playwright

from robot_drivers.messages import Phase
from robot_drivers.states import Role, State

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; install it")]
SHOULD_BE_STILL_S = 0.7


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    rig = ConsoleRig(tmp_path_factory.mktemp("console"))
    yield rig
    rig.close()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser):
    context = browser.new_context()
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def held(rig, context):
    """A page whose Space and D are down, and whose arm moves."""
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    start_s = time.monotonic()
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("you have control")
    page.keyboard.down("KeyD")
    rig.wait_for_motion(start_s)
    page.started_s = start_s
    return page


def stays_still(rig):
    """The arm rests, and goes on resting though the key is still down."""
    last_s = rig.wait_for_rest()
    state = rig.status_where(lambda status: not status.state.moves).state
    time.sleep(SHOULD_BE_STILL_S)
    assert not rig.moves_after(last_s + 1e-6)
    return state


def test_held_space_moves_the_arm_as_a_person_and_letting_go_holds(rig, held):
    rig.status_where(lambda status: status.holder == "ada")
    held.keyboard.up("Space")
    hold = rig.status_where(lambda status: status.state is State.HOLD)
    assert "ada let go" in hold.reason
    assert stays_still(rig) is State.HOLD
    steps = rig.steps(held.started_s, "human")
    assert {(step.operator, step.phase) for step in steps} == {("ada", Phase.CORRECTION)}
    assert min(step.executed_action[1] for step in steps) < 0 == max(abs(step.executed_action[0]) for step in steps)
    expect(held.locator("#state-word")).to_have_text("Hold: waits for a person")
    assert held.errors == []


LOSSES = {
    "blur": "window.dispatchEvent(new Event('blur'))",
    "hidden": "Object.defineProperty(document, 'hidden', {value: true}); document.dispatchEvent(new Event('visibilitychange'))",
    "pagehide": "window.dispatchEvent(new Event('pagehide'))",
    "text field": "document.getElementById('confirm').show(); document.getElementById('confirm-reason').focus()",
    "gamepad": "window.dispatchEvent(new Event('gamepaddisconnected'))",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_page_that_loses_the_hand_lets_go_and_key_repeat_takes_nothing_back(rig, held, loss):
    held.evaluate(LOSSES[loss])
    assert stays_still(rig) is State.HOLD
    # What a keyboard goes on sending while the key is down.
    held.evaluate("window.dispatchEvent(new KeyboardEvent('keydown', {code: 'Space', repeat: true, bubbles: true}))")
    assert stays_still(rig) is State.HOLD


def test_a_closed_tab_holds(rig, held):
    held.close()
    assert stays_still(rig) is State.HOLD


def test_stop_by_key_and_button_latches_over_reload_and_needs_a_reason(rig, held):
    held.keyboard.press("Escape")
    stop = rig.status_where(lambda status: status.state is State.ESTOP)
    assert "stopped by ada" in stop.reason
    rig.wait_for_rest()
    held.keyboard.up("Space")
    held.keyboard.up("KeyD")
    held.reload()
    expect(held.locator("#state-word")).to_have_text("STOPPED, latched")
    time.sleep(0.6)
    held.get_by_role("button", name="Reset…").click()
    held.locator("#confirm-yes").click()
    expect(held.locator("#confirm")).to_be_visible()  # neither looked nor said why
    held.locator("#confirm-looked").check()
    held.locator("#confirm-reason").fill("key pressed in a test")
    held.locator("#confirm-yes").click()
    rig.status_where(lambda status: status.state is State.DISARMED)
    held.get_by_role("button", name="STOP").click()
    rig.status_where(lambda status: status.state is State.ESTOP)


def test_a_viewer_may_stop_and_nothing_else(rig, context):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context, "guest", Role.VIEW)
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("needs operate")
    page.keyboard.press("Escape")
    assert "stopped by guest" in rig.status_where(lambda status: status.state is State.ESTOP).reason
