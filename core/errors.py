"""One error tree. Every message holds the offending value, what was expected, and what to do.

Each class also inherits the builtin that a caller would naturally catch, so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class RecapError(Exception):
    """Root of all errors that viva-recap raises on purpose."""


class SpecError(RecapError, ValueError):
    """An array, a record or a checkpoint does not match the specification it is used with."""


class ConfigError(RecapError, ValueError):
    """A configuration key is unknown, missing, or has a wrong type or value."""


class AssetError(RecapError, FileNotFoundError):
    """A data file is missing, or its digest is not the expected one."""


class RendererError(RecapError, RuntimeError):
    """No usable Vulkan driver."""


class CorruptDataError(RecapError, ValueError):
    """Stored bytes fail their checksum or cannot be parsed."""


class SchemaVersionError(RecapError, ValueError):
    """Stored data was written by a newer version than this code reads."""


class StorageFullError(RecapError, OSError):
    """The disk is full; nothing was committed."""


class CheckpointError(RecapError, ValueError):
    """A checkpoint is incomplete, altered, or was made for something else."""


class NonFiniteError(RecapError, ValueError):
    """A NaN or an infinity where a finite number is required."""


class WorkerError(RecapError, RuntimeError):
    """A worker process died or could not be replaced."""
