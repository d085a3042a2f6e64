"""Set-up of .venv: what counts as done, what is made anew, and its messages. pip itself is not run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from scripts import set_up
from scripts.set_up import SetupError, pins, set_up_packages, unpinned

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = '[project]\ndependencies = ["torch==2.13.0"]\n[project.optional-dependencies]\ndev = ["ruff"]\n'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a stand-in for pip and venv; returns its folder and the list of calls."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\nruff==1.0\n")
    calls = []

    def make_venv(venv):
        calls.append("venv")
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").touch()

    monkeypatch.setattr(set_up, "_make_venv", make_venv)
    monkeypatch.setattr(set_up, "_pip", lambda _, *arguments: calls.append(arguments[-1]))
    return tmp_path, calls


def test_a_second_run_does_nothing(project):
    root, calls = project
    set_up_packages(root)
    assert calls == ["venv", "torch==2.13.0", str(root / "constraints.txt")]
    calls.clear()
    assert set_up_packages(root) == "packages: as pinned"
    assert calls == []


def test_moved_pins_are_installed_into_the_same_venv(project):
    root, calls = project
    set_up_packages(root)
    (root / "constraints.txt").write_text("torch==2.13.0\nruff==2.0\n")
    calls.clear()
    set_up_packages(root)
    assert calls == ["torch==2.13.0", str(root / "constraints.txt")]


def break_off(root):
    (root / ".venv" / set_up.STAMP_NAME).unlink()


def damage_stamp(root):
    (root / ".venv" / set_up.STAMP_NAME).write_text("{")


def lose_python(root):
    (root / ".venv/bin/python").unlink()


def pretend_moved(root):
    stamp = root / ".venv" / set_up.STAMP_NAME
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"venv": "/another/place/.venv"}))


@pytest.mark.parametrize("harm", [break_off, damage_stamp, lose_python, pretend_moved])
def test_a_half_made_or_moved_venv_is_made_anew(project, harm):
    root, calls = project
    set_up_packages(root)
    (root / ".venv/leftover").touch()
    harm(root)
    calls.clear()
    set_up_packages(root)
    assert calls[0] == "venv"
    assert not (root / ".venv/leftover").exists()
    assert set_up_packages(root) == "packages: as pinned"


def test_a_failed_installation_is_not_taken_for_done(project, monkeypatch):
    root, calls = project

    def fail(*_):
        raise SetupError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(set_up, "_pip", fail)
        with pytest.raises(SetupError, match="no network"):
            set_up_packages(root)
    calls.clear()
    set_up_packages(root)
    assert calls[0] == "venv"


def test_a_requirement_without_a_pin_is_named(project):
    root, _ = project
    (root / "constraints.txt").write_text("torch==2.13.0\n")
    with pytest.raises(SetupError, match=r"asks for ruff, which constraints\.txt does not pin"):
        set_up_packages(root)


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch=="])
def test_a_constraint_that_is_no_pin_is_named(line):
    with pytest.raises(SetupError, match=r"line 2 is .*expected name==version"):
        pins(f"# comment\n{line}\n")


def test_the_committed_pins_cover_what_the_project_asks_for():
    constraints = (ROOT / "constraints.txt").read_text()
    known = pins(constraints)
    assert unpinned((ROOT / "pyproject.toml").read_text(), constraints) == []
    assert known["torch"] == "2.13.0"
    assert not {"mplib", "opencv-python"} & known.keys()
    assert "+" not in "".join(known.values())


def test_without_python_3_11_make_says_what_to_install(tmp_path):
    """PATH holds make's own tools but no Python."""
    for tool in ("bash", "sh", "make", "env"):
        found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / tool).symlink_to(found)
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    result = subprocess.run(["make", "-C", str(ROOT), "setup"], env=environment, capture_output=True, text=True)
    assert result.returncode != 0
    assert "error: no Python 3.11 on PATH; install it (Debian 12: apt-get install python3 python3-venv)" in result.stderr


def test_another_python_says_which_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(set_up.sys, "version_info", (3, 12, 1))
    monkeypatch.setattr(set_up, "set_up_packages", lambda: pytest.fail("went on"))
    assert set_up.main() == 1
    assert "viva-recap needs Python 3.11" in capsys.readouterr().err


def test_every_make_target_is_in_the_help():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    text = subprocess.run(["make", "-C", str(ROOT), "help"], env=environment, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    assert {"setup", "check", "test", "demo", "bench", "fmt", "doctor", "clean"} <= set(targets)
    for target in targets:
        assert f"make {target} " in text
