"""What people type, made what the API takes: `tianshan` is `enterprises/tianshan`. All raise typer.BadParameter."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import typer

_ID = "([a-z0-9][a-z0-9-]{0,62})"
_SPAN = re.compile(r"(\d{1,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _name(*collections: str) -> Callable[[str], str]:
    """A parser of names in these collections, whole or by the ids alone."""
    whole = re.compile("/".join(f"{each}/{_ID}" for each in collections))
    short = re.compile("/".join(_ID for _ in collections))
    examples = "/".join(f"my-{each.removesuffix('s')}" for each in collections)

    def parse(text: str) -> str:
        found = whole.fullmatch(text) or short.fullmatch(text)
        if found is None:
            raise typer.BadParameter(
                f"{text!r} is no name; names look like {examples}, in a-z, 0-9 and hyphen"
            )
        return "/".join(
            f"{collection}/{id_}" for collection, id_ in zip(collections, found.groups(), strict=True)
        )

    return parse


rollout = _name("rollouts")
enterprise = _name("enterprises")
flag = _name("flags")
change = _name("rollouts", "changes")
invitation = _name("rollouts", "invitations")
document = _name("enterprises", "verificationDocuments")


def brief(name: str) -> str:
    """A name by its ids alone: `rollouts/a/changes/b` is `a/b`."""
    return "/".join(name.split("/")[1::2])


def moment(text: str) -> str:
    """A time as the API has it: as it is, or so long from now (`90m`, `12h`, `14d`)."""
    found = _SPAN.fullmatch(text)
    if found:
        return (datetime.now(UTC) + timedelta(**{_UNITS[found[2]]: int(found[1])})).isoformat(
            timespec="seconds"
        )
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} is no time; write 90m, 12h, 14d, or 2026-12-24T08:00+08:00 with its zone"
        )
    return time.isoformat()


def attribute(text: str) -> tuple[str, str]:
    """The two sides of `plan=enterprise`."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r} is no attribute; write key=value, as plan=enterprise")
    return key, value
