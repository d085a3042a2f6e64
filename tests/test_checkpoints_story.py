"""The command line, and the story of docs/checkpoints.md: promote, canary, rollback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_toys import ARM, write_policy

from checkpoints.__main__ import main
from checkpoints.directory import read_manifest
from checkpoints.parser import make_parser
from core.ids import digest

ROOT = Path(__file__).resolve().parent.parent


class CommandLine:
    """Runs commands on one store, in this process."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._store, self._capsys = root / "store", capsys

    def __call__(self, *arguments: str, status: int = 0) -> str:
        """What a command prints, errors included."""
        assert main([arguments[0], "--store", str(self._store), *arguments[1:]]) == status, self._capsys.readouterr().err
        printed = self._capsys.readouterr()
        return printed.out + printed.err

    def json(self, *arguments: str):
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def run(tmp_path, capsys):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/policy.yaml").write_text(
        "evaluation: {num_episodes: 20}\nshadow: {limits: {latency_p99_s: [null, 0.3]}}\ncanary: {max_speed_fraction: 0.5}\n"
    )
    return CommandLine(tmp_path, capsys)


def evaluation(tmp_path: Path, directory: Path) -> str:
    rows = [{"seed": seed, "success": True, "steps": 80} for seed in range(20)]
    about = {"task": "reach", "asset_set": "none", "environment_digest": "e1"}
    file = tmp_path / f"{directory.name}.json"
    file.write_text(json.dumps({"checkpoint_digest": digest(read_manifest(directory)), **about, "episodes": rows}))
    return str(file)


def to_the_robot(run: CommandLine, tmp_path: Path, weight: float) -> str:
    """Everything that a person types for one checkpoint."""
    directory = write_policy(tmp_path / f"policy_{weight}", weight)
    checkpoint = run("add", str(directory), "--run", "test").strip()
    run("promote", checkpoint[:8], "candidate", "--reason", "new")
    assert "PASS" in run("gate", "candidate", "evaluation", "--from", evaluation(tmp_path, directory))
    run("promote", "candidate", "staging", "--reason", "evaluated")
    assert "PASS" in run("gate", "staging", "shadow", "--robot", "arm1", "--measured", "latency_p99_s=0.1")
    canary = ("gate", "staging", "canary", "--robot", "arm1")
    assert "declare it with --open first" in run(*canary, "--episode", "0", "--success", status=2)
    run(*canary, "--open", "--reason", "trying it")
    for number in range(10):
        row = run.json(*canary, "--episode", str(number), "--success", "--speed", "0.5")
        if row["is_closed"]:
            break
    assert row["verdict"] == "pass"
    run("promote", "staging", "robot:arm1", "--reason", "canary passed")
    return checkpoint


def test_promote_canary_rollback_by_hand(run, tmp_path):
    (tmp_path / "arm1.json").write_text(json.dumps(ARM.to_json()))
    run("robots", "--register", str(tmp_path / "arm1.json"))
    first, second = (to_the_robot(run, tmp_path, weight) for weight in (1.0, 2.0))
    listed = run.json("list")
    assert {row["channel"]: row["id"] for row in listed["channels"]} == {
        "candidate": second,
        "staging": second,
        "robot:arm1": second,
    }
    (robot,) = listed["robots"]
    assert (robot["desired"], robot["is_pinned"]) == (second, False)
    assert run.json("rollback", "robot:arm1", "--reason", "drops cans")["id"] == first
    run("pin", "arm1", "--reason", "demo tomorrow")
    assert "pinned by" in run("promote", "staging", "robot:arm1", "--reason", "again", status=2)
    run("pin", "arm1", "--release", "--reason", "demo is over")
    assert "entries, unaltered" in run("audit", "--verify")
    log = run.json("audit")
    promoted = [entry for entry in log if entry["action"] == "promote" and entry["pointer"] == "channel/robot:arm1"]
    assert [len(entry["evidence"]) for entry in promoted] == [3, 3]
    (returned,) = [entry for entry in log if entry["action"] == "rollback"]
    assert (returned["reason"], returned["value"]) == ("drops cans", {"id": first, "previous": ""})
    assert "2 of 2 checkpoints are whole" in run("verify")
    run("export", "robot:arm1", str(tmp_path / "out"))
    assert (tmp_path / "out/manifest.json").read_bytes() == (tmp_path / "policy_1.0/manifest.json").read_bytes()


def test_what_is_printed_for_people_names_what_matters(run, tmp_path):
    checkpoint = run("add", str(write_policy(tmp_path / "policy"))).strip()
    shown = run("show", checkpoint)
    for text in (checkpoint, "policy toy, version 1", "dx [m], gripper [1]", "frame base", "5 Hz, chunks of 4", "wrist 12x16"):
        assert text in shown
    assert checkpoint[:12] in run("list")
    assert run.json("show", checkpoint)["contract"]["chunk_length"] == 4


def test_damage_is_exit_status_1_and_errors_are_2_with_one_line(run, tmp_path):
    checkpoint = run("add", str(write_policy(tmp_path / "policy"))).strip()
    for command, message in [
        (("show", "123456"), "no single checkpoint '123456'"),
        (("show", "staging"), "nothing was ever promoted to staging"),
        (("promote", checkpoint, "production", "--reason", "x"), "expected candidate, staging or robot:NAME"),
        (("promote", checkpoint, "candidate", "--reason", "x", "--expect-serial", "7"), "serial 0, not 7"),
        (("promote", checkpoint, "staging", "--reason", "x"), "evaluation: nothing was recorded"),
        (("gate", checkpoint, "evaluation"), "needs --from"),
        (("gate", checkpoint, "offline"), "needs NAME:DIGEST"),
        (("gate", checkpoint, "canary"), "needs --robot"),
        (("gate", checkpoint, "shadow", "--robot", "arm9", "--measured", "a=1"), "robot 'arm9' never reported"),
        (("rollback", "staging", "--reason", "x"), "nothing was ever promoted to staging"),
        (("add", str(tmp_path)), "no checkpoint at"),
    ]:
        printed = run(*command, status=2)
        assert message in printed
        assert printed.count("\n") == 1
    (blob, *_) = (tmp_path / "store/blobs/sha256").iterdir()
    blob.write_bytes(b"")
    assert "damaged: checkpoint" in run("verify", status=1)
    log = tmp_path / "store/audit.jsonl"
    run("pin", "arm1", "--reason", "x")
    log.write_bytes(log.read_bytes().replace(b'"is_pinned":true', b'"is_pinned":null'))
    assert "line 1 was altered" in run("audit", "--verify", status=2)


def test_a_change_needs_a_reason(run, capsys):
    for command in (["promote", "x", "y"], ["rollback", "x"], ["pin", "x"]):
        with pytest.raises(SystemExit):
            make_parser().parse_args(command)
        assert "--reason" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "show",
        "verify",
        "add",
        "export",
        "sign",
        "mirror",
        "push",
        "gate",
        "promote",
        "rollback",
        "pin",
        "robots",
        "audit",
    ],
)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        make_parser().parse_args([command, "--help"])
    assert f"example:\n  python -m checkpoints {command}" in capsys.readouterr().out


# -- the page ----------------------------------------------------------------------------------------------------------


def story() -> tuple[str, str]:
    """The shell script and the robot host's program that the page tells."""
    page = (ROOT / "docs/checkpoints.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)), program


def test_the_page_names_only_commands_that_exist():
    script, program = story()
    compile(program, "arm.py", "exec")
    lines = re.sub(r"\$\(python arm\.py.*?\)", "a=1", script.replace("\\\n", "")).splitlines()
    commands = [line.partition("python -m checkpoints ")[2].rstrip(")") for line in lines if "python -m checkpoints " in line]
    assert len(commands) > 15
    for command in commands:
        words = command.replace('"', "").split()
        assert make_parser().parse_known_args(words)[0].command == words[0]


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_story_of_the_page_works_as_it_stands(tmp_path):
    """Evaluation, shadow run, canaries and rollback with the shipped weights on a simulated arm: minutes."""
    script, program = story()
    (tmp_path / "arm.py").write_text(program)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": "200"}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    channel = json.loads((tmp_path / "runs/checkpoint_store/pointers/channel/robot:sim_arm.json").read_text())
    status = json.loads((tmp_path / "runs/checkpoint_store/status/sim_arm.json").read_text())
    assert channel["serial"] == 3
    assert status["running"]["checkpoint_id"] == channel["value"]["id"]
    played = re.findall(r"^([0-9a-f]{12}), generation (\d+), ready in \S+ s: (?:not )?solved$", done.stdout, re.MULTILINE)
    assert played[-1][0] == channel["value"]["id"][:12]
    assert len({checkpoint for checkpoint, _ in played}) == 2
    assert "entries, unaltered" in done.stdout
