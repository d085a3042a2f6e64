"""VideoVLA's loss: what is noised, masked, dropped and weighted; and that it teaches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from model_toys import (
    CAMERA,
    ENV_SPEC,
    POSITIVE,
    WORDS,
    chunk,
    generators,
    observation,
    small_config,
    small_parts,
    small_policy,
    square_windows,
)

from core.labels import Indicator
from models.videovla import VideoVla
from models.videovla_config import (
    AttentionMask,
    Conditioning,
    NoiseCoupling,
)


class TestLoss:
    def test_is_per_example_differentiable_and_reproducible(self):
        policy = small_policy()
        windows = square_windows(8, np.random.default_rng(0))
        losses = [policy.loss(windows, POSITIVE, torch.Generator().manual_seed(0)) for _ in range(2)]
        assert losses[0].per_example.shape == (8,)
        assert torch.equal(losses[0].per_example, losses[1].per_example)
        mean = float(losses[0].per_example.detach().mean())
        assert mean == pytest.approx(0.2 * losses[0].metrics["video_loss"] + losses[0].metrics["action_loss"], rel=1e-5)
        losses[0].per_example.mean().backward()
        assert all(parameter.grad is not None for parameter in policy.network.parameters())

    def test_padding_counts_for_nothing(self):
        policy = small_policy()
        windows = square_windows(8, np.random.default_rng(0))
        is_pad = np.zeros((8, 6), bool)
        is_pad[:, 4:] = True
        is_pad[7] = True
        rubbish = windows.action.copy()
        rubbish[is_pad] = 77
        losses = [
            policy.loss(
                dataclasses.replace(windows, action=action, action_is_pad=is_pad), POSITIVE, torch.Generator().manual_seed(0)
            ).per_example
            for action in (windows.action, rubbish)
        ]
        assert torch.equal(*losses)
        video_only = small_policy(video_weight=0.0).loss(
            dataclasses.replace(windows, action_is_pad=is_pad), POSITIVE, torch.Generator().manual_seed(0)
        )
        assert video_only.per_example[7] == 0
        assert (video_only.per_example[:7] > 0).all()

    def test_indicator_matters_unless_switched_off(self):
        windows = square_windows(8, np.random.default_rng(0))
        for use_indicator in (True, False):
            policy = small_policy(use_indicator=use_indicator)
            losses = [
                policy.loss(windows, np.full(8, indicator, np.int8), torch.Generator().manual_seed(0)).per_example
                for indicator in Indicator
            ]
            assert torch.equal(losses[0], losses[2]) != use_indicator
            assert torch.equal(losses[1], losses[2]) != use_indicator

    @pytest.mark.parametrize("conditioning", Conditioning)
    @pytest.mark.parametrize("coupling", NoiseCoupling)
    def test_perfect_prediction_has_no_loss(self, conditioning, coupling):
        """The target is v = sqrt(a) noise - sqrt(1 - a) clean, for each part at its own tau."""
        policy = small_policy(conditioning=conditioning, coupling=coupling)
        windows = square_windows(8, np.random.default_rng(0))
        alphas = policy._noise.alphas_cumprod.float()
        clean = policy.codec.encode_video(windows.images[CAMERA])
        actions, _ = policy._action_targets(windows)

        class Oracle(torch.nn.Module):
            action_in = policy.network.action_in

            def forward(self, present, video, noised_actions, text, video_tau, action_tau):
                def velocity(noised, x, tau):
                    shape = (-1,) + (1,) * (x.ndim - 1)
                    s, n = alphas[tau].sqrt().view(shape), (1 - alphas[tau]).sqrt().view(shape)
                    return s * (noised - s * x) / n - n * x

                assert torch.equal(present, clean[:, 0]), "the present is clean"
                assert torch.equal(video_tau, action_tau) == (coupling is NoiseCoupling.SYNCHRONOUS)
                supervised = clean if conditioning is Conditioning.CHANNELS else clean[:, 1:]
                return velocity(video, supervised, video_tau), velocity(noised_actions, actions, action_tau)

        policy.network = Oracle()
        loss = policy.loss(windows, POSITIVE, torch.Generator().manual_seed(0))
        assert float(loss.per_example.max()) < 1e-4

    def test_times_cover_the_whole_schedule(self):
        policy, seen = small_policy(coupling=NoiseCoupling.ASYNCHRONOUS), []
        policy.network.register_forward_hook(lambda _, inputs, __: seen.extend(tau.clone() for tau in inputs[4:6]))
        windows = square_windows(8, np.random.default_rng(0))
        for seed in range(20):
            policy.loss(windows, POSITIVE, torch.Generator().manual_seed(seed))
        for tau in seen:
            assert sorted((tau // 125).tolist()) == list(range(8)), "one in each eighth"
        first = torch.stack(seen)[:, 0].float()
        assert first.std() > 150, "and which example gets which is random"

    def test_condition_and_text_can_be_disturbed_in_training_only(self):
        policy, seen = small_policy(is_condition_noised=True, condition_dropout=0.3, text_dropout=0.3), []
        policy.network.register_forward_hook(lambda _, inputs, __: seen.append((inputs[0], inputs[3])))
        windows = square_windows(64, np.random.default_rng(0))
        policy.loss(windows, np.ones(64, np.int8), torch.Generator().manual_seed(0))
        clean = policy.codec.encode(windows.images[CAMERA][:, 0])
        told, text = seen[0]
        is_dropped = ~told.flatten(1).any(dim=1)
        assert 8 < is_dropped.sum() < 32
        difference = (told - clean).square().flatten(1).mean(dim=1)[~is_dropped]
        assert difference.min() > 0
        assert difference.median() < 1, "noise of about 6 grey levels"
        assert 8 < (~text.flatten(1).any(dim=1)).sum() < 32
        seen.clear()
        chunk(policy)
        assert torch.equal(seen[0][0], policy.codec.encode(observation(0).images[CAMERA][None]))
        assert seen[0][1].any()

    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"conditioning": Conditioning.CHANNELS, "num_robots": 3, "robot_id": 2},
            {"attention": AttentionMask.CAUSAL, "coupling": NoiseCoupling.ASYNCHRONOUS},
            {"attention": AttentionMask.BLOCK_CAUSAL},
        ],
        ids=["paper", "released", "causal_asynchronous", "block_causal"],
    )
    def test_falls_on_a_fixed_batch(self, form):
        torch.manual_seed(0)
        policy = VideoVla(small_config(**form), ENV_SPEC, *small_parts())
        windows = square_windows(8, np.random.default_rng(0))
        optimizer = torch.optim.AdamW(policy.network.parameters(), lr=5e-3)
        losses = []
        for step in range(40):
            loss = policy.loss(windows, POSITIVE, torch.Generator().manual_seed(step)).per_example.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:5])


@pytest.mark.slow
def test_learns_to_act_on_what_it_sees():
    """Sampled chunks come close to what the square's place asks for, and the imagined square is where it will be."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    policy = VideoVla(small_config(attention_head_dim=32), ENV_SPEC, *small_parts())
    optimizer = torch.optim.AdamW(policy.network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    steps = 300
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        loss = policy.loss(square_windows(32, rng), np.ones(32, np.int8), generator).per_example.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.network.parameters(), 1.0)
        optimizer.step()
    windows = square_windows(32, np.random.default_rng(99))
    observations = [dataclasses.replace(observation(0), images={CAMERA: frames[0]}) for frames in windows.images[CAMERA]]
    samples = policy.sample(observations, [WORDS] * 32, generators(*range(32)))
    answer = np.stack([sample.chunk.actions for sample in samples])
    wanted, got = (policy.normalization.action.normalize(a) for a in (windows.action, answer))
    assert np.sqrt(np.square(wanted - got)[..., :2].mean()) < 0.25
    assert (np.sign(wanted[..., 2]) == np.sign(got[..., 2])).mean() > 0.9
    redness = np.stack([sample.frames[CAMERA][0, 14:18, 18:22].mean(axis=(0, 1)) for sample in samples])
    assert (redness[:, 0] > redness[:, 2] + 60).mean() > 0.9
