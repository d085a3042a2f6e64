"""Makes the project ready to run: ``.venv`` with the pinned packages, then a Vulkan driver. Does nothing when it is ready.

Run by ``make setup`` with the machine's own Python 3.11; standard library only. ``constraints.txt`` is the complete list of
what gets installed. It is installed without asking pip to resolve anything, which is faster, gives the same set
everywhere, and leaves out three packages on purpose: mplib (crashes with numpy 2) with toppra, which only mplib uses, and
opencv-python, whose place the headless build takes because the other needs X11 and OpenGL libraries. Only torch is
resolved, because its wheel for GPUs needs packages that its wheel for CPUs does not.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from scripts.private_apt import AptError, PrivateApt, unpack

ROOT = Path(__file__).resolve().parent.parent
STAMP_NAME = "viva-recap-setup.json"


class SetupError(RuntimeError):
    """Set-up cannot go on; the message says what to do."""


def pins(text: str) -> dict[str, str]:
    """Package -> version, from the text of constraints.txt; names in PyPI's normal form.

    Raises:
        SetupError: for a line that is not ``name==version``.
    """
    result = {}
    for number, line in enumerate(text.splitlines(), start=1):
        requirement = line.split("#")[0].strip()
        if not requirement:
            continue
        name, found, version = requirement.partition("==")
        if not found or not version:
            raise SetupError(f"constraints.txt line {number} is {line!r}; expected name==version")
        result[normal_name(name)] = version
    return result


def normal_name(requirement: str) -> str:
    """The package's name in PyPI's normal form (PEP 503), without extras and versions.

    Example:
        >>> normal_name("Ray[default,serve]==2.60.0"), normal_name("mani_skill")
        ('ray', 'mani-skill')
    """
    name = re.split(r"[\[<>=!~; ]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(pyproject: str) -> list[str]:
    """All that pyproject.toml asks for, development tools included."""
    # Here, so that an older Python gets as far as the message that says which one is needed.
    import tomllib

    project: dict[str, Any] = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def unpinned(pyproject: str, constraints: str) -> list[str]:
    """What pyproject.toml asks for and constraints.txt does not pin."""
    known = pins(constraints)
    return [requirement for requirement in requirements(pyproject) if normal_name(requirement) not in known]


def set_up_packages(root: Path = ROOT) -> str:
    """Bring ``root/.venv`` to the pinned packages.

    Returns:
        One line about what was done.

    Raises:
        SetupError: if a requirement has no pin, or a step fails.
    """
    venv, pyproject, constraints = root / ".venv", (root / "pyproject.toml").read_text(), (root / "constraints.txt").read_text()
    if missing := unpinned(pyproject, constraints):
        raise SetupError(
            f"pyproject.toml asks for {', '.join(missing)}, which constraints.txt does not pin; add the versions there"
        )
    stamp, wanted = venv / STAMP_NAME, _stamp_for(venv, requirements(pyproject), constraints)
    found = _read_stamp(stamp)
    if found == wanted:
        return "packages: as pinned"
    # Without its stamp a .venv is half made; with another path it was moved, and its scripts point to the old place.
    if found is None or found["venv"] != str(venv):
        if venv.exists():
            print(f"packages: {venv} is incomplete or was moved here; making it anew", flush=True)
            shutil.rmtree(venv)
        _make_venv(venv)
    stamp.unlink(missing_ok=True)
    print(f"packages: installing {len(pins(constraints))} (some minutes the first time) ...", flush=True)
    if shutil.which("nvidia-smi") is None and not {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} & os.environ.keys():
        print(
            "  No NVIDIA GPU here: PIP_EXTRA_INDEX_URL set to PyTorch's index of CPU wheels saves 5 GB.",
            flush=True,
        )
    torch = f"torch=={pins(constraints)['torch']}"
    _pip(venv, "install", "--constraint", str(root / "constraints.txt"), torch)
    _pip(venv, "install", "--no-deps", "--requirement", str(root / "constraints.txt"))
    stamp.write_text(json.dumps(wanted))
    return f"packages: installed into {venv}"


def _stamp_for(venv: Path, required: list[str], constraints: str) -> dict[str, str]:
    recipe = json.dumps([required, constraints, Path(__file__).read_text(), list(sys.version_info[:2])])
    return {"inputs": hashlib.sha256(recipe.encode()).hexdigest(), "venv": str(venv)}


def _read_stamp(stamp: Path) -> dict[str, str] | None:
    if not (stamp.parent / "bin" / "python").exists():
        return None
    try:
        found: dict[str, str] = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return None
    return found if {"inputs", "venv"} <= found.keys() else None


def _make_venv(venv: Path) -> None:
    """Make a virtual environment that has pip, also where Debian's python3-venv is not installed."""
    result = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True)
    if result.returncode == 0:
        return
    shutil.rmtree(venv, ignore_errors=True)
    problem = (result.stdout.strip() or result.stderr.strip() or "no message").splitlines()[0]
    apt_directory = ROOT / ".vulkan" / "apt"
    try:
        apt = PrivateApt(apt_directory)
        apt.update()
        unpack(apt.download(["python3-pip-whl"], with_dependencies=False), apt_directory / "root")
        wheel = next((apt_directory / "root").rglob("pip-*.whl"))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        subprocess.run([venv / "bin/python", wheel / "pip", "install", "--quiet", "--no-index", wheel], check=True)
    except (AptError, OSError, StopIteration, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"{sys.executable} cannot make a virtual environment ({problem}) and Debian's pip could not be fetched ({error}). "
            "Install the package python3-venv (Debian: apt-get install python3-venv)."
        ) from error
    finally:
        shutil.rmtree(apt_directory, ignore_errors=True)


def _pip(venv: Path, *arguments: str) -> None:
    command = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise SetupError(
            f"`pip {' '.join(arguments)}` failed; see its output above. If the package index cannot be reached, set "
            "PIP_INDEX_URL or PIP_FIND_LINKS; then run `make setup` again."
        )


def main() -> int:
    """Command line: no arguments."""
    if sys.version_info[:2] != (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        print(f"error: this is Python {found}; viva-recap needs Python 3.11 (make PYTHON=/path/to/python3.11)", file=sys.stderr)
        return 1
    # Two `make` at once must not build the same .venv; the lock goes away with the process.
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            done = set_up_packages()
        except SetupError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if (ROOT / ".vulkan" / "renderer.json").exists() and done == "packages: as pinned":
            return 0
        print(done, flush=True)
        return subprocess.run([ROOT / ".venv/bin/python", "-m", "scripts.vulkan_driver"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
