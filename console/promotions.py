"""Which checkpoint a robot should run and does run, and moving it: for role supervise, under the person's name, with a reason."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from checkpoints.fleet import Fleet, Outcome
from console.page_messages import BadPageError
from console.people import Person
from core.errors import RecapError
from robot_drivers.states import Role


class Promotions:
    """Asks a checkpoint store. Consumes: requests. Produces: JSON. Waits for: the disk, in threads."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self, person: Callable[[HTTPConnection], Person | None]) -> list[BaseRoute]:
        """Looking is for everybody who is signed in, moving for role supervise."""

        def guarded(
            act: Callable[[str, Person, bytes], Response], *, is_change: bool
        ) -> Callable[[Request], Awaitable[Response]]:
            async def answer(request: Request) -> Response:
                who = person(request)
                if who is None:
                    return JSONResponse({"error": "sign in first"}, status_code=401)
                if is_change and who.role is not Role.SUPERVISE:
                    reason = f"{who.name} has role {who.role.value}; moving a robot's checkpoint needs supervise"
                    return JSONResponse({"error": reason}, status_code=403)
                body = await request.body() if is_change else b""
                try:
                    return await asyncio.to_thread(act, request.path_params["robot"], who, body)
                except BadPageError as error:
                    return JSONResponse({"error": str(error)}, status_code=400)
                except (RecapError, OSError) as error:
                    return JSONResponse({"error": " ".join(str(error).split())}, status_code=409)

            return answer

        return [
            Route("/checkpoints/{robot}", guarded(self._state, is_change=False)),
            Route("/checkpoints/{robot}/promote", guarded(self._promote, is_change=True), methods=["POST"]),
            Route("/checkpoints/{robot}/rollback", guarded(self._rollback, is_change=True), methods=["POST"]),
        ]

    def _state(self, robot: str, _: Person, __: bytes) -> Response:
        return JSONResponse(
            {
                "robot": dataclasses.asdict(self._fleet.robot(robot)),
                "choices": [dataclasses.asdict(choice) for choice in self._fleet.choices(robot)],
                "rollback_refusals": [dataclasses.asdict(refusal) for refusal in self._fleet.rollback_refusals(robot)],
            }
        )

    def _promote(self, robot: str, person: Person, body: bytes) -> Response:
        fields = _checked(body, checkpoint_id=str, reason=str, expected_serial=int)
        return _answer(self._fleet.promote(robot=robot, by=person.name, **fields))

    def _rollback(self, robot: str, person: Person, body: bytes) -> Response:
        fields = _checked(body, reason=str, expected_serial=int)
        return _answer(self._fleet.rollback(robot=robot, by=person.name, **fields))


def _answer(outcome: Outcome) -> Response:
    if outcome.channel is None:
        return JSONResponse({"error": "; ".join(refusal.text for refusal in outcome.refusals)}, status_code=409)
    return JSONResponse({"checkpoint_id": outcome.channel.checkpoint_id, "serial": outcome.channel.pointer.serial})


def _checked(body: bytes, **kinds: type) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != kinds:
        raise BadPageError(
            f"{len(body)} bytes; expected an object of {', '.join(f'{n}: {k.__name__}' for n, k in kinds.items())}"
        )
    return fields
