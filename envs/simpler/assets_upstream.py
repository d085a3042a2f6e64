"""The asset set ``upstream``: SIMPLER's own files, each checked against a committed digest before it is used.

Before hop 1 of the tour. Verification reads a file once; afterwards its size and modification time stand for it, so that
building an environment costs a few ``stat`` calls. Files that a local copy lacks and that can be replaced without being
seen (the stage, which lies under the photograph) have a proxy, reported by :meth:`UpstreamAssets.proxies`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.durable import write_atomically
from core.errors import AssetError
from core.ids import digest as digest_of
from envs.simpler.assets import Box, ObjectModel, Stage, Vector, cache_directory, read_picture
from envs.simpler.upstream_meshes import convex_pieces, flat_visual

SOURCE_REPOSITORY = "simpler-env/ManiSkill2_real2sim"
SOURCE_COMMIT = "ef7a4d4fdf4b69f2c2154db5b15b9ac8dfe10682"
_REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
_TABLE = Path(__file__).with_name("upstream_files.txt")
_ROBOT = "robots/google_robot"
_URDF_STEM = "google_robot_meta_sim_fix_wheel_fix_fingertip"
_WIDOWX = "robots/widowx"
_MODEL_TABLES = tuple(
    f"objects/_model_info/info_{table}.json"
    for table in (
        "pick_custom_v0",
        "pick_custom_baked_tex_v0",
        "pick_custom_baked_tex_v1",
        "bridge_custom_v0",
        "bridge_custom_baked_tex_v0",
    )
)
"""What they say of one object agrees, but for the spoon's box, which only the bridge tasks use: the last table counts."""
_FLAT_COLORS: Mapping[str, Vector] = MappingProxyType(
    {
        "baked_opened_redbull_can": (0.35, 0.42, 0.60),
        "baked_opened_redbull_can_v2": (0.35, 0.42, 0.60),
        "blue_plastic_bottle": (0.05, 0.14, 0.55),
        "eggplant": (0.08, 0.015, 0.10),
        "opened_redbull_can": (0.35, 0.42, 0.60),
        "redbull_can": (0.35, 0.42, 0.60),
    }
)
"""Objects whose drawn mesh a local copy may lack, and the linear RGB in which its collision mesh is then drawn instead."""

GOOGLE_TABLE = Box(half_size=(0.37, 0.33, 0.425), center=(-0.39, 0.21, 0.445))
"""The counter in the coke-can photograph: its corners, seen through the camera, at SIMPLER's nominal height 0.87 m."""
BRIDGE_TABLE = Box(half_size=(0.7, 0.7, 0.42), center=(-0.1, 0.0, 0.449532))
"""As high as the mesh under the objects (the nominal height is 0.87 m), and wide enough for the robot to stand on."""
_GOOGLE_STAGE_M, _BRIDGE_STAGE_M = (1.6616, 3.0337, 0.0), (2.0634, 2.8313, 0.0)
"""Where a stage's mesh is put."""
_Y_UP = (0.707, 0.707, 0.0, 0.0)  # upstream's own rounding: do not normalise
_FLAT_STAGES = {
    "google_pick_coke_can_1_v4": GOOGLE_TABLE,
    "bridge_table_1_v1": BRIDGE_TABLE,
    "bridge_table_1_v2": BRIDGE_TABLE,
}


@dataclass(frozen=True, kw_only=True)
class UpstreamFile:
    """One line of the digest table."""

    path: str
    """In our layout, relative."""
    digest: str
    """SHA-256, or ``git:`` and a git blob id (SHA-1 over a header and the content)."""
    num_bytes: int | None
    """None where it was not measured."""

    @property
    def upstream_path(self) -> str:
        """Path in the source repository."""
        for local, upstream in _LAYOUT:
            if self.path.startswith(local):
                return upstream + self.path.removeprefix(local)
        raise AssetError(f"{self.path}: no place in the source repository is known for it")

    def digest_of(self, file: Path) -> str:
        """Compute the digest of a file on disk, of the same kind as :attr:`digest`."""
        if not self.digest.startswith("git:"):
            with file.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        content = file.read_bytes()
        return "git:" + hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


_LAYOUT = (  # local prefix, upstream prefix; the first that matches counts
    ("LICENSE.ManiSkill2_real2sim", "LICENSE"),
    ("robots/google_robot/", "mani_skill2_real2sim/assets/descriptions/googlerobot_description/"),
    ("robots/widowx/", "mani_skill2_real2sim/assets/descriptions/widowx_description/"),
    ("objects/_model_info/", "data/custom/"),
    ("objects/", "data/custom/models/"),
    ("scenes/stages/", "data/hab2_bench_assets/stages/"),
    ("scenes/cabinet/", "data/custom/"),
    ("overlays/", "data/real_inpainting/"),
)


@cache
def known_files() -> Mapping[str, UpstreamFile]:
    """The digest table: local path -> entry."""
    lines = (line.split() for line in _TABLE.read_text().splitlines() if not line.startswith("#"))
    return {
        path: UpstreamFile(path=path, digest=digest, num_bytes=None if size == "-" else int(size)) for digest, size, path in lines
    }


def is_needed(path: str) -> bool:
    """Whether one of the tasks offered now uses the file."""
    wanted = (
        f"{_ROBOT}/",
        f"{_WIDOWX}/",
        "objects/",
        "scenes/cabinet/",
        "overlays/google_",
        "overlays/open_drawer_",
        "overlays/bridge_",
        *(f"scenes/stages/{stage}.glb" for stage in _FLAT_STAGES),
        "LICENSE",
    )
    return path.startswith(wanted) and "recolor_sim" not in path


def find_directory() -> Path:
    """Where upstream's files are: $SIMPLER_ASSETS, else beside the repository, else where ``fetch`` puts them.

    Raises:
        AssetError: nowhere.
    """
    if os.environ.get("SIMPLER_ASSETS"):
        directory = Path(os.environ["SIMPLER_ASSETS"])
        if not directory.is_dir():
            raise AssetError(f"SIMPLER_ASSETS={directory} is not a directory; {HOW_TO_GET}")
        return directory
    candidates = (_REPOSITORY_ROOT.parent / "shared" / "simpler_assets", cache_directory() / "simpler_assets")
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise AssetError(f"upstream's SIMPLER files are in none of {', '.join(map(str, candidates))}; {HOW_TO_GET}")


HOW_TO_GET = (
    "run `python -m envs.simpler.assets fetch`, or set SIMPLER_ASSETS to a directory that has them, or use assets=builtin"
)


class FileChecker:
    """Verifies files of one directory, remembering what it has verified by size and modification time.

    Args:
        directory: root of the files.
        memory_file: where to remember between processes; a file that cannot be written is only a loss of speed.
    """

    def __init__(self, directory: Path, memory_file: Path | None = None) -> None:
        self.directory = directory
        key = hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
        self._memory_file = memory_file or cache_directory() / "verified" / f"{key}.json"
        self._memory: dict[str, list[Any]] = self._load()

    def _load(self) -> dict[str, list[Any]]:
        try:
            memory = json.loads(self._memory_file.read_text())
        except (OSError, ValueError):
            return {}
        return memory if isinstance(memory, dict) else {}

    def check(self, files: Iterable[UpstreamFile], *, reread: bool = False) -> None:
        """Verify files.

        Args:
            files: which.
            reread: read them even if they look unchanged.

        Raises:
            AssetError: one is missing or differs; names it, the expected and the found digest.
        """
        is_new = False
        for entry in files:
            file = self.directory / entry.path
            try:
                status = file.stat()
            except OSError:
                raise AssetError(f"{file} is missing (expected digest {entry.digest}); {HOW_TO_GET}") from None
            seen = [status.st_size, status.st_mtime_ns, entry.digest]
            if not reread and self._memory.get(entry.path) == seen:
                continue
            found = entry.digest_of(file)
            if found != entry.digest:
                raise AssetError(
                    f"{file} is not upstream's: expected digest {entry.digest}, found {found}. Delete it and {HOW_TO_GET}"
                )
            self._memory[entry.path] = seen
            is_new = True
        if is_new:
            self._save()

    def _save(self) -> None:
        try:
            self._memory_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._memory_file, json.dumps(self._memory).encode())
        except OSError:
            return


class UpstreamAssets:
    """SIMPLER's own files.

    Args:
        directory: default: :func:`find_directory`.
    """

    name = "upstream"

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or find_directory()
        self._checker = FileChecker(self.directory)

    def _folder(self, *prefixes: str) -> list[UpstreamFile]:
        return [entry for path, entry in known_files().items() if path.startswith(prefixes)]

    def _file(self, path: str) -> Path:
        if path not in known_files():
            raise AssetError(f"upstream has no {path}; `python -m envs.simpler.assets list` shows what there is")
        self._checker.check([known_files()[path]])
        return self.directory / path

    def robot_urdf(self, variant: str = "") -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        urdf = f"{_ROBOT}/{_URDF_STEM}{'_' if variant else ''}{variant}.urdf"
        colours = [f"{_ROBOT}/3obj_{variant}/"] if variant else []
        self._file(urdf)
        self._checker.check(self._folder(f"{_ROBOT}/3obj/", f"{_ROBOT}/coarse_meshes/", *colours))
        return self.directory / urdf

    def widowx_urdf(self) -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        self._checker.check(self._folder(f"{_WIDOWX}/"))
        return self._file(f"{_WIDOWX}/wx250s.urdf")

    def object_model(self, model_id: str) -> ObjectModel:
        """See :class:`envs.simpler.assets.AssetSet`."""
        records = {key: record for table in _MODEL_TABLES for key, record in json.loads(self._file(table).read_text()).items()}
        folder = f"objects/{model_id}/"
        if model_id not in records or not self._folder(folder):
            raise AssetError(f"upstream has no object {model_id!r}; known are {', '.join(sorted(records))}")
        proxies = self.proxies()
        self._checker.check(entry for entry in self._folder(folder) if entry.path not in proxies)
        collision = self.directory / folder / "collision.obj"
        visual = next(f for f in ("textured.obj", "textured.dae", "textured.glb") if folder + f in known_files())
        is_flat = folder + visual in proxies
        record = records[model_id]
        return ObjectModel(
            model_id=model_id,
            collision_files=convex_pieces(collision),
            visual_file=flat_visual(collision, _FLAT_COLORS[model_id]) if is_flat else self.directory / folder / visual,
            bbox_min=tuple(record["bbox"]["min"]),
            bbox_max=tuple(record["bbox"]["max"]),
            density=float(record["density"]),
        )

    def stage(self, name: str) -> Stage:
        """See :class:`envs.simpler.assets.AssetSet`."""
        path = f"scenes/stages/{name}.glb"
        if path in known_files() and path not in self.proxies():
            position = _BRIDGE_STAGE_M if name.startswith("bridge_") else _GOOGLE_STAGE_M
            return Stage(name=name, mesh_file=self._file(path), position=position, orientation=_Y_UP)
        if name in _FLAT_STAGES:
            return Stage(name=name, boxes=(_FLAT_STAGES[name],))
        raise AssetError(f"upstream has no stage {name!r}; `python -m envs.simpler.assets list` shows what there is")

    def overlay(self, name: str) -> NDArray[np.uint8]:
        """See :class:`envs.simpler.assets.AssetSet`."""
        return read_picture(self._file(f"overlays/{name}.png"))

    def cabinet_urdf(self, name: str) -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        self._checker.check(self._folder("scenes/cabinet/models/"))
        return self._file(f"scenes/cabinet/{name}.urdf")

    def proxies(self) -> Mapping[str, str]:
        """See :class:`envs.simpler.assets.AssetSet`."""
        paths = {f"scenes/stages/{name}.glb": f"a flat box, top at {_top(box):g} m" for name, box in _FLAT_STAGES.items()}
        paths |= {f"objects/{model_id}/textured.dae": "its collision mesh in one colour" for model_id in _FLAT_COLORS}
        return {path: what for path, what in paths.items() if path in known_files() and not (self.directory / path).exists()}

    def digest(self) -> str:
        """Of the digests of all files that the offered tasks use, and of the proxies."""
        files = {path: entry.digest for path, entry in known_files().items() if is_needed(path) and path not in self.proxies()}
        return digest_of({"files": files, "proxies": dict(self.proxies())})


def _top(box: Box) -> float:
    return box.center[2] + box.half_size[2]


def verify_all(directory: Path, *, everything: bool) -> None:
    """Read all files again and print how many are right.

    Raises:
        AssetError: the first that is missing or altered.
    """
    assets = UpstreamAssets(directory)
    absent = set(assets.proxies())
    wanted = [entry for path, entry in known_files().items() if (everything or is_needed(path)) and path not in absent]
    FileChecker(directory).check(wanted, reread=True)
    print(f"{directory}: {len(wanted)} files verified")
    for path, what in assets.proxies().items():
        print(f"  {path} is not there; used instead: {what}")


def print_list(directory: Path) -> None:
    """Print every known file: present or absent, and what replaces it."""
    proxies = UpstreamAssets(directory).proxies()
    print(f"{directory} (github.com/{SOURCE_REPOSITORY} at {SOURCE_COMMIT})")
    for path, entry in known_files().items():
        state = "present" if (directory / path).exists() else f"proxy: {proxies[path]}" if path in proxies else "absent"
        need = "needed" if is_needed(path) else "later "
        print(f"{need} {entry.num_bytes or 0:>9} B  {path}  {state}")
