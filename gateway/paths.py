"""The path templates of `google.api.http`: `/v1/{name=enterprises/*/accounts/*}:verify`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote, unquote

_TOKEN = re.compile(r"\{(?P<field>[a-z][a-z0-9_.]*)(?:=(?P<pattern>[^{}]+))?\}|(?P<text>[^{}]+)")
_VERB = re.compile(r":(?P<verb>[A-Za-z][A-Za-z0-9_]*)$")
_ENCODED_SLASH = re.compile("(%2f)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Variable:
    """A field of the request that the path gives; `pattern` is what its value looks like, as `enterprises/*`."""

    field: str
    pattern: str

    @property
    def segments(self) -> int | None:
        """How many segments a value has; None when `**` leaves it open."""
        return None if "**" in self.pattern else self.pattern.count("/") + 1


@dataclass(frozen=True)
class PathTemplate:
    """
    A compiled path template.

    `*` stands for one segment and `**` for any number. Neither takes a bare `:`, which begins the verb; a client
    sends `%3A` where an id has a colon.

    Attributes:
        text: as written in the proto.
        parts: literal texts and variables, in order, without the verb.
        verb: what follows the last colon, or "".
    """

    text: str
    parts: tuple[str | Variable, ...]
    verb: str

    @classmethod
    def parse(cls, text: str) -> "PathTemplate":
        """Compile `text`. Raises ValueError when it is no path template."""
        if not text.startswith("/"):
            raise ValueError(f"path template {text!r} must begin with /")
        end = text.rfind("}") + 1
        found = _VERB.search(text, max(end, text.rfind("/")))
        verb, body = (found["verb"], text[: found.start()]) if found else ("", text)
        parts: list[str | Variable] = []
        at = 0
        while at < len(body):
            token = _TOKEN.match(body, at)
            if token is None:
                raise ValueError(f"path template {text!r} is wrong at character {at}")
            at = token.end()
            parts.append(
                Variable(token["field"], token["pattern"] or "*") if token["field"] else token["text"]
            )
        return cls(text, tuple(parts), verb)

    @property
    def variables(self) -> tuple[Variable, ...]:
        return tuple(part for part in self.parts if isinstance(part, Variable))

    @cached_property
    def pattern(self) -> str:
        """The template without the names of its variables: `/v1/enterprises/*/accounts/*`. Two routes may not share it."""
        path = "".join(part if isinstance(part, str) else part.pattern for part in self.parts)
        return f"{path}:{self.verb}" if self.verb else path

    @cached_property
    def segment_count(self) -> int | None:
        """How many segments a matching path has; None when `**` leaves it open."""
        return None if "**" in self.pattern else self.pattern.count("/")

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        def wild(pattern: str) -> str:
            pieces = re.split(r"(\*\*|\*)", pattern)
            return "".join(
                {"*": "[^/:]+", "**": "[^:]+"}.get(piece) or re.escape(piece) for piece in pieces if piece
            )

        groups = [
            f"({wild(part.pattern)})" if isinstance(part, Variable) else wild(part) for part in self.parts
        ]
        return re.compile("".join(groups) + (f":{self.verb}" if self.verb else ""))

    def match(self, raw_path: str) -> dict[str, str] | None:
        """
        The variables' values in `raw_path` (still percent-encoded), or None.

        As `google.api.http` says, `%2F` stays encoded in values of several segments, where it would change the
        number of segments. Raises UnicodeDecodeError when a value is not UTF-8.
        """
        found = self._regex.fullmatch(raw_path)
        if found is None:
            return None
        return {
            variable.field: _decode(value, keep_slash=variable.segments != 1)
            for variable, value in zip(self.variables, found.groups(), strict=True)
        }

    def expand(self, values: Mapping[str, str]) -> str:
        """The path for `values`, percent-encoded. Raises ValueError when a value does not fit its pattern."""
        pieces = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            value = values[part.field]
            safe = "/" if part.segments != 1 else ""
            pieces.append(quote(value, safe=safe))
        path = "".join(pieces) + (f":{self.verb}" if self.verb else "")
        if self.match(path) != {variable.field: values[variable.field] for variable in self.variables}:
            raise ValueError(f"{dict(values)} do not fit {self.text}")
        return path


def _decode(value: str, *, keep_slash: bool) -> str:
    if not keep_slash:
        return unquote(value, errors="strict")
    return "".join(
        piece if index % 2 else unquote(piece, errors="strict")
        for index, piece in enumerate(_ENCODED_SLASH.split(value))
    )
