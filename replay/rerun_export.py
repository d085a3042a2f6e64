"""Writes one episode as a Rerun recording (``.rrd``), for the Rerun viewer. Needs the extra ``rerun``."""

from __future__ import annotations

from pathlib import Path

from core.errors import ConfigError
from core.experience import Episode
from core.labels import Labels

_JPEG_QUALITY = 95


def export_rerun(path: Path, episode: Episode, labels: Labels | None = None) -> None:
    """Write an episode: one image a camera, one curve an entry of state and action, on the environment's clock.

    Args:
        path: of the file; must not exist.
        episode: what happened.
        labels: values and advantages, if wanted.

    Raises:
        ConfigError: if the extra is not installed, or ``path`` exists.
    """
    try:
        import rerun
    except ImportError:
        raise ConfigError("exporting a Rerun recording needs the package rerun-sdk: pip install 'viva-recap[rerun]'") from None
    if path.exists():
        raise ConfigError(f"{path} exists; name a file that does not")
    recording = rerun.RecordingStream("viva_recap", recording_id=episode.episode_id)
    recording.save(str(path))
    recording.log("instruction", rerun.TextDocument(f"{episode.instruction} ({episode.end.value})"), static=True)
    for t in range(episode.num_steps + 1):
        recording.set_time("time", duration=float(episode.time_s[t] - episode.time_s[0]))
        for camera, frames in episode.images.items():
            recording.log(f"images/{camera}", rerun.Image(frames[t]).compress(jpeg_quality=_JPEG_QUALITY))
        curves = {f"state/{name}": episode.state[t, i] for i, name in enumerate(episode.env_spec.state.names)}
        if t < episode.num_steps:
            curves |= {f"action/{name}": episode.executed_action[t, i] for i, name in enumerate(episode.env_spec.action.names)}
            curves |= {"step/source": episode.source[t], "step/reward": episode.reward[t]}
        if labels is not None:
            curves["labels/value"] = labels.value[t]
            if t < episode.num_steps:
                curves["labels/advantage"] = labels.advantage[t]
        for name, value in curves.items():
            recording.log(name, rerun.Scalars(float(value)))
    recording.flush()
    recording.disconnect()
