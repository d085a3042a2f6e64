"""The four value models, small, and clips of a square that moves: what is left of the way is the value."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from model_toys import CAMERA, ENV_SPEC, HEIGHT, STATE_DIM, WIDTH, small_parts, square_images

from configs import build
from configs.load import load_config
from core.experience import Collection
from core.ids import EpisodeId
from core.windows import WindowBatch
from learners.batch import ValueBatches
from learners.train_state import OptimizerConfig
from learners.value_learner import ValueLearner
from models import presets
from models.normalization import Normalization
from models.value_config import ValueKind
from models.viva import VivaConfig
from models.vlm_value import VlmValueConfig
from models.wvm import WvmConfig
from replay.sampler import MixConfig, WindowSampler
from value_service.returns import ReturnConfig, value_targets

INSTRUCTION = "go to the middle"
KINDS = [kind.value for kind in ValueKind]
LATENTS = {
    "image_height_px": HEIGHT,
    "image_width_px": WIDTH,
    "latent_channels": 24,
    "latent_px": 8,
    "text_length": 8,
    "text_dim": 16,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "ffn_dim": 64,
    "time_embed_dim": 16,
    "patch_height": 2,
}


def small_value_config(kind, **changes):
    """Of the model ``kind``, fit for model_toys' environment."""
    if kind == "wvm":
        return WvmConfig(**{**LATENTS, "value_width": 32, "value_ffn_dim": 64, **changes})
    if kind == "vlm":
        small = {"image_px": 32, "patch_px": 8, "text_length": 8, "text_dim": 16, "fusion_width": 32, "vision_width": 32}
        return VlmValueConfig(**{**small, **changes})
    variant = {"has_future_state": False, "has_state_input": False} if kind == "value_only" else {}
    return VivaConfig(**{**LATENTS, **variant, **changes})


def small_value_model(kind, seed=0, env_spec=ENV_SPEC, **changes):
    """With fresh weights."""
    torch.manual_seed(seed)
    normalization, codec, text = small_parts()
    return presets.build_value_model(small_value_config(kind, **changes), env_spec, normalization, codec, text)


def clip_windows(model, count=6, seed=0, start=None):
    """Windows of ``model``: a square moves right; and the values of its value offsets, [B] or [B, O]."""
    rng = np.random.default_rng(seed)
    start = rng.random(count) if start is None else np.asarray(start, float)
    spec = model.window_spec

    def phase(offsets):
        return np.clip(start[:, None] + 0.03 * np.array(offsets), 0, 1)

    x = phase(spec.image_offsets)
    centres = np.stack([5 + x * (WIDTH - 10), np.full(x.shape, HEIGHT / 2)], axis=-1)
    images = square_images(centres.reshape(-1, 2), rng).reshape(*x.shape, HEIGHT, WIDTH, 3)
    state = np.zeros((len(start), len(spec.state_offsets), STATE_DIM), np.float32)
    state[..., 0] = 4 * phase(spec.state_offsets) - 2
    windows = WindowBatch(
        images={CAMERA: images},
        state=state,
        action=np.zeros((len(start), 0, 3), np.float32),
        action_is_pad=np.zeros((len(start), 0), bool),
        instruction=(INSTRUCTION,) * len(start),
        episode_id=(EpisodeId("0" * 32),) * len(start),
        t=np.arange(len(start)),
    )
    target = (phase(spec.value_offsets) if spec.value_offsets else start) - 1
    return windows, target.astype(np.float32)


def window_rows(windows, rows):
    """Some of the windows."""
    return dataclasses.replace(
        windows,
        images={CAMERA: windows.images[CAMERA][rows]},
        **{name: getattr(windows, name)[rows] for name in ("state", "action", "action_is_pad", "t")},
        **{name: tuple(np.array(getattr(windows, name))[rows]) for name in ("instruction", "episode_id")},
    )


# -- the fake task ----------------------------------------------------------------------------------------------------


@functools.cache
def fake_config(kind=ValueKind.VIVA.value):
    """An experiment on the fake environment with that value model."""
    return load_config(None, [f"value.model={kind}"], family="fake")


def demonstrations(root, count):
    """A store at ``root`` with episodes of the scripted expert."""
    store = build.open_store(fake_config(), root, "w")
    runner = build.make_runner(fake_config(), "demonstrations", "w")
    for seed in range(count):
        store.append(runner.run_episode(seed, collection=Collection.DEMONSTRATION))
    return store


def fresh_model(kind, store):
    """As ``python -m learners.pretrain`` builds it."""
    config = fake_config(kind).value.selected()
    episode = store.read(store.episode_ids()[0])
    normalization = Normalization.fit(episode.executed_action, episode.state, episode.env_spec.action)
    codec = None if kind == "vlm" else presets.fit_codec(config, np.array(next(iter(episode.images.values()))))
    torch.manual_seed(0)
    return presets.build_value_model(config, episode.env_spec, normalization, codec)


def refit(model, store, path, *, version, num_steps=6):
    """Train on the returns of all episodes of ``store`` and publish to ``path``; gives the metrics of every step."""
    returns = ReturnConfig(task_length_steps=20)
    targets = {e: value_targets(store.info(e).num_steps, store.info(e).end, returns) for e in store.episode_ids()}
    learner = ValueLearner(model, OptimizerConfig(num_steps=num_steps, batch_size=8, warmup_steps=1), seed=0)
    windows = WindowSampler(store, MixConfig(), seed=0)
    batches = ValueBatches(windows, learner.model.window_spec, targets, batch_size=8)
    metrics = [learner.step(learner.draw(batches)) for _ in range(num_steps)]
    learner.publish(path, version=version, extra={})
    return metrics
