"""What all tests share: one thread each, no statistics sent, and which marked tests this machine can run."""

from __future__ import annotations

import os

# Before anything imports numpy, torch or ray, which read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import pytest

from core.errors import RendererError
from envs.vulkan import ensure_renderer


@pytest.hookimpl(trylast=True)  # after -m has deselected
def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, with the reason. In CI a missing renderer is a failure instead: set-up makes one."""
    sim = [item for item in items if item.get_closest_marker("sim")]
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if sim:
        try:
            ensure_renderer()
        except RendererError as error:
            if not os.environ.get("CI"):
                _skip(sim, f"no renderer: {error}")
    if gpu:
        import torch

        if not torch.cuda.is_available():
            _skip(gpu, "no CUDA device")


def _skip(items, reason):
    for item in items:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def ray_cluster():
    """Ray on this machine with 2 CPUs; down again after the module, because some modules start clusters of other sizes."""
    from cluster.launch import RayConfig, start_ray, stop_ray

    start_ray(RayConfig(num_cpus=2, object_store_mb=200))
    yield
    stop_ray()
