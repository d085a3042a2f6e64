"""The only place where an environment is chosen."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from core.errors import ConfigError
from core.specs import EnvSpec
from envs.real_config import RealEnvConfig
from envs.real_twin import TwinEnv
from envs.task_env import Expert, TaskEnv


@dataclass(frozen=True, kw_only=True)
class EnvConfig:
    """Which environment, and how it looks."""

    family: str = "simpler_google"
    """``simpler_google``, ``simpler_widowx``, ``maniskill``, ``fake`` or ``robot``."""
    task: str = ""
    """Task within the family; empty: the family's first."""
    assets: str = "builtin"
    """SIMPLER only: ``builtin`` (made by this project, nothing to download) or ``upstream`` (the benchmark's own files)."""
    image_height_px: int = 128
    image_width_px: int = 160
    backend: str = "native"
    """SIMPLER only: ``native``, or ``upstream``, the original ``simpler_env`` in an interpreter of its own."""
    upstream_python: str = ""
    """Of that backend: the interpreter."""
    robot: RealEnvConfig = field(default_factory=RealEnvConfig)
    """Of the family ``robot`` only."""


DEFAULT_TASKS = {
    "simpler_google": "google_robot_pick_standing_coke_can",
    "simpler_widowx": "widowx_spoon_on_towel",
    "maniskill": "PickCube-v1",
    "fake": "reach",
    "robot": "manipulation",
}
_SIMPLER_FAMILIES = ("simpler_google", "simpler_widowx")


def make_env(config: EnvConfig) -> TaskEnv:
    """Build the environment; simulators are imported only when asked for.

    Raises:
        ConfigError: unknown family (the nearest is named) or task.
        RendererError, AssetError: the simulator cannot run here; the message says what to do.
    """
    return _builder(config.family)(config)


def make_twin(config: EnvConfig, spec: EnvSpec) -> TwinEnv:
    """The simulated environment that practises for a robot.

    Args:
        config: of the robot, with ``robot.twin``.
        spec: of the robot; a policy's checkpoint names it.

    Raises:
        ConfigError, SpecError: if the translation is not complete, or the two do not fit.
    """
    twin = config.robot.twin
    if twin.family == "robot":
        raise ConfigError("env.robot.twin.family=robot; expected a simulation")
    env = make_env(replace(config, family=twin.family, task=twin.task))
    return TwinEnv(env, spec, twin, instruction=config.robot.instruction)


def make_expert(config: EnvConfig, *, seed: int, quality: str) -> Expert:
    """The scripted expert of a family.

    Args:
        config: the environment it will act in.
        seed: of its noise.
        quality: ``"clean"`` or ``"mixed"`` (a new draw of noise, aim error, hesitation and retry each episode).

    Raises:
        ConfigError: if the family has none.
    """
    if config.family in _SIMPLER_FAMILIES:
        from envs.simpler import experts

        return experts.make_expert(_simpler_task(config), quality, np.random.default_rng(seed))
    if config.family == "fake":
        from envs.fake import ScriptedReacher

        return ScriptedReacher(seed=seed, quality=quality)
    known = ", ".join((*_SIMPLER_FAMILIES, "fake"))
    raise ConfigError(f"env.family={config.family!r} has no scripted expert; families with one: {known}")


def task_of(config: EnvConfig) -> str:
    """The task's name, the family's first where the configuration leaves it open."""
    return config.task or DEFAULT_TASKS[config.family]


def _simpler_task(config: EnvConfig) -> str:
    """The task, which must be one of the family's robot."""
    from envs.simpler.embodiment import EMBODIMENTS
    from envs.simpler.tasks import find_task

    task = find_task(task_of(config))
    family = EMBODIMENTS[task.robot].family
    if family != config.family:
        raise ConfigError(f"env.task={task.name!r} belongs to env.family={family}, not {config.family}")
    return task.name


def _simpler(config: EnvConfig) -> TaskEnv:
    if config.backend == "upstream":
        from envs.simpler.upstream_backend import UpstreamTaskEnv

        return UpstreamTaskEnv(
            _simpler_task(config),
            python=config.upstream_python,
            image_height_px=config.image_height_px,
            image_width_px=config.image_width_px,
        )
    if config.backend != "native":
        raise ConfigError(f"env.backend={config.backend!r}; known are native, upstream")
    from envs.simpler.task_env import SimplerTaskEnv

    return SimplerTaskEnv(
        _simpler_task(config),
        assets=config.assets,
        image_height_px=config.image_height_px,
        image_width_px=config.image_width_px,
    )


def _maniskill(config: EnvConfig) -> TaskEnv:
    from envs.maniskill import ManiSkillTaskEnv

    return ManiSkillTaskEnv(task_of(config), image_height_px=config.image_height_px, image_width_px=config.image_width_px)


def _fake(config: EnvConfig) -> TaskEnv:
    from envs.fake import ReachEnv

    return ReachEnv(task_of(config), image_height_px=config.image_height_px, image_width_px=config.image_width_px)


def _robot(config: EnvConfig) -> TaskEnv:
    from envs.real_connect import open_real_env

    return open_real_env(
        config.robot, task=task_of(config), image_height_px=config.image_height_px, image_width_px=config.image_width_px
    )


_BUILDERS: dict[str, Callable[[EnvConfig], TaskEnv]] = {
    **dict.fromkeys(_SIMPLER_FAMILIES, _simpler),
    "maniskill": _maniskill,
    "fake": _fake,
    "robot": _robot,
}


def _builder(family: str) -> Callable[[EnvConfig], TaskEnv]:
    if family not in _BUILDERS:
        nearest = difflib.get_close_matches(family, _BUILDERS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(f"unknown env.family={family!r}; known are {', '.join(_BUILDERS)}{hint}")
    return _BUILDERS[family]
