"""How alike two clips move: VideoVLA's robot-motion similarity, which compares what it imagined with what came (its Sec. 4).

Not on the tour. Pure functions of frames: keypoints on the foreground of each clip's first frame (SIFT), followed through the
clip (pyramidal Lucas-Kanade, kept where following it back arrives where it began), paired across the clips by where they
started (Hungarian algorithm), and compared by the cosine of their displacements.

The paper does not say how it normalises the cosine, nor what it does with points that stand still; here (1 + cos) / 2, and
pairs of which both stand still say nothing and are left out, while one that stands still beside one that moves has cosine 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from core.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Lengths are fractions of the image's height, so that they do not depend on its resolution."""

    max_keypoints: int = 200
    working_height_px: int = 384
    """Frames are enlarged to at least this: SIFT finds little in small images."""
    max_start_distance: float = 0.05
    """Points that began further apart are not a pair."""
    max_return_distance: float = 0.015
    """A point that, followed to the end and back, misses its start by more is lost."""
    still_distance: float = 0.01
    """A point that never gets further from its start stands still."""
    min_moving_pairs: int = 3
    """Fewer say nothing."""


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """Points followed through a clip."""

    position: NDArray[np.float32]
    """[K, F, 2], x and y in units of the image's height."""

    @property
    def displacement(self) -> NDArray[np.float32]:
        """[K, F - 1, 2], from the first frame."""
        return self.position[:, 1:] - self.position[:, :1]


@dataclass(frozen=True, kw_only=True)
class MotionSimilarity:
    """What :func:`motion_similarity` found."""

    similarity: float | None
    """0 (opposite) .. 0.5 (unrelated) .. 1 (the same directions), the mean over pairs that move; None where too few do."""
    num_pairs: int
    num_moving_pairs: int
    real: Tracks
    imagined: Tracks


def motion_similarity(
    real: NDArray[np.uint8], imagined: NDArray[np.uint8], foreground: NDArray[np.bool_], config: MotionConfig | None = None
) -> MotionSimilarity:
    """Compare the motion of two clips that begin with the same moment.

    Args:
        real: uint8 [F, H, W, 3], F >= 2.
        imagined: like ``real``.
        foreground: bool [H, W] of the first frame, for example the robot.
        config: of keypoints, tracking and matching.

    Raises:
        SpecError: if shapes or types differ.
    """
    config = config or MotionConfig()
    if real.shape != imagined.shape or real.ndim != 4 or len(real) < 2 or {real.dtype, imagined.dtype} != {np.dtype(np.uint8)}:
        raise SpecError(
            f"clips are {real.dtype} {real.shape} and {imagined.dtype} {imagined.shape}; expected two of one shape, "
            "uint8 (F, H, W, 3) with F >= 2"
        )
    if foreground.shape != real.shape[1:3]:
        raise SpecError(f"the foreground is {foreground.shape}; expected the frames' {real.shape[1:3]}")
    return compare_tracks(follow(real, foreground, config), follow(imagined, foreground, config), config)


def follow(frames: NDArray[np.uint8], foreground: NDArray[np.bool_], config: MotionConfig) -> Tracks:
    """Keypoints of the first frame's foreground, as far as they can be followed through all frames.

    Args:
        frames: uint8 [F, H, W, 3].
        foreground: bool [H, W].
        config: of keypoints and tracking.
    """
    height_px = max(config.working_height_px, frames.shape[1])
    size = (round(frames.shape[2] * height_px / frames.shape[1]), height_px)
    grey = [cv2.resize(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_CUBIC) for f in frames]
    mask = cv2.resize(foreground.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    found = cv2.SIFT.create(nfeatures=config.max_keypoints, contrastThreshold=0.02).detect(grey[0], mask)
    # SIFT names a place once for every direction it sees there.
    start = np.unique(np.array([point.pt for point in found], np.float32).reshape(-1, 2), axis=0)
    if not len(start):
        return Tracks(position=np.zeros((0, len(frames), 2), np.float32))
    path, is_followed = _followed(grey, start)
    back, is_back = _followed(grey[::-1], path[-1])
    error = np.linalg.norm(back[-1] - start, axis=1) / height_px
    is_kept = is_followed & is_back & (error <= config.max_return_distance)
    return Tracks(position=(path[:, is_kept] / height_px).transpose(1, 0, 2).astype(np.float32))


def compare_tracks(real: Tracks, imagined: Tracks, config: MotionConfig) -> MotionSimilarity:
    """Pair tracks by where they start, at most one to one and with the least distance in total, and compare their motion."""
    distance = np.linalg.norm(real.position[:, None, 0] - imagined.position[None, :, 0], axis=2)
    # One that is too far is worth as little as none, or it would pull others away from their partners.
    rows, columns = linear_sum_assignment(np.minimum(distance, config.max_start_distance))
    is_near = distance[rows, columns] < config.max_start_distance
    rows, columns = rows[is_near], columns[is_near]
    real, imagined = Tracks(position=real.position[rows]), Tracks(position=imagined.position[columns])
    moves = [_moves(tracks, config) for tracks in (real, imagined)]
    left, right = real.displacement, imagined.displacement
    length = np.linalg.norm(left, axis=(1, 2)) * np.linalg.norm(right, axis=(1, 2))
    cosine = np.where(moves[0] & moves[1], (left * right).sum(axis=(1, 2)) / np.maximum(length, 1e-12), 0.0)
    is_moving = moves[0] | moves[1]
    return MotionSimilarity(
        similarity=float((1 + cosine[is_moving]).mean() / 2) if is_moving.sum() >= max(1, config.min_moving_pairs) else None,
        num_pairs=len(rows),
        num_moving_pairs=int(is_moving.sum()),
        real=real,
        imagined=imagined,
    )


def moving_foreground(images: NDArray[np.uint8], *, threshold: int = 24) -> NDArray[np.bool_]:
    """Where each image of a camera that stands still differs from the scene: for episodes without a segmentation.

    Args:
        images: uint8 [T, H, W, 3] of one episode.
        threshold: grey levels.

    Returns:
        bool [T, H, W]; wider than the robot by a few pixels, and blind to what hardly ever moves.
    """
    scene = np.median(images, axis=0)
    differs = np.abs(images.astype(np.int16) - scene.astype(np.int16)).max(axis=3) > threshold
    kernel = np.ones((3, 3), np.uint8)
    closed = [cv2.morphologyEx(d.astype(np.uint8), cv2.MORPH_OPEN, kernel) for d in differs]
    return np.stack([cv2.dilate(d, kernel, iterations=2) for d in closed]).astype(bool)


def _followed(grey: list[NDArray[np.uint8]], start: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Positions [F, K, 2] in pixels, and which of the K points were never lost."""
    path, is_followed = [start], np.ones(len(start), bool)
    for before, after in itertools.pairwise(grey):
        # The third argument is a first guess that there is not.
        points, status, _ = cv2.calcOpticalFlowPyrLK(before, after, path[-1], None, winSize=(31, 31), maxLevel=4)  # type: ignore[call-overload]
        path.append(points)
        is_followed &= status.ravel() == 1
    return np.stack(path), is_followed


def _moves(tracks: Tracks, config: MotionConfig) -> NDArray[np.bool_]:
    return np.linalg.norm(tracks.displacement, axis=2).max(axis=1, initial=0.0) > config.still_distance
