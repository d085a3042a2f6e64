"""What all commands of ``python -m replay`` share: the store they are about, ``--json``, and who runs them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

Run = Callable[[argparse.Namespace, Console], int]
"""Takes the options and where to print; returns the exit status."""


def add_store_command(commands: Any, name: str, run: Run, *, help: str, needs_store: bool = True) -> argparse.ArgumentParser:
    """Add a command's parser.

    Args:
        commands: what ``add_subparsers`` gives.
        name: of the command.
        run: does it.
        help: one line.
        needs_store: whether a store must be there before.
    """
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help)
    parser.add_argument("store", type=Path, metavar="STORE", help="the store's folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run, needs_store=needs_store)
    return parser
