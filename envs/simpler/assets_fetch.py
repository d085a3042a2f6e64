"""Downloads upstream's SIMPLER files from their public repository at a pinned commit, checking each digest.

A file appears under its name only when it is whole and right; what was received of an interrupted file is kept beside it
(``.part``) and continued. Running it again fetches only what is missing.
"""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from core.errors import AssetError, RecapError, StorageFullError
from envs.simpler.assets import cache_directory
from envs.simpler.assets_upstream import SOURCE_COMMIT, SOURCE_REPOSITORY, FileChecker, UpstreamFile, is_needed, known_files

BASE_URL = f"https://raw.githubusercontent.com/{SOURCE_REPOSITORY}/{SOURCE_COMMIT}"
_BLOCK_BYTES = 1 << 16
_TIMEOUT_S = 30.0


class DownloadError(RecapError, ConnectionError):
    """A file did not come, or came altered."""


def default_directory() -> Path:
    """$SIMPLER_ASSETS, or simpler_assets in the user's cache directory."""
    return Path(os.environ.get("SIMPLER_ASSETS") or cache_directory() / "simpler_assets")


def fetch(directory: Path, *, base_url: str | None = None, everything: bool = False) -> int:
    """Bring a directory up to date.

    Args:
        directory: created if it is not there.
        base_url: other place with the same paths as upstream's repository.
        everything: files of all tasks, not only of those offered now.

    Returns:
        How many files were downloaded.

    Raises:
        DownloadError: a file cannot be had, or is not the one whose digest is known.
        StorageFullError: the disk is full; running again continues.
    """
    checker = FileChecker(directory)
    wanted = [entry for path, entry in known_files().items() if everything or is_needed(path)]
    missing = [entry for entry in wanted if not _is_right(checker, entry)]
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=sum(entry.num_bytes or 0 for entry in missing))
        for index, entry in enumerate(missing, 1):
            progress.update(bar, description=f"{index}/{len(missing)} {entry.path.rsplit('/', 1)[-1]}")
            _download(directory, entry, base_url or BASE_URL, advance=lambda count: progress.advance(bar, count))
    print(f"{directory}: {len(missing)} of {len(wanted)} files downloaded, all verified")
    return len(missing)


def _is_right(checker: FileChecker, entry: UpstreamFile) -> bool:
    try:
        checker.check([entry])
    except AssetError:
        return False
    return True


def _download(directory: Path, entry: UpstreamFile, base_url: str, *, advance: Callable[[int], None]) -> None:
    target = directory / entry.path
    part = target.with_name(f"{target.name}.part")
    url = f"{base_url.rstrip('/')}/{entry.upstream_path}"
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _receive(url, part, advance)
    except urllib.error.URLError as error:
        raise DownloadError(f"cannot download {url}: {error}; check the network and run the command again (it resumes)") from None
    except TimeoutError as error:
        raise DownloadError(f"{url}: {error} after {_TIMEOUT_S:g} s; run the command again (it resumes)") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                f"cannot write {part}: {error}; free some space and run the command again (it resumes)"
            ) from None
        raise DownloadError(f"{url} -> {part}: {error}; check the network and the directory, and run the command again") from None
    found = entry.digest_of(part)
    if found != entry.digest:
        part.unlink()
        raise DownloadError(f"{url}: expected digest {entry.digest}, received {found}; the file was discarded")
    part.replace(target)


def _receive(url: str, part: Path, advance: Callable[[int], None]) -> None:
    """Append to ``part`` what is missing; a server that cannot continue a file sends it whole."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what we have: complete, the digest will tell
            advance(have)
            return
        raise
    with response:
        is_continued = response.status == 206
        advance(have if is_continued else 0)
        with part.open("ab" if is_continued else "wb") as stream:
            while block := response.read(_BLOCK_BYTES):
                stream.write(block)
                advance(len(block))
