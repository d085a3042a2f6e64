"""What an evaluation of a suite says: a JSON-like record, and a table for people.

Pure functions of :class:`actors.suite_record.SuiteRecord`. Every number comes with how many trials it rests on, every mean with
the name of its convention and what it lacks, and what was left out is listed with the reason.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from actors.comparisons import Comparison, compare_paired, compare_unpaired, holm_adjusted
from actors.outcomes import summarise
from actors.suite_record import SuiteRecord, tasks_of
from actors.trial_log import TrialOutcome
from core.errors import ConfigError

# -- numbers ---------------------------------------------------------------------------------------------------------


def tabulate(record: SuiteRecord) -> dict[str, Any]:
    """All results of one subject, JSON-like."""
    tasks = {task: _task_row(record, task) for task in tasks_of([record])}
    return {
        "identity": dict(record.request.identity),
        "protocol": dict(record.request.protocol),
        "tasks": tasks,
        "averages": {name: _average(tree, tasks) for name, tree in record.request.protocol["averages"].items()},
        "left_out": [asdict(item) for item in record.request.left_out],
        "errors": [asdict(crash) for crash in record.errors],
        "retried": list(record.retried),
        "num_missing": record.num_missing,
        "trials": [asdict(outcome) for outcome in record.outcomes.values()],
    }


def _task_row(record: SuiteRecord, task: str) -> dict[str, Any]:
    played = [outcome for outcome in record.outcomes.values() if outcome.task == task]
    counted = [outcome for outcome in played if record.request.planned[outcome.key]]
    solved = [outcome.first_success_step + 1 for outcome in counted if outcome.first_success_step >= 0]
    row: dict[str, Any] = {
        **record.request.protocol["tasks"][task],
        "num_planned": sum(key.startswith(f"{task}|") for key in record.request.planned),
        "num_played": len(played),
        "num_errors": sum(crash.key.startswith(f"{task}|") for crash in record.errors),
        "num_left_out": sum(item.num_trials for item in record.request.left_out if item.task == task),
        "summary": summarise(counted).to_json() if counted else None,
        "mean_steps_to_success": sum(solved) / len(solved) if solved else None,
        "variants": _variants(record, played),
    }
    return row


def _variants(record: SuiteRecord, played: Iterable[TrialOutcome]) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[TrialOutcome]] = defaultdict(list)
    for outcome in played:
        groups[outcome.variant].append(outcome)
    return {
        variant: {
            "num_episodes": len(group),
            "num_successes": sum(outcome.is_success for outcome in group),
            "is_averaged": record.request.planned[group[0].key],
        }
        for variant, group in groups.items()
    }


def _average(tree: Any, tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A nested mean; None where a task has no trial at all, with the names of what is missing or incomplete."""
    names = list(_leaves(tree))
    missing = [task for task in names if tasks[task]["summary"] is None]
    incomplete = [task for task in names if task not in missing and tasks[task]["num_played"] < tasks[task]["num_trials"]]
    return {
        "success": None if missing else nested_mean(tree, {task: tasks[task]["summary"]["success"] for task in names}),
        "success_once": None if missing else nested_mean(tree, {task: tasks[task]["summary"]["success_once"] for task in names}),
        "missing": missing,
        "incomplete": incomplete,
    }


def nested_mean(tree: Any, scores: Mapping[str, float]) -> float:
    """The mean of means.

    Args:
        tree: a name, or a sequence of trees.
        scores: of each name.

    Example:
        >>> nested_mean(["a", ["b", "c"]], {"a": 1.0, "b": 0.0, "c": 0.5})
        0.625
    """
    if isinstance(tree, str):
        return scores[tree]
    return sum(nested_mean(branch, scores) for branch in tree) / len(tree)


def _leaves(tree: Any) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
        return
    for branch in tree:
        yield from _leaves(branch)


# -- tables ----------------------------------------------------------------------------------------------------------


def to_markdown(records: Sequence[SuiteRecord]) -> str:
    """One document about one suite; with several subjects, first all of them side by side."""
    results = [tabulate(record) for record in records]
    protocol = results[0]["protocol"]
    lines = [f"# {protocol['name']}: {protocol['title']}", ""]
    lines += [f"- {note}" for note in protocol["notes"]]
    lines += [
        "- Success is that of the last step, as upstream counts it; an episode goes on to its time limit. *Once* is success at",
        "  any step. Intervals are Wilson's, 95 %. A task's rate is pooled over its trials.",
        "",
    ]
    if len(results) > 1:
        lines += ["## All subjects", "", *_side_by_side(results), ""]
    for result in results:
        lines += [f"## {result['identity']['subject']}", "", *_one_subject(result), ""]
    return "\n".join(lines).rstrip() + "\n"


def _side_by_side(results: Sequence[Mapping[str, Any]]) -> list[str]:
    def cell(row: Mapping[str, Any]) -> str:
        return "-" if row["summary"] is None else _rate(row["summary"])

    tasks = [task for task in results[0]["tasks"] if any(result["tasks"][task]["num_planned"] for result in results)]
    rows = [[task, *(cell(result["tasks"][task]) for result in results)] for task in tasks]
    rows += [[f"**{name}**", *(_mean(result["averages"][name]) for result in results)] for name in results[0]["averages"]]
    return [*_table(["task", *(result["identity"]["subject"] for result in results)], rows), "", *_legend(results)]


def _one_subject(result: Mapping[str, Any]) -> list[str]:
    lines = [f"- {name.replace('_', ' ')}: {_text(value)}" for name, value in result["identity"].items() if name != "subject"]
    rows = [[task, *_cells(row)] for task, row in result["tasks"].items() if row["num_planned"]]
    header = ["task", "trials (of)", "success, last step", "once", "mean steps", "to success", "environment"]
    lines += ["", *_table(header, rows), "", "Means:", ""]
    for name, average in result["averages"].items():
        lines.append(
            f"- {name}: {_mean(average)}" + (f", once {100 * average['success_once']:.1f} %" if not average["missing"] else "")
        )
    lines += ["", *_legend([result])]
    for task, row in result["tasks"].items():
        shown = {name: variant for name, variant in row["variants"].items() if not variant["is_averaged"]}
        lines += [
            f"- {task}, {name} (outside the means): {variant['num_successes']}/{variant['num_episodes']}"
            for name, variant in shown.items()
        ]
    return [*lines, *_exceptions(result)]


def _exceptions(result: Mapping[str, Any]) -> list[str]:
    """What is not in the numbers, and what went wrong."""
    lines: list[str] = []
    if result["num_missing"]:
        lines += ["", f"Interrupted: {result['num_missing']} planned trials are still to be played."]
    for title, is_applicable in (("Not applicable", False), ("Left out", True)):
        groups: Counter[tuple[str, str]] = Counter()
        for item in result["left_out"]:
            if item["is_applicable"] is is_applicable:
                what = f"{item['task']}, {item['variant']}" if item["variant"] else item["task"]
                groups[what, item["reason"]] += item["num_trials"]
        if groups:
            by_reason: dict[str, list[str]] = defaultdict(list)
            for (what, reason), count in groups.items():
                by_reason[reason].append(f"{what} ({count})")
            lines += ["", f"{title}, with the number of trials:", ""]
            lines += [f"- {reason}: {'; '.join(items)}" for reason, items in by_reason.items()]
    if result["errors"]:
        lines += ["", f"Errors: {len(result['errors'])} trials crashed twice; the rates above are over the rest:", ""]
        lines += [f"- {crash['key']}: {crash['text']}" for crash in result["errors"]]
    if result["retried"]:
        lines += ["", f"Crashed once and played again on a fresh worker: {', '.join(result['retried'])}."]
    return lines


def _cells(row: Mapping[str, Any]) -> list[str]:
    trials = f"{row['num_played']} ({row['num_trials']})"
    if row["summary"] is None:
        return [trials, "-", "-", "-", "-", row["environment"]]
    summary, steps = row["summary"], row["mean_steps_to_success"]
    once = f"{100 * summary['success_once']:.0f} %"
    return [
        trials,
        _rate(summary),
        once,
        f"{summary['mean_steps']:.1f}",
        "-" if steps is None else f"{steps:.1f}",
        row["environment"],
    ]


def _rate(summary: Mapping[str, Any]) -> str:
    low, high = 100 * summary["success_low"], 100 * summary["success_high"]
    return f"{100 * summary['success']:.0f} % ({low:.0f}-{high:.0f}), {summary['num_successes']}/{summary['num_episodes']}"


def _mean(average: Mapping[str, Any]) -> str:
    if average["missing"]:
        return f"- ({len(average['missing'])} tasks not played)"
    return f"{100 * average['success']:.1f} %" + ("*" if average["incomplete"] else "")


def _legend(results: Sequence[Mapping[str, Any]]) -> list[str]:
    is_marked = any(
        average["incomplete"] for result in results for average in result["averages"].values() if not average["missing"]
    )
    return ["\\* over fewer trials than the protocol has."] if is_marked else []


def _text(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, Mapping) else str(value)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(re.sub(r'[|]', '/', cell) for cell in cells)} |"

    return [line(header), f"|{'|'.join(' --- ' for _ in header)}|", *(line(row) for row in rows)]


# -- two subjects ----------------------------------------------------------------------------------------------------


def compare(a: SuiteRecord, b: SuiteRecord) -> dict[str, Any]:
    """Is A better than B, task by task and over all: on the starts that both met, else on all that each met.

    Raises:
        ConfigError: different suites, or no task in common.
    """
    names = [record.request.protocol["name"] for record in (a, b)]
    if names[0] != names[1]:
        raise ConfigError(f"{a.subject} was measured on {names[0]}, {b.subject} on {names[1]}; only one suite can be compared")
    rows: dict[str, Comparison] = {}
    for task in tasks_of([a]):
        found = _comparison(a, b, [task])
        if found is not None:
            rows[task] = found
    if not rows:
        raise ConfigError(f"{a.subject} and {b.subject} have no task in common; nothing to compare")
    adjusted = holm_adjusted([row.p_value for row in rows.values()])
    overall = _comparison(a, b, list(rows))
    assert overall is not None, "some task has trials"
    return {
        "suite": names[0],
        "a": dict(a.request.identity),
        "b": dict(b.request.identity),
        "tasks": {task: {**asdict(row), "p_holm": p} for (task, row), p in zip(rows.items(), adjusted, strict=True)},
        "all": asdict(overall),
    }


def _comparison(a: SuiteRecord, b: SuiteRecord, tasks: Sequence[str]) -> Comparison | None:
    """None where one of the two has no trial of these tasks."""
    played = [{key: row for key, row in record.outcomes.items() if row.task in tasks} for record in (a, b)]
    if not all(played):
        return None
    environments = [[record.request.protocol["tasks"][task]["environment"] for task in tasks] for record in (a, b)]
    common = [key for key in played[0] if key in played[1] and played[0][key].seed == played[1][key].seed]
    if common and environments[0] == environments[1]:
        return compare_paired((played[0][key].is_success, played[1][key].is_success) for key in common)
    return compare_unpaired(*([row.is_success for row in rows.values()] for rows in played))


def comparison_to_markdown(comparison: Mapping[str, Any]) -> str:
    """A table of :func:`compare`."""

    def cells(name: str, row: Mapping[str, Any]) -> list[str]:
        only = "-" if row["only_a"] is None else f"{row['only_a']} / {row['only_b']}"
        difference = 100 * (row["success_a"] - row["success_b"])
        return [
            name,
            f"{100 * row['success_a']:.0f} % of {row['num_a']}",
            f"{100 * row['success_b']:.0f} % of {row['num_b']}",
            f"{difference:+.0f}",
            only,
            f"{row['p_value']:.3g}",
            f"{row['p_holm']:.3g}" if "p_holm" in row else "-",
            row["test"],
        ]

    header = ["task", "A", "B", "A - B, points", "only A / only B", "p", "p (Holm)", "test"]
    rows = [cells(task, row) for task, row in comparison["tasks"].items()]
    return "\n".join(
        [
            f"# {comparison['suite']}: A = {comparison['a']['subject']}, B = {comparison['b']['subject']}",
            "",
            *_table(header, [*rows, cells("**all**", comparison["all"])]),
            "",
            "p is two-sided: of McNemar's exact test on the starts that both met in the same environment, else of Barnard's on",
            "all. Holm's p accounts for there being several tasks. The last line pools the tasks' trials.",
            "",
        ]
    )
