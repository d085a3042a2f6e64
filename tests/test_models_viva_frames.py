"""How ViVa writes states and values into frames, and reads them back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from viva_toys import generator

from models.viva_frames import average_copies, frame_to_value, letterbox, repeat_to_frame, value_to_frame


@pytest.mark.parametrize("length", [1, 7, 14, 60])
def test_state_round_trip_is_exact(length):
    vector = torch.randn(3, length, generator=generator())
    frame = repeat_to_frame(vector, (3, 4, 5))
    assert frame.shape == (3, 3, 4, 5)
    torch.testing.assert_close(average_copies(frame, length), vector, rtol=0, atol=1e-6)


def test_state_fills_the_frame_channel_major_and_the_cut_copy_is_not_read():
    frame = repeat_to_frame(torch.tensor([[0.0, 1.0, 2.0]]), (2, 2, 2))
    assert frame.flatten().tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert frame[0, 1, 0].tolist() == [1, 2]
    frame[0, 1, 1] = 99.0
    assert average_copies(frame, 3).tolist() == [[0, 1, 2]]


def test_reading_a_state_averages_noise_away():
    vector = torch.randn(1, 8, generator=generator())
    frame = repeat_to_frame(vector, (48, 24, 20))
    noisy = frame + torch.randn(frame.shape, generator=generator(1))
    assert float((average_copies(noisy, 8) - vector).abs().max()) < 4 / (48 * 24 * 20 / 8) ** 0.5


def test_value_round_trip_is_exact_and_follows_both_conventions():
    value = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0])
    frame = value_to_frame(value, (2, 3, 4))
    assert torch.equal(frame_to_value(frame), value)
    cost_to_go = -2 * value
    assert torch.equal(frame[:, 0, 0, 0], cost_to_go - 1), "z = G - 1 (paper, with the outcome shift)"
    released = -value
    assert torch.equal(frame[:, 0, 0, 0], 2 * released - 1), "z = 2 v - 1 (released code)"


def test_values_read_out_are_clamped():
    assert frame_to_value(torch.full((1, 2, 2, 2), 1.3)).tolist() == [-1.0]
    assert frame_to_value(torch.full((1, 2, 2, 2), -1.3)).tolist() == [0.0]


def test_letterbox_keeps_the_aspect_and_pads_black():
    images = np.full((2, 40, 80, 3), 200, np.uint8)
    boxed = letterbox(images, 60, 40)
    assert boxed.shape == (2, 60, 40, 3)
    assert (boxed[:, 20:40] == 200).all()
    assert (boxed[:, :20] == 0).all()
    assert (boxed[:, 40:] == 0).all()
    assert letterbox(images, 40, 80) is images
