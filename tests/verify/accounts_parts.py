"""What is measured of accounts without a platform: all rows of `make verify-accounts` but 1 and 2."""

import asyncio
from collections.abc import Iterator

from services.accounts.tests import measure_refresh, measure_tree, measure_webhooks
from services.accounts.tests.vault_attacks import attack
from services.accounts.tests.vault_rotations import rotate_under_load
from services.chassis.testing.ssrf import attacking
from services.publishing.tests.measure_freeze import freeze_under_load
from tests.verify.suites import own_database, run_suite
from tests.verify.table import Row

TREE_MS, WEBHOOK_SECONDS, FREEZE_MS = 20.0, 2.0, 1_000.0
NEGATIVES, MUTATIONS, FORMS, TREES = 20, 10_000, 200, 10_000
SEED = 1


def tree() -> Iterator[Row]:
    """Row 1: moves and checks of permissions."""
    with own_database("accounts") as database:
        figures = measure_tree.measure(database)
    told = {
        "move of a branch": figures.move_branch,
        "move of a province": figures.move_province,
        "check of a permission": figures.check,
        "check by a token": figures.check_reach,
        "list of a province": figures.list_subtree,
        "list by label, of who has ten branches": figures.list_reach,
        "list of a branch": figures.list_branch,
    }
    yield Row(
        f"{figures.accounts:,} accounts in {figures.groups:,} groups",
        f"p99 < {TREE_MS:g} ms",
        "; ".join(f"{what}: p50 {each.p50:.1f} ms, p99 {each.p99:.1f} ms" for what, each in told.items()),
        all(each.p99 < TREE_MS for each in told.values()),
    )


def attacks(count: int) -> Iterator[Row]:
    """Row 3: bits flipped, rows swapped, versions put back."""
    with own_database("accounts") as database:
        found = attack(database, count, SEED)
    kinds = ", ".join(f"{kind} {made:,}" for kind, made in sorted(found.made.items()))
    yield Row(
        f"{count:,} attacks on sealed tokens and wrapped keys",
        "all refused",
        f"{found.made.total() - found.opened.total():,} of {found.made.total():,} refused ({kinds})",
        found.made.total() == count and not found.opened.total(),
    )


def rotation(tokens: int, kills: int) -> Iterator[Row]:
    """Row 3: rotation under load with kills."""
    with own_database("accounts") as database:
        found = rotate_under_load(database, tokens=tokens, kills=kills, seed=SEED)
    yield Row(
        f"{tokens:,} tokens rotated while they are read, the rotating process killed {kills} times",
        "0 failed reads, all on the new key",
        f"{found.reads:,} reads, {found.failures.total()} failed; {found.left} left on the old key, versions of the key at the "
        f"end: {found.versions}; {found.seconds:.1f} s",
        found.reads > 0 and not found.failures.total() and not found.left and found.kills == kills,
    )


def misuse() -> Iterator[Row]:
    """Row 4: OAuth negatives."""
    passed, failed, _ = run_suite("services/accounts/tests/test_oauth_negatives.py")
    yield Row(
        "OAuth misused: states, codes, issuers, redirects, invitations, other tenants",
        f"{NEGATIVES} ways or more, all refused for their reason, none a 5xx",
        f"{len(passed)} refused" + "".join(f"; not: {name}" for name in failed),
        len(passed) >= NEGATIVES and not failed,
    )


def mutations() -> Iterator[Row]:
    """Row 4: JWT mutations."""
    passed, failed, _ = run_suite("gateway/tests/test_jwt_mutations.py")
    yield Row(
        f"{MUTATIONS:,} mutations of access tokens, as many of principals, 1,000 over HTTP",
        "all refused, none a 5xx",
        f"{len(passed)} suites passed" + "".join(f"; not: {name}" for name in failed),
        bool(passed) and not failed,
    )


def forbidden_urls() -> Iterator[Row]:
    """Row 4: SSRF forms."""
    yield asyncio.run(_forbidden_urls())


async def _forbidden_urls() -> Row:
    async with attacking() as attacked:
        ways = {
            "direct": await attacked.direct(),
            "redirect": await attacked.redirect(),
            "rebinding": await attacked.rebinding(),
        }
        forms = len(attacked.forms)
    return Row(
        f"{forms} forms of URLs that mean something inside, each direct, by redirect, by DNS that changes its mind",
        f"{FORMS} forms or more, 0 connections seen",
        "; ".join(
            f"{way}: {came.tried} tries, {len(came.answered)} answered, {came.connections} connections"
            for way, came in ways.items()
        ),
        forms >= FORMS and not any(came.answered or came.connections for came in ways.values()),
    )


def permissions() -> Iterator[Row]:
    """Row 5: against a plain reference."""
    passed, failed, _ = run_suite("services/accounts/tests/test_permissions.py")
    reference = [name for name in passed if "plain_reference" in name]
    yield Row(
        f"the permission model against a plain reference, {TREES:,} random trees and grants",
        "no difference",
        f"{len(reference)} comparisons agree, {len(passed)} tests passed"
        + "".join(f"; not: {name}" for name in failed),
        any("ten_thousand" in name for name in reference) and not failed,
    )


def webhooks(endpoints: int) -> Iterator[Row]:
    """Row 6: the standard's vectors, and dead endpoints."""
    passed, failed, _ = run_suite("services/accounts/tests/test_webhooks.py", "-k", "sign or vector or verif")
    yield Row(
        "Standard Webhooks: its vectors, and another implementation that verifies ours",
        "all pass",
        f"{len(passed)} passed" + "".join(f"; not: {name}" for name in failed),
        bool(passed) and not failed,
    )
    with own_database("accounts") as database:
        found = measure_webhooks.measure(database, endpoints=endpoints)
    yield Row(
        f"webhooks to {endpoints:,} endpoints, of which 20 % are dead",
        f"p99 of the live < {WEBHOOK_SECONDS:g} s",
        str(found),
        found.p99 < WEBHOOK_SECONDS and not found.missing and found.dead * 5 >= endpoints,
    )


def freezes(count: int) -> Iterator[Row]:
    """Freezes under load."""
    with own_database("publishing") as database:
        found = freeze_under_load(database, freezes=count)
    yield Row(
        f"{found.accounts} accounts frozen while two senders publish on them",
        f"no send after the answer but those that it lists; the last < {FREEZE_MS:g} ms after the request",
        str(found),
        not found.late and not found.left and max(found.lasts) < FREEZE_MS,
    )


def refreshes(accounts: int) -> Iterator[Row]:
    """Tokens refreshed once, and what is lost between a network and us."""
    with own_database("accounts") as database:
        found = measure_refresh.measure(database, accounts=accounts)
    yield Row(
        f"{found.accounts} tokens due at once for {found.needs} refreshers; {found.kills} kills -9 with the network's answer in "
        f"hand, {found.lost} answers lost",
        "one request for each token; each lost account asks its holder once, and nothing loops",
        f"{found.requests} requests, {found.refreshes} tokens given, {found.told} told to publishing, in {found.seconds:.1f} s; "
        f"{found.asked} holders asked, {found.again} requests after that",
        found.right,
    )
