"""The only place where a camera is chosen by its name."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import ConfigError
from core.specs import CameraSpec
from robot_drivers.cameras.camera import FrameSource
from robot_drivers.cameras.network import NetworkCameraConfig, NetworkSource
from robot_drivers.cameras.opencv import OpenCvConfig, OpenCvSource
from robot_drivers.cameras.realsense import RealSenseConfig, RealSenseSource
from robot_drivers.cameras.shared import SharedSource
from robot_drivers.cameras.simulated import SimulatedSource

KINDS = ("opencv:DEVICE", "realsense:SERIAL", "shared:FOLDER", "network:HOST:PORT", "simulated")
_CAMERA = re.compile(r"(?P<name>\w+)=(?P<kind>\w+)(:(?P<device>.+?))?(@(?P<width>\d+)x(?P<height>\d+))?")


def make_source(text: str, *, rate_hz: int, width_px: int = 640, height_px: int = 480) -> FrameSource:
    """Build a camera's source that is not open yet.

    Args:
        text: ``NAME=KIND:DEVICE`` or ``NAME=KIND:DEVICE@WIDTHxHEIGHT``, with one of :data:`KINDS`.
        rate_hz: what the device is asked for.
        width_px: where ``text`` says nothing.
        height_px: where ``text`` says nothing.

    Raises:
        ConfigError: if ``text`` is not of this form.

    Example:
        >>> make_source("front=simulated@320x240", rate_hz=30).spec
        CameraSpec(name='front', height_px=240, width_px=320)
    """
    found = _CAMERA.fullmatch(text)
    kind = found["kind"] if found else ""
    device = found["device"] or "" if found else ""
    if found is None or kind not in {known.partition(":")[0] for known in KINDS} or bool(device) == (kind == "simulated"):
        raise ConfigError(f"camera {text!r}; expected NAME=KIND[@WIDTHxHEIGHT] with a kind of {', '.join(KINDS)}")
    spec = CameraSpec(name=found["name"], height_px=int(found["height"] or height_px), width_px=int(found["width"] or width_px))
    if kind == "opencv":
        return OpenCvSource(OpenCvConfig(spec=spec, device=device, rate_hz=rate_hz))
    if kind == "realsense":
        return RealSenseSource(RealSenseConfig(spec=spec, serial=device, rate_hz=rate_hz))
    if kind == "shared":
        return SharedSource(spec, Path(device))
    if kind == "network":
        host, _, port = device.rpartition(":")
        if not (host and port.isdecimal()):
            raise ConfigError(f"camera {text!r}; expected network:HOST:PORT with the port's number")
        return NetworkSource(NetworkCameraConfig(spec=spec, host=host, port=int(port)))
    return SimulatedSource(spec, rate_hz=rate_hz)
