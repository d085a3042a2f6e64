"""Promotion, rollback and pins: which checkpoint a channel points to, and who may change that on what evidence.

Hop 10 of the tour for robots. Channels are ``candidate``, ``staging`` and ``robot:NAME``. A promotion needs whole bytes, the
gates that the policy asks of the channel (each passed, on this robot or suite, under the present rule) and, for a robot, the
contract. A rollback needs the contract and whole bytes, nothing else: going back must not wait for an evaluation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.acceptance import Verdict
from checkpoints.contract import LiveCapabilities, require_contract
from checkpoints.gates import Gate, Gates
from checkpoints.ledger import Ledger, Pointer
from checkpoints.policy import GateKind, PromotionPolicy, read_policy
from checkpoints.refusals import NotEvaluatedError, Refusal, RefusalKind
from checkpoints.store import CheckpointStore
from core.errors import CheckpointError, ConfigError

_CHANNEL = re.compile(r"candidate|staging|robot:([A-Za-z0-9][A-Za-z0-9_.-]*)")


class PinnedError(CheckpointError):
    """The robot is pinned: nothing is promoted to it until a person says so."""


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel as it stands."""

    name: str
    checkpoint_id: str
    previous: str
    """What a rollback returns to; empty: nothing."""
    pointer: Pointer


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Whether a robot takes promotions."""

    is_pinned: bool
    by: str = ""
    reason: str = ""


def robot_of(channel: str) -> str | None:
    """The robot that a channel is for; None for ``candidate`` and ``staging``.

    Example:
        >>> robot_of("robot:arm1"), robot_of("staging")
        ('arm1', None)

    Raises:
        CheckpointError: if it is not the name of a channel.
    """
    found = _CHANNEL.fullmatch(channel)
    if not found:
        raise CheckpointError(f"not a channel: {channel!r}; expected candidate, staging or robot:NAME")
    return found.group(1)


class Promotion:
    """Moves channels. Remembers nothing: everything is read from the store, so any number of processes may use one."""

    def __init__(self, store: CheckpointStore, ledger: Ledger, policy: PromotionPolicy) -> None:
        """Gates and channels are ``ledger``'s pointers."""
        self.store = store
        self.ledger = ledger
        self.policy = policy
        self.gates = Gates(ledger, policy)

    @classmethod
    def open(cls, root: Path, *, is_new: bool = False) -> Promotion:
        """Of the store in a folder, under the store's own policy.

        Args:
            root: of the store.
            is_new: it may not exist yet.

        Raises:
            ConfigError: if there is no such folder, or its ``policy.yaml`` is wrong.
        """
        if not is_new and not root.is_dir():
            raise ConfigError(f"no checkpoint store at {root}: expected a folder; `python -m checkpoints add` makes one")
        return cls(CheckpointStore(root), Ledger(root), read_policy(root))

    # -- what stands ---------------------------------------------------------------------------------------------------

    def channel(self, name: str) -> Channel | None:
        """A channel; None if nothing was ever promoted to it."""
        robot_of(name)
        pointer = self.ledger.read(f"channel/{name}")
        if pointer is None:
            return None
        return Channel(
            name=name, checkpoint_id=str(pointer.value["id"]), previous=str(pointer.value["previous"]), pointer=pointer
        )

    def channels(self) -> tuple[Channel, ...]:
        """All that were ever set, by name."""
        found = (self.channel(name.removeprefix("channel/")) for name in self.ledger.names("channel"))
        return tuple(channel for channel in found if channel is not None)

    def capabilities(self, robot: str) -> LiveCapabilities:
        """What a robot last reported that it is.

        Raises:
            CheckpointError: if it never did.
        """
        pointer = self.ledger.read(f"robot/{robot}")
        if pointer is None:
            raise CheckpointError(
                f"robot {robot!r} never reported its capabilities; start its agent, or give them with "
                f"`robots --register FILE` ({', '.join(self.robots()) or 'none'} did)"
            )
        return LiveCapabilities.from_json(pointer.value)

    def robots(self) -> tuple[str, ...]:
        """All that reported."""
        return tuple(name.removeprefix("robot/") for name in self.ledger.names("robot"))

    def pin(self, robot: str) -> Pin:
        """Whether a robot is pinned."""
        pointer = self.ledger.read(f"pin/{robot}")
        if pointer is None:
            return Pin(is_pinned=False)
        return Pin(is_pinned=bool(pointer.value["is_pinned"]), by=pointer.by, reason=pointer.reason)

    # -- what changes --------------------------------------------------------------------------------------------------

    def register(self, live: LiveCapabilities, *, by: str) -> None:
        """Note what a robot is; a change of it makes its earlier shadow runs and canaries count no more."""
        name = f"robot/{live.robot}"
        present = self.ledger.read(name)
        if present is not None and LiveCapabilities.from_json(present.value) == live:
            return
        self._swap(name, live.to_json(), present, action="register", by=by, reason=f"capabilities {live.digest}")

    def promote(self, checkpoint_id: str, channel: str, *, by: str, reason: str, expected_serial: int | None = None) -> Channel:
        """Point a channel to a checkpoint.

        Args:
            checkpoint_id: in the store.
            channel: where to.
            by: who.
            reason: why.
            expected_serial: the channel's when the decision was made; None: as it is now, before anything is checked.

        Raises:
            CheckpointError: if the checkpoint is damaged.
            ContractError: if it does not fit the robot.
            GateError: if a gate is missing or did not pass; names every one.
            PinnedError: if the robot is pinned.
            StaleSerialError: if somebody moved the channel meanwhile.
        """
        present = self.channel(channel)
        serial = present.pointer.serial if present else 0
        if expected_serial is not None:
            serial = expected_serial
        self._require_unpinned(channel)
        _require_other(present, checkpoint_id)
        self.store.verify(checkpoint_id)
        self._require_fit(checkpoint_id, channel)
        gates = self._passed_gates(checkpoint_id, channel)
        value = {"id": checkpoint_id, "previous": present.checkpoint_id if present else ""}
        self.ledger.swap(
            f"channel/{channel}",
            value,
            expected_serial=serial,
            action="promote",
            by=by,
            reason=reason,
            evidence=[gate.sha256 for gate in gates],
        )
        return self._required(channel)

    def rollback(self, channel: str, *, by: str, reason: str, expected_serial: int | None = None) -> Channel:
        """Point a channel to what it pointed to before, gates or not; again: to what was before that.

        Works on a pinned robot too: a pin keeps the new away, not the old.

        Args:
            channel: which.
            by: who.
            reason: why.
            expected_serial: the channel's when the decision was made; None: as it is now.

        Raises:
            CheckpointError: if there is nothing before, or it is damaged.
            ContractError: if it does not fit the robot as it is now.
            StaleSerialError: if somebody moved the channel meanwhile: a second rollback would go one further.
        """
        present = self._required(channel)
        previous = _previous(present)
        self.store.verify(previous)
        self._require_fit(previous, channel)
        self.ledger.swap(
            f"channel/{channel}",
            {"id": previous, "previous": self._before(channel, previous)},
            expected_serial=present.pointer.serial if expected_serial is None else expected_serial,
            action="rollback",
            by=by,
            reason=reason,
        )
        return self._required(channel)

    def set_pin(self, robot: str, *, is_pinned: bool, by: str, reason: str) -> Pin:
        """Keep promotions away from a robot, or let them in again."""
        name = f"pin/{robot}"
        self._swap(
            name, {"is_pinned": is_pinned}, self.ledger.read(name), action="pin" if is_pinned else "release", by=by, reason=reason
        )
        return self.pin(robot)

    # -- what may change ---------------------------------------------------------------------------------------------------

    def refusals_of_promotion(self, checkpoint_id: str, channel: str) -> tuple[Refusal, ...]:
        """Everything that stands against a promotion now; empty: :meth:`promote` would go through, if all bytes are whole.

        Raises:
            CheckpointError: if ``channel`` is not the name of one.
        """
        present, found = self.channel(channel), []
        try:
            self._require_unpinned(channel)
        except PinnedError as error:
            found.append(Refusal(kind=RefusalKind.PIN, text=str(error)))
        try:
            _require_other(present, checkpoint_id)
        except CheckpointError as error:
            found.append(Refusal(kind=RefusalKind.SAME, text=str(error)))
        found += self._unfit(checkpoint_id, channel)
        try:
            self._passed_gates(checkpoint_id, channel)
        except NotEvaluatedError as error:
            found += [Refusal(kind=RefusalKind.GATE, text=text, gate=kind.value) for kind, text in error.missing]
        except CheckpointError as error:  # a robot that never reported has no digest to hold evidence against
            if not found:
                found.append(Refusal(kind=RefusalKind.GATE, text=str(error)))
        return tuple(found)

    def refusals_of_rollback(self, channel: str) -> tuple[Refusal, ...]:
        """Everything that stands against a rollback now; empty: :meth:`rollback` would go through, if all bytes are whole.

        Raises:
            CheckpointError: if ``channel`` is not the name of one.
        """
        robot_of(channel)
        try:
            previous = _previous(self._required(channel))
        except CheckpointError as error:
            return (Refusal(kind=RefusalKind.NOTHING_BEFORE, text=str(error)),)
        return tuple(self._unfit(previous, channel))

    def _unfit(self, checkpoint_id: str, channel: str) -> list[Refusal]:
        try:
            self.store.manifest(checkpoint_id)
        except CheckpointError as error:
            return [Refusal(kind=RefusalKind.DAMAGE, text=str(error))]
        try:
            self._require_fit(checkpoint_id, channel)
        except CheckpointError as error:
            return [Refusal(kind=RefusalKind.CONTRACT, text=str(error))]
        return []

    # -- parts ---------------------------------------------------------------------------------------------------------

    def _require_unpinned(self, channel: str) -> None:
        robot = robot_of(channel)
        if robot is not None and self.pin(robot).is_pinned:
            pin = self.pin(robot)
            raise PinnedError(f"robot {robot!r} is pinned by {pin.by} ({pin.reason}); `pin {robot} --release` first")

    def _require_fit(self, checkpoint_id: str, channel: str) -> None:
        """The contract, for the channel of a robot."""
        robot = robot_of(channel)
        if robot is not None:
            require_contract(self.store.manifest(checkpoint_id).contract, self.capabilities(robot))

    def _passed_gates(self, checkpoint_id: str, channel: str) -> list[Gate]:
        """The evidence for a promotion: for each kind that the channel asks for, the last attempt on everything that counts."""
        robot = robot_of(channel)
        live = self.capabilities(robot) if robot is not None else None
        kinds = self.policy.robot if live is not None else getattr(self.policy, channel)
        evidence, missing = [], []
        for kind in kinds:
            gates, reasons = self._counting(checkpoint_id, kind, live)
            reasons += [reason for gate in gates if (reason := self._open_reason(gate, kind))]
            evidence += gates
            missing += [(kind, reason) for reason in reasons]
        if missing:
            listed = "; ".join(f"{kind.value}: {reason}" for kind, reason in missing)
            raise NotEvaluatedError(f"{checkpoint_id[:12]} may not go to {channel} yet. {listed}", missing)
        return evidence

    def _counting(self, checkpoint_id: str, kind: GateKind, live: LiveCapabilities | None) -> tuple[list[Gate], list[str]]:
        """Last attempts bound to what the policy or the robot asks for, or to anything where nothing is asked; or why none."""
        required = self.policy.evaluation.suite_digest if kind is GateKind.EVALUATION else ""
        if kind.is_on_robot:
            if live is None:
                return [], ["its evidence comes from a robot, and this channel is for none; correct the policy"]
            required = live.digest
        found = [gate for gate in self.gates.of(checkpoint_id) if gate.record.kind is kind]
        if not found:
            return [], ["nothing was recorded"]
        last = {gate.record.binding.digest: gate for gate in found if required in ("", gate.record.binding.digest)}
        if not last:
            others = ", ".join(sorted({f"{gate.record.binding.name} ({gate.record.binding.digest})" for gate in found}))
            return [], [f"recorded on {others}; expected on {required}"]
        return list(last.values()), []

    def _open_reason(self, gate: Gate, kind: GateKind) -> str | None:
        """Why a gate lets nothing through; None if it does."""
        record, judgement, asked = gate.record, gate.judgement, self.policy.rule_of(kind)
        if dict(record.rule) != asked:
            differing = ", ".join(
                f"{name} {record.rule.get(name)} (policy: {asked.get(name)})"
                for name in sorted({*record.rule, *asked})
                if record.rule.get(name) != asked.get(name)
            )
            return f"on {record.binding.name}, declared under another policy: {differing}"
        if judgement.verdict is not Verdict.PASS:
            return f"on {record.binding.name}, {judgement.verdict.value}: {judgement.text}"
        return None

    def _before(self, channel: str, checkpoint_id: str) -> str:
        """What a checkpoint replaced when it was last promoted: rolling back twice must not bring the bad one back."""
        for entry in reversed(self.ledger.history(f"channel/{channel}")):
            if entry.action == "promote" and entry.value["id"] == checkpoint_id:
                return str(entry.value["previous"])
        return ""

    def _required(self, channel: str) -> Channel:
        found = self.channel(channel)
        if found is None:
            raise CheckpointError(f"nothing was ever promoted to {channel}; see `list`")
        return found

    def _swap(self, name: str, value: dict[str, Any], present: Pointer | None, *, action: str, by: str, reason: str) -> None:
        serial = present.serial if present else 0
        self.ledger.swap(name, value, expected_serial=serial, action=action, by=by, reason=reason)


def _require_other(present: Channel | None, checkpoint_id: str) -> None:
    if present and present.checkpoint_id == checkpoint_id:
        raise CheckpointError(f"{present.name} points to {checkpoint_id[:12]} already")


def _previous(present: Channel) -> str:
    if not present.previous:
        raise CheckpointError(f"{present.name} has nothing before {present.checkpoint_id[:12]} to return to")
    return present.previous
