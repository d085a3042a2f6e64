"""Measurements of a run: JSON lines and TensorBoard events. A resumed run has each step once."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path

from learners.run_directory import read_json_lines


class MetricsLog:
    """Appends measurements of (phase, step).

    Example row: ``{"phase": "001/update_policy", "step": 40, "loss": 0.21, "gradient_norm": 0.6}``.
    """

    def __init__(self, file: Path, tensorboard: Path) -> None:
        """``tensorboard`` is the folder of its event files."""
        # Imported here: it takes half a second, and those who only read metrics do not need it.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._path = file
        self._lock = threading.Lock()  # two fits may run at once
        read_json_lines(file)  # cuts off a last line that a kill left half written
        self._file = file.open("a")
        self._writer = SummaryWriter(str(tensorboard))  # type: ignore[no-untyped-call]

    def write(self, phase: str, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row; numbers that are not finite are left out, JSON has none."""
        finite = {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
        with self._lock:
            self._file.write(json.dumps({"phase": phase, "step": step, **finite}) + "\n")
            self._file.flush()
        for key, value in finite.items():
            self._writer.add_scalar(f"{phase}/{key}", value, step)  # type: ignore[no-untyped-call]

    def forget(self, phase: str, *, after_step: int) -> None:
        """Drop the rows of a phase that are about to be measured again."""
        with self._lock:
            kept = [row for row in read_json_lines(self._path) if row["phase"] != phase or row["step"] <= after_step]
            self._file.close()
            staging = self._path.with_name(f".{self._path.name}.partial")
            staging.write_text("".join(json.dumps(row) + "\n" for row in kept))
            staging.replace(self._path)
            self._file = self._path.open("a")

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        self._writer.close()  # type: ignore[no-untyped-call]
