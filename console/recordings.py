"""Recorded episodes as JSON and JPEG, for the page that plays them with their value curve."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import cv2
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from console.people import Person
from core.errors import RecapError
from core.experience import Episode, Source
from core.ids import EpisodeId
from replay.episode_store import EpisodeStore
from replay.label_store import LabelStore, MissingLabelsError

_MAX_LISTED = 200


class Recordings:
    """Reads a replay store. Consumes: Episodes, Labels. Produces: JSON, JPEG. Waits for: the disk, in threads."""

    def __init__(self, root: Path) -> None:
        """Open the store in ``root``, which holds episodes and labels."""
        self._episodes = EpisodeStore(root)
        self._labels = LabelStore(root)
        self._read = functools.lru_cache(maxsize=2)(self._episodes.read)

    def routes(self, person: Callable[[HTTPConnection], Person | None]) -> list[BaseRoute]:
        """For people who are signed in, of any role."""

        def guarded(act: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
            async def answer(request: Request) -> Response:
                if person(request) is None:
                    return JSONResponse({"error": "sign in first"}, status_code=401)
                try:
                    return await asyncio.to_thread(act, request)
                except (RecapError, KeyError, IndexError) as error:
                    return JSONResponse({"error": str(error)}, status_code=404)

            return answer

        return [
            Route("/recordings/list", guarded(self._list)),
            Route("/recordings/{episode_id}", guarded(self._episode)),
            Route("/recordings/{episode_id}/{camera}/{t:int}.jpg", guarded(self._frame)),
        ]

    def _list(self, _: Request) -> Response:
        """The newest episodes."""
        self._episodes.refresh()
        infos = [self._episodes.info(episode_id) for episode_id in self._episodes.episode_ids()[-_MAX_LISTED:]]
        return JSONResponse(
            [
                {
                    "id": info.episode_id,
                    "instruction": info.instruction,
                    "end": info.end.value,
                    "num_steps": info.num_steps,
                    "num_human_steps": info.num_human_steps,
                }
                for info in reversed(infos)
            ]
        )

    def _episode(self, request: Request) -> Response:
        episode = self._read(EpisodeId(request.path_params["episode_id"]))
        return JSONResponse(
            {
                "cameras": list(episode.images),
                "time_s": (episode.time_s - episode.time_s[0]).tolist(),
                "source": [Source(value).name.lower() for value in episode.source],
                **self._curve(episode),
            }
        )

    def _curve(self, episode: Episode) -> dict[str, Any]:
        """Under the newest value version that has labelled it."""
        for version in sorted(self._labels.value_versions(), reverse=True):
            try:
                labels = self._labels.get(episode.episode_id, version)
            except MissingLabelsError:
                continue
            return {"value_version": version, "value": labels.value.tolist(), "advantage": labels.advantage.tolist()}
        return {"value_version": None, "value": None, "advantage": None}

    def _frame(self, request: Request) -> Response:
        episode = self._read(EpisodeId(request.path_params["episode_id"]))
        image = episode.images[request.path_params["camera"]][request.path_params["t"]]
        ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert ok, f"an image {image.shape} that JPEG cannot hold"
        return Response(bytes(jpeg.data), media_type="image/jpeg")
