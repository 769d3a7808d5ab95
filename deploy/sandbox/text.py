"""From the text that a person wrote to what the network counts, links and shows."""

import re
from collections.abc import Callable
from html import escape

URL_CHARACTERS = 23
"""Any URL counts as this many characters."""

_NOT_IN_URL = r"\s<>\"'\u3000-\u303f\uff00-\uffef"  # the last two: Chinese punctuation
_URL = f"https?://[^{_NOT_IN_URL}]*[^{_NOT_IN_URL}.,;:!?)]"
_MENTION = r"(?<![=/\w])@(?P<user>[A-Za-z0-9_]+(?:[.-]+[A-Za-z0-9_]+)*)(?:@(?P<domain>[\w.:-]*\w))?"
_TAG = r"(?<![=/\w])#(?P<tag>\w*[^\W\d]\w*)"
_TOKEN = re.compile(f"(?P<url>{_URL})|{_MENTION}|{_TAG}")
_LINE_END = re.compile(r"\r\n?")
_PARAGRAPH_END = re.compile(r"\n{2,}")


def tidy(text: str) -> str:
    """The text as it is stored: one kind of line end, and no white space around it."""
    return _LINE_END.sub("\n", text).strip()


def count_characters(text: str) -> int:
    """Its length as the limit counts it: URLs are all the same, and the domain of a mention is free."""

    def counted(match: re.Match[str]) -> str:
        if match["url"]:
            return "x" * URL_CHARACTERS
        return f"@{match['user']}" if match["user"] else match[0]

    return len(_TOKEN.sub(counted, text))


def mentions(text: str) -> list[tuple[str, str | None]]:
    """The (user, domain) pairs that are addressed, in order, without repeats."""
    found = ((match["user"].lower(), match["domain"]) for match in _TOKEN.finditer(text) if match["user"])
    return list(dict.fromkeys(found))


def tags(text: str) -> list[str]:
    """The hashtags, in lower case, in order, without repeats."""
    return list(dict.fromkeys(match["tag"].lower() for match in _TOKEN.finditer(text) if match["tag"]))


def to_html(text: str, profile_url: Callable[[str, str | None], str | None]) -> str:
    """
    Paragraphs, line breaks and links; all else is escaped, so that the result is safe to show.

    `profile_url` gives the page of a mentioned (user, domain), or None to leave the words as they are.
    """

    def inline(paragraph: str) -> str:
        parts, end = [], 0
        for match in _TOKEN.finditer(paragraph):
            parts.append(escape(paragraph[end : match.start()]))
            parts.append(_link(match, profile_url))
            end = match.end()
        parts.append(escape(paragraph[end:]))
        return "".join(parts).replace("\n", "<br>")

    return "".join(f"<p>{inline(paragraph)}</p>" for paragraph in _PARAGRAPH_END.split(text) if paragraph)


def _link(match: re.Match[str], profile_url: Callable[[str, str | None], str | None]) -> str:
    if match["url"]:
        url = escape(match["url"])
        return f'<a href="{url}" rel="nofollow noopener" target="_blank">{url}</a>'
    if match["user"] and (page := profile_url(match["user"], match["domain"])):
        return f'<a href="{escape(page)}" class="u-url mention">@<span>{escape(match["user"])}</span></a>'
    return escape(match[0])
