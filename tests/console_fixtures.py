"""Fixtures of the console's browser tests: a rig a file, a browser a file, pages signed in."""

from __future__ import annotations

import time

import pytest
from console_rig import CHROMIUM, ConsoleRig, take_over
from playwright.sync_api import sync_playwright

from robot_drivers.states import State


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
    """A page whose Space is down, and A or D, and whose arm moves."""
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    page.started_s = time.monotonic()
    take_over(rig, page)
    return page
