"""LeRobot data sets: the layout as it is documented, there and back, and what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from replay_episodes import SPEC, assert_same_episode, random_episode

from core.errors import ConfigError, CorruptDataError, SchemaVersionError, SpecError, StorageFullError
from core.experience import Collection, EpisodeEnd, Source
from core.labels import LabelKey, Labels
from core.robot_steps import InterventionPhase, RobotSteps
from core.specs import CameraSpec
from replay import lerobot_export
from replay.episode_store import EpisodeStore
from replay.lerobot_export import LeRobotExportConfig, export_lerobot
from replay.lerobot_format import LeRobotVersion
from replay.lerobot_import import LeRobotDataSet, LeRobotImportConfig
from replay.video_file import VideoCodec, VideoReader

STEPS = (4, 6, 3)
LOSSLESS = {v: LeRobotExportConfig(version=v, codec=VideoCodec.LOSSLESS) for v in LeRobotVersion}


def as_a_robots(episode):
    """The second one is a robot's, the others are simulated."""
    steps = episode.num_steps
    robot = RobotSteps(
        requested_action=episode.executed_action * 2,
        clip_mask=np.arange(steps, dtype=np.int32),
        phase=np.full(steps, InterventionPhase.CORRECTION, np.int8),
        lease=np.arange(steps, dtype=np.int32) - 1,
        operator=np.zeros(steps, np.int16),
        plan_age_s=np.full(steps, np.nan, np.float32),
        tick_late_s=np.linspace(0, 0.01, steps, dtype=np.float32),
        frame_age_s=np.linspace(0, 0.1, steps + 1, dtype=np.float32),
        operators=("ada",),
        checkpoint="policy 3",
        limits_digest="ab" * 8,
    )
    return replace(episode, robot=robot)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = EpisodeStore(tmp_path_factory.mktemp("store"))
    for seed, steps in enumerate(STEPS):
        episode = random_episode(seed, steps=steps)
        store.append(as_a_robots(episode) if seed == 1 else episode)
    yield store
    store.close()


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    """Both versions; tests that alter one copy it first."""
    folders = {}
    for version, config in LOSSLESS.items():
        folders[version] = tmp_path_factory.mktemp("sets") / version.name
        export_lerobot(store, store.episode_ids(), folders[version], config)
    return folders


@pytest.fixture(params=list(LeRobotVersion), ids=lambda version: version.value)
def version(request):
    return request.param


@pytest.fixture
def altered(exported, tmp_path):
    def copy(version=LeRobotVersion.V30, *, without_extras=False):
        folder = shutil.copytree(exported[version], tmp_path / "altered")
        if without_extras:
            (folder / "meta/recap.parquet").unlink()
        return folder

    return copy


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def edit_info(root, change):
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def test_version_3_has_the_documented_files_and_fields(exported):
    root = exported[LeRobotVersion.V30]
    assert files(root) == [
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/recap.parquet",
        "meta/stats.json",
        "meta/tasks.parquet",
        "videos/observation.images.overhead_camera/chunk-000/file-000.mp4",
        "videos/observation.images.wrist/chunk-000/file-000.mp4",
    ]
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 3, {"train": "0:3"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, sum(STEPS), 3)
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    assert info["features"]["observation.images.wrist"]["shape"] == [3, 5, 3]
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert table.column_names == [k for k, f in info["features"].items() if f["dtype"] != "video"]
    assert table.schema.field("action").type == pa.list_(pa.float32(), 3)
    assert table["index"].to_pylist() == list(range(sum(STEPS)))
    assert table["frame_index"].to_pylist() == [i for steps in STEPS for i in range(steps)]
    np.testing.assert_allclose(table["timestamp"].to_numpy(), table["frame_index"].to_numpy() / 3, atol=1e-6)
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 3


def test_the_episode_list_of_version_3_leads_to_rows_and_pictures(exported, store):
    root = exported[LeRobotVersion.V30]
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in rows] == list(STEPS)
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 4), (4, 10), (10, 13)]
    key = "videos/observation.images.wrist/"
    assert [row[key + "from_timestamp"] for row in rows] == pytest.approx([0, 4 / 3, 10 / 3])
    assert [row[key + "to_timestamp"] for row in rows] == pytest.approx([4 / 3, 10 / 3, 13 / 3])
    second = store.read(store.episode_ids()[1])
    frames = VideoReader(root / f"{key}chunk-000/file-000.mp4").read(4, 10)
    np.testing.assert_array_equal(frames, second.images["wrist"][:-1])
    assert np.array(rows[1]["stats/observation.images.wrist/mean"]).shape == (3, 1, 1)
    np.testing.assert_allclose(rows[1]["stats/action/q50"], np.median(second.executed_action, axis=0), rtol=1e-6)


def test_tasks_of_version_3_are_the_index_of_a_pandas_frame(exported):
    import pandas as pd

    tasks = pd.read_parquet(exported[LeRobotVersion.V30] / "meta/tasks.parquet")
    assert (tasks.index.name, list(tasks.columns)) == ("task", ["task_index"])
    assert tasks.loc["pick object 1"].task_index == 1


def test_statistics_of_all_episodes_are_those_of_all_frames(exported, store):
    stats = json.loads((exported[LeRobotVersion.V30] / "meta/stats.json").read_text())
    actions = np.concatenate([store.read(e).executed_action for e in store.episode_ids()])
    for name, value in (("mean", actions.mean(0)), ("std", actions.std(0)), ("min", actions.min(0)), ("max", actions.max(0))):
        np.testing.assert_allclose(stats["action"][name], value, rtol=1e-5, err_msg=name)
    pixels = np.concatenate([store.read(e).images["wrist"][:-1].reshape(-1, 3) for e in store.episode_ids()]) / 255
    np.testing.assert_allclose(np.ravel(stats["observation.images.wrist"]["std"]), pixels.std(0), rtol=1e-5)
    assert stats["action"]["count"] == [sum(STEPS)]


def test_version_2_1_has_the_documented_files_and_fields(exported):
    root = exported[LeRobotVersion.V21]
    assert files(root)[:3] == [f"data/chunk-000/episode_00000{i}.parquet" for i in range(3)]
    assert (root / "videos/chunk-000/observation.images.wrist/episode_000002.mp4").is_file()
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_videos"], info["total_chunks"]) == ("v2.1", 6, 1)
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    assert lines[1] == {"episode_index": 1, "tasks": ["pick object 1"], "length": 6}
    tasks = [json.loads(line) for line in (root / "meta/tasks.jsonl").read_text().splitlines()]
    assert tasks[2] == {"task_index": 2, "task": "pick object 2"}
    stats = [json.loads(line) for line in (root / "meta/episodes_stats.jsonl").read_text().splitlines()]
    assert set(stats[0]["stats"]["action"]) == {"min", "max", "mean", "std", "count"}


def test_what_was_exported_comes_back_as_it_was(exported, store, version):
    found = list(LeRobotDataSet(exported[version]).episodes())
    assert len(found) == len(STEPS)
    for episode, episode_id in zip(found, store.episode_ids(), strict=True):
        assert_same_episode(episode, store.read(episode_id))


def test_many_files_come_back_as_one_does(store, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_export, "_MEGABYTE", 1)  # the limits are one byte
    config = replace(LOSSLESS[LeRobotVersion.V30], data_file_mb=1, video_file_mb=1)
    export_lerobot(store, store.episode_ids(), tmp_path / "set", config)
    assert len(list((tmp_path / "set/data/chunk-000").iterdir())) == 3
    for episode, episode_id in zip(LeRobotDataSet(tmp_path / "set").episodes(), store.episode_ids(), strict=True):
        assert_same_episode(episode, store.read(episode_id))


def test_a_data_set_of_others_gives_one_step_less_than_frames(altered, store, version):
    root = altered(version, without_extras=True)
    config = LeRobotImportConfig(env="so100", task="pick", source=Source.SCRIPTED)
    found = list(LeRobotDataSet(root, config).episodes())
    original = [store.read(e) for e in store.episode_ids()]
    assert [episode.num_steps for episode in found] == [steps - 1 for steps in STEPS]
    for episode, before in zip(found, original, strict=True):
        np.testing.assert_array_equal(episode.executed_action, before.executed_action[:-1])
        np.testing.assert_array_equal(episode.images["wrist"], before.images["wrist"][:-1])
        np.testing.assert_array_equal(episode.state, before.state[:-1])
        assert episode.instruction == before.instruction
        assert episode.is_success == before.is_success
        assert set(episode.source) == {Source.SCRIPTED}
    assert (found[0].provenance.env, found[0].provenance.collection) == ("so100", Collection.DEMONSTRATION)
    assert found[0].env_spec.action.names == SPEC.action.names
    assert found[0].env_spec.action.units == ("unknown",) * 3
    again = [episode.episode_id for episode in LeRobotDataSet(root, config).episodes()]
    assert again == [episode.episode_id for episode in found], "importing twice must find what is stored"
    assert len(set(again)) == 3


def test_units_and_limits_can_be_given_and_must_fit(altered):
    root = altered(without_extras=True)
    config = LeRobotImportConfig(env_spec=SPEC)
    assert LeRobotDataSet(root, config).env_spec == SPEC
    other = replace(SPEC, cameras=(CameraSpec(name="front", height_px=4, width_px=6),))
    with pytest.raises(SpecError, match="front"):
        LeRobotDataSet(root, replace(config, env_spec=other))


def test_how_an_episode_ended_is_asked_for_where_the_data_does_not_say(altered):
    root = altered(without_extras=True)
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["next.success", "next.reward"]), path)
    episode = next(LeRobotDataSet(root, LeRobotImportConfig(end=EpisodeEnd.OPERATOR_STOP)).episodes())
    assert episode.end is EpisodeEnd.OPERATOR_STOP
    assert not episode.reward.any()


def test_images_in_the_table_are_read_too(altered, store):
    import cv2

    root = altered(without_extras=True)
    path = root / "data/chunk-000/file-000.parquet"
    frames = np.concatenate([store.read(e).images["wrist"][:-1] for e in store.episode_ids()])
    cells = [{"bytes": cv2.imencode(".png", frame[..., ::-1])[1].tobytes(), "path": None} for frame in frames]
    pq.write_table(pq.read_table(path).append_column("observation.images.wrist", pa.array(cells)), path)
    edit_info(root, lambda info: info["features"]["observation.images.wrist"].update(dtype="image"))
    found = next(LeRobotDataSet(root).episodes())
    np.testing.assert_array_equal(found.images["wrist"], frames[:4])


def test_labels_are_columns_only_where_they_are_asked_for(store, exported, tmp_path):
    def get_labels(episode_id):
        steps = store.info(episode_id).num_steps
        ramp = np.linspace(-1, 0, steps + 1)
        return Labels(key=LabelKey(episode_id, 7), value=ramp, return_=ramp[:-1], advantage=np.diff(ramp), target="recap")

    config = replace(LOSSLESS[LeRobotVersion.V30], value_version=7)
    export_lerobot(store, store.episode_ids(), tmp_path / "set", config, get_labels=get_labels)
    table = pq.read_table(tmp_path / "set/data/chunk-000/file-000.parquet")
    np.testing.assert_allclose(table["recap.value"].to_numpy()[:4], [-1, -0.75, -0.5, -0.25])
    assert not [name for name in pq.read_schema(exported[LeRobotVersion.V30] / "data/chunk-000/file-000.parquet").names
                if name in ("recap.value", "recap.advantage")]  # fmt: skip
    for episode, episode_id in zip(LeRobotDataSet(tmp_path / "set").episodes(), store.episode_ids(), strict=True):
        assert_same_episode(episode, store.read(episode_id))
    with pytest.raises(ConfigError, match="value_version is 7"):
        export_lerobot(store, store.episode_ids(), tmp_path / "other", config)


def test_lossy_video_is_close(tmp_path):
    gradient = np.linspace(0, 255, 64).astype(np.uint8)
    frame = np.stack(np.broadcast_arrays(gradient[:, None], gradient[None], np.uint8(90)), axis=-1)
    spec = replace(SPEC, cameras=(CameraSpec(name="front", height_px=64, width_px=64),))
    episode = random_episode(3, steps=5, spec=spec)
    episode = replace(episode, images={"front": np.repeat(frame[None], 6, axis=0)})
    store = EpisodeStore(tmp_path / "store")
    store.append(episode)
    for codec in (VideoCodec.H264, VideoCodec.AV1):
        export_lerobot(store, store.episode_ids(), tmp_path / codec.value, LeRobotExportConfig(codec=codec))
        found = next(LeRobotDataSet(tmp_path / codec.value).episodes())
        assert np.abs(found.images["front"].astype(int) - episode.images["front"]).mean() < 4
        np.testing.assert_array_equal(found.images["front"][-1], frame)  # the last observation is exact


def test_an_export_that_fails_leaves_nothing(store, tmp_path, monkeypatch):
    def fill_disk(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lerobot_export, "write_extras", fill_disk)
    with pytest.raises(StorageFullError, match="the data set"):
        export_lerobot(store, store.episode_ids(), tmp_path / "set", LOSSLESS[LeRobotVersion.V30])
    assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_export_left_is_no_data_set_and_is_replaced(store, tmp_path):
    left = tmp_path / ".set.partial/meta"
    left.mkdir(parents=True)
    (left / "info.json").write_text("{}")
    export_lerobot(store, store.episode_ids()[:1], tmp_path / "set", LOSSLESS[LeRobotVersion.V30])
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert len(LeRobotDataSet(tmp_path / "set")) == 1


def test_what_cannot_be_exported_is_refused(store, tmp_path):
    config = LOSSLESS[LeRobotVersion.V30]
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        export_lerobot(store, store.episode_ids(), tmp_path / "there", config)
    with pytest.raises(ConfigError, match="no episode"):
        export_lerobot(store, [], tmp_path / "set", config)
    mixed = EpisodeStore(tmp_path / "mixed")
    other = replace(SPEC, action=replace(SPEC.action, control_hz=5.0))
    for seed, spec in enumerate((SPEC, other)):
        mixed.append(random_episode(seed, spec=spec))
    with pytest.raises(SpecError, match="action specification"):
        export_lerobot(mixed, mixed.episode_ids(), tmp_path / "set", config)
    with pytest.raises(ConfigError, match="data_file_mb is 0"):
        LeRobotExportConfig(data_file_mb=0)


def damage_video(root):
    path = next(root.rglob("*.mp4"))
    path.write_bytes(path.read_bytes()[:100])


def shorten_list(root):
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)


def drop_column(root):
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)


def drop_rows(root):
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: (root / "meta/info.json").unlink(), CorruptDataError, "is no LeRobot data set"),
        (lambda root: (root / "meta/info.json").write_text("{"), CorruptDataError, "cannot be read"),
        (lambda root: edit_info(root, lambda info: info.pop("fps")), CorruptDataError, "fps"),
        (lambda root: edit_info(root, lambda info: info.update(codebase_version="v1.6")), SchemaVersionError, "v1.6"),
        (lambda root: edit_info(root, lambda info: info.update(data_path="../{file_index}")), CorruptDataError, "outside"),
        (lambda root: edit_info(root, lambda info: info.update(data_path="{nothing}")), CorruptDataError, "filled in"),
        (lambda root: (root / "meta/tasks.parquet").unlink(), CorruptDataError, "tasks.parquet is missing"),
        (lambda root: (root / "meta/recap.parquet").write_bytes(b"no"), CorruptDataError, "recap.parquet cannot be read"),
        (lambda root: next(root.rglob("file-000.mp4")).unlink(), CorruptDataError, "is missing"),
        (lambda root: (root / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1junk"), CorruptDataError, "no Parquet"),
        (damage_video, CorruptDataError, "video .* cannot be decoded"),
        (shorten_list, CorruptDataError, "lists 2 episodes"),
        (drop_column, CorruptDataError, "lacks the columns"),
        (drop_rows, CorruptDataError, "the list of episodes says 4"),
    ],
)
def test_damage_is_named(altered, damage, error, message):
    root = altered()
    damage(root)
    with pytest.raises(error, match=message):
        list(LeRobotDataSet(root).episodes())


@pytest.mark.slow
def test_lerobot_itself_loads_the_export(exported, version):
    """lerobot needs another torch: VIVA_LEROBOT_PYTHON names an interpreter that has it, _V21 and _V30 one for a version."""
    interpreter = os.environ.get(f"VIVA_LEROBOT_PYTHON_{version.name}") or os.environ.get("VIVA_LEROBOT_PYTHON")
    if not interpreter:
        pytest.skip("VIVA_LEROBOT_PYTHON names no interpreter with lerobot")
    program = """
import json, sys
try:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
except ImportError:
    from lerobot.common.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("local/test", root=sys.argv[1])
item = data[5]
print(json.dumps([len(data), data.num_episodes, item["task"], item["action"].tolist(),
                  list(item["observation.images.wrist"].shape), int(item["frame_index"])]))
"""
    done = subprocess.run([interpreter, "-c", program, str(exported[version])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames, episodes, task, action, shape, index = json.loads(done.stdout.splitlines()[-1])
    assert (frames, episodes, task, shape, index) == (sum(STEPS), 3, "pick object 1", [3, 3, 5], 1)
    np.testing.assert_allclose(action, random_episode(1, steps=6).executed_action[1], rtol=1e-6)
