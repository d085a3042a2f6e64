"""Makes rendering possible: keeps the system's Vulkan driver if SAPIEN can use it, else unpacks a newer one under .vulkan/.

Run by ``make setup`` with the project's Python: ``python -m scripts.vulkan_driver``. The result is ``.vulkan/renderer.json``,
which :mod:`envs.vulkan` reads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from core.errors import RendererError
from envs.vulkan import DRIVER_DIRECTORY, HOW_TO_FIX, RECORD_NAME, Renderer, probe, selected_renderer
from scripts.private_apt import AptError, PrivateApt, unpack

PACKAGE = "mesa-vulkan-drivers"


def set_up_renderer(directory: Path = DRIVER_DIRECTORY) -> str:
    """Leave a verified record of a driver in ``directory``.

    Returns:
        One line about what is used.

    Raises:
        RendererError: if neither the system nor its package archive has a usable driver.
    """
    renderer, is_verified = selected_renderer(directory)
    if is_verified:
        return f"Vulkan: {renderer.driver_files or 'the system'} (verified before)"
    problem = probe(renderer)
    if renderer.driver_files:
        if problem:
            raise RendererError(f"SAPIEN cannot render with VK_DRIVER_FILES={renderer.driver_files}: {problem}. Unset it.")
        return f"Vulkan: the driver that VK_DRIVER_FILES names, {renderer.driver_files}, works"
    if not problem:
        _write_record(directory, icd=None, preload=[])
        return "Vulkan: the system's own driver works"
    print(f"Vulkan: SAPIEN cannot render with the system's driver ({problem}); fetching a newer Mesa ...", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    try:
        return _unpack_driver(directory)
    except (AptError, OSError, subprocess.CalledProcessError) as error:
        raise RendererError(f"no usable Vulkan driver, and none could be fetched: {error}. {HOW_TO_FIX}") from error


def _unpack_driver(directory: Path) -> str:
    apt_directory, root = directory / "apt", directory / "root"
    apt = PrivateApt(apt_directory)
    apt.update()
    offers = apt.versions(PACKAGE)
    if not offers:
        raise AptError(f"no {PACKAGE} is on offer for {apt.suite} (is the package archive reachable?)")
    version, suite = offers[0]
    unpack(apt.download([f"{PACKAGE}/{suite}"], with_dependencies=True), root)
    shutil.rmtree(apt_directory)
    icd = _write_icd(directory, root)
    preload = missing_libraries([*_sapien_libraries(), *root.rglob("libvulkan_lvp.so")], root)
    problem = probe(Renderer(driver_files=str(directory / icd), libraries=tuple(directory / name for name in preload)))
    if problem:
        raise AptError(f"SAPIEN cannot render with {PACKAGE} {version} from {suite} either: {problem}")
    _write_record(directory, icd=icd, preload=preload)
    return f"Vulkan: {PACKAGE} {version} from {suite}, unpacked under {directory} with {len(preload)} libraries that were missing"


def _write_icd(directory: Path, root: Path) -> str:
    """Point a driver manifest at the unpacked library, relative to itself so that the project may be moved."""
    manifests = sorted(root.glob("usr/share/vulkan/icd.d/lvp_icd*.json"))
    drivers = sorted(root.rglob("libvulkan_lvp.so"))
    if not manifests or not drivers:
        raise AptError(f"{PACKAGE} holds no lavapipe (no lvp_icd*.json or no libvulkan_lvp.so)")
    manifest = json.loads(manifests[0].read_text())
    manifest["ICD"]["library_path"] = f"./{drivers[0].relative_to(directory)}"
    (directory / "lvp_icd.json").write_text(json.dumps(manifest, indent=2))
    return "lvp_icd.json"


def _sapien_libraries() -> list[Path]:
    """SAPIEN's own shared libraries; on a bare machine they miss some of what lavapipe misses."""
    spec = find_spec("sapien")
    if spec is None or spec.origin is None:
        raise RendererError("the package sapien is not installed; run `make setup`")
    package = Path(spec.origin).parent
    return [*package.glob("*.so"), *package.parent.glob("sapien.libs/*.so")]


def missing_libraries(binaries: Iterable[Path], root: Path) -> list[str]:
    """Unpacked libraries that ``binaries`` need, directly or not, and that this machine does not have.

    Args:
        binaries: shared objects.
        root: where packages were unpacked.

    Returns:
        Paths relative to the parent of ``root``, each after those it needs.
    """
    unpacked = {file.name: file for file in root.rglob("*.so*")}
    needed: dict[str, Path] = {}
    pending = list(binaries)
    while pending:
        for name in _not_found(pending.pop()):
            if name in unpacked and name not in needed:
                needed[name] = unpacked[name]
                pending.append(unpacked[name])
    return [str(file.relative_to(root.parent)) for file in _load_order(list(needed.values()))]


def _not_found(binary: Path) -> list[str]:
    result = subprocess.run(["ldd", str(binary)], capture_output=True, text=True)
    return re.findall(r"(\S+) => not found", result.stdout)


def _load_order(libraries: list[Path]) -> list[Path]:
    """By loading them: a library loads once all that it needs are loaded."""
    ordered: list[Path] = []
    pending, problem = libraries, ""
    while pending:
        stuck = []
        for library in pending:
            try:
                ctypes.CDLL(str(library))
                ordered.append(library)
            except OSError as error:
                stuck.append(library)
                problem = str(error)
        if len(stuck) == len(pending):
            raise AptError(f"a library that the driver needs does not load: {problem}")
        pending = stuck
    return ordered


def _write_record(directory: Path, *, icd: str | None, preload: list[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{RECORD_NAME}.partial"
    partial.write_text(json.dumps({"icd": icd, "preload": preload}, indent=2))
    partial.replace(directory / RECORD_NAME)


def main() -> int:
    """Command line."""
    argparse.ArgumentParser(prog="python -m scripts.vulkan_driver", description=__doc__.splitlines()[0]).parse_args()
    try:
        print(set_up_renderer())
    except RendererError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
