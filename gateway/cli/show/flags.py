"""Ordinary flags."""

import json
from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import ago, some, table


def flags_applied(answer: Json) -> Iterator[RenderableType]:
    """What applying flags has done."""
    for sign, colour, keys in (("~", "yellow", answer["changed"]), ("-", "red", answer["deleted"])):
        for key in keys:
            yield Text(f"{sign} {key}", colour)
    yield f"{some(len(answer['changed']), 'flag')} new or changed, {len(answer['deleted'])} deleted"


def flags(answer: Json) -> Iterator[RenderableType]:
    """Ordinary flags, by key."""
    rows = []
    for each in answer["flags"]:
        definition = json.loads(each["definition"])
        rule = "by rule" if definition.get("targeting") else "for everybody"
        default = str(definition.get("defaultVariant", "-"))
        rows.append(
            (brief(each["name"]), definition.get("state", "-"), default, rule, ago(each["updateTime"]))
        )
    yield table(("flag", "state", "default", "decided", "changed"), rows, none="there is no ordinary flag")


def flag_deleted(answer: Json) -> Iterator[RenderableType]:
    """A flag that is no more."""
    yield f"{brief(answer['name'])} is deleted; it was {answer['definition']}"
