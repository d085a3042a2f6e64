"""Finds the Vulkan driver that SAPIEN renders with, or explains what is missing.

Tour: before stop 1. Every environment that draws calls :func:`ensure_renderer` before it imports ``sapien``.

SAPIEN renders on a CPU through Mesa's lavapipe, but only one recent enough to expose descriptor indexing and ray
tracing (Mesa 25 does, Debian 12's 22.3 does not). ``make setup`` therefore unpacks such a driver privately under
``.vulkan/`` and writes ``.vulkan/renderer.json``; here that record is turned into environment variables. Two things are
less obvious than they look:

- ``sapien.Device("cpu").can_render()`` is False even where rendering works, so the probe creates a ``RenderSystem``.
- ``SAPIEN_DISABLE_RAY_TRACING`` must never be set: without the ray tracing extension SAPIEN scores a CPU device as unusable.

Shared libraries which the driver or SAPIEN needs and the machine lacks are unpacked too. They are loaded here by absolute
path before anything asks for them by name: the dynamic linker then takes the loaded ones, and ``LD_LIBRARY_PATH``, which only
counts when a process starts, is not needed.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import RendererError

DRIVER_DIRECTORY = Path(__file__).resolve().parent.parent / ".vulkan"
RECORD_NAME = "renderer.json"
DRIVER_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
"""The Vulkan loader's variable and its older name; a loader before 1.3.207 knows only the second."""
VERIFIED_VARIABLE = "VIVA_RECAP_RENDERER"
"""Set, for child processes, to the driver files that are known to work."""
HOW_TO_FIX = (
    "SAPIEN needs a recent Mesa lavapipe (25.0 works, Debian 12's 22.3 does not). Run `make setup`, which unpacks one "
    "under .vulkan/; or install mesa-vulkan-drivers 25 or newer (Debian 12: from the suite bookworm-backports); or set "
    "VK_DRIVER_FILES to the *_icd.json file of such a driver."
)
_PROBE = """
import ctypes, sys, warnings
warnings.simplefilter("ignore")
for library in sys.argv[1:]:
    ctypes.CDLL(library)
import sapien
sapien.render.RenderSystem(sapien.Device("cpu"))
"""


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """A driver to render with."""

    driver_files: str
    """As in VK_DRIVER_FILES; empty: whatever the system's own Vulkan loader finds."""
    libraries: tuple[Path, ...] = ()
    """Private shared libraries, each after those it needs."""

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that select this driver in a child process."""
        driver = dict.fromkeys(DRIVER_VARIABLES, self.driver_files) if self.driver_files else {}
        return {**driver, VERIFIED_VARIABLE: self.driver_files or "system"}


_ready: Renderer | None = None


def ensure_renderer() -> Renderer:
    """Make this process and its children able to render; call it before ``import sapien``.

    The driver is, in this order: the one that VK_DRIVER_FILES (or VK_ICD_FILENAMES) names, the one that ``make setup``
    recorded, the system's. One that neither set-up nor a parent process has verified is probed, once in a process.

    Raises:
        RendererError: if there is no usable driver; the message says what to do.
    """
    global _ready
    if _ready is None:
        renderer, is_verified = selected_renderer()
        if not is_verified and (problem := probe(renderer)):
            where = renderer.driver_files or "the system's Vulkan driver"
            raise RendererError(f"SAPIEN cannot render with {where}: {problem}. {HOW_TO_FIX}")
        os.environ.update(renderer.variables)
        for library in renderer.libraries:
            ctypes.CDLL(str(library))
        _ready = renderer
        # SAPIEN then uses the loader that it ships, which is what is wanted.
        warnings.filterwarnings("ignore", message="Failed to find system libvulkan")
    return _ready


def probe(renderer: Renderer) -> str:
    """Create SAPIEN's render system in a child process, which a crash of the driver cannot take down.

    Returns:
        The last line of what went wrong; empty if the renderer works.
    """
    environment = {key: value for key, value in os.environ.items() if key not in (*DRIVER_VARIABLES, VERIFIED_VARIABLE)}
    command = [sys.executable, "-c", _PROBE, *map(str, renderer.libraries)]
    try:
        result = subprocess.run(
            command, env=environment | renderer.variables, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return "the driver did not answer within 120 s"
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"the process ended with code {result.returncode}"


def recorded_renderer(directory: Path = DRIVER_DIRECTORY) -> Renderer | None:
    """The driver that set-up found or unpacked; None if set-up has not run.

    Raises:
        RendererError: if the record is unreadable, or names files that are gone.
    """
    path = directory / RECORD_NAME
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        driver = directory / record["icd"] if record["icd"] else None
        libraries = tuple(directory / name for name in record["preload"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RendererError(f"{path} is not a renderer record ({error}); delete {directory} and run `make setup`") from error
    for file in (driver, *libraries):
        if file is not None and not file.exists():
            raise RendererError(f"{path} names {file}, which does not exist; delete {directory} and run `make setup`")
    return Renderer(driver_files=str(driver) if driver else "", libraries=libraries)


def selected_renderer(directory: Path = DRIVER_DIRECTORY) -> tuple[Renderer, bool]:
    """The driver that this process is to use, and whether set-up or a parent process has verified it.

    Raises:
        RendererError: if VK_DRIVER_FILES or set-up's record names a file that does not exist.
    """
    named = next((os.environ[name] for name in DRIVER_VARIABLES if os.environ.get(name)), "")
    recorded = recorded_renderer(directory)
    if recorded is not None and named in ("", recorded.driver_files):
        return recorded, True
    for file in filter(None, named.split(os.pathsep)):
        if not Path(file).exists():
            raise RendererError(f"VK_DRIVER_FILES names {file}, which does not exist. Unset it, or: {HOW_TO_FIX}")
    renderer = Renderer(driver_files=named, libraries=recorded.libraries if recorded else ())
    return renderer, os.environ.get(VERIFIED_VARIABLE) == renderer.variables[VERIFIED_VARIABLE]
