from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from model_toys import (
    ACTION_DIM,
    CAMERA,
    ENV_SPEC,
    generators,
    observation,
    small_config,
    small_parts,
    small_policy,
    square_windows,
)

from core.errors import AssetError, CheckpointError, ConfigError, NonFiniteError, SpecError
from core.labels import Indicator
from core.specs import CameraSpec, require_same_spec
from models.codecs import CogVideoXVaeCodec
from models.text import PrecomputedT5, with_every_indicator
from models.videovla import VideoVla
from models.videovla_config import (
    AttentionMask,
    Conditioning,
    Guidance,
    NoiseCoupling,
    NoiseScheduleConfig,
    VideoVlaConfig,
)
from models.videovla_network import VideoVlaNetwork, _Stream

WORDS = "go to the middle"
POSITIVE = np.full(8, Indicator.POSITIVE, np.int8)


def chunk(policy, seed=0, index=0):
    return policy.sample_actions([observation(index)], [WORDS], generators(seed))[0].actions


def through_json(checkpoint):
    tensors, manifest = checkpoint
    return tensors, json.loads(json.dumps(manifest))


def network_inputs(config, batch=2):
    torch.manual_seed(1)
    present = torch.randn(batch, *config.latent_shape)
    video = torch.randn(batch, config.num_noised_latents, *config.latent_shape)
    actions = torch.randn(batch, config.action_horizon, ACTION_DIM)
    tau = torch.tensor([10, 900])
    return present, video, actions, torch.randn(batch, config.text_length, config.text_dim), tau, tau


def diffusers_pair(rotary):
    return rotary.real.repeat_interleave(2, 1), rotary.imag.repeat_interleave(2, 1)


class TestNetwork:
    def test_layers_equal_diffusers_own(self):
        config = small_config(patch_size=2, latent_px=4)
        network = VideoVlaNetwork(config, ACTION_DIM)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.2)
            present, video, actions, text, tau, _ = network_inputs(config)
            ours = network(present, video, actions, text, tau, tau)
            time = network._tau_embedding(tau)
            words = network._text_tokens(text)
            frames = network._video_tokens(network._seen(present, video))
            hidden = torch.cat([frames, network._action_tokens(actions)], dim=1)
            pair = diffusers_pair(network._rotary(torch.device("cpu"))[config.text_length :])
            diffusers_own = CogVideoXTransformer3DModel(**config.transformer_config())
            diffusers_own.load_state_dict(network.transformer.state_dict())
            for block in diffusers_own.transformer_blocks:
                assert isinstance(block.attn1.processor, CogVideoXAttnProcessor2_0)
                hidden, words = block(hidden, words, time, image_rotary_emb=pair)
            theirs = (
                network._latents(_Stream(hidden[:, : frames.shape[1]], False, time))[:, 1:],
                network._actions(_Stream(hidden[:, frames.shape[1] :], False, time)),
            )
        for left, right in zip(ours, theirs, strict=True):
            torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)

    def test_video_output_equals_the_whole_diffusers_model_where_actions_are_silent(self):
        """Weights loaded from CogVideoX mean here what they mean there."""
        config = small_config(patch_size=2, latent_px=4, num_future_frames=2)
        torch.manual_seed(0)
        transformer = CogVideoXTransformer3DModel(**config.transformer_config())
        present, video, actions, text, tau, _ = network_inputs(config)
        network = VideoVlaNetwork(config, ACTION_DIM, copy.deepcopy(transformer))
        pair = diffusers_pair(network._rotary(torch.device("cpu"))[config.text_length : -config.action_horizon])
        with torch.no_grad():
            latents = torch.cat([present[:, None], video], dim=1)
            expected = transformer(latents, text, tau, image_rotary_emb=pair, return_dict=False)[0]
            ours, _ = network(present, video, actions[:, :0], text, tau, tau)  # attention over no action tokens at all
        torch.testing.assert_close(ours, expected[:, 1:], atol=1e-5, rtol=1e-5)

    def test_action_tokens_are_not_rotated_and_video_tokens_are(self):
        config = small_config()
        rotary = VideoVlaNetwork(config, ACTION_DIM)._rotary(torch.device("cpu"))
        assert rotary.shape == (8 + 40 + 6, 8)
        assert (rotary[:8] == 1).all()
        assert (rotary[-6:] == 1).all()
        assert (rotary[9:48] != 1).any(dim=1).all(), "all video tokens but the first stand somewhere else"

    @pytest.mark.parametrize("attention", AttentionMask)
    def test_every_input_reaches_both_outputs_but_where_the_mask_forbids_it(self, attention):
        names = ("present", "video", "actions", "text", "video_tau", "action_tau")
        network = small_policy(attention=attention, coupling=NoiseCoupling.ASYNCHRONOUS).network
        inputs = dict(zip(names, network_inputs(network._config), strict=True))
        with torch.no_grad():
            reference = network(**inputs)
            for name, tensor in inputs.items():
                changed = network(**{**inputs, name: tensor + (50 if "tau" in name else 1)})
                for part, left, right in zip(("video", "actions"), changed, reference, strict=True):
                    is_hidden = attention is AttentionMask.CAUSAL and part == "video" and name in ("actions", "action_tau")
                    assert ((left - right).abs().max() < 1e-6) == is_hidden, f"{name} -> {part}"

    def test_causal_mask_orders_the_frames(self):
        network = small_policy(attention=AttentionMask.CAUSAL, num_future_frames=3).network
        present, video, *rest = network_inputs(network._config)
        with torch.no_grad():
            reference = network(present, video, *rest)[0]
            video[:, 1] += 1
            changed = network(present, video, *rest)[0]
        assert torch.equal(changed[:, 0], reference[:, 0])
        assert (changed[:, 2] - reference[:, 2]).abs().max() > 1e-4

    def test_a_causal_mask_is_a_different_network(self):
        masks = [small_policy(attention=attention).network for attention in AttentionMask]
        with torch.no_grad():
            answers = [network(*network_inputs(network._config))[1] for network in masks]
        assert (answers[0] - answers[1]).abs().max() > 1e-4
        assert (answers[0] - answers[2]).abs().max() > 1e-4

    def test_equal_times_given_twice_are_one_time(self):
        network = small_policy().network
        *rest, tau = network_inputs(network._config)
        with torch.no_grad():
            for left, right in zip(network(*rest, tau), network(*rest, tau.clone()), strict=True):
                torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)

    def test_fresh_network_predicts_zero(self):
        config = small_config()
        video, action = VideoVlaNetwork(config, ACTION_DIM)(*network_inputs(config))
        assert not video.any()
        assert not action.any()


class TestBlockCausal:
    """Text and present first, on their own: what they offer does not change while a draw denoises the rest."""

    def network(self):
        return small_policy(attention=AttentionMask.BLOCK_CAUSAL, num_future_frames=2).network

    def test_cached_prefix_gives_exactly_what_the_uncached_gives(self):
        network = self.network()
        with torch.no_grad():
            inputs = network_inputs(network._config)
            cache = network.encode_prefix(inputs[0], inputs[3])
            for tau in (999, 500, 0):
                times = torch.full((2,), tau)
                cached = network(*inputs[:4], times, times, cache)
                for left, right in zip(cached, network(*inputs[:4], times, times), strict=True):
                    assert torch.equal(left, right)

    def test_equals_attention_over_the_whole_sequence_under_the_mask(self):
        """The same layers once over all tokens, with a matrix that says who reads whom."""
        network = self.network()
        config = network._config
        with torch.no_grad():
            present, video, actions, text, tau, _ = network_inputs(config)
            clean, time = (network._tau_embedding(t) for t in (torch.zeros_like(tau), tau))
            frames = network._video_tokens(torch.cat([present[:, None], video], dim=1))
            split = config.num_frame_tokens
            streams = [
                _Stream(network._text_tokens(text), True, clean),
                _Stream(frames[:, :split], False, clean),
                _Stream(frames[:, split:], False, time),
                _Stream(network._action_tokens(actions), False, time),
            ]
            total = sum(stream.tokens.shape[1] for stream in streams)
            is_prefix = torch.arange(total) < config.text_length + split
            mask = ~is_prefix[:, None] | is_prefix[None, :]
            *_, future, controls = network._through_blocks(streams, None, mask)
            expected = network._latents(future), network._actions(controls)
            for left, right in zip(network(present, video, actions, text, tau, tau), expected, strict=True):
                torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)

    def test_a_draw_encodes_the_prefix_once_and_is_the_uncached_draw(self):
        policy = small_policy(attention=AttentionMask.BLOCK_CAUSAL, guidance_scale=2.0)
        encode, calls = policy.network.encode_prefix, []
        policy.network.encode_prefix = lambda *inputs: calls.append(len(inputs[0])) or encode(*inputs)
        cached = chunk(policy)
        assert calls == [2], "both branches of guidance at once"
        forward = policy.network.forward
        policy.network.forward = lambda *inputs: forward(*inputs[:6])
        assert (chunk(policy) == cached).all()
        assert len(calls) == 2 + 4

    def test_needs_a_clean_prefix(self):
        with pytest.raises(ConfigError, match="needs a clean prefix; expected conditioning=prefix, found channels"):
            small_config(attention=AttentionMask.BLOCK_CAUSAL, conditioning=Conditioning.CHANNELS)


class TestSampling:
    def test_chunk_has_the_horizon_the_version_and_the_time(self):
        policy = small_policy()
        policy.version = 7
        [answer] = policy.sample_actions([observation(3)], [WORDS], generators(0))
        assert answer.actions.shape == (6, ACTION_DIM)
        assert answer.actions.dtype == np.float32
        assert (answer.policy_version, answer.observation_time_s) == (7, 3.0)

    def test_draw_depends_on_its_own_generator_not_on_the_batch(self):
        policy = small_policy()
        together = policy.sample_actions([observation(i) for i in range(3)], [WORDS] * 3, generators(10, 11, 12))
        for index, answer in enumerate(together):
            np.testing.assert_allclose(chunk(policy, 10 + index, index), answer.actions, atol=1e-5)
        assert np.abs(chunk(policy, 10) - chunk(policy, 11)).max() > 1e-3

    def test_sample_joins_what_sample_actions_and_imagine_give(self):
        policy = small_policy(num_future_frames=2)
        arguments = [observation(0), observation(1)], [WORDS] * 2
        samples = policy.sample(*arguments, generators(0, 1))
        for sample, acted, imagined in zip(
            samples,
            policy.sample_actions(*arguments, generators(0, 1)),
            policy.imagine(*arguments, generators(0, 1)),
            strict=True,
        ):
            assert (sample.chunk.actions == acted.actions).all()
            assert sample.frames[CAMERA].shape == (2, 32, 40, 3)
            assert sample.frames[CAMERA].dtype == np.uint8
            assert (sample.frames[CAMERA] == imagined[CAMERA]).all()

    def test_samples_stay_within_the_clip(self):
        policy = small_policy(action_clip=0.5)
        with torch.no_grad():
            policy.network.action_out.bias.fill_(30.0)
        normalized = policy.normalization.action.normalize(chunk(policy))
        assert np.abs(normalized).max() == pytest.approx(0.5, abs=1e-5)

    def test_guidance_one_is_the_conditioned_branch_in_one_forward_pass(self):
        policy, calls = small_policy(), []
        policy.network.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
        conditioned = chunk(policy)
        assert calls == [1] * 4
        calls.clear()
        policy.config = dataclasses.replace(policy.config, guidance_scale=1.0 + 1e-6)
        np.testing.assert_allclose(chunk(policy), conditioned, atol=1e-4)
        assert calls == [2] * 4, "both branches in one batch"
        policy.config = dataclasses.replace(policy.config, guidance_scale=10.0)
        assert np.abs(chunk(policy) - conditioned).max() > 1e-3

    def test_guidance_zero_equals_a_policy_without_indicator(self):
        guided = small_policy(guidance_scale=0.0)
        plain = small_policy(use_indicator=False)
        np.testing.assert_allclose(chunk(guided), chunk(plain), atol=1e-5)

    def test_more_steps_change_the_draw_and_the_scheduler_of_training_is_untouched(self):
        policy = small_policy()
        before = chunk(policy)
        assert policy._noise.num_inference_steps is None
        assert float(policy._noise.alphas_cumprod[-1]) == 0.0, "zero terminal SNR"
        assert np.abs(chunk(small_policy(denoise_steps=10)) - before).max() > 1e-4

    @pytest.mark.parametrize("conditioning", Conditioning)
    @pytest.mark.parametrize("coupling", NoiseCoupling)
    def test_every_form_acts_and_imagines_the_future_only(self, conditioning, coupling):
        policy, calls = small_policy(conditioning=conditioning, coupling=coupling, num_future_frames=3), []
        policy.network.register_forward_hook(lambda _, inputs, __: calls.append((int(inputs[4][0]), int(inputs[5][0]))))
        [sample] = policy.sample([observation(0)], [WORDS], generators(0))
        assert sample.chunk.actions.shape == (6, ACTION_DIM)
        assert sample.frames[CAMERA].shape == (3, 32, 40, 3)
        times = [999, 749, 499, 249]
        if coupling is NoiseCoupling.SYNCHRONOUS:
            assert calls == [(tau, tau) for tau in times]
        else:
            assert calls == [(tau, 999) for tau in times] + [(0, tau) for tau in times], "the video first, then the actions"

    def test_guidance_by_text_leads_away_from_no_text(self):
        seen = []
        policy = small_policy(guidance=Guidance.TEXT, guidance_scale=3.0, use_indicator=False)
        policy.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[3]))
        guided = chunk(policy)
        assert seen[0].shape[0] == 2
        assert seen[0][0].any()
        assert not seen[0][1].any()
        assert np.abs(guided - chunk(small_policy(use_indicator=False))).max() > 1e-3

    def test_copy_draws_the_same(self):
        policy = small_policy()
        assert (chunk(copy.deepcopy(policy)) == chunk(policy)).all()

    def test_images_of_another_size_are_resized(self):
        big = dataclasses.replace(ENV_SPEC, cameras=(CameraSpec(name=CAMERA, height_px=64, width_px=80),))
        policy = small_policy(env_spec=big)
        small = observation(0)
        image = small.images[CAMERA].repeat(2, 0).repeat(2, 1)
        enlarged = dataclasses.replace(small, images={CAMERA: image})
        answer = policy.sample_actions([enlarged], [WORDS], generators(0))[0].actions
        np.testing.assert_allclose(answer, chunk(small_policy()), atol=0.05)


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


class TestCheckpoint:
    @pytest.mark.parametrize("form", [{}, {"conditioning": Conditioning.CHANNELS, "num_robots": 3, "robot_id": 2}])
    def test_round_trip_is_exact(self, form):
        policy = small_policy(**form, noise=NoiseScheduleConfig(snr_shift_scale=2.0), guidance_scale=1.5)
        policy.version = 3
        again = VideoVla.from_checkpoint(*through_json(policy.to_checkpoint()))
        assert (again.config, again.env_spec, again.version) == (policy.config, policy.env_spec, 3)
        assert again.normalization == policy.normalization
        assert (chunk(again) == chunk(policy)).all()

    def test_is_a_copy(self):
        policy = small_policy()
        before = chunk(policy)
        again = VideoVla.from_checkpoint(*policy.to_checkpoint())
        with torch.no_grad():
            again.network.action_out.bias.add_(1)
        assert (chunk(policy) == before).all()

    def test_loaded_policy_trains(self):
        policy = VideoVla.from_checkpoint(*small_policy().to_checkpoint())
        windows = square_windows(4, np.random.default_rng(0))
        policy.loss(windows, POSITIVE[:4], torch.Generator()).per_example.mean().backward()
        assert all(parameter.grad is not None for parameter in policy.network.parameters())

    def test_precision_is_kept(self):
        policy = small_policy()
        policy.network.bfloat16()
        again = VideoVla.from_checkpoint(*policy.to_checkpoint())
        assert again.network.action_in.weight.dtype == torch.bfloat16
        assert (chunk(again) == chunk(policy)).all()

    def test_missing_and_unexpected_tensors_are_listed(self):
        tensors, manifest = small_policy().to_checkpoint()
        tensors["network.extra"] = tensors.pop("network.action_in.weight")
        with pytest.raises(CheckpointError, match=r"missing \['action_in.weight'\], unexpected \['extra'\]"):
            VideoVla.from_checkpoint(tensors, manifest)

    def test_tensors_of_no_part_are_listed(self):
        tensors, manifest = small_policy().to_checkpoint()
        with pytest.raises(CheckpointError, match=r"unexpected \['adapter.weight'\]"):
            VideoVla.from_checkpoint({**tensors, "adapter.weight": torch.zeros(1)}, manifest)

    def test_other_shape_is_refused(self):
        tensors, manifest = small_policy().to_checkpoint()
        tensors["network.action_in.weight"] = torch.zeros(32, 9)
        with pytest.raises(CheckpointError, match=r"action_in.weight is \(32, 9\); expected \(32, 3\)"):
            VideoVla.from_checkpoint(tensors, manifest)

    def test_damaged_manifest_is_refused(self):
        tensors, manifest = small_policy().to_checkpoint()
        with pytest.raises(CheckpointError, match="lacks 'normalization'"):
            VideoVla.from_checkpoint(tensors, {k: v for k, v in manifest.items() if k != "normalization"})
        with pytest.raises(CheckpointError, match="num_wings"):
            VideoVla.from_checkpoint(tensors, {**manifest, "config": {**manifest["config"], "num_wings": 2}})

    def test_nan_weights_are_refused_on_loading_and_on_acting(self):
        policy = small_policy()
        with torch.no_grad():
            policy.network.action_out.weight[0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"action_out.weight holds NaN"):
            VideoVla.from_checkpoint(*policy.to_checkpoint())
        with pytest.raises(NonFiniteError, match=r"actions\[0, 0\] is nan"):
            chunk(policy)
        with torch.no_grad():
            policy.network.transformer.proj_out.weight[0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match="imagined frames"):
            policy.imagine([observation()], [WORDS], generators(0))

    def test_an_observation_of_another_robot_is_refused(self):
        look = dataclasses.replace(observation(), state=np.zeros(9, np.float32))
        with pytest.raises(SpecError, match=r"observation 0: state is \(9,\); expected \(4,\)"):
            small_policy().sample_actions([look], [WORDS], generators(0))

    def test_another_environment_is_refused(self):
        policy = VideoVla.from_checkpoint(*small_policy().to_checkpoint())
        other = dataclasses.replace(ENV_SPEC, cameras=(CameraSpec(name=CAMERA, height_px=64, width_px=80),))
        with pytest.raises(SpecError, match="cameras specification"):
            require_same_spec(policy.env_spec, other, what="checkpoint")


class TestPretrainedDirectory:
    """CogVideoX-5B's layout (transformer/, vae/), small and with random weights."""

    CONFIG = VideoVlaConfig(
        image_height_px=32,
        image_width_px=48,
        codec="cogvideox_vae",
        latent_channels=4,
        latent_px=8,
        temporal_ratio=4,
        text="precomputed_t5",
        text_length=5,
        text_dim=16,
        num_future_frames=8,
        future_frame_interval_steps=1,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        time_embed_dim=16,
        patch_size=2,
        denoise_steps=2,
    )
    SPEC = dataclasses.replace(ENV_SPEC, cameras=(CameraSpec(name=CAMERA, height_px=32, width_px=48),))

    @pytest.fixture
    def directory(self, tmp_path):
        torch.manual_seed(0)
        # CogVideoX-5B says 60 x 90 latents and 49 frames there, whatever size it is used at.
        arguments = {**self.CONFIG.transformer_config(), "sample_height": 60, "sample_width": 90, "sample_frames": 49}
        CogVideoXTransformer3DModel(**arguments).save_pretrained(tmp_path / "transformer")
        vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, latent_channels=4)
        vae.save_pretrained(tmp_path / "vae")
        return tmp_path

    def load(self, directory, config=CONFIG):
        texts = with_every_indicator([WORDS])
        text = PrecomputedT5(texts, torch.randn(3, 5, 16), torch.ones(3, 5, dtype=torch.bool))
        codec = CogVideoXVaeCodec.from_pretrained(directory, 32, 48)
        return VideoVla.from_pretrained(directory, config, self.SPEC, small_parts()[0], codec, text)

    def test_acts_imagines_trains_and_round_trips(self, directory):
        policy = self.load(directory)
        saved = CogVideoXTransformer3DModel.from_pretrained(directory / "transformer")
        for name, tensor in saved.state_dict().items():
            assert torch.equal(tensor, policy.network.transformer.state_dict()[name]), name
        trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
        assert trained == {f"network.{name}" for name, _ in policy.network.named_parameters()}, "the codec is frozen"
        rng = np.random.default_rng(0)
        seen = dataclasses.replace(observation(), images={CAMERA: rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)})
        [sample] = policy.sample([seen], [WORDS], generators(0))
        assert sample.frames[CAMERA].shape == (8, 32, 48, 3)
        frames = rng.integers(0, 256, (2, 9, 32, 48, 3), dtype=np.uint8)
        windows = dataclasses.replace(square_windows(2, rng), images={CAMERA: frames})
        assert policy.window_spec.image_offsets == tuple(range(9))
        assert torch.isfinite(policy.loss(windows, POSITIVE[:2], torch.Generator()).per_example).all()
        again = VideoVla.from_checkpoint(*through_json(policy.to_checkpoint()))
        [same] = again.sample([seen], [WORDS], generators(0))
        assert (same.chunk.actions == sample.chunk.actions).all()
        assert (same.frames[CAMERA] == sample.frames[CAMERA]).all()

    def test_other_dimensions_are_named(self, directory):
        with pytest.raises(CheckpointError, match=r"'num_layers': \(1, 2\)"):
            self.load(directory, dataclasses.replace(self.CONFIG, num_layers=2))

    def test_missing_transformer_is_refused(self, directory):
        (directory / "transformer" / "config.json").unlink()
        with pytest.raises(AssetError, match=r"transformer/config\.json is missing"):
            self.load(directory)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"action_horizon": 0}, "action_horizon is 0"),
            ({"denoise_steps": 2000}, "denoise_steps is 2000; expected at most 1000"),
            ({"num_future_frames": 3, "temporal_ratio": 4}, "expected a multiple of 4"),
            ({"image_width_px": 44}, "multiples of 8 px"),
            ({"attention_head_dim": 24}, "multiple of 16"),
            ({"num_robots": 3, "robot_id": 3}, r"robot_id is 3; expected 0\.\.2"),
            ({"text_dropout": 1.0}, r"text_dropout is 1\.0; expected a probability below 1"),
        ],
    )
    def test_impossible_configuration(self, changes, message):
        with pytest.raises(ConfigError, match=message):
            small_config(**changes)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((64, 40, 3), np.uint8), r"uint8 \(64, 40, 3\); expected uint8 \(32, 40, 3\)"),
            (np.zeros((32, 40, 3), np.float32), "observation 1: overhead_camera is float32"),
            (None, "observation 1 has cameras"),
        ],
    )
    def test_wrong_image(self, image, message):
        images = {} if image is None else {CAMERA: image}
        wrong = dataclasses.replace(observation(), images=images)
        with pytest.raises(SpecError, match=message):
            small_policy().sample_actions([observation(), wrong], [WORDS] * 2, generators(0, 1))

    def test_counts_that_differ_and_empty_instructions(self):
        policy = small_policy()
        with pytest.raises(SpecError, match="1 observations, 2 instructions and 1 generators"):
            policy.sample_actions([observation()], [WORDS] * 2, generators(0))
        with pytest.raises(SpecError, match="expected the same number"):
            policy.sample_actions([], [], [])
        with pytest.raises(SpecError, match="expected words"):
            policy.sample_actions([observation()], [" "], generators(0))

    def test_windows_of_another_spec(self):
        policy, windows = small_policy(), square_windows(2, np.random.default_rng(0), horizon=5)
        with pytest.raises(SpecError, match=r"expected 2 frames and actions \(2, 6, 3\)"):
            policy.loss(windows, POSITIVE[:2], torch.Generator())
        blind = dataclasses.replace(square_windows(2, np.random.default_rng(0)), images={})
        with pytest.raises(SpecError, match="overhead_camera images None"):
            policy.loss(blind, POSITIVE[:2], torch.Generator())

    def test_parts_that_do_not_fit(self):
        normalization, codec, text = small_parts()
        with pytest.raises(SpecError, match="policy looks through 'wrist'"):
            VideoVla(small_config(camera="wrist"), ENV_SPEC, normalization, codec, text)
        with pytest.raises(SpecError, match=r"latent_shape \(24, 4, 5\); the policy's configuration says \(12, 4, 5\)"):
            VideoVla(small_config(latent_channels=12), ENV_SPEC, normalization, codec, text)
        with pytest.raises(SpecError, match="text_length 8"):
            VideoVla(small_config(text_length=9), ENV_SPEC, normalization, codec, text)
