"""Asset sets without a simulator: digests, errors, proxies, generation."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trimesh

from core.errors import AssetError, ConfigError, StorageFullError
from envs.simpler import assets_upstream, builtin
from envs.simpler.assets import load_asset_set, main, read_picture
from envs.simpler.assets_upstream import FileChecker, UpstreamAssets, UpstreamFile, is_needed, known_files
from envs.simpler.builtin import BuiltinAssets
from envs.simpler.builtin_backdrop import head_camera
from envs.simpler.builtin_objects import SHAPES, TABLETOP_OBJECTS, collision_meshes, visual_meshes
from envs.simpler.builtin_robot import PALETTES
from envs.simpler.upstream_meshes import convex_pieces


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIVA_RECAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> BuiltinAssets:
    assets = BuiltinAssets(tmp_path_factory.mktemp("builtin") / "set")
    assert assets.directory.is_dir()
    return assets


def upstream_file(root: Path, path: str, content: bytes) -> UpstreamFile:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    return UpstreamFile(path=path, digest=hashlib.sha256(content).hexdigest(), num_bytes=len(content))


# -- choosing a set ----------------------------------------------------------------------------------------------


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="'other'; known are builtin, upstream"):
        load_asset_set("other")


def test_a_wrong_directory_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMPLER_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(AssetError, match=r"nowhere is not a directory; run `python -m envs\.simpler\.assets fetch`"):
        load_asset_set("upstream")


def test_command_line_says_one_line_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMPLER_ASSETS", str(tmp_path))
    assert main(["verify"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


# -- upstream ----------------------------------------------------------------------------------------------------


def test_digest_table_covers_the_offered_tasks() -> None:
    needed = [path for path in known_files() if is_needed(path)]
    assert "objects/opened_coke_can/collision.obj" in needed
    assert "overlays/google_coke_can_real_eval_1.png" in needed
    assert "robots/widowx/wx250s.urdf" in needed
    assert sum(path.startswith("robots/google_robot/") and path.endswith(".urdf") for path in needed) == 4
    assert not any("recolor_sim" in path for path in needed)


@pytest.mark.parametrize(
    ("path", "upstream_path"),
    [
        (
            "robots/google_robot/3obj/link_base.glb",
            "mani_skill2_real2sim/assets/descriptions/googlerobot_description/3obj/link_base.glb",
        ),
        ("objects/_model_info/info_pick_custom_v0.json", "data/custom/info_pick_custom_v0.json"),
        ("objects/apple/collision.obj", "data/custom/models/apple/collision.obj"),
        ("scenes/cabinet/models/stone_tabletop.glb", "data/custom/models/stone_tabletop.glb"),
        ("overlays/open_drawer_a0.png", "data/real_inpainting/open_drawer_a0.png"),
    ],
)
def test_places_in_the_source_repository(path: str, upstream_path: str) -> None:
    assert known_files()[path].upstream_path == upstream_path


def test_an_altered_file_is_named_with_both_digests(tmp_path: Path) -> None:
    entry = upstream_file(tmp_path, "overlays/a.png", b"right")
    checker = FileChecker(tmp_path)
    checker.check([entry])
    (tmp_path / "overlays/a.png").write_bytes(b"wrong!")
    found = hashlib.sha256(b"wrong!").hexdigest()
    with pytest.raises(AssetError, match=f"a.png is not upstream's: expected digest {entry.digest}, found {found}"):
        checker.check([entry])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    entry = UpstreamFile(path="overlays/b.png", digest="0" * 64, num_bytes=3)
    with pytest.raises(AssetError, match=r"b\.png is missing \(expected digest 0{64}\)"):
        FileChecker(tmp_path).check([entry])


def test_a_verified_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = upstream_file(tmp_path, "a", b"content")
    FileChecker(tmp_path).check([entry])
    monkeypatch.setattr(UpstreamFile, "digest_of", lambda *_: pytest.fail("read again"))
    FileChecker(tmp_path).check([entry])


def test_a_touched_file_is_read_again(tmp_path: Path) -> None:
    entry = upstream_file(tmp_path, "a", b"content")
    FileChecker(tmp_path).check([entry])
    (tmp_path / "a").write_bytes(b"tampern")  # same size
    os.utime(tmp_path / "a", ns=(1, 1))
    with pytest.raises(AssetError, match="not upstream's"):
        FileChecker(tmp_path).check([entry])


def test_git_blob_ids_are_understood(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    entry = UpstreamFile(path="hello", digest="git:ce013625030ba8dba906f756967f9e9ca394464a", num_bytes=None)
    FileChecker(tmp_path).check([entry])  # git hash-object of "hello\n"


def test_an_absent_stage_has_a_proxy_and_says_so(tmp_path: Path) -> None:
    assets = UpstreamAssets(tmp_path)
    stage = assets.stage("google_pick_coke_can_1_v4")
    (box,) = stage.boxes
    assert stage.mesh_file is None
    assert box.center[2] + box.half_size[2] == pytest.approx(0.87)
    assert assets.proxies()["scenes/stages/google_pick_coke_can_1_v4.glb"] == "a flat box, top at 0.87 m"


def test_a_present_stage_replaces_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "scenes/stages/google_pick_coke_can_1_v4.glb"
    entry = upstream_file(tmp_path, path, b"mesh")
    without = UpstreamAssets(tmp_path / "empty").digest()
    monkeypatch.setattr(assets_upstream, "known_files", lambda: {path: entry})
    stage = UpstreamAssets(tmp_path).stage("google_pick_coke_can_1_v4")
    assert stage.mesh_file == tmp_path / path
    assert stage.position == (1.6616, 3.0337, 0.0)
    assert UpstreamAssets(tmp_path).proxies() == {}
    assert UpstreamAssets(tmp_path).digest() != without


def test_an_absent_stage_without_proxy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"modern_office_no_roof\.glb is missing"):
        UpstreamAssets(tmp_path).stage("modern_office_no_roof")
    with pytest.raises(AssetError, match="upstream has no stage 'moon'"):
        UpstreamAssets(tmp_path).stage("moon")


def test_upstream_does_not_know_every_name(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"upstream has no overlays/nope\.png"):
        UpstreamAssets(tmp_path).overlay("nope")


def test_collision_meshes_are_split_where_they_do_not_touch(tmp_path: Path) -> None:
    one, two = trimesh.creation.box((1, 1, 1)), trimesh.creation.box((1, 1, 2))
    two.apply_translation((3, 0, 0))
    (tmp_path / "two.obj").write_text(trimesh.util.concatenate([one, two]).export(file_type="obj"))
    (tmp_path / "one.obj").write_text(one.export(file_type="obj"))
    volumes = [trimesh.load_mesh(piece).convex_hull.volume for piece in convex_pieces(tmp_path / "two.obj")]
    assert sorted(volumes) == pytest.approx([1.0, 2.0])
    assert convex_pieces(tmp_path / "one.obj") == (tmp_path / "one.obj",)


# -- builtin -----------------------------------------------------------------------------------------------------


@pytest.mark.whole
def test_generation_is_deterministic_and_complete(generated: BuiltinAssets, tmp_path: Path) -> None:
    again = BuiltinAssets(tmp_path / "again")
    assert again.digest() == generated.digest()
    assert generated.overlay("google_coke_can_real_eval_1").shape == (512, 640, 3)
    assert generated.cabinet_urdf("mk_station_recolor").is_file()
    assert all(generated.robot_urdf(variant).is_file() for variant in PALETTES)


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "_MAKERS", (builtin._make_cabinets,))
    cabinet = BuiltinAssets(tmp_path / "set").cabinet_urdf("mk_station")
    right = cabinet.read_bytes()
    cabinet.write_bytes(right.replace(b"0.845", b"0.846"))  # same size
    assert BuiltinAssets(tmp_path / "set").cabinet_urdf("mk_station").read_bytes() == right
    cabinet.unlink()
    assert BuiltinAssets(tmp_path / "set").cabinet_urdf("mk_station").read_bytes() == right
    assert [path.name for path in tmp_path.iterdir() if "set" in path.name] == ["set"], "no staging folder is left behind"


def test_a_directory_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFullError, match="set VIVA_RECAP_CACHE"):
        BuiltinAssets(tmp_path / "file" / "set").robot_urdf()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda assets: assets.robot_urdf("pink"), "no robot colour 'pink'"),
        (lambda assets: assets.object_model("teapot"), "no object 'teapot'; it has 'coke_can'"),
        (lambda assets: assets.stage("moon"), "no stage 'moon'"),
        (lambda assets: assets.overlay("moon"), "no overlay 'moon'"),
        (lambda assets: assets.cabinet_urdf("moon"), "no cabinet 'moon'"),
    ],
)
def test_builtin_names_what_it_has(generated: BuiltinAssets, ask, message: str) -> None:
    with pytest.raises(AssetError, match=message):
        ask(generated)


def test_an_image_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(AssetError, match=r"a\.png cannot be read as an image"):
        read_picture(tmp_path / "a.png")


@pytest.mark.whole
def test_robot_has_upstreams_active_joints(generated: BuiltinAssets) -> None:
    robot = ElementTree.parse(generated.robot_urdf()).getroot()
    limits = {}
    for joint in robot.iter("joint"):
        if joint.attrib["type"] == "revolute":
            limit = joint.find("limit")
            assert limit is not None
            limits[joint.attrib["name"]] = (float(limit.attrib["lower"]), float(limit.attrib["upper"]))
    arm = ("torso", "shoulder", "bicep", "elbow", "forearm", "wrist", "gripper")
    assert set(limits) == {f"joint_{name}" for name in (*arm, "finger_right", "finger_left", "head_pan", "head_tilt")}
    assert limits["joint_wrist"] == (-1.79, 1.79)
    assert limits["joint_finger_left"] == (-0.0001, 1.3)
    assert limits["joint_gripper"] == (-4.49, 1.35)


@pytest.mark.whole
def test_colour_variants_differ_in_colour_only(generated: BuiltinAssets) -> None:
    def without_colour(variant: str) -> list[tuple[str, dict[str, str]]]:
        tree = ElementTree.parse(generated.robot_urdf(variant))
        return [(element.tag, element.attrib) for element in tree.iter() if element.tag not in ("material", "color")]

    plain = without_colour("")
    for variant in PALETTES:
        assert without_colour(variant) == plain
    assert generated.robot_urdf("").read_text() != generated.robot_urdf("recolor_tabletop_visual_matching_1").read_text()


def test_can_weighs_as_much_as_upstreams() -> None:
    (mesh,) = collision_meshes(SHAPES["coke"])
    assert mesh.volume * 50.0 == pytest.approx(0.0199575, rel=1e-3)
    np.testing.assert_allclose(mesh.center_mass, (7.77e-5, -7.838e-3, 6.34e-4), atol=5e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_tabletop_shapes_hold_upstreams_volume(name: str) -> None:
    pieces = collision_meshes(SHAPES[name])
    assert sum(piece.volume for piece in pieces) == pytest.approx(SHAPES[name].volume_m3 or 3.9956e-4, rel=2e-3)
    assert max(len(piece.vertices) for piece in pieces) <= 64, "PhysX's limit for hulls that a GPU can take"
    solid = np.concatenate([piece.bounds for piece in pieces])
    drawn = np.concatenate([mesh.bounds for mesh in visual_meshes(SHAPES[name])])
    np.testing.assert_allclose([drawn.min(axis=0), drawn.max(axis=0)], [solid.min(axis=0), solid.max(axis=0)], atol=1.5e-3)


@pytest.mark.whole
def test_every_tabletop_id_has_a_shape(generated: BuiltinAssets) -> None:
    for model_id in TABLETOP_OBJECTS:
        model = generated.object_model(model_id)
        assert model.visual_file.is_file()
        assert len(model.collision_files) == len(collision_meshes(SHAPES[TABLETOP_OBJECTS[model_id].shape]))
    assert generated.object_model("opened_7up_can").density == 50.0


def test_picture_is_seen_from_upstreams_camera() -> None:
    camera = head_camera(0.35, 0.20)
    np.testing.assert_allclose(camera.position, (0.20401, 0.20042, 1.29241), atol=1e-5)  # measured upstream
    np.testing.assert_allclose(camera.rotation[:, 2], (-0.707289, 0.002022, -0.706922), atol=1e-5)


@pytest.mark.whole
def test_manifest_lists_every_file(generated: BuiltinAssets) -> None:
    manifest = json.loads((generated.directory / "manifest.json").read_text())
    files = {str(path.relative_to(generated.directory)) for path in generated.directory.rglob("*") if path.is_file()}
    assert set(manifest) == files - {"manifest.json"}
    assert builtin.BuiltinAssets.name == "builtin"
