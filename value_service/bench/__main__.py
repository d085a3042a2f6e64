"""The commands of the bench: make its episodes, compare value models on them, and take models apart.

python -m value_service.bench generate --store runs/value_bench/store
python -m value_service.bench compare --store runs/value_bench/store --out runs/value_bench --models viva,wvm,vlm,value_only
python -m value_service.bench ablate --store runs/value_bench/store --out runs/value_bench/ablations
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from configs.build import software_version
from core.command import positive, run_command, whole
from core.errors import ConfigError
from learners.display import Display
from models.value_config import ValueKind
from replay.episode_store import EpisodeStore
from value_service.bench.comparison import ablate, compare, draw
from value_service.bench.generate import generate, simpler_stage
from value_service.bench.laboratory import Laboratory, LaboratoryConfig
from value_service.bench.plan import PLAN
from value_service.bench.truth import Kind
from value_service.bench.variants import ABLATIONS, main_variants

_COMMANDS = ("generate", "compare", "ablate")


def _generate(options: argparse.Namespace) -> None:
    unknown = set(options.tasks) - {plan.task for plan in PLAN}
    if unknown:
        raise ConfigError(f"unknown tasks {sorted(unknown)}; the bench has {[plan.task for plan in PLAN]}")
    plans = [plan.scaled(options.scale) for plan in PLAN if not options.tasks or plan.task in options.tasks]
    display, total = Display(), sum(plan.count(kind) for plan in plans for kind in Kind)
    with display.bar("episodes", total, "episodes") as advance:
        rejected = generate(
            EpisodeStore(options.store), plans, simpler_stage(), on_count=advance, software_version=software_version()
        )
    display.say(f"{options.store}: {total} episodes; {rejected} more did not come out as meant and were not stored")


def _compare(options: argparse.Namespace) -> None:
    variants = main_variants(options.models)
    laboratory, display = _laboratory(options)
    robots = options.robots or laboratory.robots
    display.say(compare(laboratory, variants, options.out, robots=robots, seeds=range(options.seeds), display=display))
    for robot in robots:
        draw(laboratory, variants, options.out, robot=robot, seed=0)


def _ablate(options: argparse.Namespace) -> None:
    unknown = set(options.only) - {variant.name for variant in ABLATIONS}
    if unknown:
        raise ConfigError(f"--only {sorted(unknown)}; known are {', '.join(variant.name for variant in ABLATIONS)}")
    chosen = [v for v in ABLATIONS if not options.only or v.name in options.only]
    laboratory, display = _laboratory(options)
    report = ablate(laboratory, chosen, options.out, robot=options.robot, most=options.most, seeds=range(options.seeds))
    display.say(report)


def _laboratory(options: argparse.Namespace) -> tuple[Laboratory, Display]:
    config = LaboratoryConfig(num_steps=options.num_steps, batch_size=options.batch_size, learning_rate=options.learning_rate)
    if not options.store.is_dir():
        raise ConfigError(f"no store at {options.store}; make one with: python -m value_service.bench generate --store PATH")
    display, store = Display(), EpisodeStore(options.store)
    laboratory = Laboratory(store, options.out, config, configure=lambda v: v.config(options.preset), display=display)
    return laboratory, display


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m value_service.bench",
        description="Suboptimal-Value-Bench in simulation: how far can a value be trusted? Without a command: compare.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generating = commands.add_parser("generate", help="play the episodes; continues where it was interrupted")
    comparing = commands.add_parser("compare", help="train value models alike and judge them")
    ablating = commands.add_parser("ablate", help="change one thing at a time in ViVa and WVM")
    for command in (generating, comparing, ablating):
        command.add_argument("--store", type=Path, default=Path("runs/value_bench/store"), help="of the episodes (%(default)s)")
    generating.add_argument("--scale", type=positive, default=1.0, help="times as many episodes of each kind")
    generating.add_argument("--tasks", type=_names, default=[], help="only these, comma-separated")
    generating.set_defaults(run=_generate)
    for command, out in ((comparing, "compare"), (ablating, "ablate")):
        command.add_argument("--out", type=Path, default=Path("runs/value_bench") / out, help="models and report (%(default)s)")
        command.add_argument("--preset", default="tiny")
        command.add_argument("--seeds", type=whole(1), default=1, help="trainings of each model (%(default)s)")
        for field in fields(LaboratoryConfig):
            command.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=whole(1) if isinstance(field.default, int) else positive,
                default=field.default,
            )
    everything = ",".join(kind.value for kind in ValueKind)
    comparing.add_argument("--models", type=_names, default=_names(everything), help=f"comma-separated ({everything})")
    comparing.add_argument("--robots", type=_names, default=[], help="simpler_google, simpler_widowx (default: all in the store)")
    comparing.set_defaults(run=_compare)
    ablating.add_argument("--robot", default="simpler_google", help="whose episodes (%(default)s)")
    ablating.add_argument("--most", type=whole(1), default=8, help="test episodes of a task and kind (%(default)s)")
    ablating.add_argument("--only", type=_names, default=[], help="these variants, comma-separated")
    ablating.set_defaults(run=_ablate)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0] not in _COMMANDS and given[0] not in ("-h", "--help")):
        given.insert(0, "compare")
    options = _parser().parse_args(given)
    return run_command(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
