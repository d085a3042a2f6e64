from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from checkpoint_toys import WHO, add_policy, make_promotion, pass_evaluation

from checkpoints.audit import AuditEntry, AuditError
from checkpoints.canonical import canonical_json
from checkpoints.ledger import Ledger, StaleSerialError
from checkpoints.lock import locked
from core.errors import CheckpointError, StorageFullError


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path)
    for serial in range(3):
        ledger.swap("channel/candidate", {"id": str(serial)}, expected_serial=serial, action="promote", **WHO)
    ledger.swap("pin/arm1", {"is_pinned": True}, expected_serial=0, action="pin", **WHO)
    return ledger


def log_lines(ledger: Ledger) -> list[bytes]:
    return (ledger.root / "audit.jsonl").read_bytes().splitlines(keepends=True)


def write_lines(ledger: Ledger, lines: list[bytes]) -> None:
    (ledger.root / "audit.jsonl").write_bytes(b"".join(lines))


def test_a_pointer_holds_what_was_swapped_in_and_who_did_it(ledger):
    pointer = ledger.read("channel/candidate")
    assert (pointer.serial, pointer.value, pointer.by, pointer.reason) == (3, {"id": "2"}, "tester", "a test")
    assert ledger.read("channel/staging") is None
    assert ledger.names("channel") == ("channel/candidate",)
    assert [entry.number for entry in ledger.history()] == [1, 2, 3, 4]
    assert ledger.verify().head == ledger.read("pin/arm1").entry_sha256


def test_a_stale_serial_changes_nothing_and_says_who_was_first(ledger):
    before = log_lines(ledger)
    for serial in (0, 2, 4):
        with pytest.raises(StaleSerialError, match=r'serial 3, not \d: it was changed to \{"id":"2"\} by tester \(a test\)'):
            ledger.swap("channel/candidate", {"id": "x"}, expected_serial=serial, action="promote", **WHO)
    assert log_lines(ledger) == before
    assert ledger.read("channel/candidate").value == {"id": "2"}


@pytest.mark.parametrize("who", [{"by": " ", "reason": "why"}, {"by": "me", "reason": ""}])
def test_nobody_changes_anything_anonymously_or_for_no_reason(ledger, who):
    with pytest.raises(CheckpointError, match="say who does it"):
        ledger.swap("channel/candidate", {}, expected_serial=3, action="promote", **who)


@pytest.mark.parametrize("name", ["../outside", "channel/../../x", "/etc/passwd", "", "a//b"])
def test_no_name_leads_out_of_the_store(ledger, name):
    with pytest.raises(CheckpointError, match="not the name of a pointer"):
        ledger.read(name)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize(("old", "new"), [(b"tester", b"nobody"), (b"a test", b"urgent"), (b'"serial":', b'"serial":1')])
def test_a_tampered_line_is_named_and_nothing_is_promoted_on_it(ledger, number, old, new):
    lines = log_lines(ledger)
    lines[number - 1] = lines[number - 1].replace(old, new)
    write_lines(ledger, lines)
    with pytest.raises(AuditError, match=rf"audit\.jsonl, line {number} was altered"):
        ledger.verify()
    with pytest.raises(AuditError, match=rf"line {number} was altered"):
        ledger.swap("pin/arm1", {"is_pinned": False}, expected_serial=1, action="release", **WHO)


def test_a_line_that_was_altered_with_its_hash_breaks_the_chain(ledger):
    lines = log_lines(ledger)
    record = {**json.loads(lines[1]), "by": "nobody"}
    del record["sha256"]
    lines[1] = AuditEntry(**{**record, "evidence": ()}).to_line()
    write_lines(ledger, lines)
    with pytest.raises(AuditError, match=r"line 3 is entry 3 after .*: lines were removed, added or reordered"):
        ledger.verify()


def test_a_log_rewritten_to_its_end_contradicts_the_pointers(ledger):
    lines = log_lines(ledger)
    record = {**json.loads(lines[3]), "by": "nobody"}
    del record["sha256"]
    lines[3] = AuditEntry(**{**record, "evidence": ()}).to_line()
    write_lines(ledger, lines)
    with pytest.raises(AuditError, match=r"pointer pin/arm1 .* one of them was altered"):
        ledger.verify()


@pytest.mark.parametrize("removed", [[0], [1], [0, 1]])
def test_removed_lines_are_noticed(ledger, removed):
    write_lines(ledger, [line for index, line in enumerate(log_lines(ledger)) if index not in removed])
    with pytest.raises(AuditError, match="lines were removed"):
        ledger.verify()


def test_a_log_cut_short_contradicts_its_pointers_and_whoever_remembers_its_head(ledger):
    head = ledger.verify().head
    write_lines(ledger, log_lines(ledger)[:3])
    with pytest.raises(AuditError, match=r"pointer pin/arm1 .* the audit log has no entry"):
        ledger.verify()
    with pytest.raises(AuditError, match="pointer pin/arm1"):
        ledger.swap("pin/arm1", {"is_pinned": False}, expected_serial=1, action="release", **WHO)
    (ledger.root / "pointers/pin/arm1.json").unlink()
    ledger.verify()  # both were removed: only the remembered head tells
    with pytest.raises(AuditError, match=f"does not hold entry {head[:12]} that you remember"):
        ledger.verify(head=head)


def test_a_tampered_pointer_is_noticed_and_repaired_from_the_log(ledger):
    path = ledger.root / "pointers/channel/candidate.json"
    whole = path.read_bytes()
    path.write_bytes(canonical_json({**json.loads(whole), "value": {"id": "evil"}}))
    with pytest.raises(AuditError, match=r'pointer channel/candidate is at serial 3 with \{"id":"evil"\}'):
        ledger.verify()
    ledger.repair()
    assert path.read_bytes() == whole
    path.write_bytes(b"{}")
    with pytest.raises(AuditError, match="was altered"):
        ledger.read("channel/candidate")


def test_tampered_and_missing_evidence_is_noticed(ledger):
    sha256 = ledger.keep_evidence({"verdict": "fail"})
    ledger.swap("gate/x", {"record": sha256}, expected_serial=0, action="gate", evidence=[sha256], **WHO)
    ledger.verify()
    path = ledger.root / f"evidence/{sha256}.json"
    path.write_bytes(path.read_bytes().replace(b"fail", b"pass"))
    with pytest.raises(CheckpointError, match=r"evidence .* was altered"):
        ledger.verify()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"evidence .* is missing"):
        ledger.verify()


def test_a_torn_last_line_does_not_count_and_is_cut_off(ledger):
    whole = log_lines(ledger)
    write_lines(ledger, [*whole, whole[0][:-1]])
    ledger.verify()
    ledger.swap("pin/arm1", {"is_pinned": False}, expected_serial=1, action="release", **WHO)
    assert log_lines(ledger)[:-1] == whole
    ledger.verify()


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_full_disk_changes_nothing(ledger, monkeypatch, failing_write):
    """The first write is of the staged pointer, the second of the audit log."""
    before = log_lines(ledger), sorted(path for path in ledger.root.rglob("*"))
    real, count = os.write, 0

    def write(descriptor, content):
        nonlocal count
        count += 1
        if count == failing_write:
            real(descriptor, bytes(content)[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StorageFullError, match="disk full while storing the new pin/arm1"):
            ledger.swap("pin/arm1", {"is_pinned": False}, expected_serial=1, action="release", **WHO)
    assert (log_lines(ledger), sorted(path for path in ledger.root.rglob("*"))) == before
    ledger.swap("pin/arm1", {"is_pinned": False}, expected_serial=1, action="release", **WHO)
    ledger.verify()


def test_a_store_that_somebody_holds_is_waited_for_and_then_given_up(tmp_path):
    again = locked(tmp_path / ".lock", timeout_s=0.0, what="the store")
    busy = pytest.raises(CheckpointError, match="the store has been in use by another process for 0 s")
    with locked(tmp_path / ".lock", timeout_s=1.0, what="the store"), busy, again:
        pass
    with locked(tmp_path / ".lock", timeout_s=0.0, what="the store"):
        pass


# -- races between processes -------------------------------------------------------------------------------------------


def _promote(root: Path, checkpoint: str, number: int, barrier, results) -> None:
    promotion = make_promotion(root)
    present = promotion.channel("staging")
    serial = present.pointer.serial if present else 0
    barrier.wait()
    try:
        promotion.promote(checkpoint, "staging", by=f"process {number}", reason="race", expected_serial=serial)
        results.put((number, "won"))
    except StaleSerialError:
        results.put((number, "lost"))


def test_of_promotions_at_once_exactly_one_wins(tmp_path):
    """Real processes that decided on the same state and move at the same moment."""
    promotion = make_promotion(tmp_path / "store")
    ids = [add_policy(promotion, tmp_path, weight) for weight in range(4)]
    for checkpoint in ids:
        pass_evaluation(promotion, checkpoint)
    context = multiprocessing.get_context("fork")
    for serial in (1, 2):
        barrier, results = context.Barrier(2), context.Queue()
        contenders = ids[2 * serial - 2 : 2 * serial]
        processes = [
            context.Process(target=_promote, args=(tmp_path / "store", checkpoint, number, barrier, results))
            for number, checkpoint in enumerate(contenders)
        ]
        for process in processes:
            process.start()
        outcome = dict(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        assert sorted(outcome.values()) == ["lost", "won"]
        (winner,) = [number for number, result in outcome.items() if result == "won"]
        channel = promotion.channel("staging")
        assert channel.checkpoint_id == contenders[winner]
        assert (channel.pointer.serial, channel.pointer.by) == (serial, f"process {winner}")
    promotion.ledger.verify()


def _swap_often(root: Path, number: int, times: int) -> None:
    ledger = Ledger(root)
    done = 0
    while done < times:
        pointer = ledger.read("channel/candidate")
        value = {"count": (pointer.value["count"] if pointer else 0) + 1}
        try:
            serial = pointer.serial if pointer else 0
            ledger.swap("channel/candidate", value, expected_serial=serial, action="count", by=f"process {number}", reason="race")
            done += 1
        except StaleSerialError:
            continue


def test_no_swap_is_lost_among_processes(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_swap_often, args=(tmp_path, number, 8)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    ledger = Ledger(tmp_path)
    assert ledger.read("channel/candidate").value == {"count": 24}
    assert len(ledger.verify().entries) == 24
