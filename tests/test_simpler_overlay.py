"""The photograph behind robot and objects, and the rule of what counts as a grasp."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import ConfigError
from envs.simpler.grasp import ContactImpulses, angle_between_deg, is_pressed_open
from envs.simpler.overlay import Overlay, fit_overlay


def floats_as_upstream(rgb, photo, mask):
    """Upstream's own arithmetic: float images, mask of zeros and ones, then truncation."""
    color = (rgb / 255.0).astype(np.float32)
    color[...] = color * (1 - mask) + (photo / 255.0) * mask
    return np.clip(color * 255, 0, 255).astype(np.uint8)


def test_compositing_equals_the_float_arithmetic_of_upstream():
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    segmentation = rng.integers(0, 6, (6, 8)).astype(np.int16)
    overlay = Overlay(photo, mode="background", height_px=6, width_px=8)
    overlay.keep({1, 2}, {4})
    is_kept = np.isin(segmentation, [1, 2, 4])
    result = overlay.apply(rgb, segmentation)
    expected = floats_as_upstream(rgb, photo, (~is_kept).astype(np.float32)[..., None])
    assert (result[~is_kept] == expected[~is_kept]).all()
    assert (result[is_kept] == rgb[is_kept]).all()


def test_object_mode_keeps_only_the_robot():
    overlay = Overlay(np.zeros((2, 2, 3), np.uint8), mode="object", height_px=2, width_px=2)
    overlay.keep({1}, {2})
    rgb = np.full((2, 2, 3), 9, np.uint8)
    assert overlay.apply(rgb, np.array([[1, 2], [0, 7]]))[..., 0].tolist() == [[9, 0], [0, 0]]


def test_debug_mode_blends_everything():
    overlay = Overlay(np.full((2, 2, 3), 100, np.uint8), mode="debug", height_px=2, width_px=2)
    overlay.keep({1}, set())
    assert overlay.apply(np.full((2, 2, 3), 200, np.uint8), np.zeros((2, 2), int)).max() in (149, 150)


def test_a_scaled_photo_shows_the_same_field_of_view():
    gradient = np.tile(np.linspace(0, 255, 320).astype(np.uint8)[None, :, None], (256, 1, 3))
    small = fit_overlay(gradient, height_px=64, width_px=80)
    assert small.shape == (64, 80, 3)
    assert np.abs(small[0, :, 0].astype(int) - np.linspace(0, 255, 80)).max() < 4


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match=r"rgb_overlay_mode='backdrop'.*background"):
        Overlay(np.zeros((2, 2, 3), np.uint8), mode="backdrop", height_px=2, width_px=2)


@pytest.mark.parametrize(("degrees", "expected"), [(0, True), (79, True), (81, False), (180, False)])
def test_a_finger_is_pressed_open_within_the_angle(degrees, expected):
    opening = np.array([0.0, 1.0, 0.0])
    impulse = 1e-3 * np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees)), 0.0])
    assert is_pressed_open([impulse, np.zeros(3)], [opening, opening], max_angle_deg=80) is expected


def test_an_impulse_below_the_threshold_is_no_grasp():
    opening = np.array([0.0, 1.0, 0.0])
    assert not is_pressed_open([9e-7 * opening], [opening], max_angle_deg=80)
    assert is_pressed_open([1.1e-6 * opening], [opening], max_angle_deg=80)


def test_no_impulse_is_at_right_angles():
    assert angle_between_deg(np.zeros(3), np.array([1.0, 0, 0])) == pytest.approx(90)


class _Entity:
    def __init__(self, per_scene_id):
        self.per_scene_id = per_scene_id
        self.entity = self


class _Contact:
    def __init__(self, first, second, *impulses):
        self.bodies = (first, second)
        self.points = [type("Point", (), {"impulse": np.array(impulse)})() for impulse in impulses]


class _Scene:
    def __init__(self, *contacts):
        self._contacts = contacts

    def get_contacts(self):
        return self._contacts


def test_contact_impulses_do_not_depend_on_the_order_of_a_pair():
    can, finger, table = _Entity(1), _Entity(2), _Entity(3)
    up = [0.0, 0.0, 1.0]
    for pair in (_Contact(finger, can, up, up), _Contact(can, finger, [0.0, 0.0, -1.0], [0.0, 0.0, -1.0])):
        impulses = ContactImpulses.of(_Scene(pair, _Contact(finger, table, up)), can)
        assert impulses.on(finger).tolist() == [0.0, 0.0, 2.0]
        assert impulses.on(table).tolist() == [0.0, 0.0, 0.0]
        assert impulses.touches_other_than(set())
        assert not impulses.touches_other_than({2})


def test_impulses_that_cancel_are_no_touch():
    can, table = _Entity(1), _Entity(3)
    impulses = ContactImpulses.of(_Scene(_Contact(can, table, [0.0, 0.0, 1.0]), _Contact(can, table, [0.0, 0.0, -1.0])), can)
    assert not impulses.touches_other_than(set())
