"""The two reports of the bench: models side by side on both robots, and one change at a time on one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from learners.display import Display
from learners.run_directory import write_json
from models.value_config import ValueKind
from value_service.bench.laboratory import Laboratory, Measured
from value_service.bench.pictures import future_states, value_chunks, value_curves
from value_service.bench.report import ablation_table, record, sections, training_table
from value_service.bench.truth import BenchEpisode, Kind, Split
from value_service.bench.variants import Variant


def compare(
    laboratory: Laboratory,
    variants: Sequence[Variant],
    out: Path,
    *,
    robots: Sequence[str],
    seeds: Sequence[int],
    display: Display,
) -> str:
    """Train and judge models, one robot after the other; write ``OUT/report.md`` and ``results.json``, after each model anew.

    Args:
        laboratory: with the store.
        variants: the models.
        out: where to.
        robots: families of environments.
        seeds: of the trainings.
        display: told how far it is.

    Returns:
        The report.
    """
    of_robot: dict[str, list[Measured]] = {}
    report = ""
    for robot in robots:
        tests = laboratory.tests(robot)
        of_robot[robot] = [laboratory.clock(robot, tests)]
        for variant in variants:
            measured = laboratory.measure(variant, robot, seeds, tests)
            of_robot[robot].insert(len(of_robot[robot]) - 1, measured)
            report = sections(of_robot)
            _write(out, report, record(of_robot))
            display.say(f"{robot} {variant.name}: measured on {len(tests)} episodes")
    return report


def draw(laboratory: Laboratory, variants: Sequence[Variant], out: Path, *, robot: str, seed: int) -> None:
    """``OUT/value_{curves,future,chunks}_ROBOT.png``: all models over filmstrips; ViVa's future states; WVM's chunks."""
    tests = laboratory.tests(robot)
    told = {variant.name: laboratory.predictions(variant, robot, seed, tests) for variant in variants}
    chosen = [e for kind in (Kind.HESITATION, Kind.RETRY, Kind.FAILURE) for e in _typical(tests, kind)]
    read = [(e, laboratory.store.read(e.episode_id)) for e in chosen]
    value_curves(
        out / f"value_curves_{robot}.png",
        [(e, episode, {name: of[e.episode_id]["value"] for name, of in told.items()}) for e, episode in read],
    )
    for variant in variants:
        model = laboratory.model(variant, robot, seed)
        of = told[variant.name]
        if variant.model is ValueKind.VIVA and "future_state" in of[chosen[0].episode_id]:
            e, episode = read[min(1, len(read) - 1)]
            future_states(
                out / f"value_future_{robot}.png",
                e,
                episode,
                of[e.episode_id]["future_state"],
                model.window_spec.state_offsets[1],
            )
        if variant.model is ValueKind.WVM:
            offsets = model.window_spec.value_offsets
            shown = [(e, episode, of[e.episode_id]) for e, episode in read[:2]]
            value_chunks(out / f"value_chunks_{robot}.png", shown, offsets[1] - offsets[0])


def _typical(tests: Sequence[BenchEpisode], kind: Kind) -> list[BenchEpisode]:
    """The held-out episode of a kind whose length is the median one, if there is any: chosen by no model's values."""
    of_kind = sorted((e for e in tests if e.truth.kind is kind and e.truth.split is Split.TEST), key=lambda e: e.num_steps)
    return of_kind[len(of_kind) // 2 :][:1]


def ablate(laboratory: Laboratory, variants: Sequence[Variant], out: Path, *, robot: str, most: int, seeds: Sequence[int]) -> str:
    """Train and judge variants on one robot's trained tasks; write ``OUT/report.md`` and ``results.json``, after each anew.

    Args:
        laboratory: with the store.
        variants: those that share weights behind the one that they share them with.
        out: where to.
        robot: family of environments.
        most: test episodes of a task and kind.
        seeds: of the trainings.

    Returns:
        The report.
    """
    tests = laboratory.tests(robot, most=most, splits=(Split.TEST,))
    rows: list[tuple[Variant, Measured]] = []
    report = ""
    for variant in variants:
        rows.append((variant, laboratory.measure(variant, robot, seeds, tests)))
        columns = [measured for _, measured in rows]
        report = f"{ablation_table(rows, Split.TEST)}\n\n{training_table(columns)}\n"
        _write(out, report, record({robot: columns}))
    return report


def _write(out: Path, report: str, results: object) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(report)
    write_json(out / "results.json", results)
