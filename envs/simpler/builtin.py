"""The asset set ``builtin``: everything that the offered SIMPLER tasks need, made by our own code, no download.

Before hop 1 of the tour. The files are generated into the user's cache directory at first use, in a few seconds, and again
whenever the code that makes them changes. A complete folder appears in one rename, so that processes starting together never
see half of one. Kinematics, inertias, camera, masses and frictions equal upstream's; shapes and pictures are ours:

- robot: :mod:`envs.simpler.builtin_robot`, on :mod:`envs.simpler.builtin_kinematics`
- cans, bottle, fruit, sponge: :mod:`envs.simpler.builtin_objects`, painted by :mod:`envs.simpler.builtin_labels`
- picture behind the scene: :mod:`envs.simpler.builtin_backdrop`
- WidowX: :mod:`envs.simpler.builtin_widowx`, its objects :mod:`envs.simpler.builtin_bridge`, its pictures
  :mod:`envs.simpler.builtin_bridge_backdrop`
- cabinet: :mod:`envs.simpler.builtin_cabinet`, its pictures :mod:`envs.simpler.builtin_cabinet_backdrop`
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import AssetError, StorageFullError
from core.ids import digest as digest_of
from envs.simpler.assets import Box, ObjectModel, Stage, cache_directory, read_picture
from envs.simpler.standpoints import STANDPOINTS, Standpoint

_SOURCES = (
    "builtin.py",
    "builtin_robot.py",
    "builtin_kinematics.py",
    "builtin_objects.py",
    "builtin_labels.py",
    "builtin_backdrop.py",
    "builtin_widowx.py",
    "builtin_bridge.py",
    "builtin_bridge_backdrop.py",
    "camera.py",
    "builtin_cabinet.py",
    "builtin_cabinet_backdrop.py",
    "standpoints.py",
)
_MANIFEST = "manifest.json"
_OVERLAYS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"google_coke_can_real_eval_1": (0.35, 0.20, 0.0), "google_move_near_real_eval_1": (0.35, 0.21, -0.09)}
)
"""Which pictures there are: the robot's x, y in m and yaw offset in rad where the picture is seen from."""
_BRIDGE_OVERLAYS: Mapping[str, str] = MappingProxyType({"bridge_real_eval_1": "paint_table", "bridge_sink": "paint_sink"})
"""The WidowX's, and the functions that paint them."""
_CABINET_OVERLAYS: Mapping[str, Standpoint] = MappingProxyType(
    {f"open_drawer_{name}": standpoint for name, standpoint in STANDPOINTS.items()}
)


class BuiltinAssets:
    """The generated files.

    Args:
        directory: where they are, or will be; default: a folder of the cache directory named after the code's digest.
    """

    name = "builtin"

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    @cached_property
    def directory(self) -> Path:
        """The folder of the files; generates them at first use.

        Raises:
            StorageFullError: they cannot be written.
        """
        directory = self._directory or cache_directory() / "builtin" / _source_digest()
        if not _is_complete(directory):
            try:
                generate(directory)
            except OSError as error:
                raise StorageFullError(
                    f"cannot generate the builtin assets in {directory}: {error}; "
                    "free some space, or set VIVA_RECAP_CACHE to a directory that can be written"
                ) from None
        return directory

    def robot_urdf(self, variant: str = "") -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        from envs.simpler.builtin_robot import PALETTES, urdf_name

        _require(variant, PALETTES, "robot colour")
        return self.directory / "robot" / urdf_name(variant)

    def widowx_urdf(self) -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        from envs.simpler.builtin_widowx import URDF_NAME

        return self.directory / "widowx" / URDF_NAME

    def object_model(self, model_id: str) -> ObjectModel:
        """See :class:`envs.simpler.assets.AssetSet`."""
        from envs.simpler.builtin_bridge import BRIDGE_OBJECTS, bridge_model
        from envs.simpler.builtin_objects import TABLETOP_OBJECTS, tabletop_model

        _require(model_id, {**TABLETOP_OBJECTS, **BRIDGE_OBJECTS}, "object")
        model = bridge_model if model_id in BRIDGE_OBJECTS else tabletop_model
        return model(self.directory / "objects", model_id)

    def stage(self, name: str) -> Stage:
        """See :class:`envs.simpler.assets.AssetSet`."""
        from envs.simpler.builtin_bridge import table

        stages = {"google_pick_coke_can_1_v4": (_counter(),), "bridge_table_1_v1": (table(),), "bridge_table_1_v2": (table(),)}
        _require(name, stages, "stage")
        return Stage(name=name, boxes=stages[name])

    def overlay(self, name: str) -> NDArray[np.uint8]:
        """See :class:`envs.simpler.assets.AssetSet`."""
        _require(name, {**_OVERLAYS, **_BRIDGE_OVERLAYS, **_CABINET_OVERLAYS}, "overlay")
        return read_picture(self.directory / "overlays" / f"{name}.png")

    def cabinet_urdf(self, name: str) -> Path:
        """See :class:`envs.simpler.assets.AssetSet`."""
        from envs.simpler.builtin_cabinet import CABINETS

        _require(name, CABINETS, "cabinet")
        return self.directory / "cabinet" / f"{name}.urdf"

    def proxies(self) -> Mapping[str, str]:
        """Empty: nothing here stands in for a missing file."""
        return MappingProxyType({})

    def digest(self) -> str:
        """Of the generated files' contents."""
        return digest_of(json.loads((self.directory / _MANIFEST).read_text()))


def _counter() -> Box:
    """The block under the pictured counter's top."""
    from envs.simpler.builtin_backdrop import TABLE_TOP_M, TABLE_X_M, TABLE_Y_M

    (x0, x1), (y0, y1) = TABLE_X_M, TABLE_Y_M
    half_height = TABLE_TOP_M / 2 - 0.01
    half_size = ((x1 - x0) / 2, (y1 - y0) / 2, half_height)
    return Box(half_size=half_size, center=((x0 + x1) / 2, (y0 + y1) / 2, TABLE_TOP_M - half_height), color=(0.46, 0.27, 0.13))


def _require(name: str, known: Mapping[str, object], what: str) -> None:
    if name not in known:
        raise AssetError(
            f"the builtin asset set has no {what} {name!r}; it has {', '.join(map(repr, known))}. Others: assets=upstream"
        )


def _source_digest() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]


def _is_complete(directory: Path) -> bool:
    """Whether every generated file is there and as it was made; reading all of them takes milliseconds."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_text())
        return bool(manifest == _contents(directory, list(manifest)))
    except (OSError, ValueError, TypeError):
        return False


def _contents(directory: Path, paths: Sequence[str]) -> dict[str, str]:
    """Path -> SHA-256."""
    return {path: hashlib.sha256((directory / path).read_bytes()).hexdigest() for path in paths}


def generate(directory: Path) -> None:
    """Make all files and put them at ``directory``, replacing what is there if that is incomplete.

    Args:
        directory: appears complete, or not at all.
    """
    staging = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    for make in _MAKERS:
        make(staging)
    paths = sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    (staging / _MANIFEST).write_text(json.dumps(_contents(staging, paths), indent=1))
    if directory.exists() and not _is_complete(directory):
        shutil.rmtree(directory)
    try:
        staging.rename(directory)
    except OSError:
        # Another process was faster, and its folder is as good as ours.
        shutil.rmtree(staging, ignore_errors=True)
        if not _is_complete(directory):
            raise


def _make_robot(root: Path) -> None:
    from envs.simpler import builtin_robot, builtin_widowx

    colours = {builtin_robot.urdf_name(variant): palette for variant, palette in builtin_robot.PALETTES.items()}
    builtin_robot.write_robot(root / "robot", builtin_robot.GOOGLE_ROBOT, colours)
    widowx = {builtin_widowx.URDF_NAME: builtin_widowx.PALETTE}
    builtin_robot.write_robot(root / "widowx", builtin_widowx.WIDOWX, widowx)


def _make_objects(root: Path) -> None:
    from envs.simpler.builtin_bridge import write_bridge_objects
    from envs.simpler.builtin_objects import write_objects

    write_objects(root / "objects")
    write_bridge_objects(root / "objects")


def _make_overlays(root: Path) -> None:
    from envs.simpler import builtin_bridge_backdrop
    from envs.simpler.builtin_backdrop import head_camera, paint_counter
    from envs.simpler.builtin_cabinet_backdrop import paint_office

    def save(name: str, picture: NDArray[np.uint8]) -> None:
        cv2.imwrite(str(root / "overlays" / f"{name}.png"), picture[..., ::-1])

    (root / "overlays").mkdir(parents=True)
    for name, seen_from in _OVERLAYS.items():
        save(name, paint_counter(head_camera(*seen_from)))
    for name, painter in _BRIDGE_OVERLAYS.items():
        save(name, getattr(builtin_bridge_backdrop, painter)())
    for name, standpoint in _CABINET_OVERLAYS.items():
        save(name, paint_office(head_camera(standpoint.x, standpoint.y, standpoint.yaw)))


def _make_cabinets(root: Path) -> None:
    from envs.simpler.builtin_cabinet import CABINETS, cabinet_text

    (root / "cabinet").mkdir(parents=True)
    for name in CABINETS:
        (root / "cabinet" / f"{name}.urdf").write_text(cabinet_text(name))


_MAKERS: tuple[Callable[[Path], None], ...] = (_make_robot, _make_objects, _make_overlays, _make_cabinets)
