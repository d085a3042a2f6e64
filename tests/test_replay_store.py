from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_episodes import ARRAYS, SPEC, assert_same_episode, episode_id, random_episode

import replay.zarr_codec  # noqa: F401 (registers the codec)
from core.errors import ConfigError, SpecError
from core.experience import EpisodeEnd, Source
from core.specs import CameraSpec
from core.windows import WindowSpec, episode_windows
from replay.episode_store import EpisodeStore, EpisodeStoreConfig, ImageEncoding, UnknownEpisodeError
from replay.sampler import MixConfig, WindowSampler
from replay.schema import EPISODES_FOLDER

JPEG = EpisodeStoreConfig(image_encoding=ImageEncoding.JPEG, jpeg_quality=90)


@pytest.mark.parametrize("seed", range(4))
def test_a_raw_episode_comes_back_exactly(tmp_path, seed):
    episode = random_episode(seed, annotations={"hesitation": [[1, 2]], "operator": "ä", "aim_error_m": 0.01, "retry": None})
    assert EpisodeStore(tmp_path).append(episode) == episode.episode_id
    assert_same_episode(EpisodeStore(tmp_path, writer_name="reader").read(episode.episode_id), episode)


def test_info_says_what_an_episode_is_without_reading_it(tmp_path):
    episode = random_episode(7, steps=6, sources=(Source.HUMAN,))
    store = EpisodeStore(tmp_path, writer_name="worker-3")
    info = store.info(store.append(episode))
    assert (info.num_steps, info.end, info.instruction) == (6, episode.end, "pick object 7")
    assert (info.provenance, info.env_spec, info.env_spec_digest) == (episode.provenance, SPEC, SPEC.digest)
    assert (info.num_human_steps, info.policy_version_min, info.policy_version_max) == (6, -1, -1)
    assert info.writer == "worker-3"
    assert info.num_bytes == sum(digest.num_bytes for digest in info.files.values()) > 0
    acted = store.info(store.append(random_episode(9, sources=(Source.POLICY,))))
    assert (acted.num_human_steps, acted.policy_version_min, acted.policy_version_max) == (0, 9, 9)


@pytest.mark.parametrize("config", [EpisodeStoreConfig(), JPEG])
def test_zarr_opens_every_array_and_sees_the_same(tmp_path, config):
    store = EpisodeStore(tmp_path, config=config)
    episode = store.read(store.append(random_episode(3)))
    group = zarr.open_group(tmp_path / EPISODES_FOLDER, mode="r")[f"w0/{episode.episode_id}"]
    for name in ARRAYS:
        np.testing.assert_array_equal(group[name][:], getattr(episode, name), err_msg=name)
    for camera, frames in episode.images.items():
        np.testing.assert_array_equal(group[f"images/{camera}"][:], frames)
        np.testing.assert_array_equal(group[f"images/{camera}"][1], frames[1])
        assert group[f"images/{camera}"].chunks == (1, *frames.shape[1:])
    assert group.attrs["instruction"] == episode.instruction


def test_a_shard_that_zarr_wrote_from_our_metadata_is_byte_for_byte_ours(tmp_path):
    store = EpisodeStore(tmp_path)
    episode = random_episode(5)
    store.append(episode)
    ours = tmp_path / EPISODES_FOLDER / "w0" / episode.episode_id / "images" / "wrist"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "zarr.json").write_bytes((ours / "zarr.json").read_bytes())
    zarr.open_array(theirs, mode="r+")[:] = episode.images["wrist"]
    assert (theirs / "c.0.0.0.0").read_bytes() == (ours / "c.0.0.0.0").read_bytes()


def test_jpeg_is_close_and_zarr_can_write_it_too(tmp_path):
    ramp = np.linspace(0, 255, 24, dtype=np.uint8)
    smooth = np.broadcast_to(ramp[:, None, None], (24, 24, 3)).copy()
    spec = replace(SPEC, cameras=(CameraSpec(name="front", height_px=24, width_px=24),))
    episode = replace(random_episode(1, steps=2, spec=spec), images={"front": np.stack([smooth, smooth[::-1], smooth])})
    store = EpisodeStore(tmp_path, config=JPEG)
    found = store.read(store.append(episode)).images["front"]
    assert np.abs(found.astype(int) - episode.images["front"]).max() <= 8
    folder = tmp_path / EPISODES_FOLDER / "w0" / episode.episode_id / "images" / "front"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "zarr.json").write_bytes((folder / "zarr.json").read_bytes())
    copy = zarr.open_array(tmp_path / "copy", mode="r+")
    copy[:] = episode.images["front"]
    np.testing.assert_array_equal(copy[:], found)


@pytest.fixture(scope="module", params=[EpisodeStoreConfig(), JPEG, EpisodeStoreConfig(max_open_shards=1, max_cached_episodes=1)])
def filled(request, tmp_path_factory):
    store = EpisodeStore(tmp_path_factory.mktemp("store"), config=request.param)
    ids = [store.append(random_episode(seed)) for seed in range(6)]
    return store, {e: store.read(e) for e in ids}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_equal_those_cut_from_episodes_in_memory(filled, data):
    store, episodes = filled
    spec = WindowSpec(
        image_offsets=tuple(data.draw(st.lists(st.integers(-20, 20), min_size=1, max_size=4))),
        state_offsets=tuple(data.draw(st.lists(st.integers(-20, 20), min_size=1, max_size=3))),
        action_horizon=data.draw(st.integers(0, 15)),
    )
    ids = data.draw(st.lists(st.sampled_from(sorted(episodes)), min_size=1, max_size=8))
    t = np.array([data.draw(st.integers(0, episodes[e].num_steps)) for e in ids])
    found = store.windows(ids, t, spec)
    for b, e in enumerate(ids):
        expected = episode_windows(episodes[e], t[b : b + 1], spec)
        for camera, images in expected.images.items():
            np.testing.assert_array_equal(found.images[camera][b], images[0])
        for name in ("state", "action", "action_is_pad"):
            np.testing.assert_array_equal(getattr(found, name)[b], getattr(expected, name)[0], err_msg=name)
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert (found.instruction[b], found.episode_id[b], found.t[b]) == (expected.instruction[0], e, t[b])


def test_the_memory_of_a_batch_is_used_again_only_when_nobody_holds_it(filled):
    store, episodes = filled
    spec = WindowSpec(image_offsets=(0, 1))
    ids = sorted(episodes)[:2]

    def images(t: int) -> np.ndarray:
        return store.windows(ids, np.array([t, t]), spec).images["wrist"]

    held = images(0)
    a_view = images(1)[1:, :, 0]
    exported = memoryview(images(0))
    copies = held.copy(), a_view.copy(), np.array(exported)
    addresses = {array.__array_interface__["data"][0] for array in (held, np.asarray(exported))}
    for _ in range(20):
        images(1)
    for kept, copy in zip((held, a_view, np.asarray(exported)), copies, strict=True):
        np.testing.assert_array_equal(kept, copy)
    free = images(0).__array_interface__["data"][0]
    assert free not in addresses
    assert images(1).__array_interface__["data"][0] == free


def test_open_files_are_bounded(tmp_path):
    store = EpisodeStore(tmp_path, config=EpisodeStoreConfig(max_open_shards=4))
    ids = [store.append(random_episode(seed, steps=3)) for seed in range(12)]
    spec = WindowSpec(action_horizon=2)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    store.windows(ids, np.zeros(12, np.int64), spec)
    assert len(os.listdir("/proc/self/fd")) - before <= 4  # noqa: PTH208


def test_appending_the_same_id_again_changes_nothing(tmp_path):
    episode = random_episode(1)
    store = EpisodeStore(tmp_path, writer_name="a")
    store.append(episode)
    store.append(episode)
    other = EpisodeStore(tmp_path, writer_name="b")
    other.append(episode)
    assert EpisodeStore(tmp_path).episode_ids() == (episode.episode_id,)
    assert not (tmp_path / EPISODES_FOLDER / "b" / episode.episode_id).exists()


def test_readers_see_what_two_writers_commit_in_an_order_that_depends_on_nothing_else(tmp_path):
    reader = EpisodeStore(tmp_path)
    a, b = (EpisodeStore(tmp_path, writer_name=name) for name in "ab")
    b.append(random_episode(1))
    reader.refresh()
    assert reader.episode_ids() == (episode_id(1),)
    a.append(random_episode(2))
    b.append(random_episode(3))
    a.append(random_episode(4))
    assert reader.episode_ids() == (episode_id(1),), "nothing changes before refresh"
    assert episode_id(4) not in reader
    reader.refresh()
    assert reader.episode_ids() == tuple(map(episode_id, (2, 4, 1, 3))) == EpisodeStore(tmp_path).episode_ids()
    assert len(reader) == 4


def test_a_writer_name_can_be_used_by_one_store_at_a_time(tmp_path):
    first = EpisodeStore(tmp_path, writer_name="w")
    first.append(random_episode(1))
    second = EpisodeStore(tmp_path, writer_name="w")
    assert second.episode_ids() == (episode_id(1),), "reading needs no lock"
    with pytest.raises(ConfigError, match=r"writer_name 'w' is in use.*give each writer its own name"):
        second.append(random_episode(2))
    first.close()
    second.append(random_episode(2))
    del second
    gc.collect()
    first.append(random_episode(3))
    assert len(first) == 3


def test_a_forked_child_cannot_append_to_its_parents_log(tmp_path):
    store = EpisodeStore(tmp_path, writer_name="w")
    store.append(random_episode(1))
    child = os.fork()
    if child == 0:
        try:
            store.append(random_episode(2))
        except ConfigError:
            os._exit(42)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    store.append(random_episode(3))
    assert EpisodeStore(tmp_path).episode_ids() == (episode_id(1), episode_id(3))


def test_a_store_without_a_writer_can_be_opened_and_is_empty(tmp_path):
    store = EpisodeStore(tmp_path / "new" / "store")
    assert store.episode_ids() == ()
    with pytest.raises(SpecError, match="nothing to sample: 0 episodes"):
        WindowSampler(store, MixConfig(), 0).sample(1, WindowSpec())


def test_wrong_requests_are_refused_with_the_value_named(tmp_path):
    store = EpisodeStore(tmp_path)
    one = store.append(random_episode(1, steps=3))
    other_spec = replace(SPEC, cameras=SPEC.cameras[:1])
    other = store.append(random_episode(2, steps=3, spec=other_spec))
    with pytest.raises(UnknownEpisodeError, match=f"no episode {episode_id(99)} among the 2"):
        store.read(episode_id(99))
    with pytest.raises(KeyError):
        store.info(episode_id(99))
    with pytest.raises(SpecError, match=rf"t\[1\] is 4; episode {one} has observations 0..3"):
        store.windows([one, one], np.array([3, 4]), WindowSpec())
    with pytest.raises(SpecError, match=f"{SPEC.digest} and {other_spec.digest}; a batch of windows needs one"):
        store.windows([one, other], np.array([0, 0]), WindowSpec())
    with pytest.raises(SpecError, match="windows of 0 episodes at t of shape"):
        store.windows([], np.zeros(0, np.int64), WindowSpec())


def test_wrong_episodes_and_settings_are_refused_and_leave_nothing(tmp_path):
    store = EpisodeStore(tmp_path)
    with pytest.raises(SpecError, match="cannot be stored as JSON"):
        store.append(random_episode(1, annotations={"poses": np.zeros(3)}))
    outside = replace(SPEC, cameras=(CameraSpec(name="../up", height_px=2, width_px=2),))
    with pytest.raises(SpecError, match=r"camera '../up' cannot be a folder name"):
        store.append(random_episode(2, spec=outside))
    assert store.episode_ids() == ()
    assert not list((tmp_path / ".staging" / "w0").iterdir())
    with pytest.raises(ConfigError, match=r"writer_name '../x'"):
        EpisodeStore(tmp_path, writer_name="../x")
    with pytest.raises(ConfigError, match="jpeg_quality is 0"):
        EpisodeStoreConfig(jpeg_quality=0)
    with pytest.raises(ConfigError, match="max_open_shards is 0"):
        EpisodeStoreConfig(max_open_shards=0)


def test_every_end_is_stored(tmp_path):
    store = EpisodeStore(Path(tmp_path))
    ids = [store.append(random_episode(seed)) for seed in range(len(EpisodeEnd))]
    assert {store.info(e).end for e in ids} == set(EpisodeEnd)
