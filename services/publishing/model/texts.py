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


_MENTION = re.compile(r"@(\w+)(?:@[\w.:-]*\w)?", re.ASCII)


def fingerprint(text: str) -> str:
    """
    What stays the same of a text when a server renders it and we read it back.

    Servers change white space, write a mentioned name as its owner does, and leave out the person's server.
    """
    composed = " ".join(unicodedata.normalize("NFC", text).split())
    return _MENTION.sub(lambda found: "@" + found[1].lower(), composed)
