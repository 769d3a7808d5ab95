"""One enterprise, lists of them, and invitations."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import ago, coloured, pairs, table, tick, when, word


def explanation(answer: Json) -> Iterator[RenderableType]:
    """How the decision on an enterprise comes about."""
    its = answer["admission"]
    yield Text.assemble(
        (brief(its["enterprise"]), "bold"), "  ", coloured("ACTIVE", "is in") if answer["admitted"] else "is not in", "  ",
        _standing(its),
    )  # fmt: skip
    yield ""
    decides = next((index for index, each in enumerate(answer["steps"]) if not each["holds"]), None)
    yield table(
        ("rule", "", "because"),
        (
            (
                each["rule"],
                tick(each["holds"]),
                each["detail"] + ("  <- decides" if index == decides else ""),
            )
            for index, each in enumerate(answer["steps"])
        ),
    )
    yield ""
    facts = [("next", answer["nextStep"])] if answer["nextStep"] else []
    known = ", ".join(f"{key}={value}" for key, value in sorted(answer["attributes"].items()))
    versions = [f"{name} v{answer[f'{name}Version']}" for name in ("plan", "snapshot", "admissions")]
    facts += [("known", known or "nothing"), ("by", ", ".join(versions))]
    yield pairs(facts)


def admission(answer: Json) -> Iterator[RenderableType]:
    """One record."""
    yield Text.assemble((brief(answer["enterprise"]), "bold"), "  ", _standing(answer))


def _standing(its: Json) -> Text:
    parts = [coloured(word(its["state"]))]
    if its["reason"]:
        parts.append(Text(f": {its['reason']}"))
    if its["position"]:
        parts.append(Text(f", place {its['position']}"))
    if its["source"]:
        parts.append(Text(f", by {its['source']}"))
    if its["stage"]:
        parts.append(Text(f", stage {its['stage']}"))
    return Text.assemble(*parts, f", bucket {its['bucket']}")


def admissions(answer: Json) -> Iterator[RenderableType]:
    """Records, in the order of admission and then of waiting."""
    yield table(
        ("enterprise", "state", "why", "place", "by", "stage", "bucket", "since"),
        (
            (
                brief(each["enterprise"]), coloured(word(each["state"])), each["reason"] or "-",
                str(each["position"] or "-"), each["source"] or "-", each["stage"] or "-", str(each["bucket"]),
                ago(each["admitTime"]) if "admitTime" in each else "-",
            )
            for each in answer["admissions"]
        ),
        none="nobody",
    )  # fmt: skip


def entry(answer: Json) -> Iterator[RenderableType]:
    """An entry of the allow or deny list."""
    until = f", {when(answer['expireTime'], 'until')}" if "expireTime" in answer else ""
    yield Text.assemble(
        (brief(answer["enterprise"]), "bold"), "  ", coloured(answer["kind"]), until, f": {answer['reason']}"
    )


def unlisted(answer: Json) -> Iterator[RenderableType]:
    """An entry that is no more."""
    yield f"{brief(answer['enterprise'])} is on no list any more; it was {answer['kind']}"


def entries(answer: Json) -> Iterator[RenderableType]:
    """The allow and deny lists."""
    yield table(
        ("enterprise", "list", "ends", "why"),
        (
            (
                brief(each["enterprise"]), coloured(each["kind"]),
                when(each["expireTime"]) if "expireTime" in each else "never", each["reason"],
            )
            for each in answer["entries"]
        ),
        none="nobody is on a list",
    )  # fmt: skip


def attributes(answer: Json) -> Iterator[RenderableType]:
    """What predicates may ask of an enterprise."""
    known = {"verified": str(answer["verified"]).lower(), **answer["attributes"]}
    yield f"{brief(answer['enterprise'])}: " + ", ".join(
        f"{key}={value}" for key, value in sorted(known.items())
    )


def invitation(answer: Json) -> Iterator[RenderableType]:
    """An invitation; with its token when it is new."""
    whom = brief(answer["enterprise"]) if answer["enterprise"] else "whoever has the token"
    yield Text.assemble(
        (brief(answer["name"]), "bold"),
        "  ",
        coloured(word(answer["state"])),
        f", for {whom}, ends {when(answer['expireTime'])}",
    )
    if answer["token"]:
        yield f"token: {answer['token']}"
        yield "It is told here and never again."


def invitations(answer: Json) -> Iterator[RenderableType]:
    """Invitations, newest first."""
    yield table(
        ("invitation", "state", "for", "accepted by", "ends", "note"),
        (
            (
                brief(each["name"]), coloured(word(each["state"])), brief(each["enterprise"]) or "anybody",
                brief(each["acceptedBy"]) or "-", when(each["expireTime"]) if "expireTime" in each else "-", each["note"],
            )
            for each in answer["invitations"]
        ),
        none="there is no invitation",
    )  # fmt: skip
