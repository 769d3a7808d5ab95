"""Enterprises that ask to be verified, their documents and notes."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import ago, coloured, pairs, table, when, word

_KIB = 1024


def waiting(answer: Json) -> Iterator[RenderableType]:
    """Who waits, longest first."""
    yield table(
        ("enterprise", "name", "industry", "region", "asked", "says"),
        (
            (
                brief(each["name"]), each["displayName"], each["industry"] or "-", each["region"] or "-",
                ago(each["updateTime"]), each["verificationNote"] or "-",
            )
            for each in answer["enterprises"]
        ),
        none="nobody waits",
    )  # fmt: skip


def enterprise(answer: Json) -> Iterator[RenderableType]:
    """How far an enterprise is known to be who it says."""
    said = f": {answer['verificationNote']}" if answer["verificationNote"] else ""
    yield Text.assemble(
        (brief(answer["name"]), "bold"),
        f"  {answer['displayName']}  ",
        coloured(word(answer["verification"])),
        said,
    )


def review(answer: Json) -> Iterator[RenderableType]:
    """All that a decision may rest on."""
    its = answer["enterprise"]
    yield from enterprise(its)
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(its["attributes"].items()))
    yield pairs(
        [
            ("industry", its["industry"] or "-"),
            ("region", its["region"] or "-"),
            ("tier", its["tier"] or "-"),
            ("known", attributes or "-"),
            ("registered", ago(its["createTime"])),
            ("changed", ago(its["updateTime"])),
            ("etag", its["etag"]),
        ]
    )
    yield ""
    yield table(
        ("document", "what", "title", "type", "size", "sha256", "uploaded", "content", "decided on it"),
        map(_document, answer["verificationDocuments"]),
        none="no documents",
    )
    yield ""
    yield table(
        ("note", "by", "when"),
        ((each["text"], each["author"], ago(each["createTime"])) for each in answer["reviewNotes"]),
        none="no notes",
    )


def _document(each: Json) -> tuple[RenderableType, ...]:
    decided = word(each["decision"]) if "decideTime" in each else ""
    return (
        brief(each["name"]), word(each["kind"]), each["title"] or "-", each["mediaType"], _size(int(each["sizeBytes"])),
        each["sha256"][:12], ago(each["createTime"]), _content(each),
        Text.assemble(coloured(decided), f" {ago(each['decideTime'])}") if decided else "-",
    )  # fmt: skip


def _content(each: Json) -> str:
    if "eraseTime" in each:
        return f"erased {ago(each['eraseTime'])}"
    return f"erased {when(each['expireTime'])}" if "expireTime" in each else "kept"


def _size(count: int) -> str:
    return f"{count} B" if count < _KIB else f"{count / _KIB:,.0f} KiB"


def saved(answer: Json) -> Iterator[RenderableType]:
    """Where a document is now."""
    yield f"{answer['file']}  {_size(answer['sizeBytes'])}"


def note(answer: Json) -> Iterator[RenderableType]:
    """A note that was kept."""
    yield f"noted by {answer['author']}"
