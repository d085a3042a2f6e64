"""What lies on a run's disk, read by somebody who takes no part in the run.

Logs of episodes and labels, measurements, the journal: the same files that the run itself believes, read without its objects.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import RecapError
from learners.run_directory import RunDirectory
from replay.append_log import read_log
from replay.episode_log import log_files
from replay.label_store import label_files, label_versions
from replay.verify import verify_episodes, verify_labels


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A run's disk at one moment."""

    episodes: dict[str, str]
    """Writer by id of each committed episode."""
    labels: Counter[tuple[str, int]]
    """How often each (episode, value version) was labelled."""
    num_rows: int
    """Learner steps measured."""
    num_phases: int
    """Finished."""

    def units(self) -> int:
        """Of work done so far, whatever its kind."""
        return len(self.episodes) + sum(self.labels.values()) + self.num_rows + self.num_phases


def see(run: Path) -> Seen:
    """Look at a run that may be at work."""
    episodes = {str(record["episode_id"]): path.stem for path in log_files(run / "replay") for record in read_log(path).records}
    labels = Counter(
        (str(record["episode_id"]), version)
        for version in label_versions(run / "labels")
        for path in label_files(run / "labels", version)
        for record in read_log(path).records
    )
    return Seen(
        episodes=episodes,
        labels=labels,
        num_rows=_num_lines(run / "metrics.jsonl"),
        num_phases=_num_lines(run / "journal.jsonl"),
    )


def told_episodes(run: Path) -> set[str]:
    """Episodes that the run itself said were committed (``events.jsonl``)."""
    told = set()
    for line in _whole_lines(run / "events.jsonl"):
        event = json.loads(line)
        if event["event"] == "episode":
            told.add(event["episode_id"])
    return told


def learner_rows(run: Path) -> list[dict[str, Any]]:
    """Every measurement of a learner, by phase and step."""
    rows = [json.loads(line) for line in _whole_lines(run / "metrics.jsonl")]
    return sorted(rows, key=lambda row: (row["phase"], row["step"]))


def weight_digests(run: Path) -> dict[str, str]:
    """SHA-256 of the weights of every checkpoint, as its manifest says."""
    manifests = sorted(run.glob("checkpoints/*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text())["weights"]["sha256"] for path in manifests}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is wrong with a run that is over; all empty or 0 where nothing is."""

    num_acknowledged: int
    lost: tuple[str, ...]
    """Episodes acknowledged at some time, and not in the store now."""
    spare: tuple[str, ...]
    """Committed and unused: a second episode of one seed; harmless."""
    labels_missing: tuple[str, ...]
    labels_doubled: tuple[str, ...]
    partial_believed: tuple[str, ...]
    """Damaged things under a name that readers believe."""
    differs: tuple[str, ...]
    """From the undisturbed run: learner metrics, weights."""
    left_behind: tuple[str, ...]
    """Unfinished files that nobody removed."""

    def is_clean(self) -> bool:
        """Whether every invariant holds; what was left behind or is spare breaks none."""
        return not (self.lost or self.labels_missing or self.labels_doubled or self.partial_believed or self.differs)


def examine(run: Path, *, acknowledged: set[str], put_aside: set[str], reference: Path) -> Findings:
    """Check a run that is over.

    Args:
        run: its folder.
        acknowledged: episodes that were once visible.
        put_aside: of these, what a repair has put aside because the fault had damaged it.
        reference: the same run, undisturbed.
    """
    from checkpoints.directory import read_checkpoint

    seen, directory = see(run), RunDirectory(run)
    iterations = sorted({int(path.name.split("_")[1]) for path in run.glob("checkpoints/value_*")} - {0})
    collected = {k: directory.result(f"{k:03d}/collect")["episodes"] for k in iterations}
    given = directory.result("000/start")["episodes"]
    evaluated = [e for k in iterations for e in directory.result(f"{k:03d}/evaluate")["episodes"]]
    used = {e for episodes in collected.values() for e in episodes} | set(evaluated)
    wanted = {(e, k) for k in iterations for e in (*given, *(e for j in range(1, k + 1) for e in collected[j]))}
    store, labels = verify_episodes(run / "replay"), verify_labels(run / "labels")
    partial = [*store.damage, *labels.damage]
    for checkpoint in sorted(run.glob("checkpoints/[!.]*/")):
        try:
            read_checkpoint(checkpoint)
        except RecapError as error:
            partial.append(str(error))
    rows, expected_rows = learner_rows(run), learner_rows(reference)
    differs = [
        f"{row['phase']} step {row['step']}" for row, expected in zip(rows, expected_rows, strict=False) if row != expected
    ]
    differs += [f"{len(rows)} rows of metrics instead of {len(expected_rows)}"] if len(rows) != len(expected_rows) else []
    digests, expected_digests = weight_digests(run), weight_digests(reference)
    differs += [f"weights of {name}" for name in expected_digests if digests.get(name) != expected_digests[name]]
    left = [path for pattern in ("replay/.staging/*/*", "**/.*.partial") for path in run.glob(pattern)]
    return Findings(
        num_acknowledged=len(acknowledged),
        lost=tuple(sorted((acknowledged - put_aside) - set(seen.episodes))),
        spare=tuple(sorted(set(seen.episodes) - used)),
        labels_missing=tuple(f"{e} v{k}" for e, k in sorted(wanted) if not seen.labels[e, k]),
        labels_doubled=tuple(f"{e} v{k}" for (e, k), count in sorted(seen.labels.items()) if count > 1),
        partial_believed=tuple(partial),
        differs=tuple(differs),
        left_behind=tuple(str(path.relative_to(run)) for path in sorted(left)),
    )


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
