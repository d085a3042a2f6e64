"""Making batched environments by SIMPLER's public names; imports no simulator until it is called."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError
from envs.simpler.tasks import find_task

if TYPE_CHECKING:
    from mani_skill.vector.wrappers.gymnasium import ManiSkillVectorEnv

    from envs.simpler.batched.scene import BatchedScene

BATCHED_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "pick": "envs.simpler.batched.pick:BatchedPickScene",
        "move_near": "envs.simpler.batched.move_near:BatchedMoveNearScene",
        "drawer": "envs.simpler.batched.drawer:BatchedDrawerScene",
        "put_on": "envs.simpler.batched.put_on:BatchedPutOnScene",
    }
)
"""Task family -> where its scene class is; imported when one is made, as it imports the simulator."""
SIM_BACKENDS = ("auto", "physx_cuda", "physx_cpu")


def make_vec(
    name: str,
    *,
    num_envs: int = 1,
    sim_backend: str = "auto",
    assets: str = "builtin",
    obs_size: tuple[int, int] = (128, 128),
    auto_reset: bool = True,
    ignore_terminations: bool = False,
    max_episode_steps: int | None = None,
    render: bool = True,
    **task_arguments: Any,
) -> ManiSkillVectorEnv:
    """Make a task many times over, in one physics system; a Gymnasium ``VectorEnv`` as ManiSkill's, torch in and out.

    ``reset(seed=s)`` begins episodes s, s + 1, ..., the same ones as :func:`envs.simpler.make` has for these seeds; the
    environments' chains go on from there. ``envs.unwrapped.language_instructions()`` says what is asked.

    Args:
        name: a public name of the families in :data:`BATCHED_FAMILIES`.
        num_envs: how many.
        sim_backend: ``physx_cuda``; ``physx_cpu``: one after the other, for trying things out; or ``auto``: the GPU where there
            is one, else the CPU for a single environment.
        assets: ``"builtin"`` or ``"upstream"``.
        obs_size: height and width of the images, px.
        auto_reset: begin a new episode where one has ended.
        ignore_terminations: a success does not end an episode.
        max_episode_steps: time limit; the task's own if None.
        render: False gives no image.
        **task_arguments: instead of the task's own, see ``prepare`` of its scene class.

    Raises:
        ConfigError: an unknown name, a task not offered in batches, an unknown backend, or no GPU where one is needed.
        RendererError: no Vulkan driver.
        AssetError: files are missing or altered.

    Example:
        >>> make_vec("google_robot_pick_object", num_envs=4)
        Traceback (most recent call last):
        ...
        core.errors.ConfigError: 'google_robot_pick_object' is not offered in batches; families that are: pick, move_near, \
drawer, put_on. One environment a process: envs.simpler.make
    """
    task = find_task(name)
    if task.family not in BATCHED_FAMILIES:
        raise ConfigError(
            f"{name!r} is not offered in batches; families that are: {', '.join(BATCHED_FAMILIES)}. "
            "One environment a process: envs.simpler.make"
        )
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}; expected at least 1")
    backend = _backend(sim_backend, num_envs)
    from envs.vulkan import ensure_renderer

    ensure_renderer()
    from mani_skill.vector.wrappers.gymnasium import ManiSkillVectorEnv
    from sapien import physx

    from envs.simpler.assets import load_asset_set
    from envs.simpler.batched.serial import SerialScenes

    if backend == "physx_cuda" and not physx.is_gpu_enabled():
        physx.enable_gpu()  # before the scene with one environment that the batch is made from
    module, _, class_name = BATCHED_FAMILIES[task.family].partition(":")
    scene_class: type[BatchedScene] = getattr(import_module(module), class_name)
    starts = scene_class.prepare(load_asset_set(assets), **(dict(task.kwargs) | task_arguments))

    def build(count: int) -> BatchedScene:
        return scene_class(
            starts,
            num_envs=count,
            obs_size=obs_size,
            max_episode_steps=max_episode_steps or task.max_episode_steps,
            sim_backend=backend,
            render_backend="sapien_cuda" if backend == "physx_cuda" else "sapien_cpu",
            render=render,
        )

    is_serial = backend == "physx_cpu" and num_envs > 1
    env = SerialScenes([build(1) for _ in range(num_envs)]) if is_serial else build(num_envs)
    return ManiSkillVectorEnv(env, auto_reset=auto_reset, ignore_terminations=ignore_terminations)


def has_gpu() -> bool:
    """Whether there is a CUDA device that torch can use."""
    import torch

    return torch.cuda.is_available()


def _backend(wanted: str, num_envs: int) -> str:
    if wanted not in SIM_BACKENDS:
        raise ConfigError(f"sim_backend={wanted!r}; known are {', '.join(SIM_BACKENDS)}")
    backend = ("physx_cuda" if has_gpu() else "physx_cpu") if wanted == "auto" else wanted
    if backend == "physx_cuda" and not has_gpu():
        raise ConfigError("sim_backend='physx_cuda' needs a CUDA device that torch can use, and there is none")
    if wanted == "auto" and backend == "physx_cpu" and num_envs > 1:
        raise ConfigError(
            f"num_envs={num_envs} needs a CUDA device that torch can use, and there is none; sim_backend='physx_cpu' runs them "
            "one after the other, for trying things out. Several processes: actors.evaluate, or gymnasium's AsyncVectorEnv "
            "around envs.simpler.make"
        )
    return backend
