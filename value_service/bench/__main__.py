"""The commands of the bench: generate its episodes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.build import software_version
from configs.command_line import run_command
from core.errors import ConfigError
from learners.display import Display
from replay.episode_store import EpisodeStore
from value_service.bench.generate import generate, simpler_stage
from value_service.bench.plan import PLAN
from value_service.bench.truth import Kind


def _generate(options: argparse.Namespace) -> None:
    plans = [plan.scaled(options.scale) for plan in PLAN if not options.tasks or plan.task in options.tasks]
    unknown = set(options.tasks) - {plan.task for plan in PLAN}
    if unknown:
        raise ConfigError(f"unknown tasks {sorted(unknown)}; the bench has {[plan.task for plan in PLAN]}")
    display, total = Display(), sum(plan.count(kind) for plan in plans for kind in Kind)
    with display.bar("episodes", total, "episodes") as advance:
        rejected = generate(
            EpisodeStore(options.store), plans, simpler_stage(), on_count=advance, software_version=software_version()
        )
    display.say(f"{options.store}: {total} episodes; {rejected} more did not come out as meant and were not stored")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m value_service.bench", description="Suboptimal-Value-Bench in simulation: how far can a value be trusted?"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    generating = commands.add_parser("generate", help="play the episodes; continues where it was interrupted")
    generating.add_argument("--store", type=Path, required=True)
    generating.add_argument("--scale", type=float, default=1.0, help="times as many episodes of each kind")
    generating.add_argument("--tasks", type=lambda text: text.split(","), default=[], help="only these, comma-separated")
    generating.set_defaults(run=_generate)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
