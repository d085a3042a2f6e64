"""A small ViVa and windows whose square says how far along the task is, for the tests of models/viva.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from model_toys import CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts, square_images
from value_toys import INSTRUCTION, LATENTS

from core.ids import EpisodeId
from core.windows import WindowBatch
from models.viva import Viva, VivaConfig


def toy_config(**changes):
    return VivaConfig(**{**LATENTS, **changes})


def toy_model(seed=0, env_spec=ENV_SPEC, **changes):
    torch.manual_seed(seed)
    return Viva(toy_config(**changes), env_spec, *small_parts())


def toy_windows(count=6, seed=0, x=None, instruction=INSTRUCTION):
    """A square at ``x`` (0 left .. 1 right); the state follows it, and is further right in the future."""
    rng = np.random.default_rng(seed)
    x = rng.random(count) if x is None else np.asarray(x, float)
    centres = np.stack([5 + x * (WIDTH - 10), np.full(len(x), HEIGHT / 2)], axis=1)
    state = np.zeros((len(x), 2, STATE_DIM), np.float32)
    state[:, 0, 0], state[:, 1, 0] = 4 * x - 2, 4 * np.minimum(1, x + 0.2) - 2
    return WindowBatch(
        images={CAMERA: square_images(centres, rng)[:, None]},
        state=state,
        action=np.zeros((len(x), 0, 3), np.float32),
        action_is_pad=np.zeros((len(x), 0), bool),
        instruction=(instruction,) * len(x),
        episode_id=(EpisodeId("0" * 32),) * len(x),
        t=np.arange(len(x)),
    )


def subset(windows, rows):
    return dataclasses.replace(
        windows,
        images={CAMERA: windows.images[CAMERA][rows]},
        state=windows.state[rows],
        action=windows.action[rows],
        action_is_pad=windows.action_is_pad[rows],
        instruction=tuple(np.array(windows.instruction)[rows]),
        episode_id=tuple(np.array(windows.episode_id)[rows]),
        t=windows.t[rows],
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seen_by_the_network(model, call):
    """What ``call`` gives the transformer: latents, diffusion times, text."""
    seen = []
    handle = model.transformer.register_forward_pre_hook(lambda module, args: seen.append([a.detach().clone() for a in args]))
    call()
    handle.remove()
    return seen
