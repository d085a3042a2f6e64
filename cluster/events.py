"""What happens in a run, as structured log records: one JSON line each in ``RUN/events.jsonl``, with run, episode and versions.

Records go through the standard library's logging, so that warnings of any module land in the same file in their order, and so
that other handlers (``cluster/metrics.py``) can listen. Nothing is sent anywhere.
"""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EVENTS_FILE = "events.jsonl"
_log = logging.getLogger("viva_recap.events")
_FIELDS = "event_fields"


def log_event(event: str, **fields: Any) -> None:
    """Record that something happened.

    Args:
        event: its name: ``episode``, ``labels``, ``learner_step``, ``phase``.
        fields: JSON-like; ids and versions by the names that they have everywhere (``episode_id``, ``policy_version``).
    """
    _log.info(event, extra={_FIELDS: fields})


def event_of(record: logging.LogRecord) -> tuple[str, Mapping[str, Any]] | None:
    """Name and fields of an event; None for any other record."""
    fields = getattr(record, _FIELDS, None)
    return None if fields is None else (record.getMessage(), fields)


class JsonLines(logging.Formatter):
    """Formats any record as one line of JSON.

    Example::

        {"time": "2026-11-21T12:00:00.123+00:00", "level": "info", "run": "demo", "event": "episode", "episode_id": "01..", ...}
    """

    def __init__(self, run: str) -> None:
        """``run`` is part of every line."""
        super().__init__()
        self._run = run

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "run": self._run}
        event = event_of(record)
        if event is not None:
            line |= {"event": event[0], **event[1]}
        else:
            line |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


@contextmanager
def events_to(file: Path, *, run: str) -> Iterator[None]:
    """Append all events, and the warnings of every module, to a file while the block runs.

    Args:
        file: of JSON lines; made with its folder if there is none.
        run: its name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(file, delay=True)
    handler.setFormatter(JsonLines(run))
    root, level = logging.getLogger(), _log.level
    root.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.setLevel(level)
        root.removeHandler(handler)
        handler.close()
