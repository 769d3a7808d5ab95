"""
YAML read so that every value knows its line and its path, and every mistake is collected rather than the first one told.

Knows nothing of rollouts. A converter takes a Value and gives what it means, or raises WrongError; `Value.read` and
`Section.get` note that as a mistake at the value's place and go on with a default.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]  # its stubs are a package that we do not have

from services.chassis.errors import FieldViolation, invalid_fields

T = TypeVar("T")

MOST_BYTES = 256 << 10
MOST_DEPTH = 100
MOST_MISTAKES = 100

_TAG = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[\w./<>=!-]{1,64}", re.ASCII)
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_TAB_INDENT = re.compile(r" *\t\s*\S")
_WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")


class WrongError(ValueError):
    """What is wrong with a value and how to mend it, as the end of a sentence that begins with its path."""


class Mistakes:
    """Everything that is wrong with a text."""

    def __init__(self) -> None:
        self._found: list[tuple[int, FieldViolation]] = []

    def add(self, line: int, path: str, description: str) -> None:
        """One more. Tells them all when it is enough for anybody: a hostile text has a hundred thousand."""
        if len(self._found) == MOST_MISTAKES:
            self.tell()
        self._found.append((line, FieldViolation(path, f"line {line}: {description}")))

    def within(self, path: str) -> bool:
        """Whether something at or below `path` is wrong."""
        return any(re.match(rf"{re.escape(path)}(?![\w-])", each.field) for _, each in self._found)

    def tell(self) -> None:
        """Raise INVALID_ARGUMENT with all mistakes in the order of lines, if there is any."""
        if self._found:
            raise invalid_fields([each for _, each in sorted(self._found, key=lambda found: found[0])])


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the text, with its path as `stages[3].percent`; "" is the whole."""

    node: Any
    path: str
    mistakes: Mistakes = field(repr=False)

    @property
    def line(self) -> int:
        """From 1."""
        return int(self.node.start_mark.line) + 1

    def wrong(self, description: str) -> None:
        self.mistakes.add(self.line, self.path or "plan", description)

    def read(self, convert: Callable[["Value"], T], default: T) -> T:
        """What `convert` makes of this; `default`, and a mistake, when it cannot."""
        try:
            return convert(self)
        except WrongError as error:
            self.wrong(str(error))
            return default

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def entries(self) -> dict[str, "Value"]:
        """The values of a mapping by their keys, in the order of the text. A key that is there twice is a mistake."""
        if not self.is_mapping or self.node.tag != f"{_TAG}map":
            raise WrongError("must be a mapping, as {key: value}")
        entries: dict[str, Value] = {}
        for key_node, node in self.node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                Value(key_node, self.path, self.mistakes).wrong(
                    "has a list or a mapping for a key: write a text"
                )
                continue
            key = key_node.value
            entry = Value(node, f"{self.path}.{_plain(key)}".lstrip("."), self.mistakes)
            if key in entries:
                line = key_node.start_mark.line + 1
                self.mistakes.add(
                    line, entry.path, f"is there twice, first in line {entries[key].line}: keep one"
                )
            else:
                entries[key] = entry
        return entries

    def section(self, keys: Collection[str], hints: Mapping[str, str] | None = None) -> "Section":
        """A mapping of which all keys are known. `hints` say what to write in place of some that are not."""
        entries = self.entries()
        for key, entry in entries.items():
            if key not in keys:
                hint = (hints or {}).get(key) or f"{did_you_mean(key, keys)}known are {', '.join(keys)}"
                entry.wrong(f"is not known here; {hint}")
        return Section(self, entries)

    def items(self) -> list["Value"]:
        """The values of a list."""
        if not self.is_list or self.node.tag != f"{_TAG}seq":
            raise WrongError("must be a list, as [a, b]")
        return [
            Value(node, f"{self.path}[{index}]", self.mistakes) for index, node in enumerate(self.node.value)
        ]

    def text(self) -> str:
        """A scalar as it is spelled, whatever YAML takes it for: `on` is the text on, `0.10` is not 0.1."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise WrongError("must be a single value, neither a list nor a mapping")
        self._check_tag()
        if self.node.tag == f"{_TAG}null":
            raise WrongError("is empty: give it a value or leave the key out")
        return str(self.node.value)

    def whole(self, least: int = 1, most: int = 1_000_000) -> int:
        """A whole number."""
        text = self.text()
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise WrongError(f"must be a whole number from {least} to {most}, not {shown(text)}")
        return int(text)

    def truth(self) -> bool:
        """A truth value, in the two spellings that all read alike."""
        return self.one_of({"true": True, "false": False})

    def one_of(self, words: Mapping[str, T]) -> T:
        """What a word stands for."""
        text = self.text()
        if text not in words:
            raise WrongError(
                f"must be {' or '.join(words)}, not {shown(text)}{did_you_mean(text, words, '; ')}"
            )
        return words[text]

    def json(self, lines: dict[str, int]) -> Any:
        """The value as JSON has it; `lines` gets the line of each path in it."""
        lines[self.path] = self.line
        if self.is_mapping:
            return {
                key: entry.read(lambda each: each.json(lines), None) for key, entry in self.entries().items()
            }
        if self.is_list:
            return [item.read(lambda each: each.json(lines), None) for item in self.items()]
        self._check_tag()
        text, kind = str(self.node.value), self.node.tag.removeprefix(_TAG)
        match kind:
            case "null":
                return None
            case "bool":
                return self.truth()
            case "int" | "float":
                if not _JSON_NUMBER.fullmatch(text):
                    raise WrongError(f"must be a number as in JSON, or a text in quotes, not {shown(text)}")
                return float(text) if "." in text else int(text)
        return text

    def _check_tag(self) -> None:
        kind = self.node.tag.removeprefix(_TAG)
        if kind not in {"str", "int", "float", "bool", "null", "timestamp"}:
            raise WrongError(f"must not have the tag {shown(self.node.tag)}: write it without, or in quotes")


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping, read key by key."""

    value: Value
    entries: Mapping[str, Value]

    def get(self, key: str, convert: Callable[[Value], T], default: T) -> T:
        """What the key's value means; `default` where it is absent or, with a mistake, wrong."""
        return self.entries[key].read(convert, default) if key in self.entries else default

    def need(self, key: str, convert: Callable[[Value], T], default: T, example: str) -> T:
        """As `get`; that it is absent is a mistake, too."""
        if key not in self.entries:
            self.wrong(key, f"is missing: write {example}")
        return self.get(key, convert, default)

    def wrong(self, key: str, description: str) -> None:
        """A mistake at a key, told with the section's line where the key is absent."""
        line = self.entries.get(key, self.value).line
        self.value.mistakes.add(line, f"{self.value.path}.{key}".lstrip("."), description)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Makes nodes without recursion into the depths, and without aliases: nine lines of them unfold to gigabytes."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.composer.ComposerError(
                None,
                None,
                "anchors (&) and aliases (*) are not allowed: write the value out",
                event.start_mark,
            )
        if self.depth == MOST_DEPTH:
            raise yaml.composer.ComposerError(
                None, None, f"nests deeper than {MOST_DEPTH}: flatten it", event.start_mark
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def document(text: str, mistakes: Mistakes) -> Value | None:
    """The one document in `text`; None, and mistakes, when it is no YAML that we take."""
    if len(text) > MOST_BYTES or len(text.encode(errors="replace")) > MOST_BYTES:
        mistakes.add(
            1, "plan", f"must have at most {MOST_BYTES >> 10} KiB: describe enterprises by a predicate"
        )
        return None
    tabs = [line for line, content in enumerate(text.split("\n"), start=1) if _TAB_INDENT.match(content)]
    for line in tabs:
        mistakes.add(line, "plan", "is indented with a tab: use spaces")
    if tabs:
        return None
    try:
        node = _compose(text)
    except yaml.reader.ReaderError as error:
        line, character = text.count("\n", 0, error.position) + 1, shown(text[error.position])
        mistakes.add(line, "plan", f"has the character {character}, which YAML does not allow")
        return None
    except yaml.MarkedYAMLError as error:
        mistakes.add(error.problem_mark.line + 1, "plan", _problem(error))
        return None
    if node is None:
        mistakes.add(1, "plan", "is empty: write at least rollout: my-rollout and stages: [{ring: 0}]")
        return None
    return Value(node, "", mistakes)


def _compose(text: str) -> Any:
    """The root node; None for an empty document. Raises YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except (OverflowError, ValueError):
        # PyYAML lets these through for "\UFFFFFFFF", and for a version of YAML with thousands of digits.
        raise yaml.scanner.ScannerError(
            None, None, "has an escape that no character is, or a number that is too long", loader.get_mark()
        ) from None


def shown(text: object) -> str:
    """A value in quotes for a message, cut where it is long."""
    quoted = ascii(text) if not isinstance(text, str) or not text.isprintable() else repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}...'"  # noqa: PLR2004 -- half a line


def did_you_mean(word: str, known: Collection[str], before: str = "") -> str:
    """A hint at the nearest known word, after `before`; "" when none is near."""
    near = get_close_matches(word, known, n=1)
    return f"{before}did you mean {near[0]}? " if near else ""


def _plain(key: str) -> str:
    return key if _PLAIN_KEY.fullmatch(key) else shown(key)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "is no YAML"
    if problem == "but found another document":
        return "begins another document: a file has one plan"
    return f"is no YAML: {error.context}: {problem}" if error.context else problem
