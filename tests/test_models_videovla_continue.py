"""Chunks that go on from committed actions: VideoVLA's prefix freezing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_toys import ACTION_DIM, generators, observation, small_policy

from core.errors import NonFiniteError, SpecError
from models.policy import ContinuingPolicy
from models.videovla_config import AttentionMask, Conditioning, NoiseCoupling, Sampler

WORDS = "go to the middle"
KEPT = np.float32([[0.01, -0.02, 1.0], [0.03, 0.015, -1.0]])


def chunk(policy, committed=None, seed=0, index=0):
    asked = [observation(index)], [WORDS], generators(seed)
    if committed is None:
        return policy.sample_actions(*asked)[0].actions
    return policy.continue_actions(*asked, [committed])[0].actions


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("coupling", NoiseCoupling)
def test_a_chunk_begins_with_what_is_committed_and_the_rest_answers_to_it(sampler, coupling):
    policy = small_policy(sampler=sampler, coupling=coupling)
    assert isinstance(policy, ContinuingPolicy)
    actions = chunk(policy, KEPT)
    np.testing.assert_array_equal(actions[:2], KEPT)
    assert np.abs(actions[2:] - chunk(policy)[2:]).max() > 1e-4
    assert np.abs(actions[2:] - chunk(policy, -KEPT)[2:]).max() > 1e-4


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_the_draw_itself_ends_at_what_is_committed(sampler, num_steps):
    policy = small_policy(sampler=sampler, denoise_steps=num_steps)
    _, drawn = policy._denoise([observation()], [WORDS], generators(0), [KEPT])
    torch.testing.assert_close(drawn[0, :2], torch.from_numpy(policy.normalization.action.normalize(KEPT)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [{}, {"guidance_scale": 2.0}, {"attention": AttentionMask.BLOCK_CAUSAL}, {"conditioning": Conditioning.CHANNELS}],
    ids=lambda changes: ", ".join(changes) or "default",
)
def test_nothing_committed_is_an_ordinary_draw(changes):
    policy = small_policy(**changes)
    np.testing.assert_array_equal(chunk(policy, np.zeros((0, ACTION_DIM), np.float32)), chunk(policy))


def test_chunks_of_a_batch_keep_their_own_actions():
    policy = small_policy()
    committed = [KEPT, np.zeros((0, ACTION_DIM), np.float32), KEPT[:1]]
    together = policy.continue_actions([observation(i) for i in range(3)], [WORDS] * 3, generators(5, 6, 7), committed)
    for index, (answer, kept) in enumerate(zip(together, committed, strict=True)):
        np.testing.assert_allclose(answer.actions, chunk(policy, kept, seed=5 + index, index=index), atol=1e-5)


@pytest.mark.parametrize(
    ("committed", "error", "words"),
    [
        ([], SpecError, "0 chunks, but 1 observations"),
        ([np.zeros((6, ACTION_DIM), np.float32)], SpecError, "expected \\(at most 5, 3\\)"),
        ([np.zeros((2, ACTION_DIM + 1), np.float32)], SpecError, "are \\(2, 4\\)"),
        ([np.full((1, ACTION_DIM), np.nan, np.float32)], NonFiniteError, "NaN"),
    ],
)
def test_what_cannot_have_been_committed_is_refused(committed, error, words):
    with pytest.raises(error, match=words):
        small_policy().continue_actions([observation()], [WORDS], generators(0), committed)
