"""``python -m benchmarks.scale``: where a fleet of 10 to 10 000 rollout workers saturates, what it costs, which knob to turn.

Simulates ``scale_model.py`` with the costs below. Every cost says where it comes from; prices are inputs. What follows from it is
in docs/scale.md.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.report import RESULTS
from benchmarks.scale_model import STATIONS, Costs, Fleet, Outcome, Prices, balanced, simulate
from core.command import positive, run_command, whole

WORKERS = (10, 30, 100, 300, 1000, 3000, 10_000)
_PLOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "scale.png"
_COLOURS = {"policy": "#8250a8", "store": "#3a9d5d", "value": "#d9822b", "learner": "#1f6feb", "workers": "#666666"}
KNOBS = {
    "workers": "more workers",
    "policy": "more policy replicas; fewer denoise steps; longer chunks",
    "store": "JPEG instead of raw frames; several stores joined; a faster disk or network",
    "value": "more value replicas; label fewer frames (look-ahead in seconds)",
    "learner": "more learners; fewer samples a step (samples per insert)",
}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A size of models, and where its costs come from."""

    title: str
    costs: Costs
    sources: tuple[tuple[str, str, str], ...]
    """(cost, "measured", "computed" or "assumed", from where)."""
    prices: Prices
    store_mb_per_s: float


def _tiny() -> Preset:
    costs = Costs(
        steps_per_episode=60,
        chunk_steps=3,
        env_step_s=0.0292 + 0.0069,
        reset_s=0.036,
        policy_call_s=0.0,
        value_observation_s=0.0171 / 11,
        learner_sample_s=0.111 / 32,
        samples_per_step=500 * 64 / (40 * 60),
        episode_mb=3.8,
        sample_mb=2 * 128 * 160 * 3 / 1e6,
        cache_miss=0.1,
        commit_s=0.159,
    )
    sources = (
        (
            "environment step 29.2 ms, reset 36 ms",
            "measured",
            "benchmarks/results/2026-11-21-env.md: upstream assets, 128x160, one core",
        ),
        ("policy 6.9 ms a step, in the worker", "measured", "`make demo` of 2026-11-21: policy_s over steps of 40 episodes"),
        ("label 1.6 ms an observation", "measured", "2026-11-21-labels.md: one thread, whole episode"),
        ("learner 3.5 ms a sample", "measured", "2026-11-21-learner.md: batch 32, two threads"),
        ("13 samples a step", "measured", "the demo's 500 steps of 64 for 40 episodes of 60 steps"),
        ("episode 3.8 MB, raw frames", "measured", "`replay stats` of the demo's store"),
        ("commit 159 ms", "measured", "2026-11-21-replay.md: two cameras, raw, on a busy disk"),
        ("a tenth of the samples is read from the store", "assumed", "the rest is in the learner's page cache"),
        ("store 500 MB/s", "assumed", "one NVMe disk or a 5 Gbit/s share of a network"),
        ("0.04 a core-hour (learner: two cores), 0.10 an hour of store", "assumed", "round numbers; give your own"),
    )
    prices = Prices(worker_hour=0.04, policy_hour=0.0, value_hour=0.04, learner_hour=0.08, store_hour=0.10)
    return Preset(title="tiny models on CPU cores", costs=costs, sources=sources, prices=prices, store_mb_per_s=500)


def _five_b(efficiency: float = 0.4) -> Preset:
    flops_per_s = 790e12 * efficiency
    costs = Costs(
        steps_per_episode=60,
        chunk_steps=6,
        env_step_s=0.0426,
        reset_s=0.047,
        policy_call_s=10 * 69.9e12 / flops_per_s,
        value_observation_s=4.3e12 / flops_per_s,
        learner_sample_s=3 * 69.9e12 / flops_per_s,
        samples_per_step=4,
        episode_mb=6.0,
        sample_mb=0.2,
        cache_miss=0.5,
        commit_s=0.35,
    )
    sources = (
        (
            "environment step 42.6 ms, reset 47 ms",
            "measured",
            "benchmarks/results/2026-11-21-env.md: upstream assets, 512x640, one core",
        ),
        (
            "policy call 69.9 TFLOP x 10 denoise steps",
            "computed",
            "VideoVLA on CogVideoX-5B, 5632 tokens; no encoder, no guidance",
        ),
        ("label 4.3 TFLOP an observation", "computed", "ViVa on Wan2.2-5B, 3 views of 256x320, one step"),
        ("learner 3 x 69.9 TFLOP a sample", "computed", "backward costs twice forward; no recomputation"),
        ("790 TFLOP/s x 0.4", "assumed", "H200 in bf16 at 40 % of its peak; nothing was run on one for this"),
        ("4 samples a step", "assumed", "a large model on little data"),
        ("episode 6 MB, sample 0.2 MB", "assumed", "JPEG at 512x640, one camera, a tenth of raw"),
        ("commit 350 ms", "measured", "2026-11-21-replay.md: two cameras of 256x256, raw, on a busy disk"),
        ("half of the samples is read from the store", "assumed", "more data than memory"),
        ("store 2000 MB/s", "assumed", "a shared file system on 25 Gbit/s"),
        ("2.50 a GPU-hour, 0.04 a core-hour, 1.00 an hour of store", "assumed", "round numbers; give your own"),
    )
    prices = Prices(worker_hour=0.04, policy_hour=2.5, value_hour=2.5, learner_hour=2.5, store_hour=1.0)
    return Preset(title="5b models on H200 GPUs", costs=costs, sources=sources, prices=prices, store_mb_per_s=2000)


PRESETS = {"tiny": _tiny, "5b": _five_b}


def sweep(preset: Preset, workers: Sequence[int], fixed: Fleet | None) -> list[tuple[Fleet, Outcome]]:
    """Simulate fleets of several sizes.

    Args:
        preset: costs.
        workers: how many, one fleet each.
        fixed: numbers of replicas that stay; None: as many as the workers need (``balanced``).
    """
    rows = []
    for count in workers:
        fleet = replace(fixed, workers=count) if fixed else balanced(preset.costs, count, store_mb_per_s=preset.store_mb_per_s)
        rows.append((fleet, simulate(preset.costs, fleet, episodes_per_worker=5.0 if count <= 1000 else 3.0)))
    return rows


HEADINGS = ("workers", "policy", "value", "learners", "stores", "steps/s", *(f"{name} busy" for name in (*STATIONS, "workers")),
            "limiter", "age s", "cost/M steps", "limited by")  # fmt: skip


def cells(preset: Preset, fleet: Fleet, found: Outcome) -> tuple[str, ...]:
    """One row of a table."""
    return (
        str(fleet.workers),
        str(fleet.policy_replicas) if preset.costs.policy_call_s else "in worker",
        str(fleet.value_replicas),
        str(fleet.learners),
        str(fleet.stores),
        f"{found.steps_per_s:,.0f}" if found.steps_per_s >= 10 else f"{found.steps_per_s:.2f}",
        *(f"{found.utilisation[name]:.0%}" for name in (*STATIONS, "workers")),
        f"{found.limiter_share:.0%}",
        f"{found.age_s:,.0f}",
        f"{preset.prices.per_million_steps(fleet, found.steps_per_s):,.2f}",
        found.bottleneck,
    )


def plot(path: Path, results: dict[str, tuple[Preset, list[tuple[Fleet, Outcome]], list[tuple[Fleet, Outcome]]]]) -> None:
    """Steps a second over workers, with the replicas of ten workers and with balanced ones."""
    figure = Figure(figsize=(11, 3.8), dpi=110, layout="constrained")
    for axes, (preset, fixed, grown) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.values(), strict=True):
        for rows, label, style in (
            (grown, "replicas grow with the workers", "-"),
            (fixed, "replicas of the smallest fleet stay", "--"),
        ):
            counts = [fleet.workers for fleet, _ in rows]
            rates = [found.steps_per_s for _, found in rows]
            axes.plot(counts, rates, style, color="#333333", label=label)
            for count, rate, (_, found) in zip(counts, rates, rows, strict=True):
                axes.plot(count, rate, "o", color=_COLOURS[found.bottleneck])
        for name, colour in _COLOURS.items():
            axes.plot([], [], "o", color=colour, label=f"limited by {name}")
        axes.set(xscale="log", yscale="log", xlabel="rollout workers", ylabel="environment steps/s", title=preset.title)
        axes.grid(color="#eeeeee")
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def markdown(preset: Preset, tables: Sequence[tuple[str, list[tuple[Fleet, Outcome]]]]) -> str:
    """Costs and tables of a preset."""
    lines = [f"## {preset.title[0].upper()}{preset.title[1:]}", "", "| cost | | from |", "|---|---|---|"]
    lines += [f"| {cost} | {kind} | {source} |" for cost, kind, source in preset.sources]
    for title, rows in tables:
        lines += ["", f"**{title}**", "", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
        lines += ["| " + " | ".join(cells(preset, fleet, found)) + " |" for fleet, found in rows]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, and with ``--write`` store tables and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--preset", choices=[*PRESETS, "all"], default="all")
    parser.add_argument("--workers", type=whole(1), nargs="+", default=list(WORKERS))
    parser.add_argument("--store-mb-per-s", type=positive, help="bandwidth of the store, in place of the preset's")
    for field in ("policy-replicas", "value-replicas", "learners"):
        parser.add_argument(f"--{field}", type=whole(1), help="stays at this number; all three or none")
    for field in ("policy-call-s", "env-step-s", "samples-per-step"):
        parser.add_argument(f"--{field}", type=positive, help="in place of the preset's cost")
    for field in ("worker-hour", "policy-hour", "value-hour", "learner-hour", "store-hour"):
        parser.add_argument(f"--{field}", type=positive, help="price, in place of the preset's")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/DATE-scale.md and docs/images/scale.png")
    options = parser.parse_args(arguments)
    replicas = (options.policy_replicas, options.value_replicas, options.learners)
    if any(replicas) and not all(replicas):
        parser.error("give --policy-replicas, --value-replicas and --learners together")
    return run_command(lambda: _simulate(options))


def _simulate(options: argparse.Namespace) -> None:
    results = {}
    for name in PRESETS if options.preset == "all" else (options.preset,):
        preset = _changed(PRESETS[name](), options)
        smallest = balanced(preset.costs, options.workers[0], store_mb_per_s=preset.store_mb_per_s)
        if options.learners:
            replicas = {"policy_replicas": options.policy_replicas, "value_replicas": options.value_replicas}
            smallest = replace(smallest, learners=options.learners, **replicas)
        fixed, grown = sweep(preset, options.workers, smallest), sweep(preset, options.workers, None)
        results[name] = preset, fixed, grown
        for title, rows in (("replicas stay", fixed), ("replicas grow", grown)):
            table = Table(*HEADINGS, title=f"{preset.title}: {title}", title_justify="left")
            for fleet, found in rows:
                table.add_row(*cells(preset, fleet, found))
            Console(width=160).print(table)
        worst = fixed[-1][1].bottleneck
        Console(width=160).print(f"knob at {fixed[-1][0].workers} workers with fixed replicas: {KNOBS[worst]}\n")
    if options.write:
        _write(results)


def _changed(preset: Preset, options: argparse.Namespace) -> Preset:
    given = {key: value for key, value in vars(options).items() if value is not None}
    costs = {key: given[key] for key in ("policy_call_s", "env_step_s", "samples_per_step") if key in given}
    prices = {key: value for key, value in given.items() if key.endswith("_hour")}
    store = given.get("store_mb_per_s", preset.store_mb_per_s)
    return replace(preset, costs=replace(preset.costs, **costs), prices=replace(preset.prices, **prices), store_mb_per_s=store)


def _write(results: dict[str, tuple[Preset, list[tuple[Fleet, Outcome]], list[tuple[Fleet, Outcome]]]]) -> None:
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = f"# A fleet of 10 to 10 000 workers, simulated\n\n`python -m benchmarks.scale --write`, {date}.\n\n"
    text += "\n".join(
        markdown(preset, (("Replicas of the smallest fleet stay", fixed), ("Replicas grow with the workers", grown)))
        for preset, fixed, grown in results.values()
    )
    (RESULTS / f"{date}-scale.md").write_text(text)
    plot(_PLOT, results)


if __name__ == "__main__":
    sys.exit(main())
