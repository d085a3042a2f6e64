"""Breaks the main job on purpose, one thing at a time, and checks what must hold afterwards.

Each round runs ``python -m learners.recap`` on Ray (fake environment, tiny models, synchronous schedule), injects one fault at a
random moment, resumes the run where it ended, and compares with the same run undisturbed: every episode that was ever
acknowledged is there, every label exactly once, nothing partial under a name that readers believe, every learner metric
and every weight the same to the bit.

examples:
  python -m benchmarks.chaos --list
  python -m benchmarks.chaos worker replica --rounds 1
  python -m benchmarks.chaos --rounds 5 --write          docs/results/faults.md and faults.jsonl
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chaos.faults import FAULTS, Fault
from benchmarks.chaos.rounds import Rounds
from benchmarks.chaos.table import RESULTS, write_table
from core.command import EXIT_FAILED, exit_on_sigterm, run_command, whole


def main(arguments: list[str] | None = None) -> int:
    """Command line: 0 if every invariant held in every round."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = [fault.name for fault in FAULTS]
    parser.add_argument("names", nargs="*", metavar="FAULT", help="default: all; see --list")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--rounds", type=whole(1), default=1, help="of each fault (default 1)")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the moments and victims (default 0)")
    parser.add_argument("--folder", type=Path, help="keep the runs there, and go on from what is there; default: a temporary one")
    parser.add_argument("--write", action="store_true", help=f"add to {RESULTS.name}.jsonl, write {RESULTS.name}.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(names):
        parser.error(f"unknown {sorted(unknown)}; expected of {', '.join(names)}")
    if options.list:
        for fault in FAULTS:
            print(f"{fault.name:<20} {fault.what}")
        return 0
    return run_command(lambda: _break(options, [fault for fault in FAULTS if fault.name in (options.names or names)]))


def _break(options: argparse.Namespace, chosen: Sequence[Fault]) -> int:
    for fault in chosen:
        if reason := fault.missing():
            print(f"{fault.name}: left out: {reason}", file=sys.stderr)
    chosen = [fault for fault in chosen if not fault.missing()]
    exit_on_sigterm()  # so that jobs, mounts and namespaces are removed
    with tempfile.TemporaryDirectory(prefix="viva_recap_chaos_", dir="/var/tmp") as temporary:
        rounds = Rounds(options.folder or Path(temporary))
        rounds.prepare()
        is_clean = True
        for fault in chosen:
            for number in range(options.rounds):
                row = rounds.run(fault, seed=options.seed + number)
                is_clean &= row["is_clean"]
                if options.write:  # after each, so that an interrupted call has written what it did
                    write_table([row])
    return 0 if is_clean else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
