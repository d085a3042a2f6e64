"""Finding a driver to render with: what is chosen, and the one clear message when nothing works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import RendererError
from envs import vulkan
from envs.vulkan import DRIVER_VARIABLES, VERIFIED_VARIABLE, Renderer, recorded_renderer, selected_renderer

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("actors", "cluster", "configs", "envs", "learners", "scripts", "tests")


@pytest.fixture(autouse=True)
def no_driver_named(monkeypatch):
    for name in (*DRIVER_VARIABLES, VERIFIED_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def record(tmp_path):
    """A record of set-up, with its files."""

    def write(icd="lvp_icd.json", preload=("root/libx.so",)):
        for name in filter(None, (icd, *preload)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "renderer.json").write_text(json.dumps({"icd": icd, "preload": list(preload)}))
        return tmp_path

    return write


def run_python(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in (*DRIVER_VARIABLES, VERIFIED_VARIABLE)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": str(ROOT)} | variables, capture_output=True, text=True, timeout=120
    )


def test_a_missing_driver_file_is_one_clear_error():
    result = run_python("from envs.vulkan import ensure_renderer; ensure_renderer()", VK_DRIVER_FILES="/nonexistent/lvp_icd.json")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("core.errors.RendererError: VK_DRIVER_FILES names /nonexistent/lvp_icd.json, which does not exist")
    assert "make setup" in last


@pytest.mark.sim
def test_a_driver_file_that_is_no_driver_is_one_clear_error(tmp_path):
    manifest = tmp_path / "bad_icd.json"
    manifest.write_text('{"ICD": {"api_version": "1.3.0", "library_path": "/nonexistent.so"}, "file_format_version": "1.0.0"}')
    result = run_python("from envs.vulkan import ensure_renderer; ensure_renderer()", VK_DRIVER_FILES=str(manifest))
    assert result.returncode != 0
    assert f"SAPIEN cannot render with {manifest}: " in result.stderr.splitlines()[-1]


@pytest.mark.sim
def test_rendering_works_from_another_directory(tmp_path):
    code = f"""
import os
os.chdir({str(tmp_path)!r})
from envs.vulkan import ensure_renderer
assert ensure_renderer() is ensure_renderer()
import sapien
sapien.render.RenderSystem(sapien.Device("cpu"))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_set_ups_record_is_used_without_probing(record, monkeypatch):
    directory = record()
    monkeypatch.setattr(vulkan, "probe", lambda _: pytest.fail("probed"))
    renderer, is_verified = selected_renderer(directory)
    assert is_verified
    assert renderer == Renderer(driver_files=str(directory / "lvp_icd.json"), libraries=(directory / "root/libx.so",))
    assert renderer.variables["VK_DRIVER_FILES"] == renderer.variables["VK_ICD_FILENAMES"] == str(directory / "lvp_icd.json")


def test_a_record_of_the_systems_driver_sets_no_driver_file(record):
    renderer, is_verified = selected_renderer(record(icd=None, preload=()))
    assert is_verified
    assert renderer.variables == {VERIFIED_VARIABLE: "system"}


def test_a_named_driver_wins_over_the_record_and_is_verified_only_by_a_parent(record, tmp_path, monkeypatch):
    directory = record()
    mine = tmp_path / "mine.json"
    mine.touch()
    monkeypatch.setenv("VK_DRIVER_FILES", str(mine))
    renderer, is_verified = selected_renderer(directory)
    assert (renderer.driver_files, is_verified) == (str(mine), False)
    for name, value in renderer.variables.items():
        monkeypatch.setenv(name, value)
    assert selected_renderer(directory) == (renderer, True)


def test_nothing_is_verified_before_set_up(tmp_path):
    assert selected_renderer(tmp_path) == (Renderer(driver_files=""), False)


def test_an_unusable_driver_is_probed_once_and_explained(monkeypatch):
    monkeypatch.setattr(vulkan, "_ready", None)
    monkeypatch.setattr(vulkan, "selected_renderer", lambda: (Renderer(driver_files=""), False))
    monkeypatch.setattr(vulkan, "probe", lambda _: "ErrorIncompatibleDriver")
    with pytest.raises(RendererError, match=r"the system's Vulkan driver: ErrorIncompatibleDriver.*bookworm-backports"):
        vulkan.ensure_renderer()
    assert VERIFIED_VARIABLE not in os.environ


@pytest.mark.parametrize("text", ["{", "[]", '{"icd": "x.json"}', '{"icd": "x.json", "preload": 3}'])
def test_a_damaged_record_says_so(tmp_path, text):
    (tmp_path / "renderer.json").write_text(text)
    with pytest.raises(RendererError, match=r"not a renderer record.*make setup"):
        recorded_renderer(tmp_path)


def test_a_record_whose_files_are_gone_says_so(record):
    directory = record()
    (directory / "root/libx.so").unlink()
    with pytest.raises(RendererError, match=r"libx\.so, which does not exist"):
        recorded_renderer(directory)


def test_ray_tracing_is_never_disabled():
    # Without it SAPIEN refuses a CPU device. Spelled in two parts, or this test would find itself.
    forbidden = "SAPIEN_DISABLE_" + "RAY_TRACING"
    files = [ROOT / "Makefile", *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))]
    assert [file.name for file in files if forbidden in file.read_text()] == ["vulkan.py"]  # its docstring says so
