"""How long a key takes to the arm, on the clocks of page and emulator, alone and beside pages that do not keep up."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from console_rig import CAMERAS, MOVING_M_S, needs_chromium
from playwright.sync_api import expect
from websockets.sync.client import connect

from console.people import COOKIE
from robot_drivers.states import Role, State

pytest_plugins = ["console_fixtures"]
pytestmark = [pytest.mark.browser, needs_chromium]
NUM_PRESSES = 60
LIMIT_MS = 50.0
REST_S = 0.15
LISTEN = """
window.downs = [];
window.addEventListener('keydown', (event) => event.repeat || window.downs.push(event.timeStamp / 1000), true);
"""


@contextlib.contextmanager
def slow_viewer(rig, context, path):
    """A page's socket that takes what comes and acknowledges nothing."""
    cookie = next(cookie["value"] for cookie in context.cookies() if cookie["name"] == COOKIE)
    address = rig.url.replace("http", "ws") + path
    with connect(address, origin=rig.url, additional_headers={"Cookie": f"{COOKIE}={cookie}"}, max_queue=1) as viewer:
        yield viewer


def test_a_viewer_that_acknowledges_nothing_gets_one_picture_and_holds_nobody_up(rig, context):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    with slow_viewer(rig, context, "/ws/video/arm") as viewer:
        assert viewer.recv(timeout=20).startswith('{"cameras"')
        assert isinstance(viewer.recv(timeout=20), bytes)
        with pytest.raises(TimeoutError):
            viewer.recv(timeout=0.5)
        page.keyboard.press("KeyH")
        rig.status_where(lambda status: status.state is State.POLICY or "no action from the policy" in status.reason)
        viewer.send("shown")
        assert isinstance(viewer.recv(timeout=20), bytes)


def page_start_s(page):
    """Zero of the page's clock on this host's monotonic one; too early by the quickest of many round trips at most."""
    trips = []
    for _ in range(50):
        asked_s = time.monotonic()
        page_s = page.evaluate("performance.now() / 1000")
        trips.append((time.monotonic() - asked_s, asked_s - page_s))
    return min(trips)[1]


def latencies_ms(rig, page):
    """From the key's own time in the page to the first motion of the arm, for many presses while the hold lasts."""
    page_starts_s, found = page_start_s(page), []
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("you have control")
    for number in range(NUM_PRESSES):
        key = "KeyA" if rig.emulator.pose().position_m[1] < 0 else "KeyD"
        start_s = time.monotonic()
        page.keyboard.down(key)
        while not rig.moves_after(start_s):
            assert page.locator("#hold-state").inner_text() == "held: you have control"
        page.keyboard.up(key)
        pressed_s = page_starts_s + page.evaluate("window.downs.at(-1)")
        moving = next(sample.time_s for sample in rig.emulator.samples(start_s) if sample.speed_m_s > MOVING_M_S)
        found.append(1000 * (moving - pressed_s))
        rig.wait(lambda: not rig.moves_after(time.monotonic() - REST_S), period_s=0.01)
        time.sleep(0.003 * (number % 7))  # so that presses fall anywhere between two ticks
    page.keyboard.up("Space")
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["nothing else", "a second page with four cameras and viewers that never read"])
def test_a_key_reaches_the_arm_within_50_ms(rig, context, beside):
    context.add_init_script(LISTEN)
    rig.be(State.ARMED_IDLE)
    with contextlib.ExitStack() as stack:
        page = rig.sign_in(context)
        if beside != "nothing else":
            stack.enter_context(slow_viewer(rig, context, "/ws/watch"))
            stack.enter_context(slow_viewer(rig, context, "/ws/video/arm"))
            other = rig.sign_in(context, "guest", Role.VIEW)
            expect(other.locator("figure:not(.old)")).to_have_count(len(CAMERAS))
            page.bring_to_front()
        found = latencies_ms(rig, page)
    p50, p95 = np.percentile(found, [50, 95])
    print(
        f"\nkey to motion beside {beside}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, largest {found.max():.1f} ms, {len(found)} presses"
    )
    assert found.min() > 0
    assert p95 < LIMIT_MS
