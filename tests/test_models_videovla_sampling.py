from __future__ import annotations

import pytest
import torch
from model_toys import generators, small_config

from models.videovla_config import NoiseScheduleConfig, Sampler
from models.videovla_sampling import Trajectory, denoise_steps

MEAN, STD = 0.7, 0.3


def gaussian_velocity(noise, tau, z):
    """The exact velocity where data are N(MEAN, STD^2): sqrt(a) E[noise | z] - sqrt(1 - a) E[clean | z]."""
    alpha = noise.scheduler().alphas_cumprod[tau]
    s, n = alpha.sqrt(), (1 - alpha).sqrt()
    clean = MEAN + s * STD**2 / (s**2 * STD**2 + n**2) * (z - s * MEAN)
    return s * (z - s * clean) / n - n * clean


def draw(sampler, num_steps, *, count=1, snr_shift_scale=1.0):
    noise = NoiseScheduleConfig(snr_shift_scale=snr_shift_scale)
    config = small_config(sampler=sampler, denoise_steps=num_steps, noise=noise)
    sources = generators(*range(count))
    start = torch.stack([torch.randn(2000, generator=source) for source in sources]).double()
    z, trajectory = start, Trajectory(config, sources)
    for step in denoise_steps(config):
        z = trajectory.step(gaussian_velocity(noise, step.video_tau, z), z)
    return start, z


@pytest.mark.parametrize("snr_shift_scale", [1.0, 3.0])
@pytest.mark.parametrize(("sampler", "num_steps"), [(Sampler.DDIM, 500), (Sampler.DPM_SDE, 500), (Sampler.DPM, 20)])
def test_draws_have_the_distribution_of_the_data(sampler, num_steps, snr_shift_scale):
    _, z = draw(sampler, num_steps, snr_shift_scale=snr_shift_scale)
    assert float(z.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(z.std()) == pytest.approx(STD, rel=0.08)


def test_deterministic_samplers_follow_the_flow_and_one_needs_fewer_steps():
    """Noise z flows to MEAN + STD z, exactly."""
    error = {}
    for sampler in (Sampler.DDIM, Sampler.DPM):
        for num_steps in (5, 10, 50):
            start, z = draw(sampler, num_steps)
            error[sampler, num_steps] = float((z - (MEAN + STD * start)).square().mean().sqrt())
    for sampler in (Sampler.DDIM, Sampler.DPM):
        assert error[sampler, 50] < error[sampler, 10] < error[sampler, 5]
    assert error[Sampler.DPM, 10] < 0.2 * error[Sampler.DDIM, 10]
    assert error[Sampler.DPM, 10] < error[Sampler.DDIM, 50]


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_few_steps_end_at_the_data_where_there_is_one_answer(sampler, num_steps):
    config = small_config(sampler=sampler, denoise_steps=num_steps)
    z, trajectory = torch.randn(1, 9, generator=generators(0)[0]), Trajectory(config, generators(1))
    alphas = config.noise.scheduler().alphas_cumprod.float()
    for step in denoise_steps(config):
        s, n = alphas[step.video_tau].sqrt(), (1 - alphas[step.video_tau]).sqrt()
        z = trajectory.step(s * (z - s * MEAN) / n - n * MEAN, z)
    torch.testing.assert_close(z, torch.full_like(z, MEAN), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", Sampler)
def test_draws_depend_on_their_own_generator_and_on_nothing_that_was_drawn_before(sampler):
    _, together = draw(sampler, 8, count=3)
    _, alone = draw(sampler, 8)
    torch.testing.assert_close(together[:1], alone)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_only_the_stochastic_sampler_draws_on():
    for sampler in Sampler:
        [source] = generators(0)
        config = small_config(sampler=sampler)
        trajectory, before = Trajectory(config, [source]), source.get_state()
        for _ in denoise_steps(config):
            trajectory.step(torch.zeros(1, 3), torch.zeros(1, 3))
        assert torch.equal(source.get_state(), before) == (sampler is not Sampler.DPM_SDE)
