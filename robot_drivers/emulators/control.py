"""Faults and logs of a running emulator, by one JSON object a line over TCP on the loopback address.

============================  ==============================================================================
request                       answer
============================  ==============================================================================
``{"inject": "delay:0.2"}``   ``{"ok": true}``
``{"clear": true}``           ``{"ok": true}``
``{"log_since_s": 12.5}``     ``{"samples": [...], "events": [...]}``, times of this host's monotonic clock
anything else                 ``{"error": "..."}``
============================  ==============================================================================
"""

from __future__ import annotations

import dataclasses
import json
import socket
import socketserver
import threading
from typing import Any

from core.errors import ConfigError, RecapError
from robot_drivers.emulators.emulator import Emulator

_LOOPBACK = "127.0.0.1"
_MAX_LINE_BYTES = 4096


class EmulatorControl:
    """Serves the requests above for one emulator.

    Example::

        with EmulatorControl(emulator, port=9000) as control:
            ask(control.port, {"inject": "freeze"})
    """

    def __init__(self, emulator: Emulator, port: int) -> None:
        """``port`` 0 takes a free one.

        Raises:
            ConfigError: if the port is taken.
        """

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while line := self.rfile.readline(_MAX_LINE_BYTES):
                    self.wfile.write(json.dumps(_answer(emulator, line)).encode() + b"\n")

        try:
            self._server = socketserver.ThreadingTCPServer((_LOOPBACK, port), Handler)
        except OSError as error:
            raise ConfigError(f"the control port {port} cannot be opened: {error}; choose another --control-port") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="emulator-control", daemon=True)

    def __enter__(self) -> EmulatorControl:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def ask(port: int, request: dict[str, Any]) -> dict[str, Any]:
    """Send one request to a running emulator.

    Raises:
        RecapError: if there is no emulator, or it refuses.
    """
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=5) as connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise RecapError(f"no emulator answers at control port {port}: {error}; start one with --control-port {port}") from error
    if not isinstance(answer, dict) or "error" in answer:
        raise RecapError(f"the emulator refuses {request}: {answer}")
    return answer


def _answer(emulator: Emulator, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        match request:
            case {"inject": str(fault)}:
                emulator.inject(fault)
            case {"clear": True}:
                emulator.clear()
            case {"log_since_s": int(since_s) | float(since_s)}:
                return {
                    "samples": [dataclasses.asdict(sample) for sample in emulator.samples(since_s)],
                    "events": [dataclasses.asdict(event) for event in emulator.events(since_s)],
                }
            case _:
                return {"error": f"expected inject, clear or log_since_s; got {request!r}"}
    except (ValueError, RecapError) as error:
        return {"error": str(error)}
    return {"ok": True}
