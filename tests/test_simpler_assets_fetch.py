"""Fetching upstream's files, from a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from envs.simpler import assets, assets_fetch
from envs.simpler.assets_fetch import DownloadError
from envs.simpler.assets_upstream import UpstreamFile

CONTENT = {"LICENSE": b"terms", "data/custom/models/opened_coke_can/collision.obj": bytes(range(256)) * 1000}
LOCAL = ("LICENSE.ManiSkill2_real2sim", "objects/opened_coke_can/collision.obj")


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges; notes what was asked for."""

    asked: list[tuple[str, str | None]]
    content: dict[str, bytes]

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers["Range"]
        self.asked.append((name, wanted))
        body = self.content.get(name)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if wanted and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    handler = type("Handler", (Handler,), {"asked": [], "content": dict(CONTENT)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()


@pytest.fixture(autouse=True)
def small_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIVA_RECAP_CACHE", str(tmp_path / "cache"))
    entries = [
        UpstreamFile(path=path, digest=hashlib.sha256(body).hexdigest(), num_bytes=len(body))
        for path, body in zip(LOCAL, CONTENT.values(), strict=True)
    ]
    monkeypatch.setattr(assets_fetch, "known_files", lambda: {entry.path: entry for entry in entries})


def test_fetch_brings_everything_and_then_nothing(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    assert assets_fetch.fetch(tmp_path / "set", base_url=url) == 2
    assert (tmp_path / "set" / LOCAL[1]).read_bytes() == CONTENT["data/custom/models/opened_coke_can/collision.obj"]
    assert len(handler.asked) == 2
    assert assets_fetch.fetch(tmp_path / "set", base_url=url) == 0
    assert len(handler.asked) == 2


def test_fetch_resumes(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    target = tmp_path / "set" / LOCAL[1]
    target.parent.mkdir(parents=True)
    target.with_name("collision.obj.part").write_bytes(CONTENT["data/custom/models/opened_coke_can/collision.obj"][:1000])
    assets_fetch.fetch(tmp_path / "set", base_url=url)
    assert ("data/custom/models/opened_coke_can/collision.obj", "bytes=1000-") in handler.asked
    assert target.read_bytes() == CONTENT["data/custom/models/opened_coke_can/collision.obj"]
    assert not target.with_name("collision.obj.part").exists()


def test_a_complete_part_is_taken(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    target = tmp_path / "set" / LOCAL[0]
    target.parent.mkdir(parents=True)
    target.with_name(f"{target.name}.part").write_bytes(CONTENT["LICENSE"])
    assets_fetch.fetch(tmp_path / "set", base_url=server[0])
    assert target.read_bytes() == CONTENT["LICENSE"]


def test_an_altered_file_is_replaced(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / LOCAL[0]).write_bytes(b"other")
    assert assets_fetch.fetch(tmp_path / "set", base_url=server[0]) == 2
    assert (tmp_path / "set" / LOCAL[0]).read_bytes() == CONTENT["LICENSE"]


def test_wrong_content_is_discarded(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    handler.content["LICENSE"] = b"evil"
    found = hashlib.sha256(b"evil").hexdigest()
    with pytest.raises(DownloadError, match=f"received {found}; the file was discarded"):
        assets_fetch.fetch(tmp_path / "set", base_url=url)
    assert list((tmp_path / "set").iterdir()) == []


def test_a_missing_file_is_named(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    url, handler = server
    del handler.content["LICENSE"]
    with pytest.raises(DownloadError, match=r"cannot download http://127\.0\.0\.1:\d+/LICENSE: HTTP Error 404"):
        assets_fetch.fetch(tmp_path / "set", base_url=url)


def test_no_network_is_one_line_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = assets.main(["fetch", "--directory", str(tmp_path / "set"), "--base-url", "http://127.0.0.1:9"])
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("error: cannot download http://127.0.0.1:9/LICENSE")
    assert error.count("\n") == 1
