"""What does the asynchronous schedule gain over the synchronous one: iterations an hour, who is idle, how old policies are?

``python -m benchmarks.bench_schedule`` plays the same short run under both, one after the other, and writes the table and the
picture of ``docs/results/schedules.md`` from what the runs recorded (events, journal). A run that is there is not played again.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from core.command import run_command
from core.errors import WorkerError

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.report import machine
from configs.load import read_config
from learners.run_directory import RunDirectory, read_json_lines

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "schedules.md"
PICTURE = ROOT / "docs" / "images" / "schedules.png"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SCHEDULES = ("sync", "async")
SIZE = (
    "recap.iterations=3", "recap.episodes_per_iteration=6", "evaluation.num_episodes=2", "recap.is_start_evaluated=false",
    "recap.policy.num_steps=40", "recap.policy.batch_size=32", "recap.policy.warmup_steps=10",
    "recap.value.num_steps=20", "recap.value.batch_size=32", "recap.value.warmup_steps=10",
    "execution.mode=ray", "execution.num_workers=2", "tracking.num_videos=0",
)  # fmt: skip
PARTS = ("rollout workers", "value refit", "labelling", "policy update")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run."""

    schedule: str
    wall_s: float
    """From the end of the start phase to the last publication."""
    iterations: int
    num_episodes: int
    """Played in that time, evaluations included, whether used or not."""
    num_updates: int
    """Policy learner steps."""
    busy: dict[str, float]
    """Part -> share of ``wall_s``."""
    ages: dict[int, int]
    """Versions between the policy that played a rollout and the newest before the update that first used it -> rollouts."""
    policy_wait_s: float
    """That the policy learner waited for the samples-per-insert limiter."""


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_schedule", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/schedules"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--env", default="simpler_google", help="family; the shipped weights are those of the default")
    parser.add_argument("--only", choices=SCHEDULES, help="play one run and report nothing")
    options = parser.parse_args()
    for schedule in [options.only] if options.only else SCHEDULES:
        play(options.out / schedule, schedule, options.env)
    if not options.only:
        report_runs(options.out)


def report_runs(out: Path) -> None:
    """Over as many iterations as both runs have published."""
    runs = {schedule: RunDirectory(out / schedule) for schedule in SCHEDULES}
    iterations = min(run.published() for run in runs.values())
    report([measure(run.path, schedule, iterations) for schedule, run in runs.items()])


def play(run: Path, schedule: str, family: str) -> None:
    """Play, or finish, one run."""
    weights = [f"recap.{kind}_checkpoint={ROOT / 'weights' / family / kind}" for kind in ("policy", "value")]
    command = [sys.executable, "-m", "learners.recap", "--env", family, "--run", str(run), f"schedule={schedule}"]
    status = subprocess.run([*command, *SIZE, *weights], cwd=ROOT).returncode
    if status != 0:
        raise WorkerError(f"the run {run} ended with exit status {status}; it has said why")


def measure(path: Path, schedule: str, iterations: int) -> Measured:
    """From the events and the journal of a run, up to the publication of an iteration."""
    run, config = RunDirectory(path), read_config(path / "config.yaml")
    events = [{**event, "time_s": _seconds(event["time"])} for event in read_json_lines(path / "events.jsonl")]
    phases = {event["phase"]: event for event in events if event["event"] == "phase"}
    start_s, end_s = phases["000/start"]["time_s"], phases[f"{iterations:03d}/publish"]["time_s"]
    wall_s = end_s - start_s
    episodes = [event for event in events if event["event"] == "episode" and start_s < event["time_s"] <= end_s]
    version = {event["episode_id"]: event["policy_version"] for event in events if event["event"] == "episode"}
    updates = [run.result(f"{k:03d}/update_policy") for k in range(1, iterations + 1)]
    workers = config.execution.num_workers
    played = [(event["time_s"] - (event["wall_s"] or 0.0), event["time_s"]) for event in events if event["event"] == "episode"]
    labelled = [(event["time_s"] - event["wall_s"], event["time_s"]) for event in events if event["event"] == "labels"]
    fits = {name: event for name, event in phases.items() if name.endswith(("/fit_value", "/update_policy"))}
    fitted = {
        part: [(event["time_s"] - event["wall_s"], event["time_s"]) for name, event in fits.items() if name.endswith(phase)]
        for part, phase in (("value refit", "/fit_value"), ("policy update", "/update_policy"))
    }

    def within(intervals: list[tuple[float, float]]) -> float:
        return sum(max(0.0, min(stop, end_s) - max(start, start_s)) for start, stop in intervals)

    busy_s = {
        "rollout workers": within(played) / workers,
        "value refit": within(fitted["value refit"]),
        "labelling": within(labelled),
        "policy update": within(fitted["policy update"]) - sum(result["wait_s"] for result in updates),
    }
    used = [(k, e) for k in range(1, iterations + 1) for e in run.result(f"{k:03d}/collect")["episodes"]]
    return Measured(
        schedule=schedule,
        wall_s=wall_s,
        iterations=iterations,
        num_episodes=len(episodes),
        num_updates=iterations * config.recap.policy.num_steps,
        busy={part: busy_s[part] / wall_s for part in PARTS},
        ages=dict(sorted(Counter(k - 1 - version[e] for k, e in used).items())),
        policy_wait_s=sum(result["wait_s"] for result in updates),
    )


def report(found: Sequence[Measured]) -> None:
    """Replace the measured part of the page, and the picture."""
    draw(found)
    rows: list[tuple[str, list[str]]] = [
        ("iterations an hour", [f"{3600 * m.iterations / m.wall_s:.1f}" for m in found]),
        ("wall time of the run, s", [f"{m.wall_s:.0f}" for m in found]),
        ("episodes played (rollouts and evaluations)", [str(m.num_episodes) for m in found]),
        ("episodes an hour", [f"{3600 * m.num_episodes / m.wall_s:.0f}" for m in found]),
        ("policy updates", [str(m.num_updates) for m in found]),
        *((f"idle: {part}", [f"{1 - m.busy[part]:.0%}" for m in found]) for part in PARTS),
        ("policy learner waited for rollouts, s", [f"{m.policy_wait_s:.0f}" for m in found]),
        ("age of a rollout's policy when first used, versions: rollouts", [_histogram(m.ages) for m in found]),
    ]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        BEGIN,
        f"`python -m benchmarks.bench_schedule`, {date}. {machine()}",
        "",
        "| | " + " | ".join(m.schedule for m in found) + " |",
        "|---|" + "---|" * len(found),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows),
        END,
    ]
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + "\n".join(lines) + text[text.index(END) + len(END) :])
    print("\n".join(lines[1:-1]))


def draw(found: Sequence[Measured]) -> None:
    """Busy and idle shares of every part, stacked to the whole run."""
    figure, axes = pyplot.subplots(figsize=(8, 3.4), constrained_layout=True)
    labels = [f"{part}, {m.schedule}" for part in PARTS for m in found]
    busy = [min(1.0, m.busy[part]) for part in PARTS for m in found]
    places = [row * (len(found) + 0.6) + column for row in range(len(PARTS)) for column in range(len(found))]
    axes.barh(places, busy, color="#2a6f97", label="busy")
    axes.barh(places, [1 - share for share in busy], left=busy, color="#d9e2e8", label="idle")
    for place, share in zip(places, busy, strict=True):
        axes.text(share + 0.01 if share < 0.5 else 0.01, place, f"{share:.0%}", va="center", fontsize=8, color=_ink(share))
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the run's wall time")
    walls = ", ".join(f"{m.schedule} {m.wall_s:.0f} s" for m in found)
    axes.set_title(f"The same {found[0].iterations} iterations: {walls}", fontsize=10, loc="left")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(PICTURE, dpi=110)
    pyplot.close(figure)


def _ink(share: float) -> str:
    return "black" if share < 0.5 else "white"  # beside a short bar, inside a long one


def _histogram(ages: dict[int, int]) -> str:
    return ", ".join(f"{age}: {count}" for age, count in ages.items())


def _seconds(time: Any) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()


if __name__ == "__main__":
    sys.exit(run_command(main))
