"""The published table of faults, ``docs/results/faults.md``: one row a fault, from the rounds in ``faults.jsonl`` beside it."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chaos.faults import FAULTS
from benchmarks.report import machine

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "faults"
"""Without its suffix: ``.md`` is the page, ``.jsonl`` its numbers."""
_BEGIN, _END = "<!-- table: python -m benchmarks.chaos --write -->", "<!-- end of table -->"


def write_table(rows: Sequence[dict[str, Any]], results: Path = RESULTS) -> None:
    """Add rounds to the numbers, in place of earlier ones of the same fault and seed, and write the page's table again."""
    numbers, page = results.with_suffix(".jsonl"), results.with_suffix(".md")
    stamp = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine()}
    known = [json.loads(line) for line in numbers.read_text().splitlines()] if numbers.exists() else []
    by_round = {(row["fault"], row["seed"]): row for row in [*known, *({**stamp, **row} for row in rows)]}
    kept = [by_round[key] for key in sorted(by_round)]
    numbers.write_text("".join(json.dumps(row) + "\n" for row in kept))
    text = page.read_text()
    before, after = text[: text.index(_BEGIN)], text[text.index(_END) :]
    page.write_text(f"{before}{_BEGIN}\n{markdown(kept)}\n{after}")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, faults in the order of the catalogue; a fault without rounds is left out."""
    lines = [
        "| fault | rounds | the run | episodes acknowledged, lost | labels missing, doubled | partial believed | same to the bit "
        "| recovery, s: median (all) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        mine = [row for row in rows if row["fault"] == fault.name]
        if not mine:
            continue

        def count(name: str, mine: Sequence[dict[str, Any]] = mine) -> int:
            return sum(len(row[name]) for row in mine)

        recovery = sorted(row["recovery_s"] for row in mine)
        lines.append(
            f"| {fault.what} | {len(mine)} | {_endings(mine)} | {sum(row['acknowledged'] for row in mine)}, {count('lost')} | "
            f"{count('labels_missing')}, {count('labels_doubled')} | {count('partial_believed')} | "
            f"{sum(not row['differs'] for row in mine)}/{len(mine)} | "
            f"{statistics.median(recovery):.1f} ({', '.join(f'{value:.1f}' for value in recovery)}) |"
        )
    return "\n".join(lines)


def _endings(rows: Sequence[dict[str, Any]]) -> str:
    endings = [row["ended"] for row in rows]
    return ", ".join(f"{ending} {endings.count(ending)}" if len(set(endings)) > 1 else ending for ending in sorted(set(endings)))
