"""What the pages show and how they can be used: labels, alert, cameras, several robots, recordings; by keyboard, at any width."""

from __future__ import annotations

import dataclasses
import itertools
import re
import time

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from console_rig import CAMERAS, TOKENS, ConsoleRig, ScriptedPolicy, needs_chromium
from playwright.sync_api import expect
from replay_episodes import random_episode

from core.labels import LabelKey, Labels
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore
from robot_drivers import messages as m
from robot_drivers.states import RefusedError, Role, State

pytest_plugins = ["console_fixtures"]
pytestmark = [pytest.mark.browser, needs_chromium]
NUM_STEPS = 8


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """With a second name for the robot, a robot without a supervisor, and recorded episodes."""
    folder = tmp_path_factory.mktemp("pages")
    episodes, labels = EpisodeStore(folder / "store"), LabelStore(folder / "store")
    for seed in (0, 1):
        episode = random_episode(seed, steps=NUM_STEPS)
        episodes.append(episode)
        value, none = np.linspace(-1, 0, NUM_STEPS + 1), np.zeros(NUM_STEPS)
        key = LabelKey(episode.episode_id, 3)
        labels.put(Labels(key=key, value=value, return_=none, advantage=none, target="made for a test"))
    more = ("--robot", "twin=arm.sock", "--robot", "lost=nobody.sock", "--recordings", "store")
    rig = ConsoleRig(folder, *more)
    yield rig
    rig.close()


@pytest.fixture
def policy(rig):
    policy = ScriptedPolicy(rig, "tiny-1", episode_id=f"episode-{time.monotonic_ns()}")
    yield policy
    policy.close()


def test_labels_are_taken_back_within_their_time_and_nobody_infers_them(rig, context, policy):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    start_s = time.monotonic()

    def given():
        return [(event.label.value, event.operator) for event in rig.events(start_s, "label")]

    expect(page.locator("#label-undo")).to_be_disabled()
    page.keyboard.press("Digit1")  # the episode has only begun
    page.keyboard.press("Digit1")
    expect(page.locator("#label-state")).to_have_text("success, by ada")
    page.keyboard.press("Digit2")
    expect(page.locator("#label-state")).to_have_text("failure, by ada")
    page.keyboard.press("KeyU")
    expect(page.locator("#label-state")).to_have_text("success, by ada")
    expect(page.locator("#label-undo")).to_be_disabled()
    page.keyboard.press("KeyU")
    page.keyboard.press("Escape")
    rig.status_where(lambda status: status.state is State.ESTOP)
    words = [word for word, _ in itertools.groupby(given())]
    assert words == [("success", "ada"), ("failure", "ada"), ("success", "ada")]


def test_a_falling_value_asks_for_help_and_the_timeline_shows_who_acted(rig, context, policy):
    rig.be(State.ARMED_IDLE)
    page = rig.sign_in(context)
    start_s = time.monotonic()
    policy.value = (-0.3, 0.1, 0.0)
    page.keyboard.press("KeyH")
    expect(page.locator("#state-word")).to_have_text("Policy acts")
    expect(page.locator("#value-now")).to_have_text("-0.30, advantage 0.10, threshold 0.00")
    expect(page.locator("#help-wanted")).to_be_hidden()
    policy.value = (-0.6, 0.1, 0.0)
    expect(page.locator("#help-wanted")).to_contain_text("value fell by 0.30")
    expect(page.locator("#fleet [data-robot=arm]")).to_contain_text("value fell by 0.30")
    page.keyboard.down("Space")
    rig.wait(lambda: len(rig.steps(start_s, "human")) > 2)
    page.keyboard.up("Space")
    rig.status_where(lambda status: status.state is State.HOLD)
    expect(page.locator("#help-wanted")).to_contain_text("waits for a person")
    steps = sorted(
        (step for source in ("policy", "human", "hold") for step in rig.steps(start_s, source)), key=lambda step: step.index
    )
    records = [dataclasses.asdict(step) for step in steps]
    spans = page.evaluate("async (steps) => (await import('/static/charts.js')).spansOf(steps)", records)
    runs = [source for source, _ in itertools.groupby(step.source for step in steps)]
    assert [span["source"] for span in spans] == runs
    assert {"policy", "human"} <= set(runs)
    for span, (_, run) in zip(spans, itertools.groupby(steps, key=lambda step: step.source), strict=True):
        run = list(run)
        assert span["start_s"] == run[0].start_monotonic_s
        assert span["end_s"] == run[-1].start_monotonic_s + run[-1].duration_s
    assert page.errors == []


def test_the_badge_follows_a_checkpoint_which_is_swapped_between_episodes_only(rig, context):
    page = rig.sign_in(context)
    first = ScriptedPolicy(rig, "tiny-1")
    expect(page.locator("#badge")).to_have_text("checkpoint tiny-1")
    with pytest.raises(RefusedError, match=r"is open; end it first"):
        first.client.ask(m.BeginEpisode(request_id=0, episode_id="next", instruction="", checkpoint="tiny-2"))
    expect(page.locator("#badge")).to_have_text("checkpoint tiny-1")
    first.close()
    second = ScriptedPolicy(rig, "tiny-2", episode_id="next")
    expect(page.locator("#badge")).to_have_text("checkpoint tiny-2")
    second.close()
    expect(page.locator("#badge")).to_have_text("no checkpoint")


def test_a_camera_that_hangs_is_marked_old_and_the_others_go_on(rig, context):
    page = rig.sign_in(context)
    expect(page.locator("figure:not(.old)")).to_have_count(len(CAMERAS))
    rig.cameras["wrist"].freeze()
    try:
        expect(page.locator("figure.old")).to_have_count(1)
        expect(page.locator("figure.old figcaption")).to_contain_text("wrist · OLD")
        expect(page.locator("figure:not(.old)")).to_have_count(len(CAMERAS) - 1)
    finally:
        rig.cameras["wrist"].revive()
    expect(page.locator("figure:not(.old)")).to_have_count(len(CAMERAS))


def test_several_robots_are_tiles_and_the_one_that_needs_somebody_comes_first(rig, context):
    rig.be(State.DISARMED)
    page = rig.sign_in(context)
    tiles = page.locator("#fleet button")
    expect(tiles).to_have_count(3)
    expect(tiles.first).to_contain_text("No supervisor")
    expect(page.locator("#fleet [data-robot=twin]")).to_contain_text("Disarmed")
    page.locator("#fleet [data-robot=lost]").click()
    expect(page.locator("#robot-name")).to_have_text("lost")
    expect(page.locator("#state-word")).to_have_text("No supervisor")
    page.keyboard.press("Space")
    expect(page.locator("#notice")).to_contain_text("nothing to take over")
    page.keyboard.press("Escape")
    expect(page.locator("#notice")).to_contain_text("lost: NOT CONFIRMED")
    expect(page.locator("#notice")).to_contain_text("arm: stopped")
    page.locator("#fleet [data-robot=twin]").click()
    expect(page.locator("#state-word")).to_have_text("STOPPED, latched")


def test_a_link_signs_in_once_and_leaves_no_token_behind(rig, context):
    link = re.search(r"view\s+(\S+)", rig.links).group(1)
    page = context.new_page()
    page.goto(link)
    assert "#" not in page.url
    page.get_by_label("Your name").fill("guest")
    page.keyboard.press("Enter")
    expect(page.locator("#person")).to_have_text("guest (view)")
    assert page.evaluate("document.cookie") == ""
    page.reload()
    expect(page.locator("#person")).to_have_text("guest (view)")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Token").fill(link.partition("#")[2])
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("its link was used before")


def test_a_recording_plays_with_its_value_curve(rig, context):
    page = rig.sign_in(context, path="recordings")
    assert page.url == f"{rig.url}/recordings"
    expect(page.locator("#list button")).to_have_count(2)
    page.locator("#list button").first.click()
    expect(page.locator("#version")).to_have_text("value version 3")
    expect(page.locator("#now")).to_contain_text(f"step 0 of {NUM_STEPS}")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#now")).to_contain_text(f"step {NUM_STEPS} of {NUM_STEPS}", timeout=20_000)
    expect(page.locator("#now")).to_contain_text("value 0.00")
    page.wait_for_function("[...document.images].length === 2 && [...document.images].every((image) => image.naturalWidth > 0)")
    page.get_by_role("slider").press("Home")
    expect(page.locator("#now")).to_contain_text("step 0")
    assert (page.errors, page.foreign) == ([], [])
    assert context.request.get(f"{rig.url}/recordings/nothing").status == 404


def test_everything_can_be_done_by_keyboard(rig, context):
    rig.be(State.DISARMED)
    page = rig.sign_in(context)
    focused = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        focused.add(page.evaluate("document.activeElement.id"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or page.evaluate("document.activeElement === document.body")
    usable = "[...document.querySelectorAll('button:enabled:not([tabindex]), select')].filter((e) => e.checkVisibility())"
    assert set(page.evaluate(f"{usable}.map((e) => e.id)")) <= focused
    page.locator("#do-arm").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")  # ticks the box, and takes nothing over
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    rig.status_where(lambda status: status.state is State.ARMED_IDLE)
    page.locator("#do-disarm").focus()
    page.keyboard.press("Enter")
    rig.status_where(lambda status: status.state is State.DISARMED)


@pytest.mark.parametrize("width", [360, 1440])
def test_at_any_width_nothing_is_cut_off_stop_is_in_sight_and_axe_finds_nothing(rig, browser, width):
    rig.be(State.DISARMED)
    context = browser.new_context(viewport={"width": width, "height": 740})
    try:
        page = rig.sign_in(context, "cy", Role.SUPERVISE)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.mouse.wheel(0, 5000)
        expect(page.locator("#stop")).to_be_in_viewport(ratio=1.0)
        sizes = page.evaluate(
            "[...document.querySelectorAll('button, select, summary')].filter((e) => e.checkVisibility())"
            ".map((e) => [e.id || e.textContent, e.getBoundingClientRect().height])"
        )
        assert [name for name, height in sizes if height < 44] == []
        found = [Axe().run(page)]
        page.locator("#do-arm").click()
        found.append(Axe().run(page))
        page.goto(f"{rig.url}/recordings")
        page.locator("#list button").first.click()
        found.append(Axe().run(page))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        context.clear_cookies()
        page.goto(rig.url)
        page.get_by_label("Token").fill(TOKENS[Role.VIEW])
        found.append(Axe().run(page))
        assert [result.generate_report() for result in found if result.violations_count] == []
    finally:
        context.close()
