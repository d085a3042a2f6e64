"""SIMPLER (Li et al. 2024, arXiv:2405.05941) on ManiSkill 3 / SAPIEN 3, with upstream's interface.

Code written for ``simpler_env`` runs unchanged::

    from envs import simpler

    env = simpler.make("google_robot_pick_coke_can", assets="upstream")
    obs, info = env.reset()
    image = simpler.get_image_from_maniskill2_obs_dict(env, obs)

Many environments in one physics system, for learners::

    envs = simpler.make_vec("google_robot_pick_coke_can", num_envs=256)

Importing this package imports no simulator; making an environment does.
"""

from envs.simpler.batched.make import make_vec
from envs.simpler.gym_env import SimplerGymEnv, get_image_from_maniskill2_obs_dict, make, register
from envs.simpler.tasks import ENVIRONMENTS, TASKS, TaskSpec

__all__ = [
    "ENVIRONMENTS",
    "TASKS",
    "SimplerGymEnv",
    "TaskSpec",
    "get_image_from_maniskill2_obs_dict",
    "make",
    "make_vec",
    "register",
]
