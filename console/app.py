"""The console as one ASGI application: pages, sign-in, three WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from console.command_socket import CommandSocket, stop_all
from console.guard import Guard
from console.people import COOKIE, People, Person, UnknownTokenError
from console.recordings import Recordings
from console.robot_link import RobotLink, RobotLinkConfig
from console.video_socket import FrameFeed, JpegFeed, serve_video
from console.watch_socket import Watchers

if TYPE_CHECKING:
    from console.leader_arm import LeaderArm
    from console.promotions import Promotions

_STATIC = Path(__file__).parent / "static"
_WRONG_TRIES_S = 1.0


class Console:
    """Robots, people and pages.

    Example::

        console = Console(robots, people, origins=["http://127.0.0.1:8500"])
        uvicorn.run(console.app(), host="127.0.0.1", port=8500, ws="websockets-sansio")
    """

    def __init__(
        self,
        robots: Sequence[RobotLinkConfig],
        people: People,
        *,
        origins: Collection[str],
        feeds: Mapping[str, FrameFeed] | None = None,
        recordings: Recordings | None = None,
        promotions: Promotions | None = None,
        leader: LeaderArm | None = None,
    ) -> None:
        """Nothing is connected before the application starts.

        Args:
            robots: shown, in this order.
            people: who may come in.
            origins: what a browser calls this server.
            feeds: by robot; one without has no pictures.
            recordings: None: there is no such page.
            promotions: None: nothing about checkpoints.
            leader: opened, and closed by whoever opened it; None: there is no such device.
        """
        self._watchers = Watchers()
        self._links = {robot.name: RobotLink(robot, self._watchers.publish) for robot in robots}
        self._people = people
        self._origins = origins
        self._is_secure = all(origin.startswith("https://") for origin in origins)
        self._feeds = {name: JpegFeed(feed) for name, feed in (feeds or {}).items()}
        self._recordings = recordings
        self._promotions = promotions
        self._leader = leader

    def app(self) -> Guard:
        """The application."""
        routes = [
            Route("/", self._page("index.html")),
            Route("/session", self._session, methods=["GET", "POST", "DELETE"]),
            Route("/stop", self._stop, methods=["POST"]),
            WebSocketRoute("/ws/command", self._command),
            WebSocketRoute("/ws/watch", self._watch),
            WebSocketRoute("/ws/video/{robot}", self._video),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ]
        if self._recordings is not None:
            routes += self._recordings.routes(self._person)
            routes.append(Route("/recordings", self._page("recordings.html")))
        if self._promotions is not None:
            routes += self._promotions.routes(self._person)
        return Guard(Starlette(routes=routes, lifespan=self._lifespan), self._origins)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(link.run()) for link in self._links.values()]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links.values():
            link.close()

    def _page(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        body = (_STATIC / name).read_bytes()

        async def page(_: Request) -> Response:
            return Response(body, media_type="text/html")

        return page

    def _person(self, connection: HTTPConnection) -> Person | None:
        return self._people.who(connection.cookies.get(COOKIE))

    async def _session(self, request: Request) -> Response:
        """Who am I, sign in, sign out."""
        if request.method == "GET":
            person = self._person(request)
            if person is None:
                return JSONResponse({"error": "sign in first"}, status_code=401)
            pages = {"has_recordings": self._recordings is not None, "has_checkpoints": self._promotions is not None}
            has_leader = self._leader is not None
            return JSONResponse({"name": person.name, "role": person.role.value, **pages, "has_leader": has_leader})
        if request.method == "DELETE":
            response: Response = JSONResponse({})
            response.delete_cookie(COOKIE)
            return response
        try:
            fields = json.loads(await request.body())
            cookie = self._people.sign_in(str(fields["token"]), str(fields["name"]))
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": 'expected {"token": ..., "name": ...}'}, status_code=400)
        except UnknownTokenError as error:
            await asyncio.sleep(_WRONG_TRIES_S)
            return JSONResponse({"error": str(error)}, status_code=401)
        response = JSONResponse({})
        response.set_cookie(COOKIE, cookie, httponly=True, samesite="strict", secure=self._is_secure, path="/")
        return response

    async def _stop(self, request: Request) -> Response:
        """For a page whose command socket is gone."""
        person = self._person(request)
        if person is None:
            return JSONResponse({"error": "sign in first"}, status_code=401)
        return JSONResponse(await stop_all(self._links, person, "by request, the command socket being closed"))

    async def _accept(self, socket: WebSocket) -> Person | None:
        person = self._person(socket)
        await socket.accept()
        if person is None:  # accepted first: only then does the page learn the code
            await socket.close(4401, "sign in first")
        return person

    async def _command(self, socket: WebSocket) -> None:
        person = await self._accept(socket)
        if person is not None:
            await CommandSocket(socket, person, self._links, self._leader).serve()

    async def _watch(self, socket: WebSocket) -> None:
        if await self._accept(socket) is not None:
            robots = {name: {"has_video": name in self._feeds} for name in self._links}
            first = json.dumps({"type": "robots", "robots": robots})
            await self._watchers.serve(socket, [first, *(line for link in self._links.values() for line in link.snapshot())])

    async def _video(self, socket: WebSocket) -> None:
        if await self._accept(socket) is None:
            return
        feed = self._feeds.get(socket.path_params["robot"])
        if feed is None:
            await socket.close(4404, "this robot has no cameras here")
            return
        await serve_video(socket, feed)
