"""A small environment specification, small frames and small models for the tests of models/."""

from __future__ import annotations

import numpy as np
import torch

from core.experience import Observation
from core.ids import EpisodeId
from core.labels import Indicator
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from core.windows import WindowBatch
from models.codecs import PatchCodec
from models.normalization import Normalization
from models.text import HashedText
from models.videovla import VideoVla
from models.videovla_config import VideoVlaConfig

CAMERA = "overhead_camera"
HEIGHT, WIDTH = 32, 40
ACTION_DIM, STATE_DIM = 3, 4
WORDS = "go to the middle"
POSITIVE = np.full(8, Indicator.POSITIVE, np.int8)

ENV_SPEC = EnvSpec(
    cameras=(CameraSpec(name=CAMERA, height_px=HEIGHT, width_px=WIDTH),),
    state=StateSpec(names=("x", "y", "z", "closed"), units=("m", "m", "m", "1")),
    action=ActionSpec(
        names=("dx", "dy", "gripper"), units=("m", "m", "1"), low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0), control_hz=3.0
    ),
)


def square_images(centres, rng):
    """Grey noise with a red 8 px square at centres [N, 2] (x, y), uint8 [N, H, W, 3]."""
    images = rng.integers(90, 110, (len(centres), HEIGHT, WIDTH, 3), dtype=np.uint8)
    for image, (x, y) in zip(images, np.asarray(centres, int), strict=True):
        image[y - 4 : y + 4, x - 4 : x + 4] = (220, 30, 30)
    return images


def square_windows(count, rng, horizon=6):
    """The square says what to do: dx, dy lead to the middle of the image, the gripper closes where it is near.

    The future frame shows the square in the middle.
    """
    centres = rng.uniform((5, 5), (WIDTH - 5, HEIGHT - 5), (count, 2))
    offset = (np.array([WIDTH / 2, HEIGHT / 2]) - centres) / 100
    gripper = np.where(np.abs(offset).max(axis=1) < 0.08, 1.0, -1.0)
    action = np.repeat(np.concatenate([offset, gripper[:, None]], axis=1)[:, None], horizon, axis=1).astype(np.float32)
    middle = np.full((count, 2), (WIDTH // 2, HEIGHT // 2))
    return WindowBatch(
        images={CAMERA: np.stack([square_images(centres, rng), square_images(middle, rng)], axis=1)},
        state=np.zeros((count, 1, STATE_DIM), np.float32),
        action=action,
        action_is_pad=np.zeros((count, horizon), bool),
        instruction=(WORDS,) * count,
        episode_id=(EpisodeId("0" * 32),) * count,
        t=np.zeros(count, np.int64),
    )


def small_config(**changes):
    """20 video tokens a frame, 32 channels, 2 layers."""
    return VideoVlaConfig(
        **{
            "image_height_px": HEIGHT,
            "image_width_px": WIDTH,
            "latent_channels": 24,
            "latent_px": 8,
            "text_length": 8,
            "text_dim": 16,
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "time_embed_dim": 16,
            "denoise_steps": 4,
            **changes,
        }
    )


def small_parts(seed=0):
    """Normalisation, codec and text that fit small_config."""
    rng = np.random.default_rng(seed)
    windows = square_windows(64, rng)
    states = rng.normal(size=(64, STATE_DIM)).astype(np.float32)
    return (
        Normalization.fit(windows.action.reshape(-1, ACTION_DIM), states),
        PatchCodec.fit(windows.images[CAMERA].reshape(-1, HEIGHT, WIDTH, 3), patch_px=8, channels=24),
        HashedText(length=8, dim=16),
    )


def small_policy(seed=0, env_spec=ENV_SPEC, **changes):
    """A VideoVLA with random weights everywhere, so that every part of it matters."""
    torch.manual_seed(seed)
    policy = VideoVla(small_config(**changes), env_spec, *small_parts())
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.normal_(std=0.2)
    return policy


def observation(index=0, rng=None):
    """One observation with a square somewhere."""
    rng = rng or np.random.default_rng(index)
    centre = rng.uniform((5, 5), (WIDTH - 5, HEIGHT - 5), (1, 2))
    return Observation(images={CAMERA: square_images(centre, rng)[0]}, state=np.zeros(STATE_DIM, np.float32), time_s=float(index))


def generators(*seeds):
    """One torch generator a seed."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def chunk(policy, seed=0, index=0):
    """[H, A]: what a policy answers to one observation."""
    return policy.sample_actions([observation(index)], [WORDS], generators(seed))[0].actions
