"""Texts as networks render them, brought back to what we sent."""

import re
import unicodedata
from html.parser import HTMLParser


class _Text(HTMLParser):
    """Collects what a reader sees; paragraphs and line breaks become spaces."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002 -- HTMLParser's signature
        if tag in {"p", "br", "div", "li"}:
            self.parts.append(" ")


def from_html(content: str) -> str:
    """What a reader sees of a network's sanitised HTML, on one line."""
    parser = _Text()
    parser.feed(content)
    parser.close()
    return " ".join("".join(parser.parts).split())


_MENTIONS = re.compile(r"(?:@[\w.:-]*\w)+", re.ASCII)
_KEPT = ("L", "N", "M", "S")
"""Letters, numbers, marks and symbols, by Unicode's general category."""


def fingerprint(text: str) -> str:
    """
    What stays the same of a text when a server renders it and we read it back.

    Servers change white space, quotation marks and markup, and write mentions in their own way. So it is coarse on
    purpose, and leaves mentions out: a post that we fail to recognise is one that we make twice.
    """
    folded = unicodedata.normalize("NFKC", _MENTIONS.sub("", text)).casefold()
    composed = unicodedata.normalize("NFKC", folded)
    kept = "".join(each for each in composed if unicodedata.category(each).startswith(_KEPT))
    return kept or " ".join(composed.split())
