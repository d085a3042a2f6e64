"""Draws for VideoVLA: which diffusion times a draw visits, and diffusers' solvers that step between them.

Inside hop 2 of the tour, called by models/videovla.py. Solvers of second order remember their last step, so video and actions
have a :class:`Trajectory` each, made anew for every draw.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler, DPMSolverMultistepScheduler

from models.videovla_config import NoiseCoupling, NoiseScheduleConfig, Sampler, VideoVlaConfig


@dataclass(frozen=True, kw_only=True)
class DenoiseStep:
    """One pass of the network: at which times, and what moves on after it."""

    video_tau: int
    action_tau: int
    moves_video: bool
    moves_actions: bool


def denoise_steps(config: VideoVlaConfig) -> Iterator[DenoiseStep]:
    """The passes of one draw: both together, or first the video beside pure-noise actions and then the actions."""
    times = _times(config.sampler, config.noise, config.denoise_steps)
    if config.coupling is NoiseCoupling.SYNCHRONOUS:
        for tau in times:
            yield DenoiseStep(video_tau=tau, action_tau=tau, moves_video=True, moves_actions=True)
        return
    for tau in times:
        yield DenoiseStep(video_tau=tau, action_tau=times[0], moves_video=True, moves_actions=False)
    for tau in times:
        yield DenoiseStep(video_tau=0, action_tau=tau, moves_video=False, moves_actions=True)


class Trajectory:
    """One tensor on its way from noise to data.

    Example:
        >>> trajectory = Trajectory(config, [torch.Generator()])
        >>> for tau in (999, 749, 499, 249): z = trajectory.step(velocity(z, tau), z)
    """

    def __init__(self, config: VideoVlaConfig, generators: Sequence[torch.Generator]) -> None:
        """Be at the noisiest time.

        Args:
            config: sampler, noise schedule and number of steps.
            generators: one an example; the stochastic sampler draws from them.
        """
        self._sampler = config.sampler
        self._generators = list(generators)
        self._scheduler = _scheduler(config.sampler, config.noise)
        self._scheduler.set_timesteps(config.denoise_steps)
        if config.sampler is Sampler.DPM:  # else it looks its place up by tau, which several steps may round to
            self._scheduler.set_begin_index(0)
        self._times = _times(config.sampler, config.noise, config.denoise_steps)
        self._step = 0
        self._clean: torch.Tensor | None = None

    def step(self, velocity: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Move ``sample`` [B, ...] to the next time, by the ``velocity`` [B, ...] predicted at this one."""
        tau, earlier = self._times[self._step], self._times[self._step - 1] if self._step else None
        self._step += 1
        if self._sampler is Sampler.DPM_SDE:
            moved, self._clean = self._scheduler.step(
                velocity, self._clean, tau, earlier, sample, generator=self._generators, return_dict=False
            )
            return moved
        moved = self._scheduler.step(velocity, tau, sample, return_dict=False)[0]
        return moved


@functools.lru_cache(maxsize=16)
def _times(sampler: Sampler, noise: NoiseScheduleConfig, count: int) -> tuple[int, ...]:
    """From the noisiest time downwards."""
    scheduler = _scheduler(sampler, noise)
    scheduler.set_timesteps(count)
    return tuple(int(tau) for tau in scheduler.timesteps)


def _scheduler(sampler: Sampler, noise: NoiseScheduleConfig) -> Any:
    """A fresh scheduler of diffusers with exactly the noise of training."""
    training = noise.scheduler()
    if sampler is Sampler.DDIM:
        return training
    if sampler is Sampler.DPM_SDE:
        return CogVideoXDPMScheduler.from_config(training.config)
    # It knows no shift of the signal-to-noise ratio, so it is given the steps that end in the very same noise.
    alphas = training.alphas_cumprod
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    return DPMSolverMultistepScheduler(
        num_train_timesteps=noise.num_train_timesteps,
        trained_betas=betas.tolist(),
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        use_lu_lambdas=True,
    )
