"""The weights in this repository keep loading, and keep saying what they said when they were shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints.directory import read_checkpoint
from core.experience import Observation
from core.windows import observation_windows
from models import presets

SHIPPED = Path(__file__).parents[1] / "weights" / "simpler_google"

CHUNK = [
    [-0.00106447, -0.00027885, 0.01046129, 0.00220726, 0.0016567, -0.0006377, 0.06469259],
    [-0.00090567, -0.00075242, 0.00206342, 0.00007394, 0.00079089, 0.00243635, 0.07690969],
    [0.00190531, -0.00112644, 0.01450103, 0.0034485, -0.00390596, -0.00097149, 0.10506573],
    [-0.00024876, -0.00369637, 0.00117177, 0.0030002, 0.00473371, 0.00615817, -0.01866025],
    [0.0004303, -0.00135953, 0.00657511, 0.00262729, -0.00215048, 0.00838223, -0.01057994],
    [0.0020863, 0.00199488, 0.00828306, 0.00109431, -0.00683974, 0.0041965, 0.04855838],
]
FUTURE_STATE = [0.5299549, -0.0031824, 0.9360339, 0.2028119, -0.5761914, 0.7514502, -0.0504481, 0.3810867]


@pytest.fixture
def observation():
    """A picture of ramps: like nothing that was trained on, and the same everywhere."""
    row, column = np.mgrid[0:128, 0:160]
    image = np.stack([row * 2 % 256, column % 256, (row + column) % 256], axis=2).astype(np.uint8)
    return Observation(images={"overhead_camera": image}, state=np.float32([0.5, 0.1, 0.9, 0, 1, 0, 0, 0.2]), time_s=0.0)


def test_policy_answers_as_when_it_was_shipped(observation):
    policy = presets.from_checkpoint(*read_checkpoint(SHIPPED / "policy"))
    [sample] = policy.sample([observation], ["pick coke can"], [torch.Generator().manual_seed(0)])
    np.testing.assert_allclose(sample.chunk.actions, CHUNK, atol=2e-5)
    frame = sample.frames["overhead_camera"][0]
    assert frame.mean() == pytest.approx(120.2396, abs=0.05)
    np.testing.assert_allclose(frame[::32, 0], [[87, 104, 111], [96, 97, 97], [72, 75, 76], [92, 91, 85]], atol=1)


def test_value_model_answers_as_when_it_was_shipped(observation):
    model = presets.from_checkpoint(*read_checkpoint(SHIPPED / "value"))
    prediction = model.predict(observation_windows((observation,), ("pick coke can",)))
    np.testing.assert_allclose(prediction.value, [-0.5091436], atol=1e-5)
    np.testing.assert_allclose(prediction.extras["future_state"][0], FUTURE_STATE, atol=1e-4)
