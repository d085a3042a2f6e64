"""Says what this machine has, what is missing, and how to fix it: ``python -m envs.doctor [--json]``.

Not on the tour. Every check is a function that returns findings and changes nothing. A failed finding means that something
the demo or the tests need does not work; a warning, that it works with less. Checks that load libraries do so in child
processes, because a broken library may crash and importing it here would hide what the next one needs.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.command import run_command
from core.errors import RendererError
from envs.vulkan import HOW_TO_FIX, probe, selected_renderer

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("torch", "sapien", "mani_skill", "ray.serve", "zarr", "diffusers", "transformers", "cv2", "ruckig", "imageio_ffmpeg")
"""One of each family whose shared libraries can be missing or broken."""
RAY_PORTS = {6379: "joining a cluster", 8265: "the dashboard", 8000: "Serve over HTTP"}
MIN_MEMORY_GIB = 6.0
MIN_DISK_GIB = 5.0


class Outcome(enum.StrEnum):
    """Of one check."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    check: str
    outcome: Outcome
    found: str
    fix: str = ""
    """What to do; empty for a pass."""


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> list[Finding]:
    """Python 3.11, which the pinned wheels are for."""
    text = ".".join(map(str, version))
    if version[:2] == (3, 11):
        return [Finding(check="Python", outcome=Outcome.PASS, found=f"{text} at {sys.executable}")]
    fix = "install Python 3.11 and run `make setup`, then use .venv/bin/python"
    return [Finding(check="Python", outcome=Outcome.FAIL, found=text, fix=fix)]


def check_packages(pyproject: Path = ROOT / "pyproject.toml", constraints: Path = ROOT / "constraints.txt") -> list[Finding]:
    """The pinned packages: those that pyproject.toml names are required, those that they pull in give a warning."""
    # Not imported at the top: `packaging` may be the very package that is missing.
    try:
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name
        from packaging.version import Version
    except ImportError:
        return [Finding(check="packages", outcome=Outcome.FAIL, found="packaging is not installed", fix="run `make setup`")]
    required = {
        canonicalize_name(Requirement(line).name) for line in tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    }
    pins = [Requirement(line) for line in constraints.read_text().splitlines() if line and not line.startswith("#")]
    wrong: dict[Outcome, list[str]] = {Outcome.FAIL: [], Outcome.WARN: []}
    for pin in pins:
        outcome = Outcome.FAIL if canonicalize_name(pin.name) in required else Outcome.WARN
        try:
            installed = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            wrong[outcome].append(f"{pin.name} is missing")
            continue
        if not pin.specifier.contains(Version(installed), prereleases=True):
            wrong[outcome].append(f"{pin.name} is {installed}, pinned {pin.specifier}")
    findings = [
        Finding(check="packages", outcome=outcome, found="; ".join(lines), fix="run `make setup`")
        for outcome, lines in wrong.items()
        if lines
    ]
    return findings or [Finding(check="packages", outcome=Outcome.PASS, found=f"all {len(pins)} as pinned")]


def check_imports(modules: Iterable[str] = MODULES) -> list[Finding]:
    """Whether libraries load; each in the renderer's environment, which brings shared libraries that a bare machine lacks."""
    broken = []
    for module in modules:
        code = (
            "import contextlib\nfrom core.errors import RendererError\nfrom envs.vulkan import ensure_renderer\n"
            f"with contextlib.suppress(RendererError):\n    ensure_renderer()\nimport {module}"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            broken.append(f"{module}: {last}")
    if broken:
        fix = "run `make clean` and `make setup`; if a shared library (.so) is named, install the system package that has it"
        return [Finding(check="imports", outcome=Outcome.FAIL, found="; ".join(broken), fix=fix)]
    return [Finding(check="imports", outcome=Outcome.PASS, found=", ".join(modules))]


def check_vulkan() -> list[Finding]:
    """Whether SAPIEN can make its render system with the driver that our processes use."""
    try:
        renderer, _ = selected_renderer()
    except RendererError as error:
        return [
            Finding(check="Vulkan", outcome=Outcome.FAIL, found=str(error), fix="unset VK_DRIVER_FILES, then run `make setup`")
        ]
    where = renderer.driver_files or "the system's driver"
    if problem := probe(renderer):
        return [Finding(check="Vulkan", outcome=Outcome.FAIL, found=f"{where}: {problem}", fix=HOW_TO_FIX)]
    return [Finding(check="Vulkan", outcome=Outcome.PASS, found=f"{where} renders")]


def check_assets() -> list[Finding]:
    """The builtin asset set needs no files; the benchmark's own are optional."""
    builtin = Finding(check="assets: builtin", outcome=Outcome.PASS, found="made by code")
    named = os.environ.get("SIMPLER_ASSETS")
    directory = Path(named) if named else ROOT.parent / "shared" / "simpler_assets"
    if directory.is_dir() and any(directory.iterdir()):
        return [builtin, Finding(check="assets: upstream", outcome=Outcome.PASS, found=str(directory))]
    fix = "only for assets=upstream: `python -m envs.simpler.assets fetch`, or set SIMPLER_ASSETS to a directory that has them"
    # A directory that was named and is not there is a mistake; none at all is a normal machine.
    outcome = Outcome.WARN if named else Outcome.PASS
    found = f"SIMPLER_ASSETS names {named}, which is absent or empty" if named else "absent (optional)"
    return [builtin, Finding(check="assets: upstream", outcome=outcome, found=found, fix=fix)]


def check_ray_ports(ports: dict[int, str] = RAY_PORTS) -> list[Finding]:
    """Ports on loopback that Ray uses when it is asked to; a local run uses none of them."""
    busy = [f"{port} ({use})" for port, use in ports.items() if not _can_bind(port)]
    if busy:
        fix = "only for a cluster: stop what listens there (a Ray left running: `ray stop`), or choose other ports"
        return [Finding(check="Ray ports", outcome=Outcome.WARN, found=f"in use: {', '.join(busy)}", fix=fix)]
    return [Finding(check="Ray ports", outcome=Outcome.PASS, found=f"free: {', '.join(map(str, ports))}")]


def _can_bind(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_processors() -> list[Finding]:
    """CPU cores, and a GPU if there is one; the demo needs none."""
    cores = len(os.sched_getaffinity(0))
    if cores >= 2:
        cpu = Finding(check="CPU", outcome=Outcome.PASS, found=f"{cores} cores")
    else:
        cpu = Finding(check="CPU", outcome=Outcome.WARN, found=f"{cores} core", fix="the demo's 15 minutes are for 2 cores")
    return [cpu, Finding(check="GPU", outcome=Outcome.PASS, found=_gpu())]


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none (not needed for the tiny preset)"
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "; ".join(result.stdout.strip().splitlines()) or "nvidia-smi lists none"


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> list[Finding]:
    """Memory that processes can still have."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    available_gib = int(fields["MemAvailable"].split()[0]) / 2**20
    if available_gib < MIN_MEMORY_GIB:
        fix = f"close other programs; the demo needs about {MIN_MEMORY_GIB:g} GiB"
        return [Finding(check="memory", outcome=Outcome.WARN, found=f"{available_gib:.1f} GiB available", fix=fix)]
    return [Finding(check="memory", outcome=Outcome.PASS, found=f"{available_gib:.1f} GiB available")]


def check_disk(directory: Path = ROOT) -> list[Finding]:
    """Space where runs are written; a full disk stops a run (it loses no committed episode)."""
    free_gib = shutil.disk_usage(directory).free / 2**30
    if free_gib < MIN_DISK_GIB:
        fix = f"free at least {MIN_DISK_GIB:g} GiB, for example old runs under runs/"
        return [Finding(check="disk", outcome=Outcome.WARN, found=f"{free_gib:.1f} GiB free at {directory}", fix=fix)]
    return [Finding(check="disk", outcome=Outcome.PASS, found=f"{free_gib:.1f} GiB free at {directory}")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_imports,
    check_vulkan,
    check_assets,
    check_ray_ports,
    check_processors,
    check_memory,
    check_disk,
)


def examine() -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check()]


def report(findings: Iterable[Finding], console: Console) -> None:
    """Print a table, and under it what to do."""
    colours = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "red"}
    table = Table("", "check", "found")
    fixes = []
    for finding in findings:
        colour = colours[finding.outcome]
        table.add_row(f"[{colour}]{finding.outcome}[/]", finding.check, escape(finding.found))
        if finding.fix and finding.outcome is not Outcome.PASS:
            fixes.append(f"[{colour}]{finding.check}[/]: {escape(finding.fix)}")
    console.print(table)
    for line in fixes:
        console.print(line)


def main(arguments: list[str] | None = None) -> int:
    """Command line. Returns 1 if something required fails."""
    parser = argparse.ArgumentParser(
        prog="python -m envs.doctor", description="Check this machine, and say how to fix what is wrong."
    )
    parser.add_argument("--json", action="store_true", help="a list of {check, outcome, found, fix} instead of a table")
    options = parser.parse_args(arguments)
    if options.json:
        findings = examine()
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        console = Console()
        with console.status("checking (about a minute on 2 cores) ..."):
            findings = examine()
        report(findings, console)
    return int(any(finding.outcome is Outcome.FAIL for finding in findings))


if __name__ == "__main__":
    sys.exit(run_command(main))
