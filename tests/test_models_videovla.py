"""VideoVLA as a policy: what it samples, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from model_toys import (
    ACTION_DIM,
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

from core.errors import ConfigError, SpecError
from core.specs import CameraSpec
from models.videovla import VideoVla
from models.videovla_config import (
    Conditioning,
    Guidance,
    NoiseCoupling,
)


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
