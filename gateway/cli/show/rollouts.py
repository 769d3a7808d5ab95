"""Rollouts, their plans, and what would become of them."""

import json
from collections.abc import Iterator
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from gateway.cli.client import Json
from gateway.cli.names import brief
from gateway.cli.show.parts import age, ago, coloured, pairs, percent, some, state, table, tick, when, word
from gateway.cli.show.replicas import convergence

_NOTHING = frozenset({"", "none"})


def rollouts(answer: Json) -> Iterator[RenderableType]:
    """All rollouts, one a line."""
    yield table(
        ("rollout", "state", "stage", "share", "in", "waiting", "plan", "changed"),
        (
            (
                brief(each["name"]), state(each), each["stage"] or "-", percent(each["basisPoints"]),
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
    stage = [f"stage {answer['stage']}", percent(answer["basisPoints"])] if answer["stage"] else []
    numbers = [f"in {answer['admittedCount']}", f"waiting {answer['waitingCount']}"]
    return Text.assemble(
        (brief(answer["name"]), "bold"), "  ", state(answer), "  ", ", ".join([*stage, *numbers])
    )


def status(answer: Json) -> Iterator[RenderableType]:
    """Where a rollout stands, what holds it, what the guardrails found, who serves it, and what comes next."""
    its = answer["rollout"]
    ids = [each["id"] for each in its["stages"]]
    place = (
        f"  stage {its['stage']} ({ids.index(its['stage']) + 1} of {len(ids)})" if its["stage"] in ids else ""
    )
    since = f", for {age(its['stageTime'])}" if "stageTime" in its else ""
    yield Text.assemble((brief(its["name"]), "bold"), "  ", state(its), place, since)
    yield ""
    facts = [("flag", its["flag"])]
    if its["cause"]:
        facts.append(("because", f"{its['cause']}: {its['reason']}" if its["reason"] else its["cause"]))
    stage = next((each for each in its["stages"] if each["id"] == its["stage"]), None)
    if stage:
        quota = f", quota {stage['quota']}" if stage["quota"] else ""
        facts.append(("takes", f"{percent(its['basisPoints'])} of {stage['audience']}{quota}"))
        if limits := _limits(stage.get("limits", {})):
            facts.append(("limits", limits))
    facts.append(("in", f"{its['admittedCount']}, {its['waitingCount']} waiting"))
    if "startTime" in its and its["state"] == "ARMED":
        facts.append(("starts", when(its["startTime"])))
    facts.append(("plan", f"version {its['planVersion']}, by {its['author']}"))
    facts.append(("gateways", convergence(answer.get("convergence", {}))))
    if answer["nextStep"]:
        facts.append(("next", answer["nextStep"]))
    yield pairs(facts)
    if answer["gates"]:
        yield ""
        yield table(
            ("gate", "", "how far"),
            ((each["kind"], tick(each["met"]), _gate(each)) for each in answer["gates"]),
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


def analysis(answer: Json) -> Iterator[RenderableType]:
    """One look of the guardrails."""
    action = f", {answer['action']}" if answer["action"] not in {"", "NONE"} else ""
    reason = f": {answer['reason']}" if answer["reason"] else ""
    yield Text.assemble("analysis  ", coloured(answer["outcome"]), f"{action}, {ago(answer['time'])}{reason}")
    if answer["verdicts"]:
        yield table(
            ("metric", "kind", "verdict", "in", "control", "of", "why"),
            (
                (
                    each["metric"],
                    each["kind"] + (", dry run" if each["dryRun"] else ""),
                    coloured(each["outcome"]),
                    _rate(each["treatment"]) if _judged(each) else "-",
                    _rate(each["control"]) if each["controlCount"] else "-",
                    f"{each['treatedCount']}/{each['controlCount']}",
                    each["reason"].removeprefix(f"{each['metric']}: "),
                )
                for each in answer["verdicts"]
            ),
        )


def _judged(verdict: Json) -> bool:
    """Whether there is a mean at all."""
    return verdict["treatedCount"] > 0 or verdict["outcome"] in {"PASS", "FAIL"}


def _rate(value: float | str) -> str:
    return f"{float(value):.2%}"  # JSON has NaN as a text


def analyses(answer: Json) -> Iterator[RenderableType]:
    """What the guardrails found, newest first."""
    yield table(
        ("when", "stage", "outcome", "action", "why"),
        (
            (ago(each["time"]), each["stage"], coloured(each["outcome"]), each["action"], each["reason"])
            for each in answer["analyses"]
        ),
        none="the guardrails have not looked yet",
    )


def snapshot(answer: Json) -> Iterator[RenderableType]:
    """The document, below its versions."""
    yield f"snapshot v{answer['version']}, admissions v{answer['admissionsVersion']}, {answer['sha256'][:12]}"
    if answer["document"]:
        yield json.dumps(json.loads(answer["document"]), ensure_ascii=False, indent=2)


def plans(answer: Json) -> Iterator[RenderableType]:
    """The versions of a plan."""
    yield table(
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
    approvals = f", which {some(needs, 'other')} must approve" if needs else ""
    return f"{some(count, 'difference')} from the plan in force{approvals}"


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
        yield table(
            ("what", "enterprise", "now", "then", "rule", "stage", "bucket"),
            (
                (
                    _move(each), brief(each["enterprise"]), word(each["before"]), coloured(word(each["after"])),
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
