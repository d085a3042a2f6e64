"""How far from a plain memory map are random window reads, and how fast is a durable commit?"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from rich.progress import track

import replay.zarr_codec  # noqa: F401 (registers the codec)
from benchmarks.report import write_report
from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.ids import EpisodeId
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from core.windows import WindowSpec
from replay.durable import flush_tree
from replay.episode_store import EpisodeStore, EpisodeStoreConfig, ImageEncoding
from replay.schema import EPISODES_FOLDER, METADATA_FILE

WINDOW = WindowSpec(image_offsets=(0, 6), state_offsets=(0,), action_horizon=6)
CAMERAS = ("overhead", "wrist")
BATCH = 32
ZARR_BATCH = 4
READS = 50
COMMITS = 7


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size of frames."""

    height_px: int
    width_px: int
    episodes: int = 16
    steps: int = 60

    def __str__(self) -> str:
        return f"{len(CAMERAS)} x {self.height_px}x{self.width_px}"


@dataclass
class Timings:
    """Wall and processor seconds of each repetition, by way."""

    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, ways: dict[str, tuple[int, Callable[[], Any]]], rng: np.random.Generator) -> None:
        """Run every way once, in random order; each comes with the number of things that one run does."""
        for name in map(str, rng.permutation(list(ways))):
            count, run = ways[name]
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            self.wall_s.setdefault(name, []).append((time.perf_counter() - wall) / count)
            self.cpu_s.setdefault(name, []).append((time.process_time() - cpu) / count)

    def rows(self, case: Case, ways: Sequence[str], unit_s: float) -> list[tuple[str, ...]]:
        """A line a way, compared with the first."""
        limit_wall, limit_cpu = statistics.median(self.wall_s[ways[0]]), statistics.median(self.cpu_s[ways[0]])
        rows: list[tuple[str, ...]] = []
        for way in ways:
            wall, cpu = statistics.median(self.wall_s[way]), statistics.median(self.cpu_s[way])
            numbers = f"{wall / unit_s:.0f}", f"{wall / limit_wall:.2f}", f"{cpu / unit_s:.0f}", f"{cpu / limit_cpu:.2f}"
            rows.append((str(case), way, *numbers))
        return rows


def make_episode(case: Case, seed: int) -> Episode:
    """Synthetic frames: a gradient, a moving square, a little noise; about as compressible as a render."""
    rng = np.random.default_rng(seed)
    spec = EnvSpec(
        cameras=tuple(CameraSpec(name=name, height_px=case.height_px, width_px=case.width_px) for name in CAMERAS),
        state=StateSpec(names=tuple(f"q{i}" for i in range(8)), units=("rad",) * 8),
        action=ActionSpec(
            names=tuple(f"a{i}" for i in range(7)), units=("1",) * 7, low=(-1.0,) * 7, high=(1.0,) * 7, control_hz=3.0
        ),
    )
    return Episode.of_one_source(
        Source.POLICY,
        images={name: _film(case, rng) for name in CAMERAS},
        state=rng.normal(size=(case.steps + 1, 8)).astype(np.float32),
        executed_action=rng.normal(size=(case.steps, 7)).astype(np.float32),
        policy_version=0,
        instruction="pick",
        end=EpisodeEnd.SUCCESS,
        env_spec=spec,
        provenance=Provenance(env="synthetic", task="bench", seed=seed, collection=Collection.ROLLOUT),
    )


def _film(case: Case, rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[: case.height_px, : case.width_px]
    ground = 60 + 120 * np.stack([x / case.width_px, y / case.height_px, (x + y) / (case.width_px + case.height_px)], axis=-1)
    noise = rng.normal(scale=2.0, size=(4, *ground.shape))
    side = case.height_px // 5
    film = np.empty((case.steps + 1, case.height_px, case.width_px, 3), np.uint8)
    for t in range(case.steps + 1):
        left = t * (case.width_px - side) // (case.steps + 1)
        film[t] = ground + noise[rng.integers(len(noise))]
        film[t, 2 * side : 3 * side, left : left + side] = (200, 40, 40)
    return film


class MemoryMap:
    """The limit: one flat file an array, mapped once, copied into buffers made once; no padding, clipping or checks."""

    def __init__(self, root: Path, episodes: Sequence[Episode], case: Case) -> None:
        root.mkdir()
        self._maps = []
        for number, episode in enumerate(episodes):
            maps = {}
            for name, array in _used_arrays(episode).items():
                array.tofile(root / f"{number}.{name}")
                # A plain array over the map: np.memmap itself is slower to index, which would flatter us.
                maps[name] = np.asarray(np.memmap(root / f"{number}.{name}", array.dtype, mode="r", shape=array.shape))
            self._maps.append(maps)
        num_frames = len(WINDOW.image_offsets)
        self._images = {n: np.empty((BATCH, num_frames, case.height_px, case.width_px, 3), np.uint8) for n in CAMERAS}
        self._state = np.empty((BATCH, 1, 8), np.float32)
        self._action = np.empty((BATCH, WINDOW.action_horizon, 7), np.float32)

    def read(self, episode: list[int], t: list[int]) -> dict[str, NDArray[np.uint8]]:
        for b, (number, start) in enumerate(zip(episode, t, strict=True)):
            maps = self._maps[number]
            for name, out in self._images.items():
                for f, offset in enumerate(WINDOW.image_offsets):
                    out[b, f] = maps[name][start + offset]
            self._state[b, 0] = maps["state"][start]
            self._action[b] = maps["action"][start : start + WINDOW.action_horizon]
        return self._images


class ZarrApi:
    """The store's own files read through zarr's indexing, arrays opened once."""

    def __init__(self, store: EpisodeStore, ids: Sequence[EpisodeId]) -> None:
        root: Any = zarr.open_group(store.root / EPISODES_FOLDER, mode="r")
        names = (*(f"images/{camera}" for camera in CAMERAS), "state", "executed_action")
        self._arrays = [{name: root[f"w0/{e}/{name}"] for name in names} for e in ids]

    def read(self, episode: list[int], t: list[int]) -> None:
        for number, start in zip(episode, t, strict=True):
            arrays = self._arrays[number]
            for camera in CAMERAS:
                for offset in WINDOW.image_offsets:
                    arrays[f"images/{camera}"][start + offset]
            arrays["state"][start]
            arrays["executed_action"][start : start + WINDOW.action_horizon]


def bench_reads(case: Case, root: Path, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Random windows through every way, each way the same windows."""
    episodes = [make_episode(case, seed) for seed in range(case.episodes)]
    ids = [episode.episode_id for episode in episodes]
    flat = MemoryMap(root / "flat", episodes, case)
    raw, jpeg = (_fill(root / encoding.value, encoding, episodes) for encoding in ImageEncoding)
    zarr_raw, zarr_jpeg = ZarrApi(raw, ids), ZarrApi(jpeg, ids)
    timings = Timings()
    last = case.steps - max(WINDOW.action_horizon, *WINDOW.image_offsets)
    for repeat in track(range(READS), f"{case}: reading", transient=True):
        episode, t = rng.integers(case.episodes, size=BATCH).tolist(), rng.integers(last + 1, size=BATCH).tolist()
        few, few_t = episode[:ZARR_BATCH], t[:ZARR_BATCH]
        wanted, at = [ids[e] for e in episode], np.array(t)
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "memory map": (BATCH, partial(flat.read, episode, t)),
            "raw": (BATCH, partial(raw.windows, wanted, at, WINDOW)),
            "JPEG": (BATCH, partial(jpeg.windows, wanted, at, WINDOW)),
            "zarr API, raw": (ZARR_BATCH, partial(zarr_raw.read, few, few_t)),
            "zarr API, JPEG": (ZARR_BATCH, partial(zarr_jpeg.read, few, few_t)),
        }
        if repeat == 0:
            limit, ours = flat.read(episode, t), raw.windows(wanted, at, WINDOW).images
            for camera in CAMERAS:
                np.testing.assert_array_equal(ours[camera], limit[camera])
        timings.measure(ways, rng)
    return timings.rows(case, list(ways), 1e-6)


def _fill(root: Path, encoding: ImageEncoding, episodes: Sequence[Episode]) -> EpisodeStore:
    """A store whose every frame was read once: maps are open and checksums compared, as after an epoch."""
    store = EpisodeStore(root, config=EpisodeStoreConfig(image_encoding=encoding))
    for episode in track(episodes, f"{encoding.value}: writing", transient=True):
        store.append(episode)
        at = np.arange(episode.num_steps + 1)
        store.windows([episode.episode_id] * len(at), at, WindowSpec())
    return store


def bench_commits(case: Case, root: Path, rng: np.random.Generator) -> list[tuple[str, ...]]:
    """The durable commit of one episode, by our writer and by zarr's into the same layout."""
    stores = {e: EpisodeStore(root / f"commit_{e.value}", config=EpisodeStoreConfig(image_encoding=e)) for e in ImageEncoding}
    first = make_episode(case, 0)
    layouts = {e: store.root / EPISODES_FOLDER / "w0" / store.append(first) for e, store in stores.items()}
    raw, jpeg = ImageEncoding.RAW, ImageEncoding.JPEG
    timings = Timings()
    for repeat in track(range(1, 1 + COMMITS), f"{case}: commits", transient=True):
        episode = make_episode(case, repeat)
        ways: dict[str, tuple[int, Callable[[], Any]]] = {
            "flat files": (1, partial(_write_flat, root / f"flat_{repeat}", episode)),
            "raw": (1, partial(stores[raw].append, episode)),
            "JPEG": (1, partial(stores[jpeg].append, episode)),
            "zarr API, raw": (1, partial(_write_zarr, root / f"zarr_raw_{repeat}", layouts[raw], episode)),
            "zarr API, JPEG": (1, partial(_write_zarr, root / f"zarr_jpeg_{repeat}", layouts[jpeg], episode)),
        }
        timings.measure(ways, rng)
    return timings.rows(case, list(ways), 1e-3)


def _used_arrays(episode: Episode) -> dict[str, NDArray[Any]]:
    return {**episode.images, "state": episode.state, "action": episode.executed_action}


def _write_flat(folder: Path, episode: Episode) -> None:
    folder.mkdir()
    for name, array in _used_arrays(episode).items():
        array.tofile(folder / name)
    flush_tree(folder)


def _write_zarr(folder: Path, layout: Path, episode: Episode) -> None:
    """The arrays of an episode through zarr's API: same metadata, same files, same flush; no digests, no log."""
    shutil.copytree(layout, folder, ignore=lambda _, names: [name for name in names if name.startswith("c.")])
    group: Any = zarr.open_group(folder, mode="r+", use_consolidated=False)
    for name in {metadata.parent.name for metadata in layout.glob(f"*/{METADATA_FILE}")} - {"images"}:
        group[name][...] = getattr(episode, name)
    for camera, frames in episode.images.items():
        group[f"images/{camera}"][...] = frames
    flush_tree(folder)


def main() -> None:
    """Two sizes of frames: the tiny preset's and the 5b preset's."""
    reads: list[tuple[str, ...]] = []
    commits: list[tuple[str, ...]] = []
    rng = np.random.default_rng(0)
    for case in (Case(height_px=128, width_px=160), Case(height_px=256, width_px=256)):
        with tempfile.TemporaryDirectory(prefix=".bench_replay_", dir=Path.cwd()) as folder:
            reads += [("window read", *row, "µs") for row in bench_reads(case, Path(folder), rng)]
            commits += [("commit", *row, "ms") for row in bench_commits(case, Path(folder), rng)]
    write_report(
        "replay",
        question="How far from a plain memory map are random window reads, and how fast is a durable commit?",
        headings=("what", "images", "way", "wall", "x first", "processor", "x first", "unit"),
        rows=reads + commits,
        notes=(
            f"A window is frames t and t+6 of {len(CAMERAS)} cameras, one state and 6 actions, anywhere in 16 episodes of 60 "
            f"steps; {BATCH} windows a call ({ZARR_BATCH} for zarr's API), {READS} calls of each way.",
            f"A commit is one episode of 60 steps, forced to disk; {COMMITS} of each way.",
            "Ways take turns in random order and get the same windows; figures are medians; 'x first' compares with the first "
            "way of the same size in this run.",
            "Goals: raw at most 1.2, JPEG at most 8 times the memory map; commits at least twice as fast as through zarr.",
            "Processor time leaves out waiting for other programs on the machine, which long calls meet more often than short "
            "ones; it adds up all threads of the process.",
            "The memory map copies into buffers made once and checks nothing; flat files are the same arrays without metadata.",
            "Page cache warm, every frame read once before (the first read of a frame also compares its checksum). Frames are "
            "synthetic.",
        ),
    )
