"""Where the SIMPLER scenes get robot, objects, stage and photographs: two asset sets behind one interface.

Tour: before hop 1, an environment is built from an :class:`AssetSet`. Which one is always said explicitly and recorded in
every episode:

- ``upstream``: the benchmark's own files (:mod:`envs.simpler.assets_upstream`), checked against committed digests;
- ``builtin``: made by our own code (:mod:`envs.simpler.builtin`), nothing to download.

Command line::

    python -m envs.simpler.assets list | verify | fetch
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from core.command import run_command
from core.errors import AssetError, ConfigError

ASSET_SETS = ("builtin", "upstream")
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ObjectModel:
    """One rigid object.

    Example:
        opened_coke_can: one collision file, bbox (-0.033, -0.0615, -0.033) .. (0.033, 0.0615, 0.033), density 50.
    """

    model_id: str
    collision_files: tuple[Path, ...]
    """Each is one convex piece; a body's mass is the sum over the pieces' hulls."""
    visual_file: Path
    bbox_min: Vector
    """m, in the object's frame (cans: the long axis is y)."""
    bbox_max: Vector
    density: float
    """kg/m^3."""
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Box:
    """An axis-aligned box: half sizes and centre in m, linear RGB in [0, 1]."""

    half_size: Vector
    center: Vector
    color: Vector | None = None
    """None: collides but is not drawn."""
    is_solid: bool = True
    """False: drawn but does not collide."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The static scene around the objects: a mesh, or boxes."""

    name: str
    mesh_file: Path | None = None
    """Drawn, and collides as a triangle mesh."""
    boxes: tuple[Box, ...] = ()
    position: Vector = (0.0, 0.0, 0.0)
    orientation: Quaternion = (1.0, 0.0, 0.0, 0.0)
    """w, x, y, z."""

    @property
    def pose(self) -> Any:
        """``sapien.Pose`` of the stage in the world."""
        import sapien

        return sapien.Pose(self.position, self.orientation)

    def add_to(self, builder: Any, *, with_collision: bool = True) -> None:
        """Give a SAPIEN actor builder this stage's shapes.

        Args:
            builder: of the actor that becomes the stage; its pose is the caller's to set.
            with_collision: False for scenes that only look at it (upstream's drawer tasks).
        """
        import sapien

        if self.mesh_file is not None:
            builder.add_visual_from_file(str(self.mesh_file))
            if with_collision:
                builder.add_nonconvex_collision_from_file(str(self.mesh_file))
        for box in self.boxes:
            pose = sapien.Pose(box.center)
            if box.is_solid and with_collision:
                builder.add_box_collision(pose, list(box.half_size))
            if box.color is not None:
                material = sapien.render.RenderMaterial(base_color=[*box.color, 1.0], roughness=0.6, specular=0.3)
                builder.add_box_visual(pose, list(box.half_size), material)


class AssetSet(Protocol):
    """Files and numbers for the scenes; every path that it returns exists and has been verified."""

    @property
    def name(self) -> str:
        """``builtin`` or ``upstream``."""
        ...

    def robot_urdf(self, variant: str = "") -> Path:
        """The Google robot's URDF.

        Args:
            variant: colours: "" or for example "recolor_tabletop_visual_matching_1".

        Raises:
            AssetError: unknown variant, or a file is missing or altered.
        """
        ...

    def object_model(self, model_id: str) -> ObjectModel:
        """One object, for example "opened_coke_can".

        Raises:
            AssetError: unknown model, or a file is missing or altered.
        """
        ...

    def stage(self, name: str) -> Stage:
        """The static scene, for example "google_pick_coke_can_1_v4".

        Raises:
            AssetError: unknown stage, or a file is altered.
        """
        ...

    def overlay(self, name: str) -> NDArray[np.uint8]:
        """The photograph [h, w, 3] RGB behind robot and objects, for example "google_coke_can_real_eval_1".

        Raises:
            AssetError: unknown overlay, or its file is missing or altered.
        """
        ...

    def widowx_urdf(self) -> Path:
        """The WidowX's URDF.

        Raises:
            AssetError: a file is missing or altered.
        """
        ...

    def cabinet_urdf(self, name: str) -> Path:
        """The cabinet with three drawers, for example "mk_station_recolor".

        Raises:
            AssetError: unknown cabinet, or a file is missing or altered.
        """
        ...

    def proxies(self) -> Mapping[str, str]:
        """What stands in for a file that is not there: its path -> what is used instead. Empty where all is real."""
        ...

    def digest(self) -> str:
        """16 hex digits that change when anything in the set changes; recorded with episodes and results."""
        ...


def load_asset_set(name: str) -> AssetSet:
    """Open an asset set by name.

    Args:
        name: ``builtin`` (generated at first use, in seconds) or ``upstream``.

    Raises:
        ConfigError: another name.
        AssetError: ``upstream`` is nowhere to be found.
    """
    if name == "builtin":
        from envs.simpler.builtin import BuiltinAssets

        return BuiltinAssets()
    if name == "upstream":
        from envs.simpler.assets_upstream import UpstreamAssets

        return UpstreamAssets()
    raise ConfigError(f"unknown asset set {name!r}; known are {', '.join(ASSET_SETS)}")


def cache_directory() -> Path:
    """Where generated and fetched files are kept: $VIVA_RECAP_CACHE, or viva-recap under the user's cache directory."""
    if os.environ.get("VIVA_RECAP_CACHE"):
        return Path(os.environ["VIVA_RECAP_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viva-recap"


def read_picture(file: Path) -> NDArray[np.uint8]:
    """Read an image file as [h, w, 3] RGB.

    Raises:
        AssetError: it is not an image.
    """
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise AssetError(f"{file} cannot be read as an image; delete it, so that it is fetched or generated again")
    return np.ascontiguousarray(image[..., ::-1]).astype(np.uint8)


def _parser() -> argparse.ArgumentParser:
    from envs.simpler.assets_upstream import SOURCE_COMMIT, SOURCE_REPOSITORY

    parser = argparse.ArgumentParser(prog="python -m envs.simpler.assets", description="Upstream's SIMPLER files.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="say where the files are, what is there, and what is replaced by a proxy")
    verify = commands.add_parser("verify", help="read every file again and compare its digest")
    fetch = commands.add_parser("fetch", help=f"download from github.com/{SOURCE_REPOSITORY} at {SOURCE_COMMIT[:7]}; resumes")
    fetch.add_argument("--base-url", help="take the files from here instead (same paths as upstream)")
    for command in (verify, fetch):
        command.add_argument("--all", action="store_true", help="files of every task, not only of those offered now")
        command.add_argument("--directory", type=Path, help="default: $SIMPLER_ASSETS, or the user's cache directory")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from envs.simpler import assets_fetch, assets_upstream

    options = _parser().parse_args(arguments)

    def command() -> None:
        if options.command == "fetch":
            directory = options.directory or assets_fetch.default_directory()
            assets_fetch.fetch(directory, base_url=options.base_url, everything=options.all)
        elif options.command == "verify":
            assets_upstream.verify_all(options.directory or assets_upstream.find_directory(), everything=options.all)
        else:
            assets_upstream.print_list(assets_upstream.find_directory())

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
