"""Promotion and rollback from the console: who may, in whose name, and what is refused in words."""

from __future__ import annotations

import json
import socket
import threading

import pytest
import uvicorn
from checkpoint_toys import WHO, add_policy, make_promotion, pass_all, pass_evaluation
from console_rig import needs_chromium
from playwright.sync_api import expect
from starlette.testclient import TestClient

from checkpoints.fleet import Fleet
from console.app import Console
from console.people import People
from console.promotions import Promotions
from console.robot_link import RobotLinkConfig
from robot_drivers.states import Role

pytest_plugins = ["console_fixtures"]
ORIGIN = "http://testserver"
TOKENS = {role: role.value * 8 for role in (Role.VIEW, Role.OPERATE, Role.SUPERVISE)}


@pytest.fixture(scope="module")
def promotion(tmp_path_factory):
    """One for all tests, because gates take their time; whoever moves the channel moves it back."""
    return make_promotion(tmp_path_factory.mktemp("promotions") / "store")


@pytest.fixture(scope="module")
def ids(promotion, tmp_path_factory):
    """Two policies that passed every gate, the first on the robot; and one that was only evaluated."""
    folder = tmp_path_factory.mktemp("policies")
    found = [add_policy(promotion, folder, weight) for weight in (1.0, 2.0, 3.0)]
    for checkpoint_id in found[:2]:
        pass_all(promotion, checkpoint_id)
    pass_evaluation(promotion, found[2])
    promotion.promote(found[0], "robot:arm1", **WHO)
    return found


@pytest.fixture
def client(promotion, ids):
    console = Console([], People(TOKENS), origins=[ORIGIN], promotions=Promotions(Fleet(promotion)))
    return TestClient(console.app(), base_url=ORIGIN, headers={"origin": ORIGIN})


def sign_in(client, role, name="cy"):
    assert client.post("/session", content=json.dumps({"token": TOKENS[role], "name": name})).status_code == 200


def move(client, how, **fields):
    return client.post(f"/checkpoints/arm1/{how}", content=json.dumps(fields))


def test_everybody_sees_what_is_wanted_and_what_stands_against_the_rest(client, ids):
    assert client.get("/checkpoints/arm1").status_code == 401
    sign_in(client, Role.VIEW)
    assert client.get("/session").json()["has_checkpoints"] is True
    state = client.get("/checkpoints/arm1").json()
    assert (state["robot"]["desired"], state["robot"]["actual"]) == (ids[0], "")
    refusals = {choice["checkpoint_id"]: [refusal["kind"] for refusal in choice["refusals"]] for choice in state["choices"]}
    assert refusals == {ids[0]: ["same"], ids[1]: [], ids[2]: ["gate", "gate"]}
    assert [refusal["kind"] for refusal in state["rollback_refusals"]] == ["nothing_before"]


@pytest.mark.parametrize("role", [Role.VIEW, Role.OPERATE])
def test_only_a_supervisor_moves_a_checkpoint(client, promotion, ids, role):
    sign_in(client, role)
    for how in ("promote", "rollback"):
        answer = move(client, how, checkpoint_id=ids[1], reason="r", expected_serial=1)
        assert answer.status_code == 403
        assert "needs supervise" in answer.json()["error"]
    assert promotion.channel("robot:arm1").checkpoint_id == ids[0]


def test_promotion_and_rollback_are_in_the_persons_name(client, promotion, ids):
    sign_in(client, Role.SUPERVISE)
    serial = client.get("/checkpoints/arm1").json()["robot"]["serial"]
    answer = move(client, "promote", checkpoint_id=ids[1], reason="canary passed", expected_serial=serial)
    assert answer.json() == {"checkpoint_id": ids[1], "serial": serial + 1}
    answer = move(client, "rollback", reason="drops cans", expected_serial=serial + 1)
    assert answer.json() == {"checkpoint_id": ids[0], "serial": serial + 2}
    entries = promotion.ledger.history("channel/robot:arm1")[-2:]
    assert [(entry.by, entry.reason, entry.action) for entry in entries] == [
        ("cy", "canary passed", "promote"),
        ("cy", "drops cans", "rollback"),
    ]


def test_what_is_refused_is_refused_in_words_and_changes_nothing(client, promotion, ids):
    sign_in(client, Role.SUPERVISE)
    serial = client.get("/checkpoints/arm1").json()["robot"]["serial"]
    refused = {
        "nothing was recorded": {"checkpoint_id": ids[2], "reason": "r", "expected_serial": serial},
        "serial": {"checkpoint_id": ids[1], "reason": "r", "expected_serial": serial + 7},
        "say who does it": {"checkpoint_id": ids[1], "reason": " ", "expected_serial": serial},
    }
    for words, fields in refused.items():
        answer = move(client, "promote", **fields)
        assert answer.status_code == 409
        assert words in answer.json()["error"]
    assert "nothing before" in move(client, "rollback", reason="r", expected_serial=serial).json()["error"]
    assert promotion.channel("robot:arm1").pointer.serial == serial


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"reason": "r", "expected_serial": "1"}', '{"reason": 1, "expected_serial": 1}']
)
def test_a_request_of_another_form_is_named(client, body):
    sign_in(client, Role.SUPERVISE)
    answer = client.post("/checkpoints/arm1/rollback", content=body)
    assert answer.status_code == 400
    assert "expected an object of reason: str, expected_serial: int" in answer.json()["error"]


def test_a_robot_that_the_store_does_not_know_is_named(client):
    sign_in(client, Role.VIEW)
    answer = client.get("/checkpoints/arm9")
    assert answer.status_code == 409
    assert "arm9" in answer.json()["error"]


@pytest.fixture
def served(promotion, ids, tmp_path):
    """The page's address; the robot that it shows has no supervisor, which promotion does not need."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        robot = RobotLinkConfig(name="arm1", address=str(tmp_path / "nobody"), tokens=tmp_path / "tokens")
        console = Console([robot], People(TOKENS), origins=[origin], promotions=Promotions(Fleet(promotion)))
        server = uvicorn.Server(uvicorn.Config(console.app(), ws="websockets-sansio", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield origin
        server.should_exit = True
        thread.join()


def confirm(page, reason):
    page.locator("#confirm-looked").check()
    page.locator("#confirm-reason").fill(reason)
    page.locator("#confirm-yes").click()


@pytest.mark.browser
@needs_chromium
def test_a_supervisor_promotes_and_rolls_back_on_the_page(served, promotion, ids, context):
    page = context.new_page()
    page.goto(f"{served}/#{TOKENS[Role.SUPERVISE]}")
    page.get_by_label("Your name").fill("cy")
    page.keyboard.press("Enter")
    before = promotion.channel("robot:arm1")
    expect(page.locator("#promotion-desired")).to_have_text(before.checkpoint_id[:12])
    expect(page.locator("#promotion-actual")).to_have_text("none (never reported)")
    page.locator("#promotion-choice").select_option(ids[2])
    expect(page.locator("#promotion-refusals")).to_contain_text("nothing was recorded")
    expect(page.locator("#promotion-promote")).to_be_disabled()
    page.locator("#promotion-choice").select_option(ids[1])
    page.locator("#promotion-promote").click()
    confirm(page, "canary passed")
    expect(page.locator("#promotion-note")).to_contain_text("Promoted")
    expect(page.locator("#promotion-desired")).to_have_text(ids[1][:12])
    page.locator("#promotion-rollback").click()
    confirm(page, "drops cans")
    expect(page.locator("#promotion-note")).to_contain_text("Rolled back")
    expect(page.locator("#promotion-desired")).to_have_text(ids[0][:12])
    last = promotion.ledger.history("channel/robot:arm1")[-1]
    assert (last.by, last.reason, last.action) == ("cy", "drops cans", "rollback")


@pytest.mark.browser
@needs_chromium
def test_an_operator_sees_the_checkpoint_and_cannot_move_it(served, ids, context):
    page = context.new_page()
    page.goto(f"{served}/#{TOKENS[Role.OPERATE]}")
    page.get_by_label("Your name").fill("ada")
    page.keyboard.press("Enter")
    expect(page.locator("#promotion-desired")).to_have_text(ids[0][:12])
    expect(page.locator("#promotion-acts")).to_be_hidden()
