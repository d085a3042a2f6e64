from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from model_toys import ENV_SPEC, small_parts
from test_models_viva_convert import CONFIG, windows

from core.errors import ConfigError
from core.ids import EpisodeId
from models.latent_cache import LatentCache
from models.viva import Viva

BYTES = 24 * 4 * 5 * 4
"""A window's latents."""


def make(seed=0):
    torch.manual_seed(seed)
    model = Viva(CONFIG, ENV_SPEC, *small_parts())
    encode, model.num_encoded = model.codec.encode, []

    def counted(images):
        model.num_encoded.append(len(images))
        return encode(images)

    model.codec.encode = counted
    return model


def rows_of(batch, rows):
    return dataclasses.replace(
        batch,
        images={name: frames[rows] for name, frames in batch.images.items()},
        state=batch.state[rows],
        action=batch.action[rows],
        action_is_pad=batch.action_is_pad[rows],
        instruction=tuple(batch.instruction[row] for row in rows),
        episode_id=tuple(batch.episode_id[row] for row in rows),
        t=batch.t[rows],
    )


def test_second_labelling_encodes_nothing_and_says_the_same():
    plain, model, batch = make(), make(), windows(6)
    model.latent_cache = cache = LatentCache(10 * BYTES)
    for expected in ([6], [6]):
        np.testing.assert_array_equal(model.predict(batch).value, plain.predict(batch).value)
        assert model.num_encoded == expected
    assert (cache.num_misses, cache.num_hits, cache.num_bytes) == (6, 6, 6 * BYTES)


def test_only_what_is_new_is_encoded():
    plain, model, batch = make(), make(), windows(6)
    model.latent_cache = LatentCache(10 * BYTES)
    model.predict(rows_of(batch, [1, 3]))
    np.testing.assert_array_equal(model.predict(batch).value, plain.predict(batch).value)
    assert model.num_encoded == [2, 4]


def test_least_recently_used_are_dropped():
    model, batch = make(), windows(4)
    model.latent_cache = LatentCache(3 * BYTES)
    model.predict(rows_of(batch, [0, 1, 2]))
    model.predict(rows_of(batch, [0]))
    model.predict(rows_of(batch, [3]))
    assert model.latent_cache.num_bytes == 3 * BYTES
    model.num_encoded.clear()
    model.predict(rows_of(batch, [0, 2, 3]))
    assert model.num_encoded == []
    model.predict(rows_of(batch, [1]))
    assert model.num_encoded == [1]


def test_versions_share_it_but_other_codecs_do_not():
    cache, batch = LatentCache(100 * BYTES), windows(4)
    first, second = make(), make(seed=1)
    first.latent_cache = second.latent_cache = cache
    first.predict(batch)
    second.predict(batch)
    assert second.num_encoded == []
    third = make()
    third.codec = copy.deepcopy(small_parts(seed=5)[1])
    third.latent_cache = cache
    fresh = Viva(CONFIG, ENV_SPEC, third.normalization, third.codec, third.text, third.transformer)
    np.testing.assert_array_equal(third.predict(batch).value, fresh.predict(batch).value)
    assert cache.num_misses == 8


def test_live_observations_are_not_kept():
    model = make()
    model.latent_cache = LatentCache(100 * BYTES)
    live = dataclasses.replace(windows(3), episode_id=(EpisodeId(""),) * 3)
    model.predict(live)
    model.predict(live)
    assert model.num_encoded == [3, 3]
    assert model.latent_cache.num_bytes == 0


def test_a_batch_larger_than_the_cache_is_still_answered():
    plain, model, batch = make(), make(), windows(5)
    model.latent_cache = LatentCache(2 * BYTES)
    np.testing.assert_array_equal(model.predict(batch).value, plain.predict(batch).value)
    assert model.latent_cache.num_bytes == 2 * BYTES


def test_nothing_is_no_cache():
    with pytest.raises(ConfigError, match="a latent cache of 0 bytes; expected at least 1"):
        LatentCache(0)
