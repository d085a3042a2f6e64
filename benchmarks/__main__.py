"""``python -m benchmarks [NAME ...]``: those for any machine, or the named ones; results go to ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import importlib
import sys

from core.command import run_command

ANYWHERE = ("env", "replay", "labels", "learner", "models", "weights")
NAMES = (*ANYWHERE, "chunks", "gpu_envs")


def main() -> int:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(NAMES)}; by default all but chunks (an hour of episodes) and gpu_envs (needs a GPU)",
    )
    names = parser.parse_args().names or ANYWHERE
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown {sorted(unknown)}; expected of {', '.join(NAMES)}")

    def command() -> None:
        for name in names:
            importlib.import_module(f"benchmarks.bench_{name}").main()

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
