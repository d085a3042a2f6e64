"""Parts of the console by themselves: age of input, the alert, pictures and telemetry for slow pages, recordings."""

from __future__ import annotations

import asyncio
import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from replay_episodes import random_episode
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.websockets import WebSocketState
from supervised_robot import SupervisedRobot

from console.page_clock import PageClock
from console.people import Person
from console.recordings import Recordings
from console.value_alert import ValueAlert, ValueAlertConfig
from console.video_socket import HEADER, JpegFeed
from console.watch_socket import Watcher
from core.errors import ConfigError
from core.labels import LabelKey, Labels
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore
from robot_drivers import messages as m
from robot_drivers.cameras.camera import Frame
from robot_drivers.states import Role, State

# --- how old input is --------------------------------------------------------------------------------------------------------


@given(offset_s=st.floats(-1e6, 1e6), journeys_s=st.lists(st.floats(0, 5), min_size=1, max_size=100), journey_s=st.floats(0, 5))
def test_age_is_the_journey_beyond_the_quickest_whatever_the_pages_clock_says(offset_s, journeys_s, journey_s):
    clock = PageClock(num_heartbeats=100)
    for number, heartbeat_s in enumerate(journeys_s):
        clock.hear(number - offset_s, number + heartbeat_s)
    age_s = clock.age_s(1000 - offset_s, 1000 + journey_s)
    assert age_s == pytest.approx(max(0.0, journey_s - min(journeys_s)), abs=1e-6)


def test_age_is_unknown_before_a_heartbeat_and_old_heartbeats_are_forgotten():
    clock = PageClock(num_heartbeats=2)
    assert clock.age_s(0.0, 1.0) is None
    for page_s, received_s in ((0.0, 10.0), (1.0, 11.5), (2.0, 12.5)):
        clock.hear(page_s, received_s)
    assert clock.age_s(3.0, 14.0) == pytest.approx(0.5)


# --- when a robot asks for help ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def status():
    robot = SupervisedRobot()
    return dataclasses.replace(next(x for x in robot.published if isinstance(x, m.Status)), state=State.POLICY, episode_id="e")


def reasons(status, points, **changes):
    """Of (time, value, advantage): what the alert says at each."""
    alert = ValueAlert(ValueAlertConfig())
    fields = [{"time_monotonic_s": t, "value": v, "advantage": a, "threshold": 0.0} for t, v, a in points]
    return [alert.add(dataclasses.replace(status, **(one | changes))) for one in fields]


def test_a_value_that_falls_within_the_window_asks_for_help_and_a_slow_fall_does_not(status):
    assert reasons(status, [(0, -0.3, 1), (1, -0.2, 1), (2, -0.34, 1), (3, -0.36, 1)]) == [
        None,
        None,
        None,
        "value fell by 0.16 within 10 s",
    ]
    assert set(reasons(status, [(8 * t, -0.1 * t, 1) for t in range(8)])) == {None}


def test_an_advantage_below_the_threshold_asks_for_help_if_it_stays_there(status):
    found = reasons(status, [(0, -0.3, -1), (1.9, -0.3, -1), (2, -0.3, 1), (3, -0.3, -1), (5, -0.3, -1)])
    assert found == [None, None, None, None, "advantage below the threshold for 2 s"]


def test_only_a_policy_that_acts_is_judged_and_a_new_episode_begins_anew(status):
    falling = [(0, -0.1, 1), (1, -0.9, 1)]
    assert set(reasons(status, falling, state=State.HUMAN)) == {None}
    alert = ValueAlert(ValueAlertConfig())
    assert alert.add(dataclasses.replace(status, time_monotonic_s=0, value=-0.1)) is None
    assert alert.add(dataclasses.replace(status, time_monotonic_s=1, value=-0.9, episode_id="next")) is None


def test_a_hold_and_a_fault_ask_for_help_in_other_words(status):
    (hold,) = reasons(status, [(0, None, None)], state=State.HOLD)
    (fault,) = reasons(status, [(0, None, None)], state=State.FAULT)
    assert "waits for a person" in hold
    assert "has to look" in fault


@pytest.mark.parametrize("field", ["drop", "window_s", "below_threshold_s"])
def test_an_alert_that_could_never_or_always_ring_is_refused(field):
    with pytest.raises(ConfigError, match=field):
        ValueAlertConfig(**{field: 0.0})


# --- pages that are slow -----------------------------------------------------------------------------------------------------


class OneCamera:
    def __init__(self):
        self.frame = None

    def put(self, sequence):
        image = np.full((4, 6, 3), 10 * sequence, dtype=np.uint8)
        times = {"capture_monotonic_s": 7.5, "arrival_monotonic_s": 8.0}
        self.frame = Frame(image=image, sequence=sequence, **times, device_frame_number=None, device_time_s=None)

    def latest(self):
        return {"dead": None, "front": self.frame}


def test_a_page_gets_the_newest_picture_only_with_its_time():
    camera = OneCamera()
    feed = JpegFeed(camera)
    assert feed.cameras == ["dead", "front"]
    assert asyncio.run(feed.newer({})) == []
    for sequence in (1, 2, 3):
        camera.put(sequence)
    ((name, sequence, message),) = asyncio.run(feed.newer({"front": 1}))
    assert (name, sequence) == ("front", 3)
    index, _, in_header, captured_s, sent_s = HEADER.unpack_from(message)
    assert (index, in_header, captured_s) == (1, 3, 7.5)
    assert sent_s > 0
    image = cv2.imdecode(np.frombuffer(message[HEADER.size :], np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(image.astype(int) - 30).max() <= 3
    assert asyncio.run(feed.newer({"front": 3})) == []


class Page:
    """A socket that notes what it is sent."""

    def __init__(self):
        self.application_state = WebSocketState.CONNECTED
        self.sent = []
        self.closed = None
        self.is_reading = asyncio.Event()

    async def send_text(self, line):
        await self.is_reading.wait()
        self.sent.append(line)

    async def close(self, code, reason):
        self.closed = code


def test_a_slow_page_misses_statuses_and_no_event():
    async def watch():
        watcher, page = Watcher(), Page()
        for number in range(5):
            watcher.post(f"event {number}", None)
            watcher.post(f"status {number}", "arm")
        page.is_reading.set()
        sending = asyncio.create_task(watcher.send_to(page))
        while len(page.sent) < 6:
            await asyncio.sleep(0)
        sending.cancel()
        return page.sent

    assert asyncio.run(watch()) == [*(f"event {number}" for number in range(5)), "status 4"]


def test_a_page_that_is_too_far_behind_is_disconnected():
    async def watch():
        watcher, page = Watcher(), Page()
        watcher.post("first", None)
        sending = asyncio.create_task(watcher.send_to(page))
        await asyncio.sleep(0)  # it is being sent, and the page does not read
        for number in range(3000):
            watcher.post(str(number), None)
        page.is_reading.set()
        await sending
        return page

    page = asyncio.run(watch())
    assert (page.closed, page.sent) == (1013, ["first"])


# --- recordings --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two episodes, of which the first is labelled under two versions."""
    root = tmp_path_factory.mktemp("store")
    episodes = [random_episode(seed, steps=3) for seed in (0, 1)]
    writer, labels = EpisodeStore(root), LabelStore(root)
    for episode in episodes:
        writer.append(episode)
    for version in (3, 12):
        key = LabelKey(episodes[0].episode_id, version)
        value, none = np.full(4, -0.01 * version), np.zeros(3)
        labels.put(Labels(key=key, value=value, return_=none, advantage=none, target="made for a test"))
    return root, episodes


@pytest.fixture(params=[True, False], ids=["signed in", "stranger"])
def reader(request, store):
    person = Person(name="ada", role=Role.VIEW) if request.param else None
    client = TestClient(Starlette(routes=Recordings(store[0]).routes(lambda _: person)))
    client.is_known = request.param
    return client


def test_recordings_are_listed_newest_first_and_played_with_the_newest_values(reader, store):
    listed = reader.get("/recordings/list")
    if not reader.is_known:
        assert listed.status_code == 401
        assert reader.get(f"/recordings/{store[1][0].episode_id}").status_code == 401
        return
    labelled, bare = store[1]
    assert {one["id"] for one in listed.json()} == {labelled.episode_id, bare.episode_id}
    played = reader.get(f"/recordings/{labelled.episode_id}").json()
    assert played["value_version"] == 12
    assert played["value"] == pytest.approx([-0.12] * 4)
    assert played["time_s"][0] == 0
    assert len(played["time_s"]) == len(played["source"]) + 1
    assert reader.get(f"/recordings/{bare.episode_id}").json()["value"] is None
    camera = played["cameras"][0]
    jpeg = reader.get(f"/recordings/{labelled.episode_id}/{camera}/3.jpg").content
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == labelled.images[camera][3].shape


@pytest.mark.parametrize("path", ["nothing", "{id}/nothing/0.jpg", "{id}/{camera}/9.jpg", "..%2F..%2Fetc"])
def test_what_is_not_recorded_is_not_found(store, path):
    client = TestClient(Starlette(routes=Recordings(store[0]).routes(lambda _: Person(name="ada", role=Role.VIEW))))
    episode = store[1][0]
    answer = client.get("/recordings/" + path.format(id=episode.episode_id, camera=next(iter(episode.images))))
    assert answer.status_code == 404
