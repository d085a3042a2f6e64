"""VideoVLA's network: CogVideoX's own blocks, with a condition for the action tokens, and block-causal attention."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from model_toys import (
    ACTION_DIM,
    chunk,
    small_config,
    small_policy,
)

from core.errors import ConfigError
from models.videovla_config import (
    AttentionMask,
    Conditioning,
    NoiseCoupling,
)
from models.videovla_network import VideoVlaNetwork, _Stream


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
