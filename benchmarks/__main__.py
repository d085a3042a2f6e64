"""``python -m benchmarks [NAME ...]``: all benchmarks, or the named ones; results go to ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import importlib

NAMES = ("env", "replay", "labels", "learner")


def main() -> None:
    """Run them one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=f"of {', '.join(NAMES)}; all by default")
    for name in parser.parse_args().names or NAMES:
        importlib.import_module(f"benchmarks.bench_{name}").main()


if __name__ == "__main__":
    main()
