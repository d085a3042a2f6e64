"""Making batched environments by SIMPLER's public names; imports no simulator until it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core.errors import ConfigError
from envs.simpler.tasks import TASKS, find_task

if TYPE_CHECKING:
    from mani_skill.vector.wrappers.gymnasium import ManiSkillVectorEnv

BATCHED_FAMILIES = frozenset({"pick"})
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
    **scene: Any,
) -> ManiSkillVectorEnv:
    """Make a task many times over, in one physics system; a Gymnasium ``VectorEnv`` as ManiSkill's, torch in and out.

    Args:
        name: a public name of the families in :data:`BATCHED_FAMILIES`.
        num_envs: more than one needs a GPU.
        sim_backend: ``physx_cuda``, ``physx_cpu`` (one environment), or ``auto``: the GPU where there is one.
        assets: ``"builtin"`` or ``"upstream"``.
        obs_size: height and width of the images, px.
        auto_reset: begin a new episode where one has ended.
        ignore_terminations: a success does not end an episode.
        max_episode_steps: time limit; the task's own if None.
        **scene: see :class:`envs.simpler.batched.scene.BatchedScene` and its subclass for the task.

    Raises:
        ConfigError: an unknown name, a task not offered in batches, an unknown backend, or no GPU where one is needed.
        RendererError: no Vulkan driver.
        AssetError: files are missing or altered.

    Example:
        >>> make_vec("google_robot_open_drawer", num_envs=4)
        Traceback (most recent call last):
        ...
        core.errors.ConfigError: 'google_robot_open_drawer' is not offered in batches yet; offered are \
google_robot_pick_coke_can, google_robot_pick_horizontal_coke_can, google_robot_pick_vertical_coke_can, \
google_robot_pick_standing_coke_can. One environment a process: envs.simpler.make
    """
    task = find_task(name)
    if task.family not in BATCHED_FAMILIES:
        offered = ", ".join(other.name for other in TASKS.values() if other.family in BATCHED_FAMILIES)
        raise ConfigError(
            f"{name!r} is not offered in batches yet; offered are {offered}. One environment a process: envs.simpler.make"
        )
    if num_envs < 1:
        raise ConfigError(f"num_envs={num_envs}; expected at least 1")
    backend = _backend(sim_backend, num_envs)
    from envs.vulkan import ensure_renderer

    ensure_renderer()
    from mani_skill.vector.wrappers.gymnasium import ManiSkillVectorEnv
    from sapien import physx

    from envs.simpler.assets import load_asset_set
    from envs.simpler.batched.pick import BatchedPickScene

    if backend == "physx_cuda" and not physx.is_gpu_enabled():
        physx.enable_gpu()  # before the scene with one environment that settles the objects
    env = BatchedPickScene(
        num_envs=num_envs,
        assets=load_asset_set(assets),
        obs_size=obs_size,
        max_episode_steps=max_episode_steps or task.max_episode_steps,
        sim_backend=backend,
        render_backend="sapien_cuda" if backend == "physx_cuda" else "sapien_cpu",
        **(dict(task.kwargs) | scene),
    )
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
    if backend == "physx_cpu" and num_envs > 1:
        raise ConfigError(
            f"num_envs={num_envs} needs a CUDA device: on the CPU there is one environment a process; "
            "several processes: actors.evaluate, or gymnasium's AsyncVectorEnv around envs.simpler.make"
        )
    return backend
