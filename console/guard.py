"""What every request has to pass, whatever it asks for: the names of host and page, its size, and what a page of ours may load.

A web page from elsewhere can make a browser send requests here (DNS rebinding, cross-site WebSocket hijacking); the names in
``Host`` and ``Origin`` give it away. Cookies would not: the browser adds them.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_BODY = 4096
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """ASGI middleware: 403 for foreign names, strict headers on every answer."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """Wrap ``app``.

        Args:
            app: the inner application.
            origins: such as ``http://127.0.0.1:8500``: what a browser calls this server.
        """
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = frozenset(origin.partition("://")[2] for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        reason = self._refusal(scope)
        if reason is not None:
            # Before accept, a server turns either into a plain 403.
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 4403, "reason": reason})
            else:
                await PlainTextResponse(reason, status_code=403)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return f"host {host!r} is not one of {sorted(self._hosts)}; open the address that the console printed"
        if (scope["type"] == "websocket" or scope["method"] != "GET") and origin not in self._origins:
            return f"origin {origin!r} is not one of {sorted(self._origins)}; only the console's own page may do this"
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not (length.isdecimal() and int(length) <= _MAX_BODY):
            return f"a body of {length} bytes or unsaid length; expected at most {_MAX_BODY}"
        return None
