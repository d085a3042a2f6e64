"""The far end of :mod:`envs.simpler.upstream_backend`: runs the original ``simpler_env`` in an interpreter of its own.

Started as a script there, so it uses nothing of this project, only numpy and ``simpler_env``, and runs on Python 3.8. Both
ends share :class:`ArrayFile`, which is why the near end imports this file too.

One request a line on standard input, one reply a line on standard output, both JSON. Arrays are not in them: each side has a
file that it alone writes and both map into memory, and a message says where in it an array lies.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

_MARK = "$array"
_ALIGNMENT = 64


class ArrayFile:
    """Arrays from one process to another, by way of a file that both map; each message overwrites the one before.

    Args:
        path: an existing file. One side only packs, the other only unpacks.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._map: mmap.mmap | None = None

    def pack(self, tree: Any) -> Any:
        """Write the arrays of nested dicts and lists; returns what JSON can carry, with the arrays' places in it."""
        arrays: list[tuple[int, Any]] = []
        packed = self._described(tree, arrays)
        if arrays:
            offset, last = arrays[-1]
            buffer = self._mapped(offset + last.nbytes, may_grow=True)
            for offset, array in arrays:
                np.frombuffer(buffer, array.dtype, array.size, offset)[:] = array.ravel()
        return packed

    def unpack(self, packed: Any) -> Any:
        """The inverse; the arrays are copies, so they stay when the next message comes."""
        if isinstance(packed, list):
            return [self.unpack(value) for value in packed]
        if not isinstance(packed, dict):
            return packed
        if _MARK not in packed:
            return {key: self.unpack(value) for key, value in packed.items()}
        offset, shape, dtype = packed[_MARK]
        count = int(np.prod(shape, dtype=np.int64))
        if count == 0:
            return np.zeros(shape, dtype)
        buffer = self._mapped(offset + count * np.dtype(dtype).itemsize, may_grow=False)
        return np.frombuffer(buffer, dtype, count, offset).reshape(shape).copy()

    def _described(self, tree: Any, arrays: list[tuple[int, Any]]) -> Any:
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        if isinstance(tree, Mapping):
            return {str(key): self._described(value, arrays) for key, value in tree.items()}
        if isinstance(tree, (list, tuple)):
            return [self._described(value, arrays) for value in tree]
        if isinstance(tree, np.generic):
            return tree.item()
        if hasattr(tree, "p") and hasattr(tree, "q"):  # a simulator's pose
            tree = np.concatenate([tree.p, tree.q]).astype(np.float32)
        if not isinstance(tree, np.ndarray) or tree.dtype.hasobject:
            return repr(tree)
        end = arrays[-1][0] + arrays[-1][1].nbytes if arrays else 0
        offset = -(-end // _ALIGNMENT) * _ALIGNMENT
        if tree.size:
            arrays.append((offset, tree))
        return {_MARK: [offset, list(tree.shape), tree.dtype.str]}

    def _mapped(self, num_bytes: int, *, may_grow: bool) -> mmap.mmap:
        if self._map is None or len(self._map) < num_bytes:
            if may_grow and os.path.getsize(self._path) < num_bytes:  # noqa: PTH202 (plain strings suit the old Python)
                os.truncate(self._path, num_bytes)
            with open(self._path, "r+b") as file:  # noqa: PTH123
                self._map = mmap.mmap(file.fileno(), 0)
        return self._map


class _Server:
    """One environment of the original, one method a request."""

    def make(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        import simpler_env

        self._env = simpler_env.make(name, **arguments)
        space = self._env.action_space
        return {
            "robot_uid": str(getattr(self._env.unwrapped, "robot_uid", "")),
            "action_low": np.asarray(space.low),
            "action_high": np.asarray(space.high),
            "versions": _versions(),
        }

    def reset(self, arguments: dict[str, Any]) -> list[Any]:
        obs, info = self._env.reset(**arguments)
        return [obs, info]

    def step(self, action: Any) -> list[Any]:
        return list(self._env.step(action))

    def get_language_instruction(self) -> str:
        return str(self._env.unwrapped.get_language_instruction())

    def is_final_subtask(self) -> bool:
        return bool(self._env.unwrapped.is_final_subtask())

    def advance_to_next_subtask(self) -> None:
        self._env.unwrapped.advance_to_next_subtask()

    def close(self) -> None:
        self._env.close()


def _versions() -> dict[str, str]:
    """Of this interpreter and of what the results depend on, as far as they say."""
    found = {"python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}
    for name in ("simpler_env", "mani_skill2_real2sim", "sapien"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            found[name] = str(version)
    return found


def main(inbox: str, outbox: str) -> None:
    """Answer requests until told to close, or until the other side is gone.

    Args:
        inbox: path of the array file that the other side writes.
        outbox: path of the one written here.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the simulator prints goes to the error stream, not between the replies
    del sys.path[0]  # this file's folder: its modules are none of the original's business
    requests, results, server = ArrayFile(inbox), ArrayFile(outbox), _Server()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(server, request["call"])(*requests.unpack(request["arguments"]))
            reply = {"result": results.pack(answer)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": type(error).__name__, "message": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if request["call"] == "close":
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
