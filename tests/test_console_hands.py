"""Hands at the page, a real supervisor and an emulated Realman behind it: what moved is read from the arm's own log."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest
from console_rig import BUSY_S, LEASE_S, TICK_S, needs_chromium, processes_of, signal_all, take_over
from playwright.sync_api import expect

from robot_drivers.messages import Phase
from robot_drivers.states import Role, State

pytest_plugins = ["console_fixtures"]
pytestmark = [pytest.mark.browser, needs_chromium]
STILL_S = 0.4
REPEAT = "window.dispatchEvent(new KeyboardEvent('keydown', {code: 'Space', repeat: true, bubbles: true}))"
LOSSES = {
    "blur": "window.dispatchEvent(new Event('blur'))",
    "hidden": "Object.defineProperty(document, 'hidden', {value: true}); document.dispatchEvent(new Event('visibilitychange'))",
    "pagehide": "window.dispatchEvent(new Event('pagehide'))",
    "text field": "document.getElementById('confirm').show(); document.getElementById('confirm-reason').focus()",
    "gamepad": "window.dispatchEvent(new Event('gamepaddisconnected'))",
}


def stands_still(rig, since_s):
    """The arm was stopped after ``since_s`` and asked for nothing since, also not a while later. Returns the state."""
    stop_s = rig.stopped_after(since_s)
    state = rig.status_where(lambda status: not status.state.moves, since_s=stop_s).state
    time.sleep(STILL_S)
    assert rig.rests_since(stop_s)
    return state


def test_held_space_moves_the_arm_as_a_person_and_letting_go_holds(rig, held):
    rig.status_where(lambda status: status.holder == "ada")
    held.keyboard.press("KeyC")  # recovery
    rig.wait(lambda: any(step.phase is Phase.RECOVERY for step in rig.steps(held.started_s, "human")))
    held.keyboard.up("Space")
    released_s = time.monotonic()
    assert rig.stopped_after(released_s - BUSY_S) < released_s + LEASE_S + TICK_S + BUSY_S
    assert stands_still(rig, released_s - BUSY_S) is State.HOLD
    assert "ada let go" in rig.status_where(lambda status: status.state is State.HOLD).reason
    steps = rig.steps(held.started_s, "human")
    assert {(step.operator, step.phase) for step in steps} == {("ada", Phase.CORRECTION), ("ada", Phase.RECOVERY)}
    assert max(held.side * step.executed_action[1] for step in steps) > 0
    assert max(abs(step.executed_action[0]) for step in steps) < 1e-6
    assert {step.intervention_id for step in steps} == {steps[0].intervention_id}
    expect(held.locator("#state-word")).to_have_text("Hold: waits for a person")
    assert (held.errors, held.foreign) == ([], [])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_page_that_loses_the_hand_lets_go_and_key_repeat_takes_nothing_back(rig, held, loss):
    lost_s = time.monotonic()
    held.evaluate(LOSSES[loss])
    rig.status_where(lambda status: status.state is State.HOLD)
    held.evaluate(REPEAT)  # what a keyboard goes on sending while the key is down
    assert stands_still(rig, lost_s) is State.HOLD
    assert rig.stopped_after(lost_s) < lost_s + LEASE_S + TICK_S + BUSY_S


def test_a_closed_tab_holds(rig, held):
    closed_s = time.monotonic()
    held.close()
    assert stands_still(rig, closed_s) is State.HOLD


def test_a_page_that_goes_off_line_holds_and_motion_needs_a_new_press(rig, held, context):
    lost_s = time.monotonic()
    context.set_offline(True)
    assert stands_still(rig, lost_s) is State.HOLD
    expect(held.locator("#not-live")).to_contain_text("Link lost")
    context.set_offline(False)
    expect(held.locator("#not-live")).to_be_hidden()
    held.evaluate(REPEAT)
    assert stands_still(rig, lost_s) is State.HOLD
    held.keyboard.up("Space")
    take_over(rig, held)


def test_a_browser_that_is_stopped_and_continued_holds_and_motion_needs_a_new_press(rig, held):
    pids = processes_of("chromium", os.getpid())
    stopped_s = time.monotonic()
    try:
        signal_all(pids, signal.SIGSTOP)
        assert stands_still(rig, stopped_s) is State.HOLD
    finally:
        signal_all(pids, signal.SIGCONT)
    expect(held.locator("#hold-state")).to_contain_text("not held")
    assert stands_still(rig, stopped_s) is State.HOLD
    held.keyboard.up("Space")
    take_over(rig, held)


def test_the_on_screen_button_and_the_gamepad_are_holds_too(rig, context):
    rig.be(State.ARMED_IDLE)
    context.add_init_script(
        "window.pad = {mapping: 'standard', axes: [0, 0, 0, 0], buttons: [...Array(17)].map(() => ({pressed: false}))};"
        "navigator.getGamepads = () => [window.pad];"
    )
    page = rig.sign_in(context)
    start_s = time.monotonic()
    page.locator("#hold").hover()
    page.mouse.down()
    page.keyboard.down("KeyV")
    rig.wait_for_motion(start_s)
    up_s = time.monotonic()
    page.mouse.up()
    assert stands_still(rig, up_s) is State.HOLD
    page.keyboard.up("KeyV")
    page.evaluate("window.pad.buttons[5].pressed = true")  # held before it was chosen: no press
    page.locator("#device").select_option("gamepad")
    page.evaluate("window.pad.axes[1] = 1")
    assert stands_still(rig, up_s) is State.HOLD
    again_s = time.monotonic()
    page.evaluate("window.pad.buttons[5].pressed = false")
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    page.evaluate("window.pad.buttons[5].pressed = true")
    rig.wait_for_motion(again_s)
    gone_s = time.monotonic()
    page.evaluate("window.pad.buttons[5].pressed = false")
    assert stands_still(rig, gone_s) is State.HOLD
    assert min(step.executed_action[0] for step in rig.steps(again_s, "human")) < 0


SPACE_MOUSE = """
window.cap = Object.assign(new EventTarget(), {opened: true});
window.cap.report = (reportId, bytes) => window.cap.dispatchEvent(
  Object.assign(new Event('inputreport'), {reportId, data: new DataView(new Uint8Array(bytes).buffer)}));
const hid = Object.assign(new EventTarget(), {requestDevice: async () => [window.cap]});
Object.defineProperty(navigator, 'hid', {value: hid});
"""


def test_a_space_mouse_moves_while_its_button_is_down_and_one_that_falls_silent_does_not(rig, context):
    rig.be(State.ARMED_IDLE)
    context.add_init_script(SPACE_MOUSE)
    page = rig.sign_in(context)
    page.locator("#device").select_option("spacemouse")
    start_s = time.monotonic()
    page.evaluate("window.pushing = setInterval(() => window.cap.report(1, [0, 0, 100, 0, 0, 0]), 30)")  # 100 of 350 back
    page.evaluate("window.cap.report(3, [1])")
    rig.wait_for_motion(start_s)
    steps_s = time.monotonic()
    rig.wait(lambda: len(rig.steps(steps_s, "human")) > 1)
    asked = rig.steps(steps_s, "human")[-1].requested_action
    assert asked[0] < 0 == max(abs(entry) for entry in asked[1:6])
    page.evaluate("clearInterval(window.pushing)")
    silent_s = time.monotonic()
    rig.wait(lambda: any(max(map(abs, step.requested_action[:6])) == 0 for step in rig.steps(silent_s, "human")))
    page.evaluate("navigator.hid.dispatchEvent(Object.assign(new Event('disconnect'), {device: window.cap}))")
    assert stands_still(rig, silent_s) is State.HOLD


def test_with_the_leader_arm_the_server_is_asked_to_lead_and_its_refusal_ends_the_hold(rig, context):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    expect(page.locator("#device-leader")).to_be_disabled()  # this console was started without
    page.evaluate("document.getElementById('device-leader').disabled = false")
    page.locator("#device").select_option("leader")
    page.evaluate("document.activeElement.blur()")
    start_s = time.monotonic()
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("not held: this console has no leader arm; start it with --leader")
    assert rig.status_where(lambda status: status.state is State.HOLD, since_s=start_s).reason == "ada let go"
    assert rig.went_m(start_s) < 1e-4  # it may be told to stand where it was measured


def test_of_two_operators_one_has_control_and_only_a_supervisor_takes_it(rig, browser):
    rig.be(State.ARMED_IDLE)
    with contextlib.ExitStack() as contexts:
        # All pages are open before anybody presses: one that opens can delay the others past the lease.
        ada, bo, cy = (
            rig.sign_in(contexts.enter_context(contextlib.closing(browser.new_context())), name, role)
            for name, role in {"ada": Role.OPERATE, "bo": Role.OPERATE, "cy": Role.SUPERVISE}.items()
        )
        take_over(rig, ada)
        bo.keyboard.down("Space")
        expect(bo.locator("#notice")).to_contain_text("ada has had control")
        expect(ada.locator("#notice")).to_contain_text("bo asks ada for control")
        bo.keyboard.up("Space")
        cy.get_by_role("button", name="Take control by force…").click()
        cy.locator("#confirm-looked").check()
        cy.locator("#confirm-yes").click()
        forced_s = time.monotonic()
        cy.keyboard.down("Space")
        status = rig.status_where(lambda status: status.holder == "cy", since_s=forced_s)
        assert "from ada by force" in status.reason
        expect(ada.locator("#hold-state")).to_contain_text("not held")
        up_s = time.monotonic()
        cy.keyboard.up("Space")  # ada's keys are still down
        assert stands_still(rig, up_s) is State.HOLD


def test_stop_latches_over_reload_and_restart_and_a_reset_needs_a_look_and_a_reason(rig, held):
    pressed_s = time.monotonic()
    held.keyboard.press("Escape")
    assert stands_still(rig, pressed_s) is State.ESTOP
    assert "stopped by ada" in rig.status_where(lambda status: status.state is State.ESTOP).reason
    expect(held.locator("#notice")).to_contain_text("arm: stopped")
    held.keyboard.up("Space")
    held.reload()
    expect(held.locator("#state-word")).to_have_text("STOPPED, latched")
    rig.kill("console")
    rig.start_console()
    expect(held.locator("#not-live")).to_be_hidden()
    expect(held.locator("#state-word")).to_have_text("STOPPED, latched")
    held.keyboard.press("Space")
    expect(held.locator("#hold-state")).to_contain_text("not held: take_over does nothing in state estop")
    time.sleep(0.6)  # the supervisor wants half a second without input
    held.get_by_role("button", name="Reset…").click()
    held.locator("#confirm-yes").click()
    expect(held.locator("#confirm-missing")).to_have_text("Tick the box first.")
    held.locator("#confirm-looked").check()
    held.locator("#confirm-yes").click()
    expect(held.locator("#confirm-missing")).to_have_text("Say why; it is written down.")
    held.locator("#confirm-reason").fill("key pressed in a test")
    held.locator("#confirm-yes").click()
    assert "key pressed in a test" in rig.status_where(lambda status: status.state is State.DISARMED).reason
    held.get_by_role("button", name="STOP").click()
    rig.status_where(lambda status: status.state is State.ESTOP)


def test_a_question_does_not_cover_stop(rig, context):
    rig.be(State.DISARMED)
    page = rig.sign_in(context, "ada")
    page.get_by_role("button", name="Arm…").click()
    clicked_s = time.monotonic()
    page.locator("#confirm-stop").click()
    rig.status_where(lambda status: status.state is State.ESTOP, since_s=clicked_s)


def test_a_viewer_may_stop_and_nothing_else(rig, context):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context, "guest", Role.VIEW)
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("needs operate")
    page.keyboard.press("KeyH")
    expect(page.locator("#notice")).to_contain_text("needs operate")
    expect(page.locator("#do-disarm")).to_be_disabled()
    page.keyboard.press("Escape")
    assert "stopped by guest" in rig.status_where(lambda status: status.state is State.ESTOP).reason


def test_a_server_that_is_killed_and_comes_back_moves_nothing(rig, held):
    killed_s = time.monotonic()
    rig.kill("console")
    assert stands_still(rig, killed_s) is State.HOLD
    expect(held.locator("#not-live")).to_contain_text("Link lost")
    expect(held.locator("figure.old")).to_have_count(4)
    held.keyboard.press("Escape")
    expect(held.locator("#notice")).to_contain_text("STOP IS NOT CONFIRMED")
    rig.start_console()
    expect(held.locator("#not-live")).to_be_hidden()
    held.evaluate(REPEAT)
    assert stands_still(rig, killed_s) is State.HOLD
    held.keyboard.up("Space")
    take_over(rig, held)


def test_a_stop_reaches_the_robot_though_the_command_socket_is_gone(rig, context):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    page.evaluate("WebSocket.prototype.send = () => {}")  # open, and nothing gets through
    page.keyboard.press("Escape")
    assert "stopped by ada" in rig.status_where(lambda status: status.state is State.ESTOP).reason
    expect(page.locator("#notice")).to_contain_text("arm: stopped")


def test_a_supervisor_that_is_frozen_is_said_to_be_silent_and_not_stopped(rig, held):
    supervisor = rig.processes["supervisor"]
    try:
        supervisor.send_signal(signal.SIGSTOP)
        expect(held.locator("#not-live")).to_contain_text("The supervisor has said nothing for")
        expect(held.locator("#hold-state")).to_contain_text("not held")
        held.keyboard.press("Escape")
        expect(held.locator("#notice")).to_contain_text("arm: NOT CONFIRMED")
    finally:
        supervisor.send_signal(signal.SIGCONT)
    rig.status_where(lambda status: status.state is State.ESTOP)  # it was only late
    expect(held.locator("#not-live")).to_be_hidden()
