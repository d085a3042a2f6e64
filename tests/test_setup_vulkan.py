"""Set-up of the renderer: apt sources of our own, which libraries are loaded first, and what is said when it cannot work."""

from __future__ import annotations

import json

import pytest

from core.errors import RendererError
from scripts import vulkan_driver
from scripts.private_apt import AptError, PrivateApt, codename, with_backports
from scripts.vulkan_driver import missing_libraries, set_up_renderer

DEB822 = """Types: deb deb-src
# a comment in between
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://vendor.example/apt
Suites: stable
Components: extras

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: bookworm
Components: main
"""

LIST = """# main archive
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # inline
deb-src http://mirror.example/debian bookworm main
deb http://mirror.example/debian-security bookworm-security main
deb http://vendor.example/apt stable extras
"""


@pytest.fixture
def directory(tmp_path, monkeypatch):
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VIVA_RECAP_RENDERER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".vulkan"


@pytest.mark.parametrize("text", ["VERSION_CODENAME=jammy", 'ID=ubuntu\nVERSION_CODENAME="jammy"\nX=y'])
def test_the_suite_comes_from_os_release(text):
    assert codename(text) == "jammy"


def test_an_unnamed_distribution_is_refused():
    with pytest.raises(AptError, match="VERSION_CODENAME"):
        codename("ID=arch")


def test_backports_join_the_main_archive_of_deb822_sources():
    first, second = with_backports(DEB822, "bookworm", is_deb822=True).split("\n\n")
    assert first.splitlines() == [
        "types: deb",
        "uris: http://mirror.example/debian",
        "suites: bookworm bookworm-updates bookworm-backports",
        "components: main",
        "signed-by: /usr/share/keyrings/debian-archive-keyring.gpg",
    ]
    assert "suites: bookworm-security\n" in second


def test_backports_join_the_main_archive_of_list_sources():
    assert with_backports(LIST, "bookworm", is_deb822=False).splitlines() == [
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib",
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm-backports main contrib",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


@pytest.mark.parametrize("is_deb822", [False, True])
def test_sources_of_another_distribution_give_nothing(is_deb822):
    assert with_backports(DEB822 if is_deb822 else LIST, "trixie", is_deb822=is_deb822) == ""


@pytest.mark.skipif(vulkan_driver.shutil.which("apt-get") is None, reason="no apt here")
def test_a_machine_whose_sources_serve_another_suite_says_so(tmp_path):
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "sources.list").write_text(LIST)
    PrivateApt(tmp_path / "ok", etc=etc, os_release="VERSION_CODENAME=bookworm")
    assert (tmp_path / "ok/sources/0.list").read_text() == with_backports(LIST, "bookworm", is_deb822=False)
    with pytest.raises(AptError, match="serves the suite trixie"):
        PrivateApt(tmp_path / "other", etc=etc, os_release="VERSION_CODENAME=trixie")


def test_no_apt_says_what_to_install(directory, monkeypatch):
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: "ErrorIncompatibleDriver")
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(RendererError, match=r"apt-get is not installed.*install mesa-vulkan-drivers 25 or newer"):
        set_up_renderer(directory)
    assert not (directory / "renderer.json").exists()


def test_a_working_system_driver_is_kept_and_recorded(directory, monkeypatch):
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: "")
    assert "system's own driver works" in set_up_renderer(directory)
    assert json.loads((directory / "renderer.json").read_text()) == {"icd": None, "preload": []}
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: pytest.fail("probed again"))
    assert "verified before" in set_up_renderer(directory)


def test_a_named_driver_that_does_not_work_is_not_replaced_behind_ones_back(directory, tmp_path, monkeypatch):
    mine = tmp_path / "mine.json"
    mine.touch()
    monkeypatch.setenv("VK_DRIVER_FILES", str(mine))
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: "ErrorIncompatibleDriver")
    with pytest.raises(RendererError, match=r"VK_DRIVER_FILES=.*mine\.json: ErrorIncompatibleDriver"):
        set_up_renderer(directory)


def test_a_fetched_driver_that_does_not_work_either_leaves_no_record(directory, monkeypatch):
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: "ErrorFeatureNotPresent")
    monkeypatch.setattr(vulkan_driver, "PrivateApt", FakeApt)
    monkeypatch.setattr(vulkan_driver, "unpack", unpack_driver)
    with pytest.raises(RendererError, match=r"mesa-vulkan-drivers 25\.0 from bookworm-backports either: ErrorFeatureNotPresent"):
        set_up_renderer(directory)
    assert not (directory / "renderer.json").exists()


def test_a_fetched_driver_is_found_relative_to_its_manifest(directory, monkeypatch):
    problems = iter(["ErrorIncompatibleDriver", ""])
    monkeypatch.setattr(vulkan_driver, "probe", lambda _: next(problems))
    monkeypatch.setattr(vulkan_driver, "PrivateApt", FakeApt)
    monkeypatch.setattr(vulkan_driver, "unpack", unpack_driver)
    assert "25.0 from bookworm-backports" in set_up_renderer(directory)
    manifest = json.loads((directory / "lvp_icd.json").read_text())
    assert manifest["ICD"] == {"api_version": "1.4.305", "library_path": "./root/usr/lib/x/libvulkan_lvp.so"}
    assert json.loads((directory / "renderer.json").read_text()) == {"icd": "lvp_icd.json", "preload": []}


class FakeApt:
    suite = "bookworm"

    def __init__(self, directory):
        directory.mkdir(parents=True)

    def update(self):
        pass

    def versions(self, package):
        return [("25.0", "bookworm-backports"), ("22.3", "bookworm")]

    def download(self, packages, *, with_dependencies):
        assert (packages, with_dependencies) == (["mesa-vulkan-drivers/bookworm-backports"], True)
        return []


def unpack_driver(_, root):
    """What mesa-vulkan-drivers has that matters here; the library is empty."""
    for folder in ("usr/lib/x", "usr/share/vulkan/icd.d"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/x/libvulkan_lvp.so").touch()
    manifest = {"ICD": {"api_version": "1.4.305", "library_path": "libvulkan_lvp.so"}, "file_format_version": "1.0.0"}
    (root / "usr/share/vulkan/icd.d/lvp_icd.x86_64.json").write_text(json.dumps(manifest))


def test_missing_libraries_follow_dependencies_and_load_in_order(tmp_path, monkeypatch):
    root = tmp_path / "root"
    root.mkdir()
    for name in ("libtop.so.1", "libmiddle.so.1", "libbottom.so.1", "libunused.so.1"):
        (root / name).touch()
    needs = {
        "driver.so": ["libtop.so.1", "libabsent.so"],
        "libtop.so.1": ["libmiddle.so.1"],
        "libmiddle.so.1": ["libbottom.so.1"],
    }
    loaded = []

    def load(path):
        name = path.rsplit("/", 1)[1]
        if not set(needs.get(name, [])) <= set(loaded):
            raise OSError(f"{name} needs {needs[name]}")
        loaded.append(name)

    monkeypatch.setattr(vulkan_driver, "_not_found", lambda binary: needs.get(binary.name, []))
    monkeypatch.setattr(vulkan_driver.ctypes, "CDLL", load)
    names = missing_libraries([tmp_path / "driver.so"], root)
    assert names == ["root/libbottom.so.1", "root/libmiddle.so.1", "root/libtop.so.1"]
    needs["libbottom.so.1"] = ["libnowhere.so"]
    loaded.clear()
    with pytest.raises(AptError, match="libbottom"):
        missing_libraries([tmp_path / "driver.so"], root)
