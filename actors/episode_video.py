"""An episode to look at: what was seen, what the policy imagined, what really came, and what the value model thought of it.

Not on the tour: reads Episodes and Labels, writes an MP4. Layout: three pictures above (now; imagined for t + K; seen at
t + K), below them the value of every observation, green where the advantage is above the threshold and red where it is not,
with a cursor at the present.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import imageio.v2 as imageio
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.experience import Episode, Source
from core.labels import Labels

_PANEL_HEIGHT_PX = 256
_MARGIN_PX = 16
_TITLE_PX = 40
_CAPTION_PX = 26
_PLOT_HEIGHT_PX = 220
_PAPER = (250, 250, 248)
_INK = (40, 40, 40)
_FAINT = (140, 140, 140)
_GOOD = "#3a9d5d"
_BAD = "#c8503c"
_CURSOR = (30, 30, 30)
_HOLD_LAST_FRAME_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Imagination:
    """What a video policy expected to see."""

    frames: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Environment index t at which it was asked -> [H, W, 3], the picture expected at t + offset."""
    offset_steps: int = 0


def imagine_along(policy: Any, episode: Episode, *, every_steps: int) -> Imagination:
    """What a video policy expects at every ``every_steps``-th observation; nothing for a policy without imagination."""
    if not hasattr(policy, "imagine"):
        return Imagination()
    camera = policy.config.camera
    offset = policy.window_spec.image_offsets[-1]
    frames = {}
    for t in range(0, episode.num_steps, every_steps):
        generator = torch.Generator().manual_seed(episode.provenance.seed + t)
        frames[t] = policy.imagine([episode.observation(t)], [episode.instruction], [generator])[0][camera][-1]
    return Imagination(frames=frames, offset_steps=offset)


def write_episode_video(
    path: Path,
    episode: Episode,
    *,
    camera: str | None = None,
    labels: Labels | None = None,
    threshold: float | None = None,
    imagination: Imagination | None = None,
    title: str = "",
    speed: float = 2.0,
) -> None:
    """Write an MP4.

    Args:
        path: of the file; its folder is made.
        episode: what happened.
        camera: which camera; the first by default.
        labels: values and advantages; without them there is no curve.
        threshold: above which an advantage counts as positive; None: 0.
        imagination: what the policy expected; without it there is one picture.
        title: in front of the instruction.
        speed: times real time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rate_hz = episode.env_spec.action.control_hz * speed
    frames = list(video_frames(episode, camera=camera, labels=labels, threshold=threshold, imagination=imagination, title=title))
    frames += [frames[-1]] * max(1, round(_HOLD_LAST_FRAME_S * rate_hz))
    writer: Any = imageio.get_writer(path, fps=rate_hz, codec="libx264", quality=8, macro_block_size=2, ffmpeg_log_level="error")
    with writer:
        for frame in frames:
            writer.append_data(frame)


def video_frames(
    episode: Episode,
    *,
    camera: str | None = None,
    labels: Labels | None = None,
    threshold: float | None = None,
    imagination: Imagination | None = None,
    title: str = "",
) -> Iterator[NDArray[np.uint8]]:
    """The frames of :func:`write_episode_video`, one for each observation: uint8 [h, w, 3], h and w even."""
    images = episode.images[camera or episode.env_spec.cameras[0].name]
    panel_width = round(_PANEL_HEIGHT_PX * images.shape[2] / images.shape[1])
    num_panels = 3 if imagination and imagination.frames else 1
    width = max(num_panels * panel_width + (num_panels + 1) * _MARGIN_PX, 560)
    width += width % 2
    plot = _value_plot(labels, threshold or 0.0, width) if labels else None
    height = _TITLE_PX + _PANEL_HEIGHT_PX + _CAPTION_PX + (_PLOT_HEIGHT_PX if plot else 0)
    for t in range(len(images)):
        page = np.full((height + height % 2, width, 3), _PAPER, np.uint8)
        _write(page, f"{title}{episode.instruction}", (_MARGIN_PX, 27), _INK, 0.62)
        _write_outcome(page, episode, t)
        pictures = _pictures(images, imagination if num_panels == 3 else None, t)
        left = (width - num_panels * panel_width - (num_panels - 1) * _MARGIN_PX) // 2
        for number, (caption, picture) in enumerate(pictures):
            x = left + number * (panel_width + _MARGIN_PX)
            page[_TITLE_PX : _TITLE_PX + _PANEL_HEIGHT_PX, x : x + panel_width] = _resized(picture, panel_width)
            _write(page, caption, (x, _TITLE_PX + _PANEL_HEIGHT_PX + 18), _FAINT, 0.45)
        if plot:
            top = _TITLE_PX + _PANEL_HEIGHT_PX + _CAPTION_PX
            page[top : top + _PLOT_HEIGHT_PX] = plot.image
            x = round(plot.x_px[t])
            cv2.line(page, (x, top + plot.top_px), (x, top + plot.bottom_px), _CURSOR, 1, cv2.LINE_AA)
            cv2.circle(page, (x, top + round(plot.y_px[t])), 5, _CURSOR, -1, cv2.LINE_AA)
        yield page


def _pictures(images: NDArray[np.uint8], imagination: Imagination | None, t: int) -> list[tuple[str, NDArray[np.uint8] | None]]:
    pictures: list[tuple[str, NDArray[np.uint8] | None]] = [(f"seen now, t = {t}", images[t])]
    if imagination is None:
        return pictures
    asked = max((s for s in imagination.frames if s <= t), default=None)
    if asked is None:
        return [*pictures, ("imagined: nothing yet", None), ("", None)]
    ahead = min(asked + imagination.offset_steps, len(images) - 1)
    return [
        *pictures,
        (f"imagined at t = {asked} for t = {asked + imagination.offset_steps}", imagination.frames[asked]),
        (f"really seen at t = {ahead}", images[ahead]),
    ]


@dataclass(frozen=True)
class _Plot:
    image: NDArray[np.uint8]
    x_px: NDArray[np.float64]
    y_px: NDArray[np.float64]
    top_px: int
    bottom_px: int


def _value_plot(labels: Labels, threshold: float, width_px: int) -> _Plot:
    """The value curve, drawn once; the cursor moves over it."""
    figure = Figure(figsize=(width_px / 100, _PLOT_HEIGHT_PX / 100), dpi=100, facecolor="#fafaf8")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.075, 0.22, 0.905, 0.66))
    axes.set_facecolor("none")
    t = np.arange(len(labels.value))
    is_positive = labels.advantage > threshold
    for step, positive in enumerate(is_positive):
        axes.axvspan(step, step + 1, color=_GOOD if positive else _BAD, alpha=0.22, linewidth=0)
    axes.plot(t, labels.value, color="#222222", linewidth=1.8)
    if np.isfinite(labels.return_).all():
        axes.plot(t[:-1], labels.return_, color="#888888", linewidth=1.0, linestyle=(0, (4, 3)))
    low = min(float(labels.value.min()), float(np.nanmin(labels.return_, initial=0.0)))
    axes.set(xlim=(0, t[-1]), ylim=(max(-1.03, low - 0.08), 0.03))
    axes.set_xlabel("step", fontsize=8, labelpad=1)
    axes.set_ylabel("value", fontsize=8, labelpad=1)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"V(o) solid, return dashed; advantage positive in green ({is_positive.mean():.0%} of steps), negative in red",
        fontsize=8,
        loc="left",
        color="#555555",
        pad=4,
    )
    canvas.draw()
    points = axes.transData.transform(np.column_stack([t, labels.value]))
    box = axes.get_window_extent()
    return _Plot(
        image=np.asarray(canvas.buffer_rgba())[..., :3].copy(),
        x_px=points[:, 0],
        y_px=_PLOT_HEIGHT_PX - points[:, 1],
        top_px=round(_PLOT_HEIGHT_PX - box.y1),
        bottom_px=round(_PLOT_HEIGHT_PX - box.y0),
    )


def _write_outcome(page: NDArray[np.uint8], episode: Episode, t: int) -> None:
    """Who acts, and at the end how it ended, in the upper right corner."""
    if t < episode.num_steps:
        text, colour = Source(int(episode.source[t])).name.lower(), _FAINT
    else:
        text = episode.end.value.replace("_", " ").upper()
        colour = (58, 157, 93) if episode.is_success else (200, 80, 60)
    (text_width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.62, 1)
    _write(page, text, (page.shape[1] - text_width - _MARGIN_PX, 27), colour, 0.62)


def _resized(picture: NDArray[np.uint8] | None, width_px: int) -> NDArray[np.uint8]:
    if picture is None:
        return np.full((_PANEL_HEIGHT_PX, width_px, 3), 232, np.uint8)
    resized = cv2.resize(picture, (width_px, _PANEL_HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _write(page: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float) -> None:
    cv2.putText(page, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
