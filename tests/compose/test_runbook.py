"""docs/runbook.md, typed in as it stands: every command of it is run against the stack, and what it promises is checked."""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from deploy.compose.stack import Stack
from deploy.demo.client import eventually
from deploy.demo.story import PASSWORD
from deploy.local.stubs import ROOT
from tests.compose.conftest import Note
from tests.compose.outside import Outside, under_load

TEXT = (ROOT / "docs" / "runbook.md").read_text()
CHAPTERS = {
    title: re.findall(r"^```sh\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
    for title, body in re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
"""The commands of each chapter: its `sh` blocks."""

PLAYED = [
    "DeadLetters",
    "The broker lost its disk",
    "The key of access tokens",
    "The old key of access tokens",
    "Upgrade",
    "Back up",
    "Stop",
    "Restore",
]
"""The chapters whose promises have a test of their own. The others' commands must succeed, in the order of the text."""

REFUSE = """
import pika
channel = pika.BlockingConnection(pika.URLParameters(open("/run/secrets/broker-amqp-url").read())).channel()
channel.basic_qos(prefetch_count=1)
method, _properties, _body = next(channel.consume("analytics.on_delivery_published", inactivity_timeout=30))
channel.basic_reject(method.delivery_tag, requeue=False)
channel.cancel()
channel.connection.close()
"""
"""As a handler does with an event that it can never take."""

UNHEARD = """
select count(*) from publishing.outbox o
where o.type = 'publishing.delivery.published' and o.sent_time is not null
  and not exists (select from analytics.inbox i where i.event_id = o.id)
"""
COUNTED = """
select format('select %L, count(*) from %I.%I', schemaname || '.' || tablename, schemaname, tablename)
from pg_tables where schemaname not in ('pg_catalog', 'information_schema')
  and tablename not in ('outbox', 'inbox', 'changes', 'idempotency') \\gexec
"""
"""How many rows each table has, those aside that only pass through."""


class Operator:
    """Types what a chapter says, in a shell with nothing but the stack's own settings, and a company that it concerns."""

    def __init__(self, stack: Stack, enterprise: str, folder: Path) -> None:
        backups = folder / "backups"
        backups.mkdir()
        (runs,) = stack.containers("publishing-api")
        self._environment = {
            **stack.settings.variables(),
            "NUMERATOR_IMAGE": stack.inspect(runs)["Config"]["Image"],
            "BACKUPS": str(backups),
            "SECRETS_COPY": str(folder / "secrets.tar.gz"),
            "SERVICES": "rollout",
            "ENTERPRISE": enterprise,
        }

    def follow(self, chapter: str) -> str:
        """Run a chapter's commands, each of which must succeed; what they printed."""
        printed = ""
        for block in CHAPTERS[chapter]:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block], cwd=ROOT, env=self._environment, text=True, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            assert done.returncode == 0, f"{chapter}:\n{block}\n{done.stdout[-4000:]}"
            printed += done.stdout
        return printed


@pytest.fixture(scope="module")
def operator(stack: Stack, outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Whoever is responsible tonight."""
    return Operator(stack, outside.story.enterprise, tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def ignoring(outside: Outside) -> Iterator[Outside]:
    """On a network that ignores keys, as most do: there nothing but care keeps a post from being sent twice."""
    for mode in ("ignores", "honours"):
        httpx.post(f"{outside.network}/control/mode", json={"mode": mode}).raise_for_status()
        outside.story.bind()
        if mode == "ignores":
            yield outside


def ask(stack: Stack, sql: str) -> str:
    """What the database answers, one row a line."""
    (container,) = stack.containers("postgres")
    done = subprocess.run(
        ["docker", "exec", "-i", container, "psql", "-qAt", "--username=postgres", "numerator"],
        input=sql, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def rows(stack: Stack) -> dict[str, int]:
    """How many rows each table has."""
    counted = (line.split("|") for line in ask(stack, COUNTED).splitlines())
    return {table: int(count) for table, count in counted}


def unheard(stack: Stack) -> int:
    """How many posts analytics has not heard of, although the broker was told."""
    return int(ask(stack, UNHEARD))


def test_chapters__with_a_test_of_their_own__are_followed_in_it() -> None:
    """So that no command is left out."""
    source = Path(__file__).read_text()

    assert [chapter for chapter in PLAYED if f'operator.follow("{chapter}")' not in source] == []


def test_links__within_the_runbook__lead_somewhere() -> None:
    """Nobody is sent to a chapter that is not there."""
    there = {title.lower().replace(" ", "-") for title in CHAPTERS}

    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= there


@pytest.mark.slow
@pytest.mark.parametrize("chapter", [title for title in CHAPTERS if CHAPTERS[title] and title not in PLAYED])
def test_commands__of_a_chapter__succeed(operator: Operator, chapter: str) -> None:
    """On a healthy stack every look and every remedy works."""
    operator.follow(chapter)


@pytest.mark.slow
def test_dead_letter__looked_into_and_replayed__has_its_effect(
    stack: Stack, outside: Outside, operator: Operator
) -> None:
    """An event that its handler refused is kept, shown with its type, and has its effect when it is sent again."""
    eventually(lambda: unheard(stack) == 0 or None, what="analytics to have heard of everything", seconds=60)
    stack.compose("stop", "analytics-worker")
    outside.story.await_deliveries(outside.publish("To be refused"))
    stack.compose("run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "python", "broker", "-c", REFUSE)
    stack.compose("start", "analytics-worker")
    eventually(lambda: unheard(stack) == 1 or None, what="all but the refused one to be heard", seconds=60)

    printed = operator.follow("DeadLetters")

    assert "1 replayed" in printed
    eventually(lambda: unheard(stack) == 0 or None, what="the refused event to have its effect", seconds=60)


@pytest.mark.slow
def test_broker__disk_lost_under_load__nothing_is_lost(
    stack: Stack, outside: Outside, operator: Operator, record_property: Note
) -> None:
    """Events that only the broker had are told anew, and none has its effect twice."""
    stack.compose("stop", "analytics-worker")
    with under_load(outside, readers=1, writers=1, pause=0.2) as load:
        eventually(lambda: unheard(stack) > 10 or None, what="events that only the broker has", seconds=60)
        on_disk = unheard(stack)
        operator.follow("The broker lost its disk")

    eventually(lambda: outside.missing(load.texts) == set() or None, what="all accepted posts", seconds=120)
    eventually(lambda: unheard(stack) == 0 or None, what="analytics to have heard of everything", seconds=120)
    doubled = [each for each, times in outside.published().items() if times > 1 and each[1] in load.texts]
    record_property(
        "4. Broker's volume deleted under load",
        f"{len(load.texts)} publications accepted on 4 accounts each: 0 lost, {len(doubled)} doubled; at least {on_disk} events "
        "that only the broker had: 0 lost",
    )
    assert doubled == []


@pytest.mark.slow
def test_signing_key__rolled_over_under_load__no_request_fails(
    stack: Stack, outside: Outside, operator: Operator, record_property: Note
) -> None:
    """Another key signs, and nobody notices; the old one goes when nobody has a token of it any more."""

    def keys() -> list[str]:
        answer = httpx.get(f"{stack.gateway_url}/.well-known/jwks.json").raise_for_status()
        return [each["kid"] for each in answer.json()["keys"]]

    (old,) = keys()
    with under_load(outside, pause=0.2) as rolled:
        operator.follow("The key of access tokens")
    new, kept = keys()
    # As all have after two hours.
    outside.story.owner = outside.story.public.login("owner@tianshan.example", PASSWORD)
    with under_load(outside, pause=0.2) as ended:
        operator.follow("The old key of access tokens")

    record_property(
        "4. Another key for access tokens, under load",
        f"{rolled.done + ended.done} requests, {len(rolled.failures + ended.failures)} failed",
    )
    assert rolled.failures + ended.failures == []
    assert kept == old != new
    assert keys() == [new]


@pytest.mark.slow
def test_upgrade__image_of_another_version__is_what_runs(stack: Stack, operator: Operator) -> None:
    """One service, the senders and the gateways are replaced; tests of `roll` see to it that nobody notices."""
    operator.follow("Upgrade")

    replaced = [
        each
        for service in ("rollout-api", "rollout-worker", "accounts-webhooks", "publishing-sender", "gateway")
        for each in stack.containers(service)
    ]
    configured = [stack.inspect(each)["Config"] for each in replaced]
    assert {each["Image"] for each in configured} == {"numerator:next"}
    assert {each["Labels"]["org.opencontainers.image.version"] for each in configured} == {"next"}


@pytest.mark.slow
def test_backup__all_destroyed_and_restored__nothing_is_lost_or_published_twice(
    stack: Stack, ignoring: Outside, operator: Operator, record_property: Note
) -> None:
    """The backup knows posts as waiting that have gone out since; by the network's log each is there once."""
    mark = uuid4().hex
    done = ignoring.publish(f"Before the backup {mark}")
    ignoring.story.await_deliveries(done)
    stack.compose("stop", "publishing-sender")
    texts = [f"Waiting at the backup {number} {mark}" for number in range(5)]
    waiting = [ignoring.publish(text) for text in texts]
    before = rows(stack)
    operator.follow("Back up")
    stack.compose("start", "publishing-sender")
    eventually(lambda: ignoring.missing(texts) == set() or None, what="posts after the backup", seconds=60)
    ignoring.story.await_deliveries(ignoring.publish("Lost with the disk"))
    ignoring.operator().post(
        f"/v1/{ignoring.story.enterprise}:setRolloutAttributes", {"attributes": {"lost": "with the disk"}}
    )
    operator.follow("Stop")
    stack.docker("volume", "rm", f"{stack.project}_postgres", f"{stack.project}_rabbitmq")
    began = time.monotonic()

    operator.follow("Restore")

    up, after = time.monotonic(), rows(stack)
    waiting.append(ignoring.publish(f"After the restoration {mark}"))
    ended = [each for name in (done, *waiting) for each in ignoring.story.await_deliveries(name, seconds=120)]
    told = {each: times for each, times in ignoring.published().items() if each[1].endswith(mark)}
    lost = {table: count for table, count in before.items() if after.get(table, 0) < count}
    record_property(
        "4. Backup, destroy, restore",
        f"up after {up - began:.0f} s; {sum(before.values())} rows in {len(before)} tables, lost in {len(lost)}; "
        f"{len(texts) * 4} posts that the backup takes for unsent: "
        f"{sum(times > 1 for times in told.values())} published twice, on a network that ignores keys",
    )
    trail = ignoring.operator().get("/v1/audit:verify")
    causes = [each["cause"] for each in ignoring.operator().list("/v1/audit/events", "events")]
    assert trail["ok"], trail
    assert "database.restored" in causes
    assert lost == {}
    assert Counter(each["state"] for each in ended) == {"PUBLISHED": 4 * 7}
    assert list(told.values()) == [1] * 4 * 7
