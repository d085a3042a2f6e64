"""Pictures of what value models say: curves over a filmstrip, a predicted future state against the real one, chunks of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from core.experience import Episode
from value_service.bench.truth import BenchEpisode

_COLOURS = {"viva": "#1f6feb", "wvm": "#d9822b", "vlm": "#3a9d5d", "value_only": "#8250a8", "clock": "#999999"}
_NUM_FRAMES = 10

Curves = Mapping[str, NDArray[np.float32]]
"""Model -> V [T+1]."""


def value_curves(path: Path, shown: Sequence[tuple[BenchEpisode, Episode, Curves]]) -> None:
    """An episode a row: its frames, and below them every model's progress 1 + V beside the truth.

    Args:
        path: of the PNG.
        shown: the episodes.
    """
    figure = Figure(figsize=(12, 3.5 * len(shown)), dpi=90, layout="constrained")
    rows = figure.subplots(2 * len(shown), 1, height_ratios=[1.0, 1.9] * len(shown), squeeze=False)[:, 0]
    for row, (bench, episode, curves) in enumerate(shown):
        strip, axes = rows[2 * row], rows[2 * row + 1]
        _filmstrip(strip, episode)
        strip.set_title(f"{bench.task}, {bench.truth.kind.value}", fontsize=10, loc="left")
        _truth(axes, bench)
        for name, value in curves.items():
            axes.plot(1 + value, color=_COLOURS.get(name), linewidth=1.6, label=name)
        axes.set(xlim=(-0.5, episode.num_steps + 0.5), ylim=(-0.03, 1.03), ylabel="progress 1 + V")
        if row == 0:
            axes.legend(fontsize=8, loc="upper left", ncols=len(curves) + 2)
    rows[-1].set_xlabel("environment step")
    _save(figure, path)


def future_states(path: Path, bench: BenchEpisode, episode: Episode, predicted: NDArray[np.float32], offset_steps: int) -> None:
    """Every entry of the state as it was, and as it was predicted K before.

    Args:
        path: of the PNG.
        bench: what is known of the episode.
        episode: of T steps.
        predicted: [T+1, S], at t the state that is expected at t + K.
        offset_steps: K.
    """
    names = episode.env_spec.state.names
    figure = Figure(figsize=(12, 2.1 * ((len(names) + 3) // 4) + 0.4), dpi=90, layout="constrained")
    axes = figure.subplots((len(names) + 3) // 4, 4, squeeze=False).ravel()
    now = np.arange(episode.num_steps + 1)
    for index, (name, unit) in enumerate(zip(names, episode.env_spec.state.units, strict=True)):
        axes[index].plot(now, episode.state[:, index], color="#222222", linewidth=1.6, label="real")
        axes[index].plot(
            now + offset_steps, predicted[:, index], color="#1f6feb", linewidth=1.2, label=f"predicted {offset_steps} before"
        )
        axes[index].set_title(f"{name} ({unit})", fontsize=9)
        axes[index].set_xlim(0, episode.num_steps)
        axes[index].tick_params(labelsize=7)
    for unused in axes[len(names) :]:
        unused.set_axis_off()
    axes[0].legend(fontsize=7)
    figure.suptitle(f"ViVa's future state: {bench.task}, {bench.truth.kind.value}", fontsize=10)
    _save(figure, path)


def value_chunks(
    path: Path, shown: Sequence[tuple[BenchEpisode, Episode, Mapping[str, NDArray[np.float32]]]], frame_steps: int
) -> None:
    """WVM's chunks, each a short line that ends at its step, the averaged value, and the spread of what was averaged.

    Args:
        path: of the PNG.
        shown: episodes, with ``value`` [T+1], ``chunk`` [T+1, n] and ``value_spread`` [T+1].
        frame_steps: environment steps between two values of a chunk.
    """
    figure = Figure(figsize=(12, 3.0 * len(shown)), dpi=90, layout="constrained")
    for axes, (bench, episode, told) in zip(figure.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        _truth(axes, bench)
        t, progress, spread = np.arange(episode.num_steps + 1), 1 + told["value"], told["value_spread"]
        back = frame_steps * np.arange(told["chunk"].shape[1] - 1, -1, -1)
        for end in t[back[0] :]:
            axes.plot(end - back, 1 + told["chunk"][end], color="#d9822b", linewidth=0.7, alpha=0.7)
        axes.fill_between(t, progress - spread, progress + spread, color="#1f6feb", alpha=0.25, label="± spread of the estimates")
        axes.plot(t, progress, color="#1f6feb", linewidth=1.6, label="averaged value")
        axes.plot([], [], color="#d9822b", linewidth=0.7, label="chunks")
        axes.set(xlim=(-0.5, episode.num_steps + 0.5), ylim=(-0.03, 1.03), ylabel="progress 1 + V")
        axes.set_title(f"WVM: {bench.task}, {bench.truth.kind.value}", fontsize=10, loc="left")
        axes.legend(fontsize=8, loc="upper left")
    _save(figure, path)


def _filmstrip(axes: Axes, episode: Episode) -> None:
    """Frames at equal distances, in the time of the curves below: each begins where it was seen."""
    frames = next(iter(episode.images.values()))
    t = np.linspace(0, episode.num_steps, _NUM_FRAMES, endpoint=False).astype(int)
    axes.imshow(np.concatenate(list(frames[t]), axis=1), aspect="auto", extent=(-0.5, episode.num_steps + 0.5, 0, 1))
    axes.set_xticks([])
    axes.set_yticks([])


def _truth(axes: Axes, bench: BenchEpisode) -> None:
    truth = bench.truth
    if truth.label is not None:
        axes.plot(truth.label, color="#222222", linewidth=1.2, linestyle="--", label="truth")
    if truth.interval is not None:
        axes.axvspan(*truth.interval, color="#cccccc", alpha=0.5, linewidth=0)
    for key in truth.key_frames:
        axes.axvline(key.t, color="#c0392b" if key.is_error else "#2e8b57", linewidth=0.8)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
