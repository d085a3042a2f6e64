"""SIMPLER with many environments in one physics system: the tasks of :mod:`envs.simpler` on ManiSkill's GPU backend."""
