"""Imagination against execution: motion whose similarity is known, and a report from an environment that moves as told."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from model_toys import small_config

from actors.imagination import EpisodeReport, compared_offsets, main, play, summary, to_markdown
from actors.imagination_pages import contact_sheet, page
from actors.motion_similarity import MotionConfig, Tracks, compare_tracks, follow, motion_similarity, moving_foreground
from core.errors import ConfigError, SpecError
from core.experience import ActionChunk, Observation
from core.windows import WindowSpec
from models.videovla import VideoActionSample

HEIGHT, WIDTH = 96, 128
CAMERA = "overhead_camera"


def texture(height, width, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 3, width // 3, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


SCENE = texture(HEIGHT, WIDTH, 0) // 4 + 90
ROBOT = texture(42, 36, 1)


def picture(x, y):
    """A textured patch, the robot, in front of a scene."""
    image = SCENE.copy()
    image[y : y + 42, x : x + 36] = ROBOT
    return image


def clip(*places):
    return np.stack([picture(x, y) for x, y in places])


def mask(x, y):
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[y + 3 : y + 39, x + 3 : x + 33] = True
    return found


START = (40, 24)
RIGHT = clip(START, (46, 24), (52, 24))


@pytest.mark.parametrize(
    ("imagined", "expected"),
    [
        (RIGHT, 1.0),
        (clip(START, (44, 24), (48, 24)), 1.0),
        (clip(START, (34, 24), (28, 24)), 0.0),
        (clip(START, (40, 30), (40, 36)), 0.5),
        (clip(START, (46, 30), (52, 36)), (1 + 2**-0.5) / 2),
        (clip(START, START, START), 0.5),
    ],
    ids=["same", "slower", "opposite", "across", "diagonal", "still"],
)
def test_similarity_is_the_cosine_of_the_motion(imagined, expected):
    found = motion_similarity(RIGHT, imagined, mask(*START))
    assert found.num_moving_pairs >= 5
    assert found.similarity == pytest.approx(expected, abs=0.05)


def test_only_the_foreground_counts():
    """The robot stands still and the scene moves."""
    moving = np.stack([picture(*START), np.roll(SCENE, 6, axis=1)])
    moving[1][24:66, 40:76] = ROBOT
    found = motion_similarity(moving, moving, mask(*START))
    assert found.num_pairs >= 5
    assert found.similarity is None
    everywhere = motion_similarity(moving, moving, np.ones((HEIGHT, WIDTH), bool))
    assert everywhere.similarity == pytest.approx(1, abs=0.01)


def test_tracks_have_the_true_length_in_image_heights():
    tracks = follow(RIGHT, mask(*START), MotionConfig())
    np.testing.assert_allclose(np.median(tracks.displacement[:, -1], axis=0), [12 / HEIGHT, 0], atol=0.005)


def test_points_that_vanish_are_lost():
    gone = np.stack([picture(*START), SCENE])
    assert len(follow(gone, mask(*START), MotionConfig()).position) <= 0.2 * len(
        follow(RIGHT, mask(*START), MotionConfig()).position
    )


def test_without_foreground_or_texture_there_is_nothing_to_compare():
    nowhere = motion_similarity(RIGHT, RIGHT, np.zeros((HEIGHT, WIDTH), bool))
    assert (nowhere.similarity, nowhere.num_pairs) == (None, 0)
    plain = np.full((2, HEIGHT, WIDTH, 3), 128, np.uint8)
    assert motion_similarity(plain, plain, mask(*START)).similarity is None


def tracks(*ways):
    return Tracks(position=np.array(ways, np.float32))


def test_pairs_are_one_to_one_with_the_least_distance_in_total():
    """The nearest partner of both real points is the same imagined one; only one may have it."""
    real = tracks([[0, 0], [0.1, 0]], [[0.02, 0], [0.02, 0.1]])
    imagined = tracks([[0.011, 0], [0.111, 0]], [[0.05, 0], [0.05, 0.1]])
    found = compare_tracks(real, imagined, MotionConfig(min_moving_pairs=1))
    assert compare_tracks(real, imagined, MotionConfig(min_moving_pairs=3)).similarity is None
    assert found.num_pairs == 2
    assert found.similarity == pytest.approx(1)


def test_points_that_began_apart_are_no_pair_and_take_nobodys_partner():
    real = tracks([[0.5, 0.5], [0.6, 0.5]], [[0, 0], [0, 0.1]])
    imagined = tracks([[0.9, 0.9], [0.8, 0.9]], [[0.01, 0], [0.01, 0.1]])
    found = compare_tracks(real, imagined, MotionConfig(min_moving_pairs=1))
    assert compare_tracks(real, imagined, MotionConfig(min_moving_pairs=3)).similarity is None
    assert found.num_pairs == 1
    assert found.similarity == pytest.approx(1)


def test_moving_foreground_is_where_the_episode_differs_from_its_median():
    images = clip(*[(4 + 14 * k, 24) for k in range(6)])
    found = moving_foreground(images)
    assert found.shape == (6, HEIGHT, WIDTH)
    for k, one in enumerate(found):
        robot = mask(4 + 14 * k, 24)
        assert one[robot].mean() > 0.4
        assert one[:20].mean() < 0.02


@pytest.mark.parametrize(
    ("real", "imagined", "foreground", "message"),
    [
        (RIGHT, RIGHT[:2], mask(*START), r"expected two of one shape"),
        (RIGHT[:1], RIGHT[:1], mask(*START), r"with F >= 2"),
        (RIGHT, RIGHT.astype(np.float32), mask(*START), "float32"),
        (RIGHT, RIGHT, mask(*START)[:-1], r"foreground is \(95, 128\); expected the frames' \(96, 128\)"),
    ],
)
def test_clips_that_do_not_fit_are_refused(real, imagined, foreground, message):
    with pytest.raises(SpecError, match=message):
        motion_similarity(real, imagined, foreground)


# -- playing ----------------------------------------------------------------------------------------------------------


class SlidingEnv:
    """An action moves the robot by dx px; over after 9 steps, solved if it got far to the right."""

    instruction = "slide"

    def reset(self, *, seed):
        self.x, self.step_index = 30, 0
        return self._observation(), {}

    def step(self, action):
        self.x = int(np.clip(self.x + action[0], 0, WIDTH - 40))
        self.step_index += 1
        return self._observation(), 0.0, False, self.step_index >= 9, {"success": self.x > 40}

    def robot_mask(self):
        return mask(self.x, 24)

    def _observation(self):
        return Observation(images={CAMERA: picture(self.x, 24)}, state=np.zeros(4, np.float32), time_s=float(self.step_index))


class SlidingPolicy:
    """Slides by ``dx`` a step and imagines ``imagined_dx``; sees the whole chunk."""

    config = small_config(action_horizon=4)
    window_spec = WindowSpec(image_offsets=(0, 2, 4))

    def __init__(self, dx, imagined_dx):
        self.dx, self.imagined_dx = dx, imagined_dx

    def sample(self, observations, instructions, generators):
        [observation] = observations
        [x] = [x for x in range(WIDTH) if (picture(min(x, WIDTH - 36), 24) == observation.images[CAMERA]).all()][:1]
        frames = clip(*[(x + self.imagined_dx * k, 24) for k in (2, 4)])
        chunk = ActionChunk(actions=np.full((4, 3), self.dx, np.float32), policy_version=0, observation_time_s=0.0)
        return [VideoActionSample(chunk=chunk, frames={CAMERA: frames}, present=observation.images)]


def test_looks_hold_what_was_imagined_and_what_its_actions_led_to():
    episode = play(SlidingEnv(), SlidingPolicy(2, 1), seed=3)
    assert [look.t for look in episode.looks] == [0, 4], "after 8 steps there is no second frame left to compare"
    assert (episode.num_steps, episode.is_success, episode.seed) == (9, True, 3)
    first = episode.looks[0]
    assert first.offsets == (0, 2, 4)
    assert (first.real == clip((30, 24), (34, 24), (38, 24))).all()
    assert (first.imagined == clip((30, 24), (32, 24), (34, 24))).all()
    assert (first.foreground == mask(30, 24)).all()


def test_without_a_robot_mask_the_foreground_is_what_moves():
    env = SlidingEnv()
    bare = SimpleNamespace(reset=env.reset, step=env.step, instruction="slide")
    episode = play(bare, SlidingPolicy(2, 2), seed=0)
    assert 0.02 < episode.looks[0].foreground.mean() < 0.5


def test_report_tells_true_imagination_from_false(tmp_path):
    reports = []
    for imagined_dx in (2, -2):
        episode = play(SlidingEnv(), SlidingPolicy(2, imagined_dx), seed=0)
        found = [motion_similarity(look.real, look.imagined, look.foreground) for look in episode.looks]
        reports.append(EpisodeReport.of(episode, found, MotionConfig()))
    assert reports[0].similarity > 0.9
    assert reports[1].similarity < 0.1
    assert reports[0].looks[0]["real_motion"] == pytest.approx(8 / HEIGHT, abs=0.01)
    record = {"task": "slide", "checkpoint": "toy", **summary(reports), "episodes": [vars(one) for one in reports]}
    assert record["similarity"]["failure"] is None
    json.dumps(record)
    assert "| 0 | slide | success | 2 |" in to_markdown(record)
    assert "failures (0): -" in to_markdown(record)


def test_pages_show_three_pictures_and_a_sheet_shows_some_of_them():
    found = motion_similarity(RIGHT, RIGHT, mask(*START))
    one = page(RIGHT, RIGHT, found, frame=2, title="slide")
    assert one.shape[0] % 2 == one.shape[1] % 2 == 0
    assert one.dtype == np.uint8
    still = page(RIGHT, RIGHT, dataclasses.replace(found, similarity=None), frame=2, title="slide")
    assert (still != one).any()
    assert contact_sheet([one] * 20).shape[0] == 8 * one.shape[0]
    assert contact_sheet([one] * 3).shape[0] == 3 * one.shape[0]


def test_a_policy_whose_frames_lie_beyond_its_actions_is_refused():
    policy = SlidingPolicy(1, 1)
    policy.window_spec = WindowSpec(image_offsets=(0, 5))
    with pytest.raises(ConfigError, match="none of its frames is what these lead to"):
        compared_offsets(policy)


def test_command_needs_a_policy(capsys):
    assert main(["--env", "fake"]) != 0
    assert "nothing to look at: set checkpoint=PATH" in capsys.readouterr().err
