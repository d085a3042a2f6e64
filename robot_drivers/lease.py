"""Who has control: one holder at a time, by a lease that only fresh input renews, under a number that only grows.

The number is a fencing token: input that was sent under an older one is refused whenever it arrives, so that a browser which was
stopped and continued, or a second tab, cannot move anything. A lease that ran out stays dead; only a new press makes a new one.
"""

from __future__ import annotations

from robot_drivers.states import RefusedError, Role


class HeldError(RefusedError):
    """Somebody else has control; ``holder`` says who."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class Lease:
    """At most one operator's control over the robot."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._holder: str | None = None
        self._fence = 0
        self._sequence = -1
        self._granted_s = 0.0
        self._deadline_s = 0.0

    @property
    def holder(self) -> str | None:
        """Who holds it, if anybody; whether it still lives says :meth:`is_alive`."""
        return self._holder

    @property
    def fence(self) -> int:
        """Of the present or the last lease."""
        return self._fence

    def age_s(self, now_s: float) -> float | None:
        """How long it has been held; None if nobody does."""
        return None if self._holder is None else now_s - self._granted_s

    def is_alive(self, now_s: float) -> bool:
        """Whether somebody holds it and has been heard in time."""
        return self._holder is not None and now_s < self._deadline_s

    def acquire(self, operator: str, role: Role, now_s: float, *, forced: bool) -> int:
        """A new press. The holder may press again; another takes over by force only, with role ``supervise``.

        Returns:
            The fence number for the frames to come.

        Raises:
            HeldError: if another operator has control.
        """
        is_held = self.is_alive(now_s) and self._holder is not None and self._holder != operator
        if is_held and not (forced and role is Role.SUPERVISE):
            raise HeldError(
                f"{self._holder} has had control for {now_s - self._granted_s:.1f} s; ask them to let go, or force it with role "
                f"supervise (yours is {role.value})",
                str(self._holder),
            )
        self._holder = operator
        self._fence += 1
        self._sequence = -1
        self._granted_s = now_s
        self._deadline_s = now_s + self._ttl_s
        return self._fence

    def renew(self, fence: int, sequence: int, age_s: float, now_s: float) -> None:
        """An input frame came: check that it counts, and extend the lease to its age's end.

        Raises:
            RefusedError: if it is of another lease, repeated, out of order, too old, or came after the lease ran out.
        """
        self._require_current(fence)
        if not self.is_alive(now_s):
            raise RefusedError(f"the lease {fence} ran out after {self._ttl_s} s without input; let go and press again")
        if sequence <= self._sequence:
            raise RefusedError(f"frame {sequence} came after frame {self._sequence}; expected increasing numbers")
        if age_s >= self._ttl_s:
            raise RefusedError(f"the input is {age_s:.3f} s old; expected less than {self._ttl_s} s")
        self._sequence = sequence
        self._deadline_s = max(self._deadline_s, now_s + self._ttl_s - age_s)

    def release(self, fence: int) -> None:
        """The holder let go.

        Raises:
            RefusedError: if it is another's lease.
        """
        self._require_current(fence)
        self.revoke()

    def revoke(self) -> None:
        """Nobody has control from now on."""
        self._holder = None

    def _require_current(self, fence: int) -> None:
        if self._holder is None or fence != self._fence:
            raise RefusedError(
                f"fence {fence} does not hold control (the last one given is {self._fence}); press again to take over"
            )
