"""Rectified flow: noising, the grid of diffusion times, and Euler sampling; pure functions of tensors.

Hops 5 and 8 of the tour, inside every flow-matching model.

symbol -> variable: tau ``tau`` (0 is data, 1 is noise; Wan's and ViVa's direction, opposite to WVM's and pi0's papers);
z_0 ``clean``; epsilon ``noise``; z_tau = (1 - tau) z_0 + tau epsilon ``noised``; u = epsilon - z_0 ``velocity``.

The grid and the Euler step are diffusers' ``FlowMatchEulerDiscreteScheduler``. Every call has an instance of its own: a
scheduler remembers its grid and its step, and the released ViVa code, which samples and trains with one, trains on the
sampler's grid after the first sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from core.errors import ConfigError
from models.noise import stratified

NUM_TRAIN_TIMESTEPS = 1000
"""Transformers are given tau times this."""


def shifted(u: float, shift: float) -> float:
    """Move a time towards noise: tau = s u / (1 + (s - 1) u); SD3, arXiv:2403.03206, Eq. (23).

    Args:
        u: in [0, 1].
        shift: s; 1 leaves u alone, 5 is Wan's.

    Example:
        >>> shifted(0.5, 5.0), shifted(1.0, 5.0)
        (0.8333333333333334, 1.0)
    """
    return shift * u / (1 + (shift - 1) * u)


@functools.lru_cache(maxsize=8)
def training_grid(shift: float) -> torch.Tensor:
    """The diffusion times of training, noisiest first: ``shifted(n / 1000)`` for n = 1000 .. 1.

    Returns:
        [1000] float32, from 1 downwards; do not write to it.

    Raises:
        ConfigError: if ``shift`` is not positive.
    """
    if not shift > 0:
        raise ConfigError(f"the shift of diffusion times is {shift}; expected a positive number (1: uniform, 5: Wan)")
    with torch.inference_mode(False):  # the first caller may be sampling; a cached inference tensor could never be trained with
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift).sigmas.clone()


def draw_tau(count: int, generator: torch.Generator, *, shift: float) -> torch.Tensor:
    """Draw a training time for each of ``count`` examples, uniformly from :func:`training_grid`.

    Stratified over the batch, see :func:`models.noise.stratified`.

    Returns:
        [count] float32 in (0, 1], on the generator's device.
    """
    index = (stratified(count, generator) * NUM_TRAIN_TIMESTEPS).long().clamp_max(NUM_TRAIN_TIMESTEPS - 1)
    return training_grid(shift).to(generator.device)[index]


def add_noise(clean: torch.Tensor, noise: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """z_tau = (1 - tau) z_0 + tau epsilon.

    Args:
        clean: [B, ...].
        noise: like ``clean``.
        tau: [B].
    """
    tau = tau.reshape(-1, *[1] * (clean.ndim - 1))
    return (1 - tau) * clean + tau * noise


def velocity_target(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The target u = epsilon - z_0, the same at every tau."""
    return noise - clean


def euler_sample(
    velocity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], noise: torch.Tensor, *, num_steps: int, shift: float
) -> torch.Tensor:
    """Follow the flow from noise to data in ``num_steps`` Euler steps.

    The times are ``shifted(n / num_steps)`` for n = num_steps .. 0. (Left to itself, diffusers' scheduler ends its last step
    at another tau: it shifts an already shifted smallest time.) One step from tau = 1 is ``noise - velocity(noise, 1)``.

    Args:
        velocity: (z [B, ...], tau float32 [B]) -> [B, ...].
        noise: [B, ...], where to start.
        num_steps: at least 1.
        shift: as in training, see :func:`shifted`.

    Returns:
        [B, ...] float32.

    Raises:
        ConfigError: if ``num_steps`` is less than 1.
    """
    if num_steps < 1:
        raise ConfigError(f"{num_steps} denoising steps; expected at least 1")
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, num_steps + 1)[:-1].tolist())
    z = noise.float()
    for tau, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):  # sigmas has the final 0 as well
        predicted = velocity(z, tau.to(z.device).expand(len(z)))
        z = scheduler.step(predicted.float(), timestep, z, return_dict=False)[0]
    return z
