"""Who is at the page: tokens and one-time links in, a signed cookie out.

The cookie holds name and role and a signature under a key that comes from the token file, so that a console that is started again
knows its people again, and a new token file knows nobody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.errors import ConfigError, RecapError
from robot_drivers.protocol import role_of
from robot_drivers.states import Role

COOKIE = "console"
_VALID_S = 12 * 3600
_MAX_NAME = 40
PEOPLES_ROLES = (Role.VIEW, Role.OPERATE, Role.SUPERVISE)
"""That a person can have; the robot actor's is not among them."""


class UnknownTokenError(RecapError, PermissionError):
    """A token or link that nobody gave out, or that was used before."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who has shown a token."""

    name: str
    role: Role


class People:
    """Signs people in and recognises them.

    Example:
        >>> people = People({Role.OPERATE: "t" * 32})
        >>> cookie = people.sign_in("t" * 32, "ada")
        >>> people.who(cookie).role.value
        'operate'
    """

    def __init__(self, tokens: Mapping[Role, str], now_s: Callable[[], float] = time.time) -> None:
        """Know the roles' tokens.

        Args:
            tokens: of :func:`robot_drivers.protocol.read_tokens`; a role without one cannot be had.
            now_s: Unix time.

        Raises:
            ConfigError: if there is none for any role of a person.
        """
        self._tokens = {role: token for role, token in tokens.items() if role in PEOPLES_ROLES}
        if not self._tokens:
            raise ConfigError(f"tokens for {[role.value for role in tokens]}; expected one of {[r.value for r in PEOPLES_ROLES]}")
        self._key = hashlib.sha256("\n".join(["console", *sorted(self._tokens.values())]).encode()).digest()
        self._now_s = now_s
        self._links: dict[Role, str] = {}
        self._lock = threading.Lock()

    @property
    def roles(self) -> tuple[Role, ...]:
        """Those that somebody can sign in with."""
        return tuple(self._tokens)

    def new_link_token(self, role: Role) -> str:
        """A token that signs in one person, once; the one before for this role is void."""
        with self._lock:
            self._links[role] = secrets.token_urlsafe(24)
            return self._links[role]

    def sign_in(self, token: str, name: str) -> str:
        """Take a token or a link's token.

        Returns:
            The cookie's value.

        Raises:
            UnknownTokenError: if it is not known (any more), or the name is not one.
        """
        name = name.strip()
        if not (0 < len(name) <= _MAX_NAME and name.isprintable()):
            raise UnknownTokenError(f"the name {name!r} cannot be shown to others; expected 1 to {_MAX_NAME} characters")
        with self._lock:
            role = role_of(token, self._links)
            if role is not None:
                del self._links[role]
        role = role or role_of(token, self._tokens)
        if role is None:
            raise UnknownTokenError("this token is not known, or its link was used before; take one from the token file")
        body = json.dumps([name, role.value, int(self._now_s()) + _VALID_S]).encode()
        return f"{_encoded(body)}.{_encoded(self._signature(body))}"

    def who(self, cookie: str | None) -> Person | None:
        """Whose cookie it is; None if it is not ours, altered or too old."""
        try:
            body, signature = (base64.urlsafe_b64decode(part + "==") for part in (cookie or "").split("."))
            if not hmac.compare_digest(signature, self._signature(body)):
                return None
            name, role, until_s = json.loads(body)
        except ValueError:
            return None
        return Person(name=name, role=Role(role)) if self._now_s() < until_s else None

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")
