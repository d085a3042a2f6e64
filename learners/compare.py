"""Extraction methods side by side: only what examples say and count differs.

The same rollouts, values, labels, update budget and evaluation seeds: for each seed one shared collection and one value refit,
then one policy update and one evaluation a method. Everything is a run directory below OUT, so the comparison is resumed by
running it again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from scipy.stats import binomtest

from actors.collection import outcomes
from actors.outcomes import Outcome, SuccessSummary, summarise
from configs.build import open_store
from configs.command_line import make_parser
from configs.load import load_config, to_plain
from configs.schema import ExperimentConfig, Schedule
from core.command import run_command
from core.errors import ConfigError
from envs.make import task_of
from learners.display import Display
from learners.extraction import Extraction
from learners.figures import COLOURS, plot_losses
from learners.recap import collect_shared, run_recap
from learners.run_directory import RunDirectory, read_json_lines, write_json

START = "start"
Outcomes = dict[str, dict[int, list[Outcome]]]
"""method -> seed -> one outcome an evaluation episode, in the order of the evaluation seeds."""


def compare(config: ExperimentConfig, out: Path, *, display: Display | None = None) -> dict[str, Any]:
    """Run, or continue, the comparison; writes ``comparison.json``, ``comparison.md`` and ``comparison.png`` into ``out``.

    Returns:
        What ``comparison.json`` holds.
    """
    if config.recap.iterations != 1 or config.recap.schedule is not Schedule.SYNC:
        raise ConfigError("a comparison is one synchronous iteration on shared rollouts; set recap.iterations=1, schedule=sync")
    display = display or Display()
    found: Outcomes = {}
    for number in range(config.compare.num_seeds):
        seed = config.seed + number
        base = _with_seed(config, seed, number)
        shared = out / f"seed_{seed}" / "shared"
        display.say(f"seed {seed}: what the methods share")
        collect_shared(base, shared, display=display)
        found.setdefault(START, {})[seed] = _evaluated(base, shared, 0)
        for method in config.compare.methods:
            path = out / f"seed_{seed}" / method.value
            display.say(f"seed {seed}: {method.value}")
            run_recap(_with_method(base, method, shared), path, display=display)
            found.setdefault(method.value, {})[seed] = _evaluated(base, path, 1)
        record = _record(config, out, found)
        write_json(out / "comparison.json", record)
        (out / "comparison.md").write_text(markdown(record))
        _draw(out / "comparison.png", record, _losses(out, config))
        display.say(markdown(record))
    return record


def paired_difference(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, Any]:
    """Two methods on the same episodes: McNemar's exact test on the episodes that only one of them solves.

    Args:
        ours: one outcome an episode.
        theirs: of the same seeds, in the same order.

    Returns:
        ``only_ours``, ``only_theirs`` (numbers of episodes), ``p_value`` (two-sided; 1 where they never differ).

    Raises:
        ConfigError: if the episodes are not the same.
    """
    if [row.seed for row in ours] != [row.seed for row in theirs]:
        raise ConfigError("a paired difference needs the same evaluation seeds on both sides; evaluate both again")
    only_ours = sum(a.is_success and not b.is_success for a, b in zip(ours, theirs, strict=True))
    only_theirs = sum(b.is_success and not a.is_success for a, b in zip(ours, theirs, strict=True))
    differing = only_ours + only_theirs
    p_value = float(binomtest(only_ours, differing, 0.5).pvalue) if differing else 1.0
    return {"only_ours": only_ours, "only_theirs": only_theirs, "p_value": p_value}


def markdown(record: Mapping[str, Any]) -> str:
    """The comparison as a table for a document."""
    lines = [
        f"{record['task']}, {record['asset_set']} assets; {len(record['seeds'])} seeds, "
        f"{record['episodes_per_seed']} evaluation episodes each, {record['policy_steps']} policy steps.",
        "",
        "| method | success, all seeds (Wilson 95 %) | by seed | mean steps | only it / only BC solves | p (McNemar) |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in record["methods"].items():
        by_seed = ", ".join(f"{100 * value:.0f} %" for value in row["by_seed"].values())
        pair = row.get("against_bc")
        against = f"{pair['only_ours']} / {pair['only_theirs']} | {pair['p_value']:.3f}" if pair else "- | -"
        lines.append(f"| {name} | {_text(row)} | {by_seed} | {row['mean_steps']:.1f} | {against} |")
    return "\n".join(lines) + "\n"


def _with_seed(config: ExperimentConfig, seed: int, number: int) -> ExperimentConfig:
    """Another repetition: all seeds move on, the evaluation's too, so that more initial states are met."""
    evaluation = replace(config.evaluation, first_seed=config.evaluation.first_seed + number * config.evaluation.num_episodes)
    return replace(config, seed=seed, evaluation=evaluation, extraction=replace(config.extraction, method=Extraction.RECAP))


def _with_method(config: ExperimentConfig, method: Extraction, shared: Path) -> ExperimentConfig:
    return replace(
        config,
        extraction=replace(config.extraction, method=method),
        recap=replace(config.recap, rollouts_from=str(shared), num_demonstrations=0, is_start_evaluated=False),
    )


def _evaluated(config: ExperimentConfig, path: Path, version: int) -> list[Outcome]:
    run = RunDirectory(path)
    return outcomes(open_store(config, run.replay, "reader"), run.result(f"{version:03d}/evaluate")["episodes"])


def _record(config: ExperimentConfig, out: Path, found: Outcomes) -> dict[str, Any]:
    methods: dict[str, Any] = {}
    for name, by_seed in found.items():
        pooled = [row for seed in by_seed for row in by_seed[seed]]
        methods[name] = {
            **summarise(pooled).to_json(),
            "by_seed": {str(seed): summarise(rows).success for seed, rows in by_seed.items()},
        }
        if "bc" in found and name != "bc" and found["bc"].keys() == by_seed.keys():
            baseline = [row for seed in by_seed for row in found["bc"][seed]]
            methods[name]["against_bc"] = paired_difference(pooled, baseline)
    seeds = list(found[START])
    shared = [RunDirectory(out / f"seed_{seed}" / "shared") for seed in seeds]
    return {
        "task": task_of(config.env),
        "asset_set": config.env.assets,
        "seeds": seeds,
        "episodes_per_seed": config.evaluation.num_episodes,
        "policy_steps": config.recap.policy.num_steps,
        "methods": methods,
        "value": [{k: v for k, v in run.result("001/label").items() if k.endswith("correlation")} for run in shared],
        "rollout_success": [run.result("001/collect")["success"] for run in shared],
        "config": to_plain(config),
    }


def _losses(out: Path, config: ExperimentConfig) -> dict[str, list[tuple[int, float]]]:
    """Policy loss of each method, of the first seed."""
    curves = {}
    for method in config.compare.methods:
        rows = read_json_lines(out / f"seed_{config.seed}" / method.value / "metrics.jsonl")
        curves[method.value] = [(row["step"], row["action_loss"]) for row in rows if "action_loss" in row]
    return curves


def _draw(path: Path, record: Mapping[str, Any], losses: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    figure = Figure(figsize=(10, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for x, (name, row) in enumerate(record["methods"].items()):
        colour = COLOURS.get(name, "#333333")
        low, high = row["success"] - row["success_low"], row["success_high"] - row["success"]
        left.bar(x, row["success"], color=colour, alpha=0.35, width=0.65)
        left.errorbar(x, row["success"], yerr=[[max(0, low)], [max(0, high)]], color=colour, capsize=5, linewidth=2)
        left.scatter([x] * len(row["by_seed"]), list(row["by_seed"].values()), color=colour, s=18, zorder=3)
    left.set_xticks(range(len(record["methods"])), list(record["methods"]))
    left.set(ylim=(0, 1), ylabel="success", title="Success: all seeds with Wilson 95 %, dots: seeds")
    left.grid(axis="y", color="#eeeeee")
    plot_losses(right, losses)
    right.set_title(f"Action loss, seed {record['seeds'][0]} (moving average)")
    figure.savefig(path)


def _text(row: Mapping[str, Any]) -> str:
    keys = ("num_episodes", "num_successes", "success", "success_low", "success_high", "success_once", "mean_steps")
    return SuccessSummary(**{key: row[key] for key in keys}).text


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(
        "learners.compare",
        """
        Compare RECAP, AWR, filtered BC and BC on the same rollouts, labels, budget and evaluation seeds. Run again to continue.

        examples:
          python -m learners.compare --config recap_tiny --out runs/compare
          python -m learners.compare --config recap_tiny compare.num_seeds=1 "compare.methods=[recap,bc]"
        """,
        ["seed", "compare", "env", "recap", "extraction", "evaluation", "execution", "labeler", "players", "mix"],
    )
    parser.add_argument(
        "--out", metavar="DIR", default="runs/compare", help="where the runs and results go (default: %(default)s)"
    )
    options = parser.parse_args(arguments)

    def command() -> None:
        overrides = ["recap.iterations=1", *options.overrides]
        compare(load_config(options.config, overrides, family=options.env), Path(options.out))

    return run_command(command, interrupted="interrupted; what was committed is safe, and the same command continues from here")


if __name__ == "__main__":
    sys.exit(main())
