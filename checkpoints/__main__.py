"""``python -m checkpoints``: the store, its gates, and which robot runs what."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from checkpoints import hub, mlflow_mirror, tables
from checkpoints.contract import Conventions, LiveCapabilities
from checkpoints.evidence import read_evaluation
from checkpoints.gate_record import Binding, GateEpisode, GateError, GateRecord
from checkpoints.gates import Gate
from checkpoints.parser import make_parser
from checkpoints.policy import GateKind
from checkpoints.promotion import Promotion
from checkpoints.signing import sign_checkpoint, verify_signature
from core.command import EXIT_FAILED, run_command
from core.errors import CheckpointError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 1 where verify found damage, else as :func:`core.command.run_command` says."""
    options = make_parser().parse_args(arguments)

    def command() -> int | None:
        promotion = Promotion.open(Path(options.store), is_new=options.command == "add")
        status: int | None = _COMMANDS[options.command](options, promotion, Console())
        return status

    return run_command(command)


# -- looking -----------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    found = {
        "checkpoints": tables.checkpoint_rows(promotion),
        "channels": tables.channel_rows(promotion),
        "robots": tables.robot_rows(promotion),
    }
    if options.json:
        console.print_json(data=found)
        return
    columns = ("id", "kind", "family", "version", "num_bytes", "channels", "gates")
    tables.print_rows(console, f"checkpoints in {options.store}", found["checkpoints"], columns)
    tables.print_rows(console, "channels", found["channels"], ("channel", "id", "previous", "serial", "by", "reason", "t"))
    tables.print_rows(console, "robots", found["robots"], _ROBOT_COLUMNS)


def _show(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = _resolve(promotion, options.checkpoint)
    manifest = promotion.store.manifest(checkpoint_id)
    record = tables.checkpoint_record(checkpoint_id, manifest, promotion.gates.of(checkpoint_id))
    if options.json:
        console.print_json(data=record)
    else:
        tables.print_checkpoint(console, record)


def _verify(options: argparse.Namespace, promotion: Promotion, console: Console) -> int:
    ids = [_resolve(promotion, text) for text in options.checkpoints] or list(promotion.store.ids())
    damage = {}
    for checkpoint_id in ids:
        try:
            promotion.store.verify(checkpoint_id)
            if options.public_key:
                verify_signature(promotion.store, checkpoint_id, options.public_key)
        except CheckpointError as error:
            damage[checkpoint_id] = str(error)
    leftovers = [str(path) for path in promotion.store.leftovers()]
    if options.json:
        console.print_json(data={"verified": ids, "damage": damage, "leftovers": leftovers})
    else:
        for text in damage.values():
            console.print(f"damaged: {text}", highlight=False, soft_wrap=True)
        for path in leftovers:
            console.print(f"left by a crash, or being written now: {path}", highlight=False, soft_wrap=True)
        console.print(f"{len(ids) - len(damage)} of {len(ids)} checkpoints are whole")
    return EXIT_FAILED if damage else 0


def _audit(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    if options.repair:
        promotion.ledger.repair()
    if options.verify or options.head or options.repair:
        history = promotion.ledger.verify(head=options.head)
        if options.json:
            console.print_json(data={"num_entries": len(history.entries), "head": history.head})
        else:
            console.print(f"{len(history.entries)} entries, unaltered; head {history.head}", soft_wrap=True)
        return
    rows = [tables.entry_row(entry) for entry in promotion.ledger.history()]
    if options.json:
        console.print_json(data=rows)
    else:
        tables.print_rows(console, "audit log", rows, ("number", "t", "by", "action", "pointer", "serial", "reason", "sha256"))


def _robots(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    if options.register:
        try:
            record = json.loads(options.register.read_text())
        except ValueError as error:
            raise CheckpointError(f"{options.register} is not JSON ({error}); expected a robot's capabilities") from None
        promotion.register(LiveCapabilities.from_json(record), by=options.by)
    rows = tables.robot_rows(promotion)
    if options.json:
        console.print_json(data=rows)
    else:
        tables.print_rows(console, "robots", rows, _ROBOT_COLUMNS)


_ROBOT_COLUMNS = ("robot", "desired", "actual", "generation", "canary", "is_pinned", "pinned_because", "refused_because")


# -- changing ----------------------------------------------------------------------------------------------------------


def _add(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = promotion.store.add(
        options.directory,
        conventions=Conventions(frame=options.frame, rotation=options.rotation, gripper=options.gripper),
        training_run=options.run_name,
        parent=_resolve(promotion, options.parent) if options.parent else "",
        is_linked=options.link,
    )
    _say(options, console, {"id": checkpoint_id}, checkpoint_id)


def _export(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = _resolve(promotion, options.checkpoint)
    promotion.store.materialise(checkpoint_id, options.directory)
    _say(options, console, {"id": checkpoint_id, "directory": str(options.directory)}, f"{checkpoint_id} in {options.directory}")


def _sign(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = _resolve(promotion, options.checkpoint)
    file = sign_checkpoint(promotion.store, checkpoint_id, options.private_key)
    _say(options, console, {"id": checkpoint_id, "signature": str(file)}, f"{checkpoint_id} is signed: {file}")


def _mirror(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    client = mlflow_mirror.connect(options.uri)
    rows = [dataclasses.asdict(alias) for alias in mlflow_mirror.mirror_channels(promotion, client, options.model)]
    if options.json:
        console.print_json(data=rows)
    else:
        columns = ("alias", "version", "checkpoint_id", "is_changed")
        tables.print_rows(console, f"{options.model} in {options.uri}", rows, columns)


def _push(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = _resolve(promotion, options.checkpoint)
    url = hub.push_checkpoint(promotion.store, checkpoint_id, options.repository, hub.connect(), is_public=options.public)
    _say(options, console, {"id": checkpoint_id, "commit": url}, f"{checkpoint_id} is at {url}")


def _promote(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id = _resolve(promotion, options.checkpoint)
    channel = promotion.promote(
        checkpoint_id, options.channel, by=options.by, reason=options.reason, expected_serial=options.expect_serial
    )
    _say_channel(options, console, channel.name, channel.checkpoint_id, channel.previous, channel.pointer.serial)


def _rollback(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    channel = promotion.rollback(options.channel, by=options.by, reason=options.reason, expected_serial=options.expect_serial)
    _say_channel(options, console, channel.name, channel.checkpoint_id, channel.previous, channel.pointer.serial)


def _say_channel(
    options: argparse.Namespace, console: Console, name: str, checkpoint_id: str, previous: str, serial: int
) -> None:
    record = {"channel": name, "id": checkpoint_id, "previous": previous, "serial": serial}
    _say(options, console, record, f"{name} -> {checkpoint_id} (serial {serial}, before: {previous[:12] or 'nothing'})")


def _pin(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    pin = promotion.set_pin(options.robot, is_pinned=not options.release, by=options.by, reason=options.reason)
    text = f"{options.robot} is {'pinned' if pin.is_pinned else 'released'}"
    _say(options, console, {"robot": options.robot, "is_pinned": pin.is_pinned}, text)


def _gate(options: argparse.Namespace, promotion: Promotion, console: Console) -> None:
    checkpoint_id, kind = _resolve(promotion, options.checkpoint), GateKind(options.kind)
    binding, episodes = _binding(options, promotion, checkpoint_id, kind)
    gate = promotion.gates.latest(checkpoint_id, kind, binding.digest)
    if options.give_up:
        if gate is None:
            raise GateError(f"there is no {kind.value} gate of {checkpoint_id[:12]} on {binding.name} to give up")
        gate = promotion.gates.add(
            gate, partial(GateRecord.giving_up, reason=options.reason), by=options.by, reason=options.reason
        )
    else:
        if options.new_attempt or gate is None:
            if kind is GateKind.CANARY and not options.open:
                raise GateError(f"no canary of {checkpoint_id[:12]} on {binding.name} was declared; declare it with --open first")
            gate = promotion.gates.open(
                checkpoint_id, kind, binding, by=options.by, reason=options.reason, is_new_attempt=options.new_attempt
            )
        elif options.open:
            raise GateError(f"the {kind.value} gate on {binding.name} is open or closed already; see `show`, or --new-attempt")
        gate = _added(options, promotion, gate, episodes)
    row = tables.gate_row(gate)
    _say(options, console, row, f"{row['kind']} on {row['on']} ({row['digest']}): {row['verdict'].upper()}. {row['text']}")


def _added(options: argparse.Namespace, promotion: Promotion, gate: Gate, episodes: Sequence[GateEpisode]) -> Gate:
    if options.measured:
        grow: Any = partial(GateRecord.with_measurements, measurements=dict(options.measured))
    elif episodes:
        grow = partial(GateRecord.with_episodes, episodes=episodes)
    elif options.open:
        return gate
    else:
        raise GateError("no evidence given; see `gate --help` for what each kind takes")
    return promotion.gates.add(gate, grow, by=options.by, reason=options.reason)


def _binding(
    options: argparse.Namespace, promotion: Promotion, checkpoint_id: str, kind: GateKind
) -> tuple[Binding, Sequence[GateEpisode]]:
    """What the evidence was gathered on, and the episodes that came with it."""
    if kind is GateKind.EVALUATION:
        if options.source is None:
            raise GateError("an evaluation gate needs --from: evaluation.json, or the folder of the evaluation's --run")
        evaluation = read_evaluation(options.source, promotion.store, checkpoint_id)
        return evaluation.binding, evaluation.episodes
    if kind is GateKind.OFFLINE:
        name, _, digest = options.data.partition(":")
        if not name or not digest:
            raise GateError(f"--data is {options.data!r}; an offline gate needs NAME:DIGEST of the data that was measured on")
        return Binding(name=name, digest=digest), ()
    if not options.robot:
        raise GateError(f"a {kind.value} gate needs --robot: whose evidence is it?")
    binding = Binding(name=options.robot, digest=promotion.capabilities(options.robot).digest)
    if options.episode is None:
        return binding, ()
    if options.success is None:
        raise GateError("--episode needs its outcome: --success or --failure")
    episode = GateEpisode(
        key=options.episode,
        is_success=options.success,
        is_intervened=options.intervened,
        is_stopped=options.stopped,
        is_collided=options.collided,
        speed_fraction=options.speed,
    )
    return binding, (episode,)


# -- parts -------------------------------------------------------------------------------------------------------------


def _resolve(promotion: Promotion, text: str) -> str:
    if text in ("candidate", "staging") or text.startswith("robot:"):
        channel = promotion.channel(text)
        if channel is None:
            raise CheckpointError(f"nothing was ever promoted to {text}; see `list`")
        return channel.checkpoint_id
    return promotion.store.resolve(text)


def _say(options: argparse.Namespace, console: Console, record: dict[str, Any], text: str) -> None:
    if options.json:
        console.print_json(data=record)
    else:
        console.print(text, highlight=False, soft_wrap=True)


_COMMANDS: Mapping[str, Callable[[argparse.Namespace, Promotion, Console], int | None]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "add": _add,
    "export": _export,
    "sign": _sign,
    "mirror": _mirror,
    "push": _push,
    "gate": _gate,
    "promote": _promote,
    "rollback": _rollback,
    "pin": _pin,
    "robots": _robots,
    "audit": _audit,
}


if __name__ == "__main__":
    sys.exit(main())
