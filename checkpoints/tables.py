"""What ``python -m checkpoints`` shows: JSON-like records, and tables of them for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from checkpoints.audit import AuditEntry
from checkpoints.fleet import Fleet
from checkpoints.gates import Gate
from checkpoints.manifest import CheckpointManifest
from checkpoints.promotion import Promotion

_SHORT = 12
_MEGABYTE = 1e6


def checkpoint_rows(promotion: Promotion) -> list[dict[str, Any]]:
    """One record a checkpoint."""
    pointed: dict[str, list[str]] = {}
    for channel in promotion.channels():
        pointed.setdefault(channel.checkpoint_id, []).append(channel.name)
    rows = []
    for checkpoint_id in promotion.store.ids():
        manifest = promotion.store.manifest(checkpoint_id)
        gates = [f"{gate.record.kind.value} {gate.judgement.verdict.value}" for gate in promotion.gates.of(checkpoint_id)]
        rows.append(
            {
                "id": checkpoint_id,
                "kind": manifest.kind,
                "family": manifest.family,
                "version": manifest.version,
                "num_bytes": manifest.num_bytes,
                "training_run": manifest.training_run,
                "channels": pointed.get(checkpoint_id, []),
                "gates": gates,
            }
        )
    return rows


def channel_rows(promotion: Promotion) -> list[dict[str, Any]]:
    """One record a channel."""
    return [
        {
            "channel": channel.name,
            "id": channel.checkpoint_id,
            "previous": channel.previous,
            "serial": channel.pointer.serial,
            "by": channel.pointer.by,
            "reason": channel.pointer.reason,
            "evidence": list(channel.pointer.evidence),
            "t": channel.pointer.t,
        }
        for channel in promotion.channels()
    ]


def robot_rows(promotion: Promotion) -> list[dict[str, Any]]:
    """One record a robot: what its channel says, what it last reported, whether it is pinned."""
    return [dataclasses.asdict(state) for state in Fleet(promotion).robots()]


def gate_row(gate: Gate) -> dict[str, Any]:
    """A gate as a record."""
    record, judgement = gate.record, gate.judgement
    return {
        "checkpoint": record.checkpoint_id,
        "kind": record.kind.value,
        "on": record.binding.name,
        "digest": record.binding.digest,
        "attempt": record.attempt,
        "verdict": judgement.verdict.value,
        "is_closed": judgement.is_closed,
        "text": judgement.text,
        "num_episodes": len(record.episodes),
        "num_successes_unaided": sum(episode.is_autonomous_success for episode in record.episodes),
        "num_successes_with_or_without_help": sum(episode.is_success for episode in record.episodes),
        "num_interventions": sum(episode.is_intervened for episode in record.episodes),
        "rule": dict(record.rule),
        "record": gate.sha256,
    }


def checkpoint_record(checkpoint_id: str, manifest: CheckpointManifest, gates: Iterable[Gate]) -> dict[str, Any]:
    """All about one checkpoint."""
    return {"id": checkpoint_id, **manifest.to_json(), "gates": [gate_row(gate) for gate in gates]}


def entry_row(entry: AuditEntry) -> dict[str, Any]:
    """A line of the audit log."""
    return json.loads(entry.to_line())  # type: ignore[no-any-return]


# -- for people --------------------------------------------------------------------------------------------------------


def print_rows(console: Console, title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """A table of some columns; ids and digests shortened."""
    if not rows:
        console.print(f"{title}: none")
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(column, row[column]) for column in columns))
    console.print(table)


def print_checkpoint(console: Console, record: dict[str, Any]) -> None:
    """All about one checkpoint, one thing a line."""
    contract = record["contract"]
    action, conventions = contract["env_spec"]["action"], contract["conventions"]
    cameras = ", ".join(f"{c['name']} {c['height_px']}x{c['width_px']}" for c in contract["env_spec"]["cameras"])
    lines = {
        "id": record["id"],
        "what": f"{record['kind']} {record['family']}, version {record['version']}",
        "run": f"{record['training_run'] or 'unknown'}, code {record['code_version']}",
        "parent": record["parent"] or "none",
        "actions": ", ".join(f"{name} [{unit}]" for name, unit in zip(action["names"], action["units"], strict=True)),
        "conventions": ", ".join(f"{name} {value}" for name, value in conventions.items()),
        "control": f"{action['control_hz']:g} Hz, chunks of {contract['chunk_length']}",
        "cameras": f"{cameras}; {contract['crop']}, seen at {'x'.join(map(str, contract['model_image_px']))}",
        "instruction": contract["instruction_form"],
        "normaliser": contract["normalizer_digest"],
    }
    lines |= {f"file {file['name']}": f"{file['num_bytes'] / _MEGABYTE:.1f} MB, {file['sha256']}" for file in record["files"]}
    for name, value in lines.items():
        console.print(f"{name:<24} {value}", markup=False, highlight=False, soft_wrap=True)
    print_rows(console, "gates", record["gates"], ("kind", "on", "digest", "attempt", "verdict", "text"))


def _cell(column: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_cell(column, item) for item in value)
    if column == "num_bytes":
        return f"{value / _MEGABYTE:.1f} MB"
    text = str(value)
    return text[:_SHORT] if len(text) == 64 and column in ("id", "previous", "desired", "actual", "evidence", "sha256") else text
