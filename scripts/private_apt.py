"""Fetches Debian or Ubuntu packages into a folder, without root and without touching the machine's own package state.

apt is pointed at lists, caches and sources of our own. The addresses come from the machine's own sources; the only
thing added is the distribution's backports suite. Standard library only: set-up runs this before anything is installed.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path


class AptError(RuntimeError):
    """apt is absent, or could not fetch what was asked for."""


def codename(os_release: str) -> str:
    r"""The distribution's suite name, from the text of /etc/os-release.

    Example:
        >>> codename('ID=debian\nVERSION_CODENAME=bookworm')
        'bookworm'
    """
    for line in os_release.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "VERSION_CODENAME":
            return value.strip().strip("\"'")
    raise AptError("/etc/os-release has no VERSION_CODENAME, so the backports suite's name is unknown")


def with_backports(text: str, suite: str, *, is_deb822: bool) -> str:
    """The binary-package sources of one file that serve this distribution, with ``<suite>-backports`` added to the main one.

    Args:
        text: contents of a ``.list`` (one line an entry) or ``.sources`` (deb822) file.
        suite: the distribution's codename, for example ``"bookworm"``.
        is_deb822: which of the two formats.

    Returns:
        The same format; empty if the file has no entry for this distribution.
    """
    return _sources_with_backports(text, suite) if is_deb822 else _list_with_backports(text, suite)


def _list_with_backports(text: str, suite: str) -> str:
    kept: list[str] = []
    for line in text.splitlines():
        entry = line.split("#")[0].strip()
        if not entry.startswith("deb "):
            continue
        options, rest = "", entry.removeprefix("deb ").strip()
        if rest.startswith("["):
            options, _, rest = rest.partition("]")
            options, rest = options + "] ", rest.strip()
        uri, found, *components = rest.split()
        if found == suite or found.startswith(f"{suite}-"):
            kept.append(f"deb {options}{uri} {found} {' '.join(components)}")
        if found == suite:
            kept.append(f"deb {options}{uri} {suite}-backports {' '.join(components)}")
    return "".join(f"{entry}\n" for entry in dict.fromkeys(kept))


def _sources_with_backports(text: str, suite: str) -> str:
    kept: list[str] = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in "\n".join(lines).split("\n\n"):
        fields = _deb822_fields(stanza)
        suites = [name for name in fields.get("suites", "").split() if name == suite or name.startswith(f"{suite}-")]
        if not suites or "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        if suite in suites:
            suites = list(dict.fromkeys([*suites, f"{suite}-backports"]))
        fields |= {"types": "deb", "suites": " ".join(suites)}
        kept.append("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return "\n".join(kept)


def _deb822_fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line[:1].isspace():
            fields[key] += f"\n{line}"
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


class PrivateApt:
    """apt with all its state under one folder.

    Args:
        directory: for lists, caches and sources; may be deleted afterwards.
        etc: where the machine keeps its own apt configuration.
        os_release: the text of /etc/os-release.

    Raises:
        AptError: if apt or dpkg is absent, or no source serves this distribution.
    """

    def __init__(self, directory: Path, *, etc: Path = Path("/etc/apt"), os_release: str | None = None) -> None:
        for program in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
            if shutil.which(program) is None:
                raise AptError(f"{program} is not installed")
        if os_release is None:
            os_release = Path("/etc/os-release").read_text()
        self.suite = codename(os_release)
        self._directory = directory
        for part in ("lists/partial", "cache/archives/partial", "sources"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self._write_sources(etc)
        self._options = [
            *("-o", f"Dir::State::lists={directory / 'lists'}"),
            *("-o", f"Dir::Cache={directory / 'cache'}"),
            *("-o", f"Dir::Etc::sourcelist={directory / 'sources' / 'none'}"),
            *("-o", f"Dir::Etc::sourceparts={directory / 'sources'}"),
            *("-o", "Debug::NoLocking=1"),
            *("-o", "APT::Sandbox::User="),
            *("-o", "APT::Get::List-Cleanup=0"),
        ]

    def update(self) -> None:
        """Fetch the package lists. A suite that the mirror lacks is not an error, having none is: see :meth:`download`."""
        self._run("apt-get", "update", check=False)

    def versions(self, package: str) -> list[tuple[str, str]]:
        """(version, suite) of each version on offer, highest version first."""
        offers = []
        for line in self._run("apt-cache", "madison", package).splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) == 3 and fields[2].endswith("Packages"):
                offers.append((fields[1], fields[2].split()[1].split("/")[0]))
        return offers

    def download(self, packages: Iterable[str], *, with_dependencies: bool) -> list[Path]:
        """Fetch packages, each as ``name`` or ``name/suite``.

        Args:
            packages: what to fetch.
            with_dependencies: also whatever they need that this machine does not have installed.

        Returns:
            The .deb files.

        Raises:
            AptError: with apt's own last line.
        """
        archives = self._directory / "cache" / "archives"
        if with_dependencies:
            self._run("apt-get", "install", "--download-only", "--yes", "--no-install-recommends", *packages)
        else:
            self._run("apt-get", "download", *packages, cwd=archives)
        return sorted(archives.glob("*.deb"))

    def _run(self, program: str, *arguments: str, check: bool = True, cwd: Path | None = None) -> str:
        command = [program, *self._options, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=cwd)
        if check and result.returncode != 0:
            problem = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no message"]
            raise AptError(f"`{program} {' '.join(arguments)}` failed: {problem[-1]}")
        return result.stdout

    def _write_sources(self, etc: Path) -> None:
        files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
        for number, file in enumerate(file for file in files if file.suffix in (".list", ".sources") and file.is_file()):
            text = with_backports(file.read_text(), self.suite, is_deb822=file.suffix == ".sources")
            if text:
                (self._directory / "sources" / f"{number}{file.suffix}").write_text(text)
        if not any((self._directory / "sources").iterdir()):
            raise AptError(f"no entry under {etc} serves the suite {self.suite}")


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Unpack .deb files side by side, running none of their scripts."""
    root.mkdir(parents=True, exist_ok=True)
    for package in packages:
        subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
