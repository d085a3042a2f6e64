"""The command line of ``python -m checkpoints``: commands, options, help with examples."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path

from checkpoints.contract import FRAMES, GRIPPERS, ROTATIONS, UNDECLARED
from checkpoints.policy import GateKind
from core.command import positive, whole

DEFAULT_STORE = Path("runs/checkpoint_store")
_EXAMPLES = """
examples:
  python -m checkpoints add weights/simpler_google/policy --frame base --rotation axis_angle --gripper positive_closes
  python -m checkpoints promote 59d9f7 candidate --reason "first of the day"
  python -m checkpoints gate candidate evaluation --from runs/evaluation
  python -m checkpoints promote candidate staging --reason "evaluated"
  python -m checkpoints robots --register arm1.json
  python -m checkpoints gate staging canary --robot arm1 --open --reason "trying it"
  python -m checkpoints gate staging canary --robot arm1 --episode 1 --success --speed 0.5
  python -m checkpoints promote staging robot:arm1 --reason "canary passed"
  python -m checkpoints rollback robot:arm1 --reason "drops cans"
  python -m checkpoints audit --verify

A checkpoint is named by how its id begins (6 digits or more), or by a channel. The story in full: docs/checkpoints.md.
"""


def _measurement(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=NUMBER") from None


def make_parser() -> argparse.ArgumentParser:
    """All commands; ``options.command`` names the one that was given."""
    parser = argparse.ArgumentParser(
        prog="python -m checkpoints",
        description="Keep checkpoints, gather evidence about them, and say which robot runs which.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, text: str, example: str, *, changes: bool = False, needs_reason: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  python -m checkpoints {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--store", type=Path, default=DEFAULT_STORE, metavar="DIR", help=f"default: {DEFAULT_STORE}")
        added.add_argument("--json", action="store_true", help="print JSON and nothing else")
        if changes:
            added.add_argument("--by", default=getpass.getuser(), metavar="WHO", help="for the audit log (default: %(default)s)")
            added.add_argument(
                "--reason", required=needs_reason, default="evidence", metavar="WHY", help="for the audit log, in your words"
            )
        return added

    command("list", "list checkpoints, channels and robots", "list")
    show = command("show", "show one checkpoint: contract, files, gates", "show staging")
    verify = command("verify", "read every byte; exit status 1 if anything is damaged", "verify")
    verify.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="default: all")
    verify.add_argument("--public-key", type=Path, metavar="PEM", help="and that its owner signed them (extra signing)")
    add = command("add", "import a checkpoint directory, policy or value", "add runs/demo/checkpoints/policy_001 --frame base")
    add.add_argument("directory", type=Path, metavar="DIR")
    for option, choices in (("--frame", FRAMES), ("--rotation", ROTATIONS), ("--gripper", GRIPPERS)):
        add.add_argument(option, choices=choices, default=UNDECLARED, help="what it was trained for; a robot needs to know")
    add.add_argument("--run", dest="run_name", default="", metavar="NAME", help="the training run it comes from")
    add.add_argument("--parent", default="", metavar="CHECKPOINT", help="what it was trained from")
    add.add_argument("--link", action="store_true", help="hard links instead of copies (same file system)")
    sign = command("sign", "sign a checkpoint (extra signing)", "sign staging --private-key publisher.pem")
    sign.add_argument("--private-key", type=Path, required=True, metavar="PEM", help="elliptic, without a password")
    mirror = command(
        "mirror", "show checkpoints and channels in MLflow's registry (extra mlflow)", "mirror --uri sqlite:///mlflow.db"
    )
    mirror.add_argument("--uri", required=True, help="of the MLflow server or database")
    mirror.add_argument("--model", default="viva-recap", metavar="NAME", help="registered model (default: %(default)s)")
    push = command("push", "upload a checkpoint to the Hugging Face Hub", "push staging --repository ada/pick-can")
    push.add_argument("--repository", required=True, metavar="OWNER/NAME", help="made, private, if there is none")
    push.add_argument("--public", action="store_true", help="a repository that is made here can be seen by everybody")
    export = command("export", "write a checkpoint out as a directory, verified", "export staging /tmp/policy")
    promote = command(
        "promote",
        "point a channel to a checkpoint, if its gates passed",
        'promote candidate staging --reason "evaluated"',
        changes=True,
        needs_reason=True,
    )
    rollback = command(
        "rollback",
        "point a channel to what it pointed to before; needs no gate",
        'rollback robot:arm1 --reason "drops cans"',
        changes=True,
        needs_reason=True,
    )
    pin = command(
        "pin", "keep promotions away from a robot", 'pin arm1 --reason "demo tomorrow"', changes=True, needs_reason=True
    )
    pin.add_argument("robot", metavar="ROBOT")
    pin.add_argument("--release", action="store_true", help="let them in again; also ends a freeze after a crash loop")
    robots = command("robots", "list robots: desired and actual checkpoint", "robots", changes=True)
    robots.add_argument("--register", type=Path, metavar="FILE", help="capabilities, as JSON; a robot's agent does that itself")
    audit = command("audit", "show or verify the audit log", "audit --verify")
    audit.add_argument("--verify", action="store_true", help="check the chain, every pointer against it, and all evidence")
    audit.add_argument("--head", default="", metavar="HASH", help="verify, and that the log holds this entry that you remember")
    audit.add_argument("--repair", action="store_true", help="write every pointer as the (unaltered) log has it, then verify")
    gate = command("gate", "record evidence, and say what verdict follows", _GATE_EXAMPLE, changes=True)
    for added in (show, sign, push, export, promote, gate):
        added.add_argument("checkpoint", metavar="CHECKPOINT", help="how its id begins, or a channel")
    export.add_argument("directory", type=Path, metavar="DIR")
    for added in (promote, rollback):
        added.add_argument("channel", metavar="CHANNEL", help="candidate, staging or robot:NAME")
        added.add_argument("--expect-serial", type=whole(0), metavar="N", help="refuse if the channel's serial is another by now")
    _add_gate_options(gate)
    return parser


_GATE_EXAMPLE = "gate staging canary --robot arm1 --episode 7 --failure --intervened --speed 0.5"


def _add_gate_options(gate: argparse.ArgumentParser) -> None:
    gate.add_argument("kind", choices=[kind.value for kind in GateKind])
    gate.add_argument("--from", dest="source", type=Path, metavar="PATH", help="evaluation: what actors.evaluate wrote")
    gate.add_argument("--data", default="", metavar="NAME:DIGEST", help="offline: the data that was measured on")
    gate.add_argument("--robot", default="", metavar="NAME", help="shadow, canary")
    measured = "offline, shadow: measured numbers"
    gate.add_argument("--measured", nargs="+", type=_measurement, metavar="NAME=NUMBER", help=measured)
    gate.add_argument("--open", action="store_true", help="canary: declare it; the robot's agent then begins to run it")
    gate.add_argument("--episode", metavar="KEY", help="canary: an episode's id")
    gate.add_argument("--success", action="store_true", default=None, help="it was solved")
    gate.add_argument("--failure", dest="success", action="store_false", help="it was not")
    gate.add_argument("--intervened", action="store_true", help="a person helped: counts as a failure")
    gate.add_argument("--stopped", action="store_true", help="an emergency or protective stop: fails the canary")
    gate.add_argument("--collided", action="store_true", help="a collision: fails the canary")
    gate.add_argument("--speed", type=positive, default=1.0, metavar="FRACTION", help="of full speed (default: 1)")
    gate.add_argument("--new-attempt", action="store_true", help="again, after it closed without a pass; halves the error")
    gate.add_argument("--give-up", action="store_true", help="close it without a verdict")
