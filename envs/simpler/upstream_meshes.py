"""Upstream's meshes in the form that SAPIEN 3 needs, made once in the cache directory.

Before hop 1 of the tour.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import trimesh

from core.durable import write_atomically
from envs.simpler.assets import Vector, cache_directory


def convex_pieces(file: Path) -> tuple[Path, ...]:
    """Split each OBJ object of a collision mesh into its connected parts, as SAPIEN 2 did and SAPIEN 3 does not.

    SAPIEN 3 takes one convex hull per OBJ object; for a few of upstream's models that is another shape and another mass.

    Args:
        file: OBJ.

    Returns:
        ``file`` itself if it is one part, else one file a part, made once in the cache directory.
    """
    folder = cache_directory() / "convex_parts" / hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    if not (folder / "count").exists():
        parts = [part for mesh in read_obj_objects(file) for part in connected_parts(mesh)]
        folder.mkdir(parents=True, exist_ok=True)
        for index, part in enumerate(parts if len(parts) > 1 else []):
            write_atomically(folder / f"{index}.obj", trimesh.exchange.obj.export_obj(part, include_normals=False).encode())
        write_atomically(folder / "count", str(len(parts)).encode())
    return tuple(sorted(folder.glob("*.obj"))) or (file,)


def read_obj_objects(file: Path) -> list[trimesh.Trimesh]:
    """The objects (``o`` lines) of an OBJ file, which trimesh would join into one mesh; positions and triangles only."""
    vertices: list[list[float]] = []
    objects: list[list[list[int]]] = [[]]
    for key, *values in (line.split() for line in file.read_text().splitlines() if line[:2] in ("v ", "o ", "f ")):
        if key == "v":
            vertices.append([float(value) for value in values[:3]])
        elif key == "o":
            objects.append([])
        else:
            corners = [int(value.split("/")[0]) - 1 for value in values]
            objects[-1] += [[corners[0], *pair] for pair in itertools.pairwise(corners[1:])]
    return [trimesh.Trimesh(vertices, faces, process=False) for faces in objects if faces]


def flat_visual(collision: Path, color: Vector) -> Path:
    """A collision mesh drawn in one colour, made once in the cache directory.

    Args:
        collision: OBJ.
        color: linear RGB in [0, 1].
    """
    content = collision.read_bytes() + repr(color).encode()
    file = cache_directory() / "flat_visuals" / f"{hashlib.sha256(content).hexdigest()[:16]}.glb"
    if not file.exists():
        mesh = trimesh.load_mesh(collision, process=False)
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[*color, 1.0], metallicFactor=0.0, roughnessFactor=0.5)
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, trimesh.exchange.gltf.export_glb(trimesh.Scene(mesh), include_normals=True))
    return file


def connected_parts(mesh: trimesh.Trimesh) -> list[trimesh.Trimesh]:
    """Parts that share no vertex position (an OBJ repeats a position for each normal it has there)."""
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    merged.merge_vertices(merge_tex=True, merge_norm=True)
    labels = trimesh.graph.connected_component_labels(merged.edges, node_count=len(merged.vertices))
    face_labels = labels[merged.faces[:, 0]]
    parts = [trimesh.Trimesh(merged.vertices, merged.faces[face_labels == label]) for label in np.unique(face_labels)]
    for part in parts:
        part.remove_unreferenced_vertices()  # a hull is of all vertices, used or not
    return parts
