"""One page's commands: checked, given the person's name, passed on. What is safe, the supervisor decides.

Input frames and releases pass at once and in order; what has to be answered waits in a task of its own, so that a slow answer
holds up neither the next frame nor a stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Mapping

from starlette.websockets import WebSocket, WebSocketDisconnect

from console import page_messages as p
from console.leader_arm import LeaderArm, LeaderGoneError
from console.leader_hold import LeaderHold, Motion
from console.page_clock import PageClock
from console.people import Person
from console.robot_link import RobotLink
from core.errors import RecapError
from robot_drivers import messages as m
from robot_drivers.protocol import ProtocolError

_log = logging.getLogger(__name__)
_MAX_PER_SECOND = 200
_ACTS: dict[str, type[m.PersonsRequest]] = {"arm": m.Arm, "disarm": m.Disarm, "hand_back": m.HandBack, "home": m.Home}


async def stop_all(links: Mapping[str, RobotLink], person: Person, reason: str) -> dict[str, str]:
    """Stop every robot of the console, all at the same time.

    Returns:
        By robot: ``stopped``, or why that is not known.
    """

    async def stop(link: RobotLink) -> str:
        try:
            await link.ask(m.Stop(request_id=0, operator=person.name, reason=reason))
        except RecapError as error:
            return f"NOT CONFIRMED: {error}"
        return "stopped"

    return dict(zip(links, await asyncio.gather(*map(stop, links.values())), strict=True))


class CommandSocket:
    """Serves one page's command WebSocket."""

    def __init__(
        self, socket: WebSocket, person: Person, links: Mapping[str, RobotLink], leader: LeaderArm | None = None
    ) -> None:
        self._socket = socket
        self._person = person
        self._links = links
        self._leader = LeaderHold(leader) if leader is not None else None
        self._clock = PageClock()
        self._fences: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._budget = (0.0, 0)

    async def serve(self) -> None:
        """Until the page is gone; then what it held is let go of, without waiting for the lease's end."""
        try:
            while True:
                await self._take(p.parse(await self._socket.receive_text()))
        except WebSocketDisconnect:
            pass
        except p.BadPageError as error:
            _log.warning("%s's page is disconnected: %s", self._person.name, error)
            await self._socket.close(1008, str(error)[:120])
        finally:
            for robot in list(self._fences):
                self._let_go(robot, self._fences[robot])
            for task in self._tasks:
                task.cancel()

    async def _take(self, message: p.FromPage) -> None:
        now_s = time.monotonic()
        second, count = self._budget
        self._budget = (now_s, 1) if now_s - second > 1 else (second, count + 1)
        if isinstance(message, p.StopAll):  # not limited in rate
            self._start(self._stop(message))
        elif self._budget[1] > _MAX_PER_SECOND:
            raise p.BadPageError(f"more than {_MAX_PER_SECOND} messages a second; expected some 40")
        elif isinstance(message, p.Ping):
            self._clock.hear(message.t, now_s)
            await self._send(type="pong", t=message.t)
        elif isinstance(message, p.Input | p.Lead):
            self._pass_on(message, now_s)
        elif isinstance(message, p.Release):
            self._let_go(message.robot, message.fence)
        else:
            self._start(self._answer(message))

    def _pass_on(self, message: p.Input | p.Lead, now_s: float) -> None:
        age_s = self._clock.age_s(message.t, now_s)
        # A page may move only what it took over itself: a fence number that it read elsewhere does not count.
        if age_s is None or self._fences.get(message.robot) != message.fence:
            return
        link = self._links[message.robot]
        try:
            if isinstance(message, p.Lead):
                motion = self._led(message, link)
            else:
                motion = Motion(twist=message.twist, gripper_opening=message.gripper, age_s=0.0)
            request = m.HumanInput(
                request_id=0,
                fence=message.fence,
                sequence=message.sequence,
                age_s=min(max(age_s, motion.age_s), 3600.0),
                twist=motion.twist,
                gripper_opening=motion.gripper_opening,
                phase=message.phase,
            )
            link.tell(request)
        except LeaderGoneError as gone:
            self._let_go(message.robot, message.fence)
            self._start(self._send(type="let_go", robot=message.robot, fence=message.fence, reason=str(gone)))
        except ProtocolError as error:
            _log.info("input of %s is dropped: %s", self._person.name, error)

    def _led(self, message: p.Lead, link: RobotLink) -> Motion:
        if self._leader is None:
            raise LeaderGoneError("this console has no leader arm; start it with --leader")
        return self._leader.motion(message, link.welcome, link.status)

    def _let_go(self, robot: str, fence: int) -> None:
        if self._fences.get(robot) != fence:
            return
        del self._fences[robot]
        try:
            self._links[robot].tell(m.Release(request_id=0, fence=fence))
        except ProtocolError as error:
            _log.info("a release of %s could not be sent: %s", self._person.name, error)

    async def _stop(self, message: p.StopAll) -> None:
        outcome = await stop_all(self._links, self._person, message.reason)
        await self._send(type="stopped", robots=outcome)

    async def _answer(self, message: p.Press | p.Do | p.Clear | p.SetLabel) -> None:
        try:
            if message.robot not in self._links:
                raise ProtocolError(f"no robot {message.robot!r} here; expected one of {', '.join(self._links)}")
            reply = await self._links[message.robot].ask(self._request(message))
        except RecapError as error:
            await self._send(type="reply", id=message.id, robot=message.robot, ok=False, error=str(error))
            return
        if reply.fence is not None:
            self._fences[message.robot] = reply.fence
        state = reply.state.value
        await self._send(type="reply", id=message.id, robot=message.robot, ok=True, error="", fence=reply.fence, state=state)

    def _request(self, message: p.Press | p.Do | p.Clear | p.SetLabel) -> m.PersonsRequest:
        operator, role = self._person.name, self._person.role
        if isinstance(message, p.Press):
            return m.Acquire(request_id=0, operator=operator, role=role, phase=message.phase, forced=message.forced)
        if isinstance(message, p.SetLabel):
            return m.SetLabel(request_id=0, operator=operator, role=role, episode_id=message.episode_id, label=message.label)
        if isinstance(message, p.Do):
            return _ACTS[message.act](request_id=0, operator=operator, role=role)
        if message.act == "reset":
            return m.Reset(request_id=0, operator=operator, role=role, reason=message.reason, confirmed=message.confirmed)
        return m.Acknowledge(request_id=0, operator=operator, role=role, reason=message.reason)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, **fields: object) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the page is gone; its end is noticed where it is read
            await self._socket.send_text(json.dumps(fields))
