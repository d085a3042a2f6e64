from __future__ import annotations

import pytest
import torch

from core.errors import ConfigError
from models.flow import add_noise, draw_tau, euler_sample, shifted, training_grid, velocity_target


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noising_goes_from_data_to_noise():
    clean, noise = torch.randn(2, 3, generator=_generator()), torch.randn(2, 3, generator=_generator(1))
    assert torch.equal(add_noise(clean, noise, torch.tensor([0.0, 1.0])), torch.stack([clean[0], noise[1]]))
    halfway = add_noise(clean, noise, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(halfway, (clean + noise) / 2)


def test_each_example_has_its_own_tau_whatever_the_shape():
    clean, noise = torch.zeros(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    noised = add_noise(clean, noise, torch.tensor([0.25, 0.75]))
    assert noised[0].unique().tolist() == [0.25]
    assert noised[1].unique().tolist() == [0.75]


def test_velocity_is_the_derivative_of_noising():
    clean, noise, tau = torch.randn(4, 6), torch.randn(4, 6), torch.rand(4)
    step = 1e-3
    difference = (add_noise(clean, noise, tau + step) - add_noise(clean, noise, tau)) / step
    torch.testing.assert_close(difference, velocity_target(clean, noise), atol=1e-2, rtol=1e-3)


def test_one_euler_step_with_the_true_velocity_recovers_the_data_exactly():
    # Multiples of 1/8 are exact in floating point, so "exactly" means to the bit.
    clean = torch.randint(-16, 17, (3, 2, 4), generator=_generator()) / 8
    noise = torch.randint(-16, 17, (3, 2, 4), generator=_generator(1)) / 8
    taus = []

    def velocity(z: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        taus.append(tau.tolist())
        return velocity_target(clean, noise)

    assert torch.equal(euler_sample(velocity, noise, num_steps=1, shift=5.0), clean)
    assert taus == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_several_euler_steps_follow_the_shifted_times_down_to_zero(shift: float):
    clean, noise = torch.randn(2, 3, generator=_generator()), torch.randn(2, 3, generator=_generator(1))
    taus = []

    def velocity(z: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        taus.append(float(tau[0]))
        # The point handed over must lie on the straight line at exactly this tau.
        torch.testing.assert_close(z, add_noise(clean, noise, tau), atol=1e-5, rtol=1e-5)
        return velocity_target(clean, noise)

    torch.testing.assert_close(euler_sample(velocity, noise, num_steps=4, shift=shift), clean, atol=1e-5, rtol=1e-5)
    assert taus == pytest.approx([shifted(u, shift) for u in (1.0, 0.75, 0.5, 0.25)])


def test_sampling_does_not_change_the_grid_of_training():
    before = training_grid(5.0).clone()
    euler_sample(lambda z, tau: z, torch.zeros(1, 2), num_steps=3, shift=5.0)
    assert torch.equal(training_grid(5.0), before)


@pytest.mark.parametrize(("shift", "mean", "share_above_09"), [(1.0, 0.5, 0.1), (5.0, 0.747, 0.357)])
def test_training_times_have_the_published_distribution(shift: float, mean: float, share_above_09: float):
    tau = draw_tau(4000, _generator(), shift=shift)
    assert float(tau.mean()) == pytest.approx(mean, abs=0.005)
    assert float((tau > 0.9).float().mean()) == pytest.approx(share_above_09, abs=0.005)
    assert float(tau.min()) > 0
    assert float(tau.max()) <= 1


def test_a_batch_covers_the_grid_and_draws_differ():
    u = draw_tau(10, _generator(), shift=1.0)
    assert sorted((u * 10).ceil().int().tolist()) == list(range(1, 11))
    assert not torch.equal(u, draw_tau(10, _generator(1), shift=1.0))
    assert torch.equal(u, draw_tau(10, _generator(), shift=1.0))


def test_times_drawn_first_while_sampling_can_be_trained_with():
    training_grid.cache_clear()
    with torch.inference_mode():
        draw_tau(2, _generator(), shift=3.0)
    weight = torch.ones(2, requires_grad=True)
    (weight * draw_tau(2, _generator(), shift=3.0)).sum().backward()
    assert weight.grad is not None


def test_impossible_numbers_are_refused():
    with pytest.raises(ConfigError, match="0 denoising steps; expected at least 1"):
        euler_sample(lambda z, tau: z, torch.zeros(1, 2), num_steps=0, shift=5.0)
    with pytest.raises(ConfigError, match=r"shift of diffusion times is -1\.0; expected a positive"):
        draw_tau(2, _generator(), shift=-1.0)
