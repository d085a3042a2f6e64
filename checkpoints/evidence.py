"""Reads what ``python -m actors.evaluate`` writes (``evaluation.json``) as evidence: which checkpoint, on what, which episodes.

Two forms: of one task (``episodes``), and of a suite (``protocol``, ``trials``). The binding is a digest of everything that a
success rate depends on but the checkpoint: tasks, assets, simulator, software.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.directory import MANIFEST_FILE
from checkpoints.gate_record import Binding, GateEpisode, GateError
from checkpoints.store import CheckpointStore
from core.ids import digest

EVALUATION_FILE = "evaluation.json"
_SUBJECT_KEYS = {"subject", "checkpoint_version", "checkpoint_digest"}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation says."""

    binding: Binding
    episodes: tuple[GateEpisode, ...]
    """In an order that was fixed before they were played."""


def read_evaluation(path: Path, store: CheckpointStore, checkpoint_id: str) -> Evaluation:
    """An evaluation of this very checkpoint.

    Args:
        path: ``evaluation.json``, or the run directory that holds it.
        store: holds the checkpoint.
        checkpoint_id: whose evaluation it must be.

    Raises:
        GateError: if it is of another checkpoint, is not complete, or is no evaluation.
        CheckpointError: if this checkpoint cannot be read.
    """
    file = path / EVALUATION_FILE if path.is_dir() else path
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        raise GateError(f"no evaluation at {file}; run python -m actors.evaluate checkpoint=... --run {path}") from None
    except ValueError as error:
        raise GateError(f"{file} is not JSON ({error}); evaluate again") from None
    try:
        return _of_suite(record, store, checkpoint_id) if "protocol" in record else _of_task(record, store, checkpoint_id)
    except (KeyError, TypeError, AttributeError) as error:
        raise GateError(
            f"{file} is no evaluation ({type(error).__name__}: {error}); expected what actors.evaluate writes"
        ) from None


def _of_task(record: Mapping[str, Any], store: CheckpointStore, checkpoint_id: str) -> Evaluation:
    _require_digest(str(record["checkpoint_digest"] or "none: it is no policy"), store, checkpoint_id)
    episodes = tuple(GateEpisode(key=f"seed {row['seed']}", is_success=bool(row["success"])) for row in record["episodes"])
    return Evaluation(
        binding=Binding(name=f"{record['task']}, {record['asset_set']} assets", digest=str(record["environment_digest"])),
        episodes=episodes,
    )


def _of_suite(record: Mapping[str, Any], store: CheckpointStore, checkpoint_id: str) -> Evaluation:
    identity, protocol = record["identity"], record["protocol"]
    _require_digest(str(identity.get("checkpoint_digest", "none: it is no policy")), store, checkpoint_id)
    if record["num_missing"] or record["errors"]:
        raise GateError(
            f"the evaluation of {protocol['name']} is not complete: {record['num_missing']} trials missing, "
            f"{len(record['errors'])} crashed; run the same command again, it continues"
        )
    what = {
        "identity": {name: value for name, value in identity.items() if name not in _SUBJECT_KEYS},
        "protocol": protocol["digest"],
        "environments": {task: row["environment"] for task, row in protocol["tasks"].items()},
    }
    counted = [row for row in record["trials"] if _is_averaged(record, row["key"])]
    # Suites list their trials task by task: the first n of a draw that no outcome had a part in stand for the whole.
    counted.sort(key=lambda row: hashlib.sha256(row["key"].encode()).digest())
    return Evaluation(
        binding=Binding(name=f"{protocol['name']}, {identity['asset_set']} assets", digest=digest(what)),
        episodes=tuple(GateEpisode(key=row["key"], is_success=bool(row["is_success"])) for row in counted),
    )


def _is_averaged(record: Mapping[str, Any], key: str) -> bool:
    task, variant = key.split("|")[:2]
    return bool(record["tasks"][task]["variants"][variant]["is_averaged"])


def _require_digest(found: str, store: CheckpointStore, checkpoint_id: str) -> None:
    expected = digest(json.loads(store.read_file(checkpoint_id, MANIFEST_FILE)))
    if found != expected:
        raise GateError(
            f"the evaluation is of a checkpoint with manifest digest {found}, not of {checkpoint_id[:12]} (digest {expected}); "
            "evaluate this one"
        )
