"""``python -m learners.report_page RUN``: a run as one HTML file with curves, tables and videos in it.

Reads what the run left on disk, also of one that is going on or was killed; needs neither its checkpoints nor a GPU. The file
loads nothing from anywhere, so that it can be sent and kept.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from core.command import run_command
from core.errors import ConfigError, CorruptDataError
from learners.display import LINES
from learners.figures import draw_learning_curve
from replay.episode_store import EpisodeStore
from replay.stats import GroupStats, store_stats

REPORT_FILE = "report.html"
_MEGABYTE = 1e6
_MAX_VIDEO_MB = 40.0
"""Of all videos together; those of the newest iterations come first."""
_PHASE_COLOURS = {
    "collect": "#1f6feb",
    "fit_value": "#d9822b",
    "label": "#e3b341",
    "update_policy": "#8250a8",
    "evaluate": "#3a9d5d",
}


def write_report_page(run: Path) -> Path:
    """Write ``report.html`` into a run's folder; a reader sees the old or the new one.

    Raises:
        ConfigError: if there is no iteration to report.
        CorruptDataError: if a file of the run cannot be read.
    """
    summary = _read_summary(run)
    rows = summary["iterations"]
    config = (run / "config.yaml").read_text() if (run / "config.yaml").exists() else ""
    page = _template().render(
        name=summary["run"],
        about=f"{len(rows)} iterations, the start included; {sum(_wall_s(row) for row in rows) / 60:.0f} minutes of phases",
        facts=_facts(rows),
        curves=Markup(_svg(_curves(rows, losses_by_phase(run / "metrics.jsonl")))),
        time_figure=Markup(_svg(_time_figure(rows))),
        table=_table(rows),
        videos=_videos(run / "videos"),
        experience=_experience(run / "replay"),
        config=config,
        config_file="config.yaml",
    )
    partial = run / f".{REPORT_FILE}.{os.getpid()}.partial"
    try:
        partial.write_text(page)
        partial.replace(run / REPORT_FILE)
    finally:
        partial.unlink(missing_ok=True)
    return run / REPORT_FILE


def losses_by_phase(metrics_file: Path) -> dict[str, list[tuple[int, float]]]:
    """Loss curves of a run, for example ``{"value 1": [(10, 0.3), ...], "policy 1": ...}``.

    The run may be writing: a last line that is not whole is left out, and left as it is.

    Raises:
        CorruptDataError: if a whole line is no measurement.
    """
    text = metrics_file.read_text() if metrics_file.exists() else ""
    curves: dict[str, list[tuple[int, float]]] = {}
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            row = json.loads(line)
            iteration, phase = row["phase"].split("/")
            name = {"fit_value": "value", "update_policy": "policy"}[phase]
            curves.setdefault(f"{name} {int(iteration)}", []).append((row["step"], row["loss"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"{metrics_file}, line {number}: no measurement ({type(error).__name__}: {error}); delete it to go on without it"
            ) from None
    return curves


def _read_summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    if not path.exists():
        raise ConfigError(f"{path} is missing: no iteration of a run is finished there; wait for the first, or name another run")
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        if not summary["iterations"]:
            raise ConfigError(f"{path} has no iteration yet")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise CorruptDataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is written anew with --resume"
        ) from None
    return summary


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(Path(__file__).with_name("report_page.html").read_text())


def _facts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    measured = [row for row in rows if "success" in row]
    facts: list[tuple[str, str]] = []
    if measured:
        best = max(measured, key=lambda row: float(row["success"]))
        facts += [
            (measured[0]["success_text"], "success at the start"),
            (measured[-1]["success_text"], f"success after iteration {measured[-1]['iteration']}"),
            (f"{100 * best['success']:.0f} %", f"best, iteration {best['iteration']}"),
        ]
    facts.append((str(rows[-1].get("num_collected", 0)), "episodes collected"))
    ages = [row["policy_age_max"] for row in rows if row.get("policy_age_max") is not None]
    if ages:
        facts.append((str(max(ages)), "greatest policy age, versions"))
    return facts


def _table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    heads = ["", *("start" if row["iteration"] == 0 else f"iteration {row['iteration']}" for row in rows)]
    return [heads, *([name, *(cell(row) for row in rows)] for _, name, cell in LINES)]


def _curves(rows: Sequence[Mapping[str, Any]], losses: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    draw_learning_curve(figure, rows, losses)
    return figure


def _time_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    figure = Figure(figsize=(12, 0.9 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(rows)
    for phase, colour in _PHASE_COLOURS.items():
        minutes = [row["wall_s"].get(phase, 0.0) / 60 for row in rows]
        axes.barh(range(len(rows)), minutes, left=left, color=colour, label=phase.replace("_", " "))
        left = [before + part for before, part in zip(left, minutes, strict=True)]
    axes.set(xlabel="minutes", yticks=range(len(rows)))
    axes.set_title("Where the time went", loc="right")
    axes.set_yticklabels("start" if row["iteration"] == 0 else str(row["iteration"]) for row in rows)
    axes.invert_yaxis()
    axes.legend(fontsize=8, ncols=len(_PHASE_COLOURS), loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def _svg(figure: Figure) -> str:
    content = io.StringIO()
    figure.savefig(content, format="svg")
    return content.getvalue()[content.getvalue().index("<svg") :]


def _videos(folder: Path) -> list[tuple[str, str]]:
    chosen: list[tuple[str, str]] = []
    num_bytes = 0
    for path in sorted(folder.glob("iteration_*.mp4"), reverse=True):
        num_bytes += path.stat().st_size
        if num_bytes > _MAX_VIDEO_MB * _MEGABYTE:
            break
        _, iteration, _, outcome = path.stem.split("_", 3)
        chosen.append((f"iteration {int(iteration)}: {outcome}", base64.b64encode(path.read_bytes()).decode()))
    return chosen[::-1]


def _experience(root: Path) -> list[list[str]]:
    heads = ["task, assets, collection", "episodes", "steps", "success, helped or not", "human steps", "policy versions", "MB"]
    if not (root / "episodes").is_dir():
        return [heads]
    store = EpisodeStore(root)
    return [heads, *(_experience_row(group) for group in store_stats(store.info(e) for e in store.episode_ids()))]


def _experience_row(group: GroupStats) -> list[str]:
    key = group.key
    versions = f"{group.policy_version_min} to {group.policy_version_max}" if group.policy_version_max >= 0 else "-"
    return [
        f"{key.env}/{key.task}, {key.asset_set}, {key.collection}",
        str(group.num_episodes),
        str(group.num_steps),
        f"{100 * group.num_successes / group.num_episodes:.0f} %",
        str(group.num_human_steps),
        versions,
        f"{group.num_bytes / _MEGABYTE:.0f}",
    ]


def _wall_s(row: Mapping[str, Any]) -> float:
    return float(sum(row["wall_s"].values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m learners.report_page", description="Write RUN/report.html: curves, tables, videos."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    options = parser.parse_args(arguments)

    def command() -> None:
        for run in options.runs:
            path = write_report_page(run)
            print(f"{path}: {path.stat().st_size / _MEGABYTE:.1f} MB")

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
