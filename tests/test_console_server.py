"""The console's server without a browser: who is let in, what a page may send, what the supervisor is asked in whose name."""

from __future__ import annotations

import json
import socket

import pytest
from console_server_rig import ORIGIN, TOKENS, client_of, commands, connected, frame, press, sign_in, wait_until
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import console.app
from console.__main__ import main
from console.app import Console
from console.people import COOKIE, People, UnknownTokenError
from console.robot_link import RobotLinkConfig
from core.errors import ConfigError
from robot_drivers import messages as m
from robot_drivers.states import Role, State

pytest_plugins = ["console_server_fixtures"]


@pytest.fixture
def empty():
    """A console without robots."""
    return Console([], People(TOKENS), origins=[ORIGIN])


# --- who is let in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.test", "testserver.evil.test", "testserver:1", ""])
def test_a_foreign_host_is_refused(empty, host):
    client = client_of(empty, host=host)
    answer = client.get("/")
    assert answer.status_code == 403
    assert "is not one of" in answer.text


@pytest.mark.parametrize("origin", ["http://evil.test", "https://testserver", "null", None])
def test_a_foreign_origin_may_neither_post_nor_open_a_socket(empty, origin):
    client = client_of(empty)
    del client.headers["origin"]
    headers = {} if origin is None else {"origin": origin}
    assert client.post("/stop", headers=headers).status_code == 403
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws/command", headers=headers):
        pass


def test_every_answer_forbids_what_the_page_does_not_need(empty):
    client = client_of(empty)
    for path in ("/", "/static/console.js", "/nothing"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_a_large_body_is_refused_unread(empty):
    assert client_of(empty).post("/session", content="x" * 5000).status_code == 403


def test_nobody_gets_anything_without_signing_in(empty):
    client = client_of(empty)
    assert client.get("/session").status_code == 401
    assert client.post("/stop").status_code == 401
    for path in ("/ws/command", "/ws/watch", "/ws/video/arm"):
        with client.websocket_connect(path) as socket, pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
        assert closed.value.code == 4401


def test_a_cookie_is_out_of_reach_of_scripts_and_other_sites(empty):
    cookie = sign_in(client_of(empty)).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    secure = Console([], People(TOKENS), origins=["https://console.test"])
    client = TestClient(secure.app(), base_url="https://console.test", headers={"origin": "https://console.test"})
    assert "secure" in sign_in(client).headers["set-cookie"].lower()


@pytest.mark.parametrize("body", ["", "7", "[]", '{"token": 1}', "{" * 4000])
def test_a_sign_in_that_is_none_is_answered_in_words(empty, body):
    answer = client_of(empty).post("/session", content=body)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]


def test_a_wrong_token_is_refused(empty, monkeypatch):
    monkeypatch.setattr(console.app, "_WRONG_TRIES_S", 0.0)
    answer = client_of(empty).post("/session", content=json.dumps({"token": "x" * 32, "name": "eve"}))
    assert answer.status_code == 401
    assert COOKIE not in answer.cookies


def test_signing_out_forgets(empty):
    client = client_of(empty)
    sign_in(client)
    assert client.get("/session").json()["role"] == "operate"
    client.delete("/session")
    assert client.get("/session").status_code == 401


def test_a_link_signs_in_one_person_once_and_a_token_many():
    people = People(TOKENS)
    link = people.new_link_token(Role.VIEW)
    assert people.who(people.sign_in(link, "ada")).role is Role.VIEW
    with pytest.raises(UnknownTokenError, match="used before"):
        people.sign_in(link, "bo")
    assert {people.who(people.sign_in(TOKENS[Role.OPERATE], name)).name for name in ("ada", "bo")} == {"ada", "bo"}


def test_a_cookie_counts_after_a_restart_not_when_altered_nor_too_long():
    now_s = [1e9]
    cookie = People(TOKENS, lambda: now_s[0]).sign_in(TOKENS[Role.VIEW], "ada")
    again = People(TOKENS, lambda: now_s[0])
    assert again.who(cookie).name == "ada"
    assert People(TOKENS | {Role.VIEW: "y" * 32}, lambda: now_s[0]).who(cookie) is None
    body, signature = cookie.split(".")
    for altered in (f"{body[:-2]}AA.{signature}", f"{body}.{signature[:-2]}AA", body, "", "a.b.c", None, "ä.ö"):
        assert again.who(altered) is None
    now_s[0] += 12 * 3600
    assert again.who(cookie) is None


@pytest.mark.parametrize("name", ["", "  ", "a" * 41, "a\nb", "\x00"])
def test_a_name_that_cannot_be_shown_is_refused(name):
    with pytest.raises(UnknownTokenError, match="expected 1 to 40"):
        People(TOKENS).sign_in(TOKENS[Role.VIEW], name)


def test_the_robot_actors_token_signs_nobody_in():
    with pytest.raises(ConfigError, match="expected one of"):
        People({Role.POLICY: "p" * 32})


ROBOT = ["--robot", "arm=x.sock"]
REFUSED = {
    "no TLS": (["--host", "0.0.0.0", "--tokens", "t"], "needs --certificate, --key"),
    "no token": (["--host", "192.168.1.5", "--certificate", "c", "--key", "c"], "needs --tokens"),
    "no name": (["--host", "0.0.0.0", "--tokens", "t", "--certificate", "c", "--key", "c"], "needs --public-name"),
    "no address": (["--host", "localhost"], "is not an address"),
    "half TLS": (["--certificate", "c"], "both --certificate and --key"),
    "no file": (["--certificate", "nowhere.pem", "--key", "c"], "nowhere.pem is not there"),
    "two of one name": (["--robot", "arm=y.sock"], "each with a name of its own"),
    "no socket": (["--robot", "arm"], "expected NAME=SOCKET"),
    "a leader of no kind": (["--tokens", "t", "--leader", "/dev/ttyACM0"], "expected so100 or so101 and a port"),
    "a leader without files": (["--tokens", "t", "--leader", "so101=x", "--leader-urdf", "c"], "needs --leader-calibration"),
    "files of no leader": (["--tokens", "t", "--leader-urdf", "c"], "go with --leader so101=PORT"),
    "cameras of nobody": (["--tokens", "t", "--cameras", "leg=frames"], "a robot of arm"),
    "no checkpoint store": (["--tokens", "t", "--checkpoints", "nowhere"], "no checkpoint store at nowhere"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_console_that_would_be_open_or_wrong_does_not_start(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c").touch()
    (tmp_path / "t").touch(mode=0o600)
    (tmp_path / "t").write_text(f"operate {'o' * 32}\n")
    options, expected = REFUSED[case]
    assert main([*ROBOT, *options]) == 2
    assert expected in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_and_no_link_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([*ROBOT, "--port", str(port)]) == 2
    printed = capsys.readouterr()
    assert f"cannot listen at 127.0.0.1:{port}" in printed.err
    assert printed.out == ""


# --- what a page may do ------------------------------------------------------------------------------------------------------


def test_a_press_input_and_release_reach_the_supervisor_under_the_persons_name(client, robot):
    sign_in(client)
    connected(client, robot)
    with commands(client) as socket:
        socket.send_json({"type": "ping", "t": 1.0})
        assert socket.receive_json() == {"type": "pong", "t": 1.0}
        reply = press(socket)
        assert (reply["ok"], reply["state"]) == (True, "human")
        socket.send_json(frame(reply["fence"]))
        wait_until(lambda: robot.supervision._input is not None)
        assert robot.supervision._input.twist[0][0] == 0.05
        assert robot.supervision._lease.holder == "ada"
        socket.send_json({"type": "release", "robot": "arm", "fence": reply["fence"]})
        wait_until(lambda: robot.state is State.HOLD)


def test_a_page_that_is_gone_has_let_go(client, robot):
    sign_in(client)
    connected(client, robot)
    with commands(client) as socket:
        assert press(socket)["ok"]
    wait_until(lambda: robot.state is State.HOLD)


def test_a_page_moves_only_what_it_took_over_itself(client, robot):
    sign_in(client)
    connected(client, robot)
    with commands(client) as holder, commands(client) as other:
        fence = press(holder)["fence"]
        other.send_json({"type": "ping", "t": 1.0})
        other.receive_json()
        other.send_json(frame(fence))
        other.send_json({"type": "release", "robot": "arm", "fence": fence})
        other.send_json({"type": "ping", "t": 2.0})
        other.receive_json()  # what was sent before is through
        assert robot.supervision._input is None
        assert robot.state is State.HUMAN


def test_a_viewer_may_stop_and_nothing_else(client, robot):
    sign_in(client, Role.VIEW, "guest")
    robot.arm()
    with commands(client) as socket:
        wait_until(lambda: "needs operate" in press(socket)["error"])
        for message in ({"type": "do", "act": "hand_back"}, {"type": "label", "episode_id": "e", "label": "success"}):
            socket.send_json({**message, "id": 2, "robot": "arm"})
            assert "needs operate" in socket.receive_json()["error"]
        assert robot.state is State.ARMED_IDLE
        socket.send_json({"type": "stop"})
        assert socket.receive_json() == {"type": "stopped", "robots": {"arm": "stopped"}}
    assert robot.state is State.ESTOP


def test_a_stop_by_request_names_the_person(client, robot):
    sign_in(client, Role.VIEW, "guest")
    wait_until(lambda: client.post("/stop").json()["arm"] == "stopped")
    assert "stopped by guest" in [x.text for x in robot.published if isinstance(x, m.Event)][-1]


def test_a_robot_that_is_not_reached_is_named_as_not_stopped(tmp_path):
    config = RobotLinkConfig(name="arm", address=str(tmp_path / "nobody"), tokens=tmp_path / "tokens")
    with client_of(Console([config], People(TOKENS), origins=[ORIGIN])) as client:
        sign_in(client)
        assert client.post("/stop").json()["arm"].startswith("NOT CONFIRMED: arm:")


def test_a_reset_carries_its_reason_and_label_its_episode(client, robot):
    sign_in(client)
    connected(client, robot)
    with commands(client) as socket:
        socket.send_json({"type": "label", "id": 3, "robot": "arm", "episode_id": "e1", "label": "failure"})
        assert socket.receive_json()["ok"]
        socket.send_json({"type": "stop"})
        socket.receive_json()
        robot.wait(1.0)
        reset = {"type": "clear", "id": 4, "robot": "arm", "act": "reset", "reason": "looked"}
        socket.send_json(reset | {"confirmed": False})
        assert "not confirmed" in socket.receive_json()["error"]
        socket.send_json(reset | {"confirmed": True})
        assert socket.receive_json()["state"] == "disarmed"
    labels = [x for x in robot.published if isinstance(x, m.Event) and x.kind == "label"]
    assert [(x.operator, x.episode_id, x.label) for x in labels] == [("ada", "e1", m.Label.FAILURE)]


JUNK = [
    "",
    "no json",
    "[]",
    "[" * 9000,
    '{"type": "fly"}',
    '{"type": "ping"}',
    '{"type": "ping", "t": NaN}',
    '{"type": "ping", "t": 1, "more": 2}',
    json.dumps(frame(1, twist=[[0, 0, 0]])),
    json.dumps(frame(1, twist=[])),
    json.dumps(frame(-1)),
    json.dumps(frame(1, t=1e999)),
    '{"type": "do", "id": 1, "robot": "arm", "act": "reset"}',
    '{"type": "clear", "id": 1, "robot": "arm", "act": "reset", "reason": "", "confirmed": true}',
]


@pytest.mark.parametrize("text", JUNK)
def test_a_page_that_sends_what_ours_never_sends_is_disconnected(empty, text):
    client = client_of(empty)
    sign_in(client)
    with commands(client) as socket:
        socket.send_text(text)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()
    assert closed.value.code == 1008


def test_a_page_that_floods_is_disconnected_but_stops_always_pass(empty):
    client = client_of(empty)
    sign_in(client)
    with commands(client) as socket:
        for _ in range(300):
            socket.send_json({"type": "stop"})
        for _ in range(300):
            assert socket.receive_json()["type"] == "stopped"
    with commands(client) as socket:
        for number in range(300):
            socket.send_json({"type": "ping", "t": number})
        answers = [socket.receive() for _ in range(201)]
    assert answers[-1]["type"] == "websocket.close"
    assert answers[-1]["code"] == 1008


def test_an_unknown_robot_is_named_with_those_there_are(client):
    sign_in(client)
    with commands(client) as socket:
        socket.send_json({"type": "do", "id": 1, "robot": "leg", "act": "home"})
        assert "no robot 'leg' here; expected one of arm" in socket.receive_json()["error"]


def test_a_page_is_told_what_the_robots_worker_waits_for(client, robot):
    sign_in(client)
    connected(client, robot)
    robot.must(m.ReportWaiting, token_role=Role.POLICY, what="a person to send it home and watch it go", valid_s=3.0)
    with client.websocket_connect("/ws/watch") as socket:
        robot.wait(0.1)
        status = next(line for line in iter(socket.receive_json, None) if line["type"] == "status")
    assert status["waiting_for"] == "a person to send it home and watch it go"


def test_a_page_that_opens_late_sees_what_was_before(client, robot):
    sign_in(client)
    connected(client, robot)
    robot.wait(0.5)
    with client.websocket_connect("/ws/watch") as socket:
        assert socket.receive_json() == {"type": "robots", "robots": {"arm": {"has_video": False}}}
        assert socket.receive_json()["welcome"]["action_names"][0] == "arm0.dx"
        events = socket.receive_json()["events"]
        assert any("armed by ada" in event["text"] for event in events)
