"""JSON Lines from a stream of bytes: each line becomes a value or a problem with the line's number; none stops the others."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

LONGEST_LINE = 64 * 1024
"""In bytes. What is longer is a problem of its own line, and is never held in memory."""
MOST_PROBLEMS = 100
"""So many problems are told one by one; all are counted."""


class BadLineError(ValueError):
    """A line that does not hold: a reason for programs and a description that names the field and the fix."""

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason
        self.description = description


@dataclass(frozen=True, slots=True)
class LineProblem:
    """A line that was skipped: its number from 1, a reason, and what is wrong."""

    line: int
    reason: str
    description: str


def read(
    chunks: Iterable[bytes], convert: Callable[[dict[str, Any]], T]
) -> Iterator[tuple[int, T | LineProblem]]:
    """
    Yield each line's number, and what `convert` makes of its object or the problem with it.

    `convert` raises BadLineError for an object that it does not take. Empty lines are passed over; a byte order mark at
    the beginning too. The last line needs no line end.
    """
    for number, line in enumerate(_lines(chunks), start=1):
        if line is not None and not line.strip():
            continue
        try:
            yield number, convert(_object(line))
        except BadLineError as problem:
            yield number, LineProblem(number, problem.reason, problem.description)


def _object(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise BadLineError("LINE_TOO_LONG", f"a line may have {LONGEST_LINE:,} bytes")
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        raise BadLineError("MALFORMED_JSON", "the line must be UTF-8") from None
    except RecursionError:
        raise BadLineError("MALFORMED_JSON", "the line is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadLineError("MALFORMED_JSON", f"{error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise BadLineError("BAD_VALUE", str(error)) from None
    if not isinstance(value, dict):
        raise BadLineError("MALFORMED_JSON", "a line must be an object: {…}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadLineError("BAD_VALUE", f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)  # once: making one takes longer than a line


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """The lines, None for one that is too long."""
    rest, too_long = b"", False
    for chunk in _without_mark(chunks):
        *whole, tail = chunk.split(b"\n")
        for part in whole:
            yield None if too_long or len(rest) + len(part) > LONGEST_LINE else rest + part
            rest, too_long = b"", False
        too_long = too_long or len(rest) + len(tail) > LONGEST_LINE
        rest = b"" if too_long else rest + tail
    if rest or too_long:
        yield None if too_long else rest


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    iterator = iter(chunks)
    head = b""
    for chunk in iterator:
        head += chunk
        if len(head) >= len(b"\xef\xbb\xbf"):
            break
    yield head.removeprefix(b"\xef\xbb\xbf")
    yield from iterator
