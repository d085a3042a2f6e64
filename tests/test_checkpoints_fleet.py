"""What a console is told of every robot, and what it is refused, as data."""

from __future__ import annotations

import dataclasses
import json

import pytest
from checkpoint_toys import (
    ARM,
    POLICY,
    WHO,
    add_policy,
    episodes,
    make_promotion,
    open_canary,
    pass_all,
    pass_evaluation,
    pass_shadow,
    record_episodes,
    write_policy,
)

from checkpoints.agent_memory import AgentMemory, Running
from checkpoints.canonical import canonical_json
from checkpoints.fleet import Fleet
from checkpoints.ledger import UnnamedError
from checkpoints.policy import GateKind
from checkpoints.refusals import RefusalKind
from core.errors import CheckpointError


@pytest.fixture
def promotion(tmp_path):
    return make_promotion(tmp_path / "store")


@pytest.fixture
def ids(promotion, tmp_path):
    """Two policies of which the first is on the robot, the second only evaluated; and a value model."""
    found = [add_policy(promotion, tmp_path, weight) for weight in (1.0, 2.0)]
    promotion.store.add(write_policy(tmp_path / "value", kind="value"))
    pass_all(promotion, found[0])
    pass_evaluation(promotion, found[1])
    promotion.promote(found[0], "robot:arm1", **WHO)
    return found


@pytest.fixture
def fleet(promotion, ids):
    return Fleet(promotion)


def report(promotion, **changes):
    memory = AgentMemory(**changes).to_json()
    file = promotion.store.root / "status/arm1.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(canonical_json({**memory, "desired": "", "unix_time_s": 12.5}))


def pass_all_but_evaluation(promotion, checkpoint_id):
    pass_shadow(promotion, checkpoint_id)
    record_episodes(promotion, open_canary(promotion, checkpoint_id), episodes("s" * 30, speed_fraction=0.5))


def kinds(refusals):
    return [refusal.kind for refusal in refusals]


def test_a_robot_is_shown_as_desired_and_as_it_reports(promotion, ids, fleet):
    (state,) = fleet.robots()
    assert (state.desired, state.previous, state.serial, state.actual, state.reported_unix_s) == (ids[0], "", 1, "", None)
    report(promotion, running=Running(checkpoint_id=ids[1], generation=3, speed_fraction=0.5, canary="g"), refusals={"a": "why"})
    promotion.set_pin("arm1", is_pinned=True, by="ada", reason="demo")
    state = fleet.robot("arm1")
    assert (state.actual, state.generation, state.speed_fraction, state.canary) == (ids[1], 3, 0.5, "g")
    assert (state.refused_because, state.reported_unix_s) == ("why", 12.5)
    assert (state.is_pinned, state.pinned_by, state.pinned_because) == (True, "ada", "demo")
    assert json.loads(json.dumps(dataclasses.asdict(state)))["robot"] == "arm1"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"running": 1, "refusals": {}}'])
def test_a_damaged_report_is_named(promotion, fleet, content):
    report(promotion)
    (promotion.store.root / "status/arm1.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"arm1\.json of robot 'arm1' is damaged"):
        fleet.robots()


def test_every_policy_is_listed_with_every_reason_against_it(promotion, ids, fleet, tmp_path):
    foreign = promotion.store.add(write_policy(tmp_path / "foreign", 3.0, conventions=None))
    promotion.set_pin("arm1", is_pinned=True, **WHO)
    found = {choice.checkpoint_id: choice.refusals for choice in fleet.choices("arm1")}
    assert set(found) == {*ids, foreign}
    assert kinds(found[ids[0]]) == [RefusalKind.PIN, RefusalKind.SAME]
    assert kinds(found[ids[1]]) == [RefusalKind.PIN, RefusalKind.GATE, RefusalKind.GATE]
    assert [refusal.gate for refusal in found[ids[1]]] == ["", "shadow", "canary"]
    assert "nothing was recorded" in found[ids[1]][1].text
    assert kinds(found[foreign])[:2] == [RefusalKind.PIN, RefusalKind.CONTRACT]
    assert "undeclared" in found[foreign][1].text


def test_what_stands_against_it_is_what_it_is_refused_for(promotion, ids, fleet):
    serial = fleet.robot("arm1").serial
    outcome = fleet.promote(ids[1], "arm1", by="ada", reason="newer", expected_serial=serial)
    assert outcome.channel is None
    assert outcome.refusals == fleet.choices("arm1")[sorted(ids).index(ids[1])].refusals
    assert fleet.robot("arm1").desired == ids[0]


def test_promote_and_rollback_name_who_did_it(promotion, ids, fleet):
    assert kinds(fleet.rollback_refusals("arm1")) == [RefusalKind.NOTHING_BEFORE]
    pass_all_but_evaluation(promotion, ids[1])
    outcome = fleet.promote(ids[1], "arm1", by="ada", reason="newer", expected_serial=1)
    assert (outcome.refusals, outcome.channel.checkpoint_id) == ((), ids[1])
    assert fleet.rollback_refusals("arm1") == ()
    outcome = fleet.rollback("arm1", by="bob", reason="drops cans", expected_serial=2)
    assert outcome.channel.checkpoint_id == ids[0]
    last = promotion.ledger.history("channel/robot:arm1")[-1]
    assert (last.by, last.reason, last.action) == ("bob", "drops cans", "rollback")


def test_a_second_press_of_the_same_button_does_nothing(promotion, ids, fleet):
    pass_all_but_evaluation(promotion, ids[1])
    fleet.promote(ids[1], "arm1", by="ada", reason="newer", expected_serial=1)
    pass_evaluation(promotion, third := promotion.store.add(write_policy(promotion.store.root.parent / "third", 3.0)))
    pass_all_but_evaluation(promotion, third)
    assert kinds(fleet.promote(third, "arm1", by="bob", reason="x", expected_serial=1).refusals) == [RefusalKind.STALE]
    assert fleet.rollback("arm1", by="ada", reason="x", expected_serial=2).refusals == ()
    assert kinds(fleet.rollback("arm1", by="bob", reason="x", expected_serial=2).refusals) == [RefusalKind.NOTHING_BEFORE]
    assert fleet.robot("arm1").serial == 3


def test_altered_weights_are_refused_when_they_would_be_promoted(promotion, ids, fleet):
    pass_all_but_evaluation(promotion, ids[1])
    manifest = promotion.store.manifest(ids[1])
    (weights,) = [file for file in manifest.files if file.name == "model.safetensors"]
    blob = promotion.store.root / "blobs/sha256" / weights.sha256
    blob.write_bytes(blob.read_bytes()[:-1])
    outcome = fleet.promote(ids[1], "arm1", by="ada", reason="newer", expected_serial=1)
    assert kinds(outcome.refusals) == [RefusalKind.DAMAGE]
    assert "model.safetensors has" in outcome.refusals[0].text
    unknown = fleet.promote("0" * 64, "arm1", by="ada", reason="newer", expected_serial=1)
    assert RefusalKind.DAMAGE in kinds(unknown.refusals)


def test_nobody_promotes_anonymously(promotion, ids, fleet):
    pass_all_but_evaluation(promotion, ids[1])
    with pytest.raises(UnnamedError):
        fleet.promote(ids[1], "arm1", by=" ", reason="newer", expected_serial=1)
    with pytest.raises(UnnamedError):
        fleet.promote(ids[1], "arm1", by="ada", reason="", expected_serial=1)
    assert Fleet.open(promotion.store.root).robot("arm1").serial == 1


def test_a_robot_that_never_reported_is_one_reason(promotion, ids, fleet):
    assert fleet.robots()[0].robot == ARM.robot
    (refusal,) = promotion.refusals_of_promotion(ids[0], "robot:arm9")
    assert (refusal.kind, "never reported" in refusal.text) == (RefusalKind.CONTRACT, True)
    with pytest.raises(CheckpointError, match="never reported"):
        fleet.robot("arm9")


def test_channels_without_a_robot_need_no_contract(promotion, ids):
    assert promotion.refusals_of_promotion(ids[1], "staging") == ()
    strict = make_promotion(promotion.store.root, dataclasses.replace(POLICY, staging=[GateKind.EVALUATION, GateKind.SHADOW]))
    assert [refusal.gate for refusal in strict.refusals_of_promotion(ids[1], "staging")] == ["shadow"]
