"""Opens gates, adds to them, and says what stands: every change a swap in the ledger, every record kept under its digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from checkpoints.acceptance import Judgement, Verdict
from checkpoints.gate_record import Binding, GateError, GateRecord, gate_folder
from checkpoints.ledger import Ledger, Pointer
from checkpoints.policy import GateKind, PromotionPolicy


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A gate as it stands."""

    record: GateRecord
    sha256: str
    """Of the record: what a promotion names as its evidence."""
    serial: int

    @property
    def judgement(self) -> Judgement:
        """The verdict."""
        return self.record.judge()


class Gates:
    """The gates of all checkpoints of a store."""

    def __init__(self, ledger: Ledger, policy: PromotionPolicy) -> None:
        """Gates that are opened take their strictness from ``policy``."""
        self._ledger = ledger
        self._policy = policy

    def of(self, checkpoint_id: str) -> tuple[Gate, ...]:
        """All gates of a checkpoint, attempts in order."""
        gates = (self._read(name) for name in self._ledger.names(gate_folder(checkpoint_id)))
        return tuple(sorted(gates, key=lambda gate: (gate.record.kind.value, gate.record.binding.digest, gate.record.attempt)))

    def latest(self, checkpoint_id: str, kind: GateKind, digest: str) -> Gate | None:
        """The last attempt on one binding."""
        found = [gate for gate in self.of(checkpoint_id) if (gate.record.kind, gate.record.binding.digest) == (kind, digest)]
        return found[-1] if found else None

    def open_canary(self, digest: str) -> Gate | None:
        """The canary that a robot, by the digest of its capabilities, is to run now: opened and without a verdict.

        Raises:
            GateError: if two are open: a robot tries one checkpoint at a time.
        """
        names = [name for name in self._ledger.names("gate") if f"/{GateKind.CANARY.value}.{digest}." in name]
        gates = [gate for gate in map(self._read, names) if not gate.judgement.is_closed]
        if len(gates) > 1:
            which = " and ".join(gate.record.checkpoint_id[:12] for gate in gates)
            raise GateError(f"two canaries are open on one robot: {which}; finish or give up one")
        return gates[0] if gates else None

    def open(
        self, checkpoint_id: str, kind: GateKind, binding: Binding, *, by: str, reason: str, is_new_attempt: bool = False
    ) -> Gate:
        """Declare a gate before its evidence is gathered.

        Args:
            checkpoint_id: whose.
            kind: of evidence.
            binding: what the evidence is gathered on.
            by: who.
            reason: why.
            is_new_attempt: begin again after a gate that closed without a pass.

        Raises:
            GateError: if it is open or closed already, or the suite is not the one that the policy asks for.
        """
        required = self._policy.evaluation.suite_digest
        if kind is GateKind.EVALUATION and required and binding.digest != required:
            raise GateError(
                f"evidence of {binding.name} has suite digest {binding.digest}; the policy asks for {required}. Evaluate on "
                "that suite"
            )
        if (
            kind is GateKind.CANARY
            and (other := self.open_canary(binding.digest))
            and other.record.checkpoint_id != checkpoint_id
        ):
            raise GateError(
                f"robot {binding.name!r} is trying checkpoint {other.record.checkpoint_id[:12]} now; finish that canary first"
            )
        before = self.latest(checkpoint_id, kind, binding.digest)
        attempt = 1
        if before is not None:
            judgement = before.judgement
            if not is_new_attempt:
                raise GateError(
                    f"the {kind.value} gate on {binding.name} exists ({judgement.verdict.value}: {judgement.text}); add to it, "
                    "or, if it is closed, begin a new attempt"
                )
            if not judgement.is_closed or judgement.verdict is Verdict.PASS:
                raise GateError(
                    f"no new attempt: the {kind.value} gate on {binding.name} is {judgement.verdict.value} ({judgement.text}); "
                    "only a gate that closed without a pass is tried again"
                )
            attempt = before.record.attempt + 1
        record = GateRecord(
            checkpoint_id=checkpoint_id, kind=kind, binding=binding, attempt=attempt, rule=self._policy.rule_of(kind)
        )
        return self._swap(record, expected_serial=0, action="gate open", by=by, reason=reason)

    def add(self, gate: Gate, grow: Callable[[GateRecord], GateRecord], *, by: str, reason: str) -> Gate:
        """Add evidence to a gate that was read before.

        Args:
            gate: as read; if somebody added to it since, this is refused.
            grow: :meth:`GateRecord.with_episodes` or :meth:`GateRecord.with_measurements`, its arguments given.
            by: who.
            reason: why.

        Raises:
            GateError: if the gate takes no more, or an episode was used in an earlier attempt.
            StaleSerialError: if somebody added first.
        """
        record = grow(gate.record)
        self._require_unused(record)
        return self._swap(record, expected_serial=gate.serial, action="gate", by=by, reason=reason)

    def _require_unused(self, record: GateRecord) -> None:
        """A new attempt that counted old episodes would be a second look at the same data."""
        new = {episode.key for episode in record.episodes}
        for gate in self.of(record.checkpoint_id):
            earlier = gate.record
            if (earlier.kind, earlier.binding) != (record.kind, record.binding) or earlier.attempt >= record.attempt:
                continue
            used = sorted(new & {episode.key for episode in earlier.episodes})
            if used:
                raise GateError(f"episode {used[0]!r} was used in attempt {earlier.attempt}; a new attempt needs new episodes")

    def _swap(self, record: GateRecord, *, expected_serial: int, action: str, by: str, reason: str) -> Gate:
        sha256 = self._ledger.keep_evidence(record.to_json())
        pointer = self._ledger.swap(
            record.name,
            {"record": sha256, "verdict": record.judge().verdict.value},
            expected_serial=expected_serial,
            action=action,
            by=by,
            reason=reason,
            evidence=(sha256,),
        )
        return Gate(record=record, sha256=sha256, serial=pointer.serial)

    def _read(self, name: str) -> Gate:
        pointer: Pointer | None = self._ledger.read(name)
        if pointer is None:
            raise GateError(f"there is no gate {name}; see `show`")
        sha256 = str(pointer.value["record"])
        record = GateRecord.from_json(self._ledger.evidence(sha256))
        if record.name != name:
            raise GateError(f"gate {name} points to the record of {record.name}: it was altered; run `audit --verify`")
        return Gate(record=record, sha256=sha256, serial=pointer.serial)
