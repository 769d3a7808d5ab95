"""Answers of the API as people read them: short, plain, times as ages. JSON in, lines and tables out; no I/O."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief

_COLOURS = {
    "RUNNING": "green", "ACTIVE": "green", "PASS": "green", "APPROVED": "green", "APPLIED": "green", "OPEN": "green",
    "PAUSED": "yellow", "WAITLISTED": "yellow", "INCONCLUSIVE": "yellow", "NO_DATA": "yellow", "WAITING": "yellow",
    "IN_REVIEW": "yellow", "SUSPENDED": "yellow",
    "KILLED": "bold red", "ROLLED_BACK": "red", "REVOKED": "red", "FAIL": "red", "SRM": "red", "DENY": "red",
    "MULTIPLE_EXPOSURE": "red", "REJECTED": "red", "CONFLICTED": "red",
}  # fmt: skip
_UNSET = "STATE_UNSPECIFIED"
_NOTHING = frozenset({"", "none"})
_LONG = 60


# Rollouts


def rollouts(answer: Json) -> Iterator[RenderableType]:
    """All rollouts, one a line."""
    yield _table(
        ("rollout", "state", "stage", "share", "in", "waiting", "plan", "changed"),
        (
            (
                brief(each["name"]), _state(each), each["stage"] or "-", _percent(each["basisPoints"]),
                str(each["admittedCount"]), str(each["waitingCount"]), f"v{each['planVersion']}", ago(each["updateTime"]),
            )
            for each in answer["rollouts"]
        ),
        none="there is no rollout",
    )  # fmt: skip


def rollout(answer: Json) -> Iterator[RenderableType]:
    """Where a rollout stands, in a line."""
    yield headline(answer)


def approved(answer: Json, gate: str) -> Iterator[RenderableType]:
    """That somebody agreed, and where the rollout stands."""
    what = "its start" if gate == "start" else f"that it leaves {gate}"
    yield Text.assemble(headline(answer), f"  you approve {what}")


def headline(answer: Json) -> Text:
    """Name, state, stage and numbers."""
    stage = [f"stage {answer['stage']}", _percent(answer["basisPoints"])] if answer["stage"] else []
    numbers = [f"in {answer['admittedCount']}", f"waiting {answer['waitingCount']}"]
    return Text.assemble(
        (brief(answer["name"]), "bold"), "  ", _state(answer), "  ", ", ".join([*stage, *numbers])
    )


def status(answer: Json) -> Iterator[RenderableType]:
    """Where a rollout stands, what holds it, what the guardrails found, who serves it, and what comes next."""
    its = answer["rollout"]
    ids = [each["id"] for each in its["stages"]]
    place = (
        f"  stage {its['stage']} ({ids.index(its['stage']) + 1} of {len(ids)})" if its["stage"] in ids else ""
    )
    since = f", for {_span_since(its['stageTime'])}" if "stageTime" in its else ""
    yield Text.assemble((brief(its["name"]), "bold"), "  ", _state(its), place, since)
    yield ""
    facts = [("flag", its["flag"])]
    if its["cause"]:
        facts.append(("because", f"{its['cause']}: {its['reason']}" if its["reason"] else its["cause"]))
    stage = next((each for each in its["stages"] if each["id"] == its["stage"]), None)
    if stage:
        quota = f", quota {stage['quota']}" if stage["quota"] else ""
        facts.append(("takes", f"{_percent(its['basisPoints'])} of {stage['audience']}{quota}"))
        if limits := _limits(stage.get("limits", {})):
            facts.append(("limits", limits))
    facts.append(("in", f"{its['admittedCount']}, {its['waitingCount']} waiting"))
    if "startTime" in its and its["state"] == "ARMED":
        facts.append(("starts", when(its["startTime"])))
    facts.append(("plan", f"version {its['planVersion']}, by {its['author']}"))
    facts.append(("gateways", convergence(answer.get("convergence", {}))))
    if answer["nextStep"]:
        facts.append(("next", answer["nextStep"]))
    yield _facts(facts)
    if answer["gates"]:
        yield ""
        yield _table(
            ("gate", "", "how far"),
            ((each["kind"], _tick(each["met"]), _gate(each)) for each in answer["gates"]),
        )
    if "analysis" in answer:
        yield ""
        yield from analysis(answer["analysis"])


def change_line(answer: Json) -> Iterator[RenderableType]:
    """What a watch tells of a change, in one line, for a log."""
    its = answer["status"]
    met = sum(each["met"] for each in its["gates"])
    gates = f"  gates {met}/{len(its['gates'])}" if its["gates"] else ""
    found = f"  analysis {its['analysis']['outcome']}" if "analysis" in its else ""
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    yield Text.assemble(
        f"{now}  ", headline(its["rollout"]), f"{gates}{found}  ", convergence(its.get("convergence", {}))
    )


def analysis(answer: Json) -> Iterator[RenderableType]:
    """One look of the guardrails."""
    action = f", {answer['action']}" if answer["action"] not in {"", "NONE"} else ""
    reason = f": {answer['reason']}" if answer["reason"] else ""
    yield Text.assemble(
        "analysis  ", _coloured(answer["outcome"]), f"{action}, {ago(answer['time'])}{reason}"
    )
    if answer["verdicts"]:
        yield _table(
            ("metric", "kind", "verdict", "in", "control", "of", "why"),
            (
                (
                    each["metric"],
                    each["kind"] + (", dry run" if each["dryRun"] else ""),
                    _coloured(each["outcome"]),
                    _rate(each["treatment"]) if _judged(each) else "-",
                    _rate(each["control"]) if each["controlCount"] else "-",
                    f"{each['treatedCount']}/{each['controlCount']}",
                    each["reason"].removeprefix(f"{each['metric']}: "),
                )
                for each in answer["verdicts"]
            ),
        )


def _judged(verdict: Json) -> bool:
    return verdict["outcome"] not in {"WAITING", "NO_DATA"}


def _rate(value: float | str) -> str:
    return f"{float(value):.2%}"  # JSON has NaN as a text


def analyses(answer: Json) -> Iterator[RenderableType]:
    """What the guardrails found, newest first."""
    yield _table(
        ("when", "stage", "outcome", "action", "why"),
        (
            (ago(each["time"]), each["stage"], _coloured(each["outcome"]), each["action"], each["reason"])
            for each in answer["analyses"]
        ),
        none="the guardrails have not looked yet",
    )


def plans(answer: Json) -> Iterator[RenderableType]:
    """The versions of a plan."""
    yield _table(
        ("version", "by", "when", "sha256"),
        (
            (str(each["version"]), each["author"], ago(each["createTime"]), each["sha256"][:12])
            for each in answer["plans"]
        ),
    )


def applied(answer: Json) -> Iterator[RenderableType]:
    """What applying a plan has done."""
    yield from differences(answer)
    version = f"plan version {answer['rollout']['planVersion']} is in force"
    done = "made" if answer["created"] else version if answer["differences"] else "nothing to change"
    yield Text.assemble(headline(answer["rollout"]), f"  {done}")


def differences(answer: Json) -> Iterator[RenderableType]:
    """What a plan changes, one a line; of a new rollout that is everything, and nothing is told."""
    for each in answer["differences"] if not answer["created"] else ():
        if each["before"] in _NOTHING:
            yield Text(f"+ {each['path']}: {each['after']}", "green")
        elif each["after"] in _NOTHING:
            yield Text(f"- {each['path']}: {each['before']}", "red")
        else:
            yield Text(f"~ {each['path']}: {each['before']} -> {each['after']}", "yellow")


def validated(answer: Json) -> Iterator[RenderableType]:
    """That a plan has no mistake, and what applying it would mean."""
    yield f"{brief(answer['rollout']['name'])}: valid, {len(answer['rollout']['stages'])} stages; {_meaning(answer)}"


def compared(answer: Json) -> Iterator[RenderableType]:
    """What a plan would change, and what that takes."""
    yield from differences(answer)
    yield f"{brief(answer['rollout']['name'])}: {_meaning(answer)}"


def _meaning(answer: Json) -> str:
    if answer["created"]:
        return "a new rollout"
    count = len(answer["differences"])
    if not count:
        return "the same as the plan in force"
    needs = answer["needsApprovals"]
    approvals = f", which {_some(needs, 'other')} must approve" if needs else ""
    return f"{_some(count, 'difference')} from the plan in force{approvals}"


def simulation(answer: Json) -> Iterator[RenderableType]:
    """Who would enter and who would leave, by which rule, now and then."""
    then, entering, leaving = answer["admittedCount"], answer["enteringCount"], answer["leavingCount"]
    quota = f", quota {answer['quota']}" if answer["quota"] else ""
    stage = f"stage {answer['stage']}: " if answer["stage"] else ""
    yield f"{stage}{entering} enter, {leaving} leave; in now {then - entering + leaving}, then {then}{quota}"
    if answer["byRule"]:
        rules = sorted(answer["byRule"].items(), key=lambda each: (-each[1], each[0]))
        yield "by rule: " + ", ".join(f"{rule} {count}" for rule, count in rules)
    if answer["admissions"]:
        yield ""
        yield _table(
            ("what", "enterprise", "now", "then", "rule", "stage", "bucket"),
            (
                (
                    _move(each), brief(each["enterprise"]), _word(each["before"]), _coloured(_word(each["after"])),
                    each["rule"], each["stage"] or "-", str(each["bucket"]),
                )
                for each in answer["admissions"]
            ),
        )  # fmt: skip


def _move(each: Json) -> str:
    was, is_ = each["before"] == "ACTIVE", each["after"] == "ACTIVE"
    if was == is_:
        return "stays" if is_ else "-"
    return "enters" if is_ else "leaves"


# Tenants


def explanation(answer: Json) -> Iterator[RenderableType]:
    """How the decision on an enterprise comes about."""
    its = answer["admission"]
    yield Text.assemble(
        (brief(its["enterprise"]), "bold"), "  ", _coloured("ACTIVE", "is in") if answer["admitted"] else "is not in", "  ",
        _standing(its),
    )  # fmt: skip
    yield ""
    decides = next((index for index, each in enumerate(answer["steps"]) if not each["holds"]), None)
    yield _table(
        ("rule", "", "because"),
        (
            (
                each["rule"],
                _tick(each["holds"]),
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
    yield _facts(facts)


def admission(answer: Json) -> Iterator[RenderableType]:
    """One record."""
    yield Text.assemble((brief(answer["enterprise"]), "bold"), "  ", _standing(answer))


def _standing(its: Json) -> Text:
    parts = [_coloured(_word(its["state"]))]
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
    yield _table(
        ("enterprise", "state", "why", "place", "by", "stage", "bucket", "since"),
        (
            (
                brief(each["enterprise"]), _coloured(_word(each["state"])), each["reason"] or "-",
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
        (brief(answer["enterprise"]), "bold"), "  ", _coloured(answer["kind"]), until, f": {answer['reason']}"
    )


def unlisted(answer: Json) -> Iterator[RenderableType]:
    """An entry that is no more."""
    yield f"{brief(answer['enterprise'])} is on no list any more; it was {answer['kind']}"


def entries(answer: Json) -> Iterator[RenderableType]:
    """The allow and deny lists."""
    yield _table(
        ("enterprise", "list", "ends", "why"),
        (
            (
                brief(each["enterprise"]), _coloured(each["kind"]),
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
        _coloured(_word(answer["state"])),
        f", for {whom}, ends {when(answer['expireTime'])}",
    )
    if answer["token"]:
        yield f"token: {answer['token']}"
        yield "It is told here and never again."


def invitations(answer: Json) -> Iterator[RenderableType]:
    """Invitations, newest first."""
    yield _table(
        ("invitation", "state", "for", "accepted by", "ends", "note"),
        (
            (
                brief(each["name"]), _coloured(_word(each["state"])), brief(each["enterprise"]) or "anybody",
                brief(each["acceptedBy"]) or "-", when(each["expireTime"]) if "expireTime" in each else "-", each["note"],
            )
            for each in answer["invitations"]
        ),
        none="there is no invitation",
    )  # fmt: skip


# Changes


def change(answer: Json) -> Iterator[RenderableType]:
    """A change request, but for what it changes."""
    kind = (
        "review of a kill or rollback"
        if answer["kind"] == "REVIEW"
        else f"changes plan v{answer['baseVersion']}"
    )
    yield Text.assemble((brief(answer["name"]), "bold"), "  ", _coloured(_word(answer["state"])), f"  {kind}")
    approvers = f": {', '.join(answer['approvers'])}" if answer["approvers"] else ""
    facts = [
        ("by", f"{answer['author']}, {ago(answer['createTime'])}"),
        ("why", answer["reason"]),
        ("approved", f"{len(answer['approvers'])} of {answer['approvalsNeeded']}{approvers}"),
    ]
    if "scheduleTime" in answer:
        facts.append(("applies", when(answer["scheduleTime"])))
    if answer["contentHash"]:
        facts.append(("hash", answer["contentHash"]))
    yield _facts(facts)


def changes(answer: Json) -> Iterator[RenderableType]:
    """Change requests, newest first."""
    yield _table(
        ("change", "kind", "state", "approved", "by", "when", "why"),
        (
            (
                brief(each["name"]), each["kind"], _coloured(_word(each["state"])),
                f"{len(each['approvers'])}/{each['approvalsNeeded']}", each["author"], ago(each["createTime"]), each["reason"],
            )
            for each in answer["changeRequests"]
        ),
        none="there is no change request",
    )  # fmt: skip


# Flags


def flags_applied(answer: Json) -> Iterator[RenderableType]:
    """What applying flags has done."""
    for sign, colour, keys in (("~", "yellow", answer["changed"]), ("-", "red", answer["deleted"])):
        for key in keys:
            yield Text(f"{sign} {key}", colour)
    yield f"{_some(len(answer['changed']), 'flag')} new or changed, {len(answer['deleted'])} deleted"


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
    yield _table(("flag", "state", "default", "decided", "changed"), rows, none="there is no ordinary flag")


def flag_deleted(answer: Json) -> Iterator[RenderableType]:
    """A flag that is no more."""
    yield f"{brief(answer['name'])} is deleted; it was {answer['definition']}"


# Trail and gateways


def events(answer: Json) -> Iterator[RenderableType]:
    """What was done, newest first."""
    yield _table(
        ("number", "when", "who", "what", "of", "detail"),
        (
            (
                each["sequence"], ago(each["time"]), each["actor"], each["cause"],
                " ".join(brief(name) for name in (each["rollout"], each["enterprise"]) if name) or "-",
                _detail(json.loads(each["detail"] or "{}")),
            )
            for each in answer["events"]
        ),
        none="nothing was done yet",
    )  # fmt: skip


def _detail(detail: Json) -> str:
    """Why, and what changed, of an audit event, cut where it is long; -o json has it all."""
    changed = [
        f"{each['path'].lstrip('/')}: {each.get('before', 'none')} -> {each.get('value', 'none')}"
        for each in detail.get("changed", [])
    ]
    rest = [
        f"{key}: {value}" for key, value in detail.items() if key != "reason" and isinstance(value, str | int)
    ]
    parts = [detail.get("reason", ""), *changed, *detail.get("differences", []), *rest]
    return "; ".join(part if len(part) <= _LONG else f"{part[:_LONG]}…" for part in parts if part)


def verification(answer: Json) -> Iterator[RenderableType]:
    """Whether the audit trail is as it was written."""
    for each in answer["mistakes"]:
        yield Text(f"event {each['sequence']}: {each['what']}", "red")
    verdict = (
        _coloured("PASS", "as it was written") if answer["ok"] else _coloured("FAIL", "NOT as it was written")
    )
    counts = f"{_some(int(answer['checkedCount']), 'event')} computed anew, {answer['anchoredCount']} anchors compared"
    yield Text.assemble("the trail is ", verdict, f": {counts}, head {answer['head'][:12] or '-'}")


def replicas(answer: Json) -> Iterator[RenderableType]:
    """Which gateways serve what."""
    yield convergence(answer)
    if answer["replicas"]:
        yield ""
        yield _table(
            ("gateway", "", "snapshot", "after", "admissions", "after", "heard"),
            (
                (
                    each["replica"], _tick(each["converged"]), f"v{each['snapshotVersion']}", f"{each['snapshotLagMs']} ms",
                    f"v{each['admissionsVersion']}", f"{each['admissionsLagMs']} ms", ago(each["reportTime"]),
                )
                for each in answer["replicas"]
            ),
        )  # fmt: skip


def convergence(answer: Json) -> Text:
    """How many gateways serve the newest versions, in some words."""
    found = answer.get("replicas", [])
    if not found:
        return Text("no gateway has reported lately", "red")
    counts = f"{answer['convergedCount']}/{len(found)} at v{answer['snapshotVersion']}"
    if answer["convergedCount"] == len(found):
        return Text(f"converged {counts} in {answer['slowestMs']} ms")
    behind = ", ".join(each["replica"] for each in found if not each["converged"])
    return Text(f"NOT converged: {counts}; behind: {behind}", "red")


# Times


def ago(time: str) -> str:
    """How long ago a time is, as `2h 5m ago`."""
    return f"{_span_since(time)} ago"


def when(time: str, before: str = "in") -> str:
    """When a time is, seen from now: `in 3d 4h`, or `2m ago`."""
    ahead = datetime.fromisoformat(time) - datetime.now(UTC)
    return f"{before} {span(ahead)}" if ahead > timedelta(0) else f"{span(-ahead)} ago"


def _span_since(time: str) -> str:
    return span(max(datetime.now(UTC) - datetime.fromisoformat(time), timedelta(0)))


def span(length: timedelta) -> str:
    """A length of time in its two largest units."""
    seconds = int(length.total_seconds())
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m" if minutes else f"{seconds}s"


# Parts


def _table(
    head: Sequence[str], rows: Iterable[Sequence[RenderableType]], *, none: str = "none"
) -> RenderableType:
    table = Table(*head, box=None, pad_edge=False, header_style="dim")
    for row in rows:
        table.add_row(*row)
    return table if table.row_count else Text(none)


def _facts(facts: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for name, fact in facts:
        table.add_row(Text(name, "dim"), fact)
    return table


def _state(its: Json) -> Text:
    return (
        _coloured("KILLED", f"KILLED ({its['state']})") if its["killed"] else _coloured(_word(its["state"]))
    )


def _coloured(word: str, text: str = "") -> Text:
    return Text(text or word, _COLOURS.get(word, ""))


def _word(state: str) -> str:
    return "-" if state == _UNSET else state


def _tick(holds: bool) -> Text:  # noqa: FBT001 -- what it shows is a truth value
    return Text("✓", "green") if holds else Text("✗", "red")


def _gate(gate: Json) -> str:
    opens = f", {when(gate['meetTime'])}" if "meetTime" in gate and not gate["met"] else ""
    return f"{gate['detail']}{opens}"


def _limits(limits: Json) -> str:
    named = (
        ("requestsPerMinute", "requests/min"),
        ("boundAccounts", "accounts"),
        ("livePlacements", "placements"),
    )
    return ", ".join(f"{limits[key]} {what}" for key, what in named if limits.get(key))


def _percent(basis_points: int) -> str:
    return f"{basis_points / 100:g}%"


def _some(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
