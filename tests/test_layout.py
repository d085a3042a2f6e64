"""The repository's own rules that no linter knows: names, docstrings, configurations, nothing machine-specific."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(file.parent.name for file in ROOT.glob("*/__init__.py"))
# Patterns that this file does not match itself.
PLACES = {
    "an address of a package registry": (
        r"\b(?:py[p]i|pythonhoste[d]|registry\.npmj[s]|deb\.d[e]bian|security\.d[e]bian|download\.pytorc[h])\.(?:org|com)\b"
    ),
    "a path of one machine": r"(?<![\w.~])/(?:wor[k]|hom[e]/\w+|roo[t]|User[s]/\w+|op[t]/\w+)(?=[/\"'`\s])",
}


def committed_files():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_top_level_module_hides_one_of_the_standard_library():
    names = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if any(path.glob("*.py"))}
    assert PACKAGES
    assert names & sys.stdlib_module_names == set()


def test_every_folder_of_modules_is_a_package():
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    top = {path.parent for path in ROOT.glob("*/*.py") if not path.parent.name.startswith(".")} - {ROOT / "tests"}
    assert [str(folder.relative_to(ROOT)) for folder in folders | top if not (folder / "__init__.py").exists()] == []


def test_every_module_has_a_docstring():
    modules = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in modules if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_no_folder_or_file_is_a_catch_all():
    forbidden = {"utils", "util", "common", "helpers", "base", "manager", "misc"}
    names = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in names if {file.stem, file.parent.name} & forbidden] == []


def test_import_rules_know_every_package():
    """`make check` checks the packages that are listed; one that is not would escape the rules."""
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    free = {"scripts", "benchmarks", "examples"}  # run from outside, imported by nothing
    assert set(rules["root_packages"]) == set(PACKAGES) - free


def test_every_configuration_loads():
    from configs.load import load_config

    families = sorted((ROOT / "configs/families").glob("*.yaml"))
    experiments = sorted((ROOT / "configs").glob("*.yaml"))
    assert families
    assert experiments
    for file in families:
        assert load_config(family=file.stem).env.family == file.stem
    for file in experiments:
        load_config(str(file))


def test_nothing_names_a_registry_or_one_machines_paths():
    found = []
    for file in committed_files():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue  # weights and pictures
        for what, pattern in PLACES.items():
            found += [f"{file.relative_to(ROOT)}: {what}: {hit.group()!r}" for hit in re.finditer(pattern, text, re.IGNORECASE)]
    assert found == []


def test_ci_runs_what_the_readme_says():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make check", "make test"]
    readme = (ROOT / "README.md").read_text()
    assert all(command in readme for command in commands)
