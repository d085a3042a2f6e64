"""The benchmark still runs, at a size where its times mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import bench_replay


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench_replay, "READS", 1)
    monkeypatch.setattr(bench_replay, "COMMITS", 1)
    return bench_replay.Case(height_px=10, width_px=10, episodes=2, steps=8)


def test_every_way_of_reading_and_committing_is_compared_with_the_first(tmp_path, small):
    rng = np.random.default_rng(0)
    reads = bench_replay.bench_reads(small, tmp_path, rng)
    commits = bench_replay.bench_commits(small, tmp_path, rng)
    assert [row[1] for row in reads] == ["memory map", "raw", "JPEG", "zarr API, raw", "zarr API, JPEG"]
    assert [row[1] for row in commits] == ["flat files", "raw", "JPEG", "zarr API, raw", "zarr API, JPEG"]
    assert reads[0][3] == commits[0][3] == "1.00"
    ours = max((tmp_path / "commit_raw/episodes/w0").glob("*/"), key=lambda folder: folder.stat().st_mtime)
    theirs = tmp_path / "zarr_raw_1"
    written = [file.relative_to(theirs) for file in theirs.rglob("c.*")]
    assert len(written) >= 6, "zarr leaves out arrays of zeros"
    for name in written:
        assert (theirs / name).read_bytes() == (ours / name).read_bytes(), name
