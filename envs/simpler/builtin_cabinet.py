"""The builtin cabinet with three drawers: the boxes of SIMPLER's ``mk_station``, written as a URDF of our own.

Before hop 1 of the tour. Masses come from the boxes at SAPIEN's default density (body 38.08 kg, drawers 11.38 kg each). As
upstream, handles are only drawn: a policy has to hook the drawer's panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from xml.etree import ElementTree

from envs.simpler.assets import Vector

DRAWER_HEIGHTS_M: Mapping[str, float] = MappingProxyType({"top": 0.668, "middle": 0.423, "bottom": 0.178})
_TRAVEL_M = 0.5
Colors = Mapping[str, Vector]
_WOOD = (0.325, 0.187, 0.1166)
_GREY_WOOD = (0.38824, 0.32157, 0.27451)
_STONE = (0.63529, 0.52941, 0.41176)
CABINETS: Mapping[str, Colors] = MappingProxyType(
    {
        "mk_station_recolor": {"wood": _WOOD, "stone": _WOOD, "front": _WOOD, "handle": (0.01266, 0.00226, 0.0005)},
        "mk_station": {"wood": _GREY_WOOD, "stone": _STONE, "front": (1.0, 1.0, 1.0), "handle": (0.1, 0.1, 0.1)},
        "mk_station2": {"wood": _GREY_WOOD, "stone": _STONE, "front": _GREY_WOOD, "handle": (0.1, 0.1, 0.1)},
    }
)
"""Linear RGB by part, for each cabinet that can be built."""


@dataclass(frozen=True)
class Panel:
    """One box: its part's colour, full size and centre in m."""

    part: str
    size: Vector
    center: Vector
    is_solid: bool = True


_BODY = (
    Panel("wood", (0.02, 0.615, 0.845), (-0.305, 0.0, 0.4225)),
    Panel("wood", (0.59, 0.02, 0.845), (0.0, -0.2975, 0.4225)),
    Panel("wood", (0.59, 0.02, 0.845), (0.0, 0.2975, 0.4225)),
    Panel("stone", (0.63, 0.615, 0.02), (0.0, 0.0, 0.855)),
)
_DRAWER = (
    Panel("front", (0.015, 0.615, 0.14), (0.305, 0.0, 0.0)),
    Panel("front", (0.02, 0.515, 0.10), (-0.285, 0.0, -0.02)),
    Panel("front", (0.55, 0.515, 0.02), (0.0, 0.0, -0.06)),  # the tray floor must stay the third: tasks ask for it by index
    Panel("front", (0.02, 0.515, 0.10), (0.285, 0.0, -0.02)),
    Panel("front", (0.59, 0.02, 0.10), (0.0, -0.2675, -0.02)),
    Panel("front", (0.59, 0.02, 0.10), (0.0, 0.2675, -0.02)),
    Panel("handle", (0.005, 0.10, 0.005), (0.3425, 0.0, 0.02), is_solid=False),
    Panel("handle", (0.02, 0.005, 0.005), (0.3325, -0.05, 0.02), is_solid=False),
    Panel("handle", (0.02, 0.005, 0.005), (0.3325, 0.05, 0.02), is_solid=False),
)


def cabinet_text(name: str) -> str:
    """The URDF of one of :data:`CABINETS`."""
    robot = ElementTree.Element("robot", name=name)
    _add_link(robot, "body", _BODY, CABINETS[name])
    for drawer, height_m in DRAWER_HEIGHTS_M.items():
        _add_link(robot, f"{drawer}_drawer", _DRAWER, CABINETS[name])
        joint = ElementTree.SubElement(robot, "joint", name=f"{drawer}_drawer_joint", type="prismatic")
        ElementTree.SubElement(joint, "parent", link="body")
        ElementTree.SubElement(joint, "child", link=f"{drawer}_drawer")
        ElementTree.SubElement(joint, "origin", xyz=f"0 0 {height_m:g}", rpy="0 0 0")
        ElementTree.SubElement(joint, "axis", xyz="1 0 0")
        ElementTree.SubElement(joint, "limit", lower="0", upper=f"{_TRAVEL_M:g}", effort="0", velocity="0")
    ElementTree.indent(robot)
    return ElementTree.tostring(robot, encoding="unicode") + "\n"


def _add_link(robot: ElementTree.Element, name: str, panels: Sequence[Panel], colors: Colors) -> None:
    link = ElementTree.SubElement(robot, "link", name=name)
    for panel in panels:
        for tag in ("visual", "collision") if panel.is_solid else ("visual",):
            element = ElementTree.SubElement(link, tag)
            ElementTree.SubElement(element, "origin", xyz=" ".join(map(str, panel.center)), rpy="0 0 0")
            geometry = ElementTree.SubElement(element, "geometry")
            ElementTree.SubElement(geometry, "box", size=" ".join(map(str, panel.size)))
            if tag == "visual":
                material = ElementTree.SubElement(element, "material", name=panel.part)
                ElementTree.SubElement(material, "color", rgba=" ".join(map(str, (*colors[panel.part], 1.0))))
