"""The command line of what takes the configuration: ``--env``, ``--config``, overrides, the table of keys behind ``--help``."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import functools
import inspect
import textwrap
import typing
from collections.abc import Iterator, Sequence

from configs.load import SHORTHANDS, to_plain
from configs.schema import ExperimentConfig

_WIDTH = 118


class _Parser(argparse.ArgumentParser):
    """Takes options and overrides in any order; argparse itself refuses overrides on both sides of an option."""

    def parse_args(self, args: typing.Any = None, namespace: typing.Any = None) -> typing.Any:  # type: ignore[override]  # its overloads say the same
        """See argparse."""
        return self.parse_intermixed_args(args, namespace)


def make_parser(module: str, description: str, sections: Sequence[str]) -> argparse.ArgumentParser:
    """A parser with ``--env``, ``--config`` and ``key=value`` overrides.

    Args:
        module: behind ``python -m``.
        description: what it does.
        sections: the groups of keys that matter to it, listed by ``--help`` with their defaults.
    """
    parser = _Parser(
        prog=f"python -m {module}",
        description=textwrap.dedent(description).strip(),
        epilog=key_table(sections),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--env",
        metavar="FAMILY",
        help="simpler_google, simpler_widowx, maniskill, fake or robot; sets the family's defaults",
    )
    parser.add_argument("--config", metavar="NAME", help="a YAML file of differences: a name in configs/, or a path")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration, see below")
    return parser


def key_table(sections: Sequence[str]) -> str:
    """The keys of some sections, one a paragraph: ``key=default`` and its meaning."""
    short = ", ".join(f"{name} = {key}" for name, key in SHORTHANDS.items())
    lines = ["keys, with their defaults (a family or a --config may set others; the run's config.yaml holds what was used):"]
    default = ExperimentConfig()
    for name in sections:
        lines += ["", f"[{name}]"]
        value = getattr(default, name)
        leaves = (
            _leaves(value, f"{name}.")
            if dataclasses.is_dataclass(value)
            else [(name, value, _field_docs(ExperimentConfig)[name])]
        )
        for key, plain, doc in leaves:
            lines.append(f"  {key}={plain}")
            if doc:
                lines += textwrap.wrap(doc, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join([*lines, "", *textwrap.wrap(f"shorthands: {short}", _WIDTH, subsequent_indent="  ")])


def _leaves(record: typing.Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    record_type: type = type(record)
    docs, hints = _field_docs(record_type), typing.get_type_hints(record_type)
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
            continue
        hint, doc = hints[field.name], docs[field.name]
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            doc = f"one of {', '.join(str(member.value) for member in hint)}. {doc}".strip()
        yield f"{prefix}{field.name}", str(to_plain(value)), doc


@functools.cache
def _field_docs(record_type: type) -> dict[str, str]:
    """The string literal behind each field of a dataclass, as one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(record_type))).body
    docs = {field.name: "" for field in dataclasses.fields(record_type)}
    assert isinstance(definition, ast.ClassDef)
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            docs[statement.target.id] = " ".join(following.value.value.replace("``", "").split())
    return docs
