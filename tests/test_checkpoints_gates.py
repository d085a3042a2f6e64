from __future__ import annotations

import dataclasses
import json
from functools import partial

import numpy as np
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
)
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.acceptance import DeclaredN, SequentialTest, Verdict, evidence_against, wilson_bounds
from checkpoints.contract import ContractError
from checkpoints.evidence import read_evaluation
from checkpoints.gate_record import Binding, GateEpisode, GateError, GateRecord
from checkpoints.ledger import StaleSerialError
from checkpoints.policy import CanaryGate, EvaluationGate, GateKind, LimitsGate, PromotionPolicy, read_policy
from checkpoints.promotion import PinnedError
from core.errors import CheckpointError, ConfigError
from core.ids import digest

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
SUITE = Binding(name="suite", digest="suite1")


@pytest.fixture
def promotion(tmp_path):
    promotion = make_promotion(tmp_path / "store")
    promotion.register(ARM, by="tester")
    return promotion


@pytest.fixture
def ids(promotion, tmp_path):
    return [add_policy(promotion, tmp_path, weight) for weight in (1.0, 2.0, 3.0)]


def outcomes(letters: str) -> list[bool]:
    return [letter == "s" for letter in letters]


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_successes", "num_episodes", "low"),
    [
        (9, 10, 0.65),
        (18, 20, 0.74),
        (27, 30, 0.77),
        (45, 50, 0.81),
        (20, 20, 0.88),
        (19, 20, 0.80),
        (48, 50, 0.89),
        (95, 100, 0.90),
    ],
)
def test_wilson_lower_bounds_are_the_published_ones(num_successes, num_episodes, low):
    assert round(wilson_bounds(num_successes, num_episodes, alpha=0.05)[0], 2) == low


def test_before_the_declared_n_there_is_no_verdict_whatever_the_counts():
    rule = DeclaredN(num_episodes=20, min_success=0.5)
    for played in range(20):
        for letter in "sf":
            judgement = rule.judge(outcomes(letter * played))
            assert (judgement.verdict, judgement.is_closed) == (INCONCLUSIVE, False)
    assert rule.judge(outcomes("s" * 20)).verdict is PASS
    assert rule.judge(outcomes("f" * 20)).verdict is FAIL
    middle = rule.judge(outcomes("sf" * 10))
    assert (middle.verdict, middle.is_closed) == (INCONCLUSIVE, True)
    assert rule.judge(outcomes("f" * 20 + "s" * 500)).verdict is FAIL


@given(st.lists(st.booleans(), max_size=80), st.lists(st.booleans(), max_size=20), st.sampled_from([0.2, 0.5, 0.9]))
@settings(max_examples=60, deadline=None)
def test_a_sequential_verdict_never_changes_once_it_is_closed(seen, later, threshold):
    rule = SequentialTest(max_episodes=60, min_success=threshold)
    before = rule.judge(seen)
    if before.is_closed:
        assert rule.judge([*seen, *later]) == before


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.05, 0.95))
@settings(max_examples=100, deadline=None)
def test_the_evidence_is_the_mixture_of_bets_that_it_says_it_is(num_successes, num_failures, threshold):
    """The closed form against the integral over bets q on the other side of the threshold."""
    share = (np.arange(20_000) + 0.5) / 20_000
    bets = threshold + (1 - threshold) * share, threshold * share
    for q, found in zip(bets, evidence_against(threshold, num_successes, num_failures), strict=True):
        log_capital = num_successes * np.log(q / threshold) + num_failures * np.log((1 - q) / (1 - threshold))
        assert found == pytest.approx(np.exp(log_capital).mean(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_looking_after_every_episode_passes_a_bad_policy_no_more_often_than_promised(threshold):
    """False positives at the worst case, the threshold itself, over 400 canaries; and peeking at Wilson for contrast."""
    rng = np.random.default_rng(7)
    num_runs, num_episodes, alpha = 400, 60, 0.05
    runs = rng.random((num_runs, num_episodes)) < threshold
    rule = SequentialTest(max_episodes=num_episodes, min_success=threshold, confidence=1 - alpha)
    verdicts = [rule.judge(row.tolist()).verdict for row in runs]
    three_sigma = 3 * np.sqrt(alpha * (1 - alpha) / num_runs)
    assert verdicts.count(PASS) / num_runs <= alpha + three_sigma
    assert verdicts.count(FAIL) / num_runs <= alpha + three_sigma
    counts = np.cumsum(runs, axis=1)
    table = [[wilson_bounds(s, n, alpha=alpha)[0] >= threshold for s in range(n + 1)] for n in range(1, num_episodes + 1)]
    peeked = np.mean([any(table[n][s] for n, s in enumerate(row)) for row in counts])
    assert peeked > 2 * alpha


def test_a_good_policy_passes_and_a_bad_one_fails_most_of_the_time():
    rng = np.random.default_rng(8)
    rule = SequentialTest(max_episodes=60, min_success=0.5)
    for success, expected in ((0.85, PASS), (0.15, FAIL)):
        found = [rule.judge((rng.random(60) < success).tolist()).verdict for _ in range(200)]
        assert found.count(expected) > 180


@pytest.mark.parametrize("change", [{"num_episodes": 0}, {"min_success": 0.0}, {"min_success": 1.0}, {"confidence": 0.4}])
def test_impossible_rules_are_refused(change):
    with pytest.raises(ConfigError, match="expected at least 1"):
        DeclaredN(**change)


# -- gates -------------------------------------------------------------------------------------------------------------


def test_a_declared_gate_takes_no_more_after_n(promotion, ids):
    gate = promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO)
    gate = record_episodes(promotion, gate, episodes("s" * 15))
    assert gate.judgement.verdict is INCONCLUSIVE
    gate = record_episodes(promotion, gate, episodes("s" * 15 + "f" * 20))
    assert len(gate.record.episodes) == 20
    assert gate.judgement.is_closed
    with pytest.raises(GateError, match="the gate is closed"):
        record_episodes(promotion, gate, episodes("s" * 5, first=100))


def test_an_episode_is_counted_once_and_may_not_change(promotion, ids):
    gate = record_episodes(promotion, promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO), episodes("sfs"))
    with pytest.raises(GateError, match="all are recorded already"):
        record_episodes(promotion, gate, episodes("sfs"))
    with pytest.raises(GateError, match=r"episode '1' was recorded as .* which is it"):
        record_episodes(promotion, gate, episodes("sss"))


def test_two_people_who_add_at_once_do_not_overwrite_each_other(promotion, ids):
    gate = promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO)
    record_episodes(promotion, gate, episodes("s"))
    with pytest.raises(StaleSerialError):
        record_episodes(promotion, gate, episodes("f", first=1))


def test_a_new_attempt_needs_new_episodes_and_halves_the_error(promotion, ids):
    gate = record_episodes(promotion, promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO), episodes("sf" * 10))
    with pytest.raises(GateError, match="exists"):
        promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO)
    again = promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, is_new_attempt=True, **WHO)
    assert again.record.attempt == 2
    with pytest.raises(GateError, match="episode '0' was used in attempt 1"):
        record_episodes(promotion, again, episodes("s" * 20))
    # 14 of 20 is enough with an error of 5 %, not with one of 2.5 %.
    assert DeclaredN(num_episodes=20, min_success=0.5).judge(outcomes("s" * 14 + "f" * 6)).verdict is PASS
    again = record_episodes(promotion, again, episodes("s" * 14 + "f" * 6, first=100))
    assert again.judgement.verdict is INCONCLUSIVE
    assert gate.judgement.verdict is INCONCLUSIVE


def test_only_what_closed_without_a_pass_is_tried_again(promotion, ids):
    pass_evaluation(promotion, ids[0])
    with pytest.raises(GateError, match="only a gate that closed without a pass"):
        promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, is_new_attempt=True, **WHO)


@pytest.mark.parametrize("change", [{"is_stopped": True}, {"is_collided": True}])
def test_any_stop_or_collision_fails_a_canary_even_at_too_high_a_speed(promotion, ids, change):
    gate = record_episodes(promotion, open_canary(promotion, ids[0]), episodes("ss", speed_fraction=0.5))
    assert gate.judgement.verdict is INCONCLUSIVE
    gate = record_episodes(promotion, gate, [GateEpisode(key="9", is_success=True, speed_fraction=1.0, **change)])
    assert (gate.judgement.verdict, gate.judgement.is_closed) == (FAIL, True)
    assert "hard limit" in gate.judgement.text


def test_help_counts_as_failure_and_both_numbers_are_said(promotion, ids):
    gate = open_canary(promotion, ids[0])
    gate = record_episodes(promotion, gate, episodes("s" * 30, speed_fraction=0.5, is_intervened=True))
    assert gate.judgement.verdict is FAIL
    solved = len(gate.record.episodes)
    assert f"{solved} with help, which count as failures ({solved} solved with or without)" in gate.judgement.text


@pytest.mark.parametrize("speed", [0.51, 1.0, 0.0, -1.0])
def test_a_canary_at_full_speed_is_refused(promotion, ids, speed):
    with pytest.raises(GateError, match=r"a canary runs at 0\.5 at most"):
        record_episodes(promotion, open_canary(promotion, ids[0]), episodes("s", speed_fraction=speed))


def test_a_robot_tries_one_checkpoint_at_a_time_until_it_is_given_up(promotion, ids):
    gate = open_canary(promotion, ids[0])
    with pytest.raises(GateError, match=f"is trying checkpoint {ids[0][:12]} now"):
        open_canary(promotion, ids[1])
    closed = promotion.gates.add(gate, partial(GateRecord.giving_up, reason="gripper broke"), **WHO)
    assert (closed.judgement.verdict, closed.judgement.is_closed) == (INCONCLUSIVE, True)
    assert "given up (gripper broke)" in closed.judgement.text
    open_canary(promotion, ids[1])


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ({"latency_p99_s": 0.3}, PASS),
        ({"latency_p99_s": 0.31}, FAIL),
        ({"other": 1.0}, INCONCLUSIVE),
    ],
)
def test_measured_numbers_are_held_against_limits(promotion, ids, measured, verdict):
    gate = promotion.gates.open(ids[0], GateKind.SHADOW, Binding(name="arm1", digest=ARM.digest), **WHO)
    with pytest.raises(GateError, match="measured as nan"):
        promotion.gates.add(gate, partial(GateRecord.with_measurements, measurements={"other": np.nan}), **WHO)
    gate = promotion.gates.add(gate, partial(GateRecord.with_measurements, measurements=measured), **WHO)
    assert gate.judgement.verdict is verdict
    with pytest.raises(GateError, match="measured already"):
        promotion.gates.add(gate, partial(GateRecord.with_measurements, measurements=measured), **WHO)
    with pytest.raises(GateError, match="takes no episodes"):
        record_episodes(promotion, gate, episodes("s"))


def test_without_limits_nothing_can_pass(promotion, ids):
    gate = promotion.gates.open(ids[0], GateKind.OFFLINE, Binding(name="data", digest="d1"), **WHO)
    gate = promotion.gates.add(gate, partial(GateRecord.with_measurements, measurements={"loss": 0.0}), **WHO)
    assert gate.judgement.verdict is INCONCLUSIVE


# -- promotion ---------------------------------------------------------------------------------------------------------


def test_a_robot_needs_every_gate_and_the_message_names_each_that_lacks(promotion, ids):
    with pytest.raises(GateError, match=r"evaluation: nothing was recorded; shadow: nothing .*; canary: nothing"):
        promotion.promote(ids[0], "robot:arm1", **WHO)
    pass_all(promotion, ids[0])
    channel = promotion.promote(ids[0], "robot:arm1", **WHO)
    assert (channel.checkpoint_id, channel.previous, len(channel.pointer.evidence)) == (ids[0], "", 3)
    for sha256 in channel.pointer.evidence:
        assert GateRecord.from_json(promotion.ledger.evidence(sha256)).checkpoint_id == ids[0]


def test_evidence_of_another_suite_is_refused(tmp_path, ids):
    policy = dataclasses.replace(POLICY, evaluation=dataclasses.replace(POLICY.evaluation, suite_digest="suite2"))
    lax, strict = make_promotion(tmp_path / "store"), make_promotion(tmp_path / "store", policy)
    with pytest.raises(GateError, match="suite has suite digest suite1; the policy asks for suite2"):
        strict.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO)
    pass_evaluation(lax, ids[0], "suite1")
    with pytest.raises(GateError, match=r"evaluation: recorded on suite \(suite1\); expected on suite2"):
        strict.promote(ids[0], "staging", **WHO)


def test_evidence_of_another_robot_and_of_the_robot_as_it_was_is_refused(promotion, ids):
    pass_all(promotion, ids[0])
    promotion.register(dataclasses.replace(ARM, safety_digest="bb22"), by="tester")
    with pytest.raises(GateError, match=r"shadow: recorded on arm1 .*; expected on .*; canary: recorded on arm1"):
        promotion.promote(ids[0], "robot:arm1", **WHO)


def test_evidence_declared_under_a_laxer_policy_is_refused(tmp_path, ids):
    lax = dataclasses.replace(POLICY, evaluation=EvaluationGate(num_episodes=20, min_success=0.1))
    pass_evaluation(make_promotion(tmp_path / "store", lax), ids[0])
    with pytest.raises(GateError, match=r"declared under another policy: min_success 0\.1 \(policy: 0\.5\)"):
        make_promotion(tmp_path / "store").promote(ids[0], "staging", **WHO)


def test_a_suite_that_was_failed_is_not_outweighed_by_one_that_was_passed(promotion, ids):
    pass_evaluation(promotion, ids[0], "easy")
    gate = promotion.gates.open(ids[0], GateKind.EVALUATION, Binding(name="hard suite", digest="hard"), **WHO)
    record_episodes(promotion, gate, episodes("f" * 20))
    with pytest.raises(GateError, match="evaluation: on hard suite, fail: 0/20"):
        promotion.promote(ids[0], "staging", **WHO)


def test_a_gate_record_that_claims_more_than_its_episodes_is_found(promotion, ids):
    gate = record_episodes(promotion, promotion.gates.open(ids[0], GateKind.EVALUATION, SUITE, **WHO), episodes("f" * 20))
    path = promotion.ledger.root / f"evidence/{gate.sha256}.json"
    path.write_bytes(path.read_bytes().replace(b'"is_success":false', b'"is_success":true'))
    with pytest.raises(CheckpointError, match=r"evidence .* was altered"):
        promotion.promote(ids[0], "staging", **WHO)


def test_rolling_back_twice_does_not_bring_the_bad_one_back(promotion, ids):
    for checkpoint in ids:
        promotion.promote(checkpoint, "candidate", **WHO)
    assert promotion.rollback("candidate", **WHO).checkpoint_id == ids[1]
    assert promotion.rollback("candidate", **WHO).checkpoint_id == ids[0]
    with pytest.raises(CheckpointError, match="nothing before"):
        promotion.rollback("candidate", **WHO)
    assert [entry.action for entry in promotion.ledger.history("channel/candidate")] == ["promote"] * 3 + ["rollback"] * 2


def two_on_the_robot(promotion, ids):
    for checkpoint in ids[:2]:
        pass_evaluation(promotion, checkpoint)
        pass_shadow(promotion, checkpoint)
        record_episodes(promotion, open_canary(promotion, checkpoint), episodes("s" * 30, speed_fraction=0.5))
        promotion.promote(checkpoint, "robot:arm1", **WHO)


def test_a_rollback_needs_no_gate_and_no_leave_of_a_pin(promotion, ids, tmp_path):
    two_on_the_robot(promotion, ids)
    promotion.set_pin("arm1", is_pinned=True, **WHO)
    stricter = dataclasses.replace(POLICY, evaluation=EvaluationGate(num_episodes=500, min_success=0.99))
    assert make_promotion(tmp_path / "store", stricter).rollback("robot:arm1", **WHO).checkpoint_id == ids[0]


def test_a_rollback_needs_the_contract_and_whole_bytes(promotion, ids):
    two_on_the_robot(promotion, ids)
    promotion.register(dataclasses.replace(ARM, max_chunk_length=2), by="tester")
    with pytest.raises(ContractError, match="queues at most 2"):
        promotion.rollback("robot:arm1", **WHO)
    promotion.register(ARM, by="tester")
    for file in promotion.store.manifest(ids[0]).files:
        (promotion.store.root / "blobs/sha256" / file.sha256).write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        promotion.rollback("robot:arm1", **WHO)


def test_a_pinned_robot_takes_nothing_new(promotion, ids):
    pass_all(promotion, ids[0])
    promotion.set_pin("arm1", is_pinned=True, by="sam", reason="demo tomorrow")
    with pytest.raises(PinnedError, match=r"pinned by sam \(demo tomorrow\)"):
        promotion.promote(ids[0], "robot:arm1", **WHO)
    promotion.set_pin("arm1", is_pinned=False, **WHO)
    promotion.promote(ids[0], "robot:arm1", **WHO)


@pytest.mark.parametrize("channel", ["robot:", "production", "robot:a/b", "robot:../x", "STAGING"])
def test_other_channels_do_not_exist(promotion, ids, channel):
    with pytest.raises(CheckpointError, match="not a channel"):
        promotion.promote(ids[0], channel, **WHO)


def test_an_unknown_robot_and_a_value_model_are_refused(promotion, tmp_path, ids):
    with pytest.raises(CheckpointError, match="robot 'arm9' never reported"):
        promotion.promote(ids[0], "robot:arm9", **WHO)
    value = add_policy(promotion, tmp_path, 9.0, kind="value")
    with pytest.raises(ContractError, match="it is not a policy"):
        promotion.promote(value, "robot:arm1", **WHO)
    promotion.promote(value, "candidate", **WHO)


# -- the policy file ---------------------------------------------------------------------------------------------------


def test_a_policy_file_changes_what_it_names_and_no_more(tmp_path):
    (tmp_path / "policy.yaml").write_text("canary: {min_success: 0.9}\nrobot: [evaluation, canary]\n")
    policy = read_policy(tmp_path)
    assert policy == PromotionPolicy(canary=CanaryGate(min_success=0.9), robot=[GateKind.EVALUATION, GateKind.CANARY])


@pytest.mark.parametrize(
    "text",
    ["evaluation: {n: 3}", "robot: [luck]", "[1]", "a: [", "canary: {max_speed_fraction: 2}", "shadow: {limits: {a: [1]}}"],
)
def test_a_wrong_policy_file_is_refused_by_name(tmp_path, text):
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        read_policy(tmp_path)


def test_limits_that_are_written_replace_the_default_ones(tmp_path):
    (tmp_path / "policy.yaml").write_text("shadow: {limits: {latency_p99_s: [null, 0.1]}}\n")
    assert read_policy(tmp_path).shadow == LimitsGate(limits={"latency_p99_s": [None, 0.1]})
    (tmp_path / "policy.yaml").write_text("staging: []\n")
    assert read_policy(tmp_path).shadow == PromotionPolicy().shadow


# -- evaluations -------------------------------------------------------------------------------------------------------


def own_digest(promotion, checkpoint: str) -> str:
    return digest(json.loads(promotion.store.read_file(checkpoint, "manifest.json")))


def task_evaluation(checkpoint_digest: str | None, successes: str, **changes) -> dict:
    rows = [{"seed": seed, "success": letter == "s", "steps": 80} for seed, letter in enumerate(successes)]
    about = {"task": "reach", "asset_set": "none", "environment_digest": "e1"}
    return {"checkpoint_digest": checkpoint_digest, **about, "episodes": rows, **changes}


def test_the_evaluation_of_a_task_is_read_and_bound_to_checkpoint_and_environment(promotion, ids, tmp_path):
    file, own = tmp_path / "evaluation.json", own_digest(promotion, ids[0])
    file.write_text(json.dumps(task_evaluation(own, "ssf")))
    found = read_evaluation(tmp_path, promotion.store, ids[0])
    assert [episode.is_success for episode in found.episodes] == [True, True, False]
    assert found.binding.digest == "e1"
    with pytest.raises(GateError, match=rf"digest {own}, not of {ids[1][:12]}"):
        read_evaluation(file, promotion.store, ids[1])
    file.write_text(json.dumps(task_evaluation(None, "ssf")))
    with pytest.raises(GateError, match="none: it is no policy"):
        read_evaluation(file, promotion.store, ids[0])
    before_digests = {key: value for key, value in task_evaluation(own, "s").items() if key != "environment_digest"}
    file.write_text(json.dumps(before_digests))
    with pytest.raises(GateError, match="'environment_digest'"):
        read_evaluation(file, promotion.store, ids[0])


def suite_evaluation(manifest_digest: str, **changes) -> dict:
    keys = [f"lift|plain|{i}|0" for i in range(4)] + ["lift|extra|0|0"]
    variants = {"plain": {"is_averaged": True}, "extra": {"is_averaged": False}}
    return {
        "identity": {"subject": "p", "checkpoint_digest": manifest_digest, "asset_set": "builtin", "simulator": "s 1"},
        "protocol": {"name": "small", "digest": "p1", "tasks": {}},
        "tasks": {"lift": {"variants": variants}},
        "trials": [{"key": key, "is_success": key.endswith("|0|0")} for key in keys],
        "num_missing": 0,
        "errors": [],
        **changes,
    }


def test_the_evaluation_of_a_suite_counts_what_its_averages_count(promotion, ids, tmp_path):
    own = own_digest(promotion, ids[0])
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(suite_evaluation(own)))
    found = read_evaluation(file, promotion.store, ids[0])
    assert sorted(episode.key for episode in found.episodes) == [f"lift|plain|{i}|0" for i in range(4)]
    assert sum(episode.is_success for episode in found.episodes) == 1
    with pytest.raises(GateError, match="evaluate this one"):
        read_evaluation(file, promotion.store, ids[1])
    file.write_text(json.dumps(suite_evaluation(own, num_missing=2)))
    with pytest.raises(GateError, match="not complete: 2 trials missing"):
        read_evaluation(file, promotion.store, ids[0])
    other = {**suite_evaluation(own), "protocol": {"name": "small", "digest": "p2", "tasks": {}}}
    file.write_text(json.dumps(other))
    assert read_evaluation(file, promotion.store, ids[0]).binding.digest != found.binding.digest


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"protocol": {}}', '{"checkpoint": "nowhere", "episodes": []}'])
def test_what_is_no_evaluation_is_refused(promotion, ids, tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(GateError):
        read_evaluation(tmp_path, promotion.store, ids[0])
    with pytest.raises(GateError, match=r"run python -m actors\.evaluate"):
        read_evaluation(tmp_path / "none", promotion.store, ids[0])
