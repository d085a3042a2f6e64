"""How commands end: one line, one meaning for each exit status, signals that stop cleanly."""

from __future__ import annotations

import argparse
import errno
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from core.command import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    exit_on_sigterm,
    port,
    positive,
    run_command,
    stop_on_signals,
    whole,
)
from core.errors import AssetError, CheckpointError, ConfigError, NonFiniteError, StorageFullError, WorkerError
from replay.episode_store import UnknownEpisodeError


def raising(error: BaseException) -> int:
    def command() -> None:
        raise error

    return run_command(command)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("seed is -1;\n  expected at least 0"), EXIT_BAD_INPUT, "seed is -1; expected at least 0"),
        (CheckpointError("no checkpoint at x"), EXIT_BAD_INPUT, "no checkpoint at x"),
        (AssetError("x is not a directory"), EXIT_BAD_INPUT, "x is not a directory"),
        (UnknownEpisodeError("no episode 'zz'"), EXIT_BAD_INPUT, "no episode 'zz'"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "no/where"), EXIT_BAD_INPUT, "no/where: No such file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a.txt/b"), EXIT_BAD_INPUT, "a.txt/b: Not a directory"),
        (WorkerError("worker 3 died; it said:\nTraceback"), EXIT_FAILED, "worker 3 died; it said:\nTraceback"),
        (NonFiniteError("the loss is NaN"), EXIT_FAILED, "the loss is NaN"),
        (StorageFullError(errno.ENOSPC, "disk full while writing runs/a"), EXIT_FAILED, "disk full while writing runs/a"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/a"), EXIT_FAILED, "disk full while writing runs/a"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), EXIT_FAILED, "disk full; what was committed is safe"),
        (OSError(errno.EIO, "Input/output error", "runs/a"), EXIT_FAILED, "runs/a: Input/output error"),
    ],
)
def test_an_expected_error_is_one_line_and_its_exit_status(
    error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1 or status == EXIT_FAILED
    assert not captured.out


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("a shape"), ConnectionResetError(104, "reset by peer")])
def test_a_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        raising(error)


def test_a_command_says_its_own_status() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 1) == 1


def test_interrupting_is_one_line_and_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == EXIT_INTERRUPTED == 130
    assert capsys.readouterr().err == "interrupted\n"

    def command() -> None:
        raise KeyboardInterrupt

    assert run_command(command, interrupted="run it again to go on") == 130
    assert capsys.readouterr().err == "run it again to go on\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_set_the_event_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as over:
        assert not over.is_set()
        signal.raise_signal(number)
        assert over.wait(5.0)
    assert signal.getsignal(number) is before


def test_sigterm_unwinds_the_stack() -> None:
    before, removed = signal.getsignal(signal.SIGTERM), []

    def make_and_remove() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            removed.append("all")

    try:
        exit_on_sigterm()
        with pytest.raises(SystemExit) as ended:
            make_and_remove()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == EXIT_TERMINATED == 143
    assert removed == ["all"]


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (whole(1), "0", "0; expected a whole number, at least 1"),
        (whole(1), "-3", "-3; expected a whole number, at least 1"),
        (whole(1), "nan", "'nan'; expected a whole number, at least 1"),
        (whole(1), "2.5", "'2.5'; expected a whole number"),
        (whole(3, 4), "5", "5; expected a whole number from 3 to 4"),
        (port, "70000", "70000; expected a whole number from 0 to 65535"),
        (positive, "nan", "'nan'; expected a finite number above 0"),
        (positive, "inf", "'inf'; expected"),
        (positive, "0", "'0'; expected"),
        (positive, "-1", "'-1'; expected"),
        (positive, "soon", "'soon'; expected"),
    ],
)
def test_a_number_that_cannot_be_used_is_named(parse: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(message)):
        parse(text)


def test_numbers_that_can_be_used() -> None:
    assert (whole(0)("0"), whole(3, 4)("4"), port("8500"), positive("0.5")) == (0, 4, 8500, 0.5)


def test_every_command_ends_this_way() -> None:
    root = Path(__file__).resolve().parent.parent
    alone = {"scripts/set_up.py", "scripts/vulkan_driver.py"}  # they run before anything is installed
    alone |= {"envs/simpler/upstream_child.py"}  # a child process of another interpreter, which cannot import the project
    packages = {file.parent for file in root.glob("*/__init__.py")} - {root / "tests"}
    modules = [file for package in packages for file in package.rglob("*.py") if 'if __name__ == "__main__"' in file.read_text()]
    assert len(modules) > 30
    assert {str(file.relative_to(root)) for file in modules if "run_command(" not in file.read_text()} == alone
