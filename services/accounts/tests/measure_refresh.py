"""
Whether refreshing tokens is single-flight, and what kills and lost answers do to it, by the sandbox network's own log.

The network ends a token when it is refreshed, and lets a refresh token work once only.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numerator.events.v1 import accounts_pb2
from pydantic import SecretStr

from services.accounts import store
from services.accounts.model import Account, Enterprise, Profile
from services.accounts.networks import Application, Renewal
from services.accounts.networks.mastodon import SCOPES, MastodonNetwork
from services.accounts.tests.servers import running_sandbox
from services.accounts.tests.world import REDIRECT_URI
from services.accounts.usecases.applications import Applications
from services.accounts.usecases.refresh import Refresher
from services.accounts.usecases.secrets import Vault
from services.accounts.usecases.tokens import keep_token
from services.accounts.vault import MasterKey, MasterKeys
from services.chassis.clock import SystemClock
from services.chassis.database import PLATFORM, Database
from services.chassis.events import decode, event_type
from services.chassis.sealing import open_sealed
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.servers import ROOT

_ENTERPRISE = "enterprises/bank"
_LIFE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What came of it; all but `asked` and `told` by the network's log.

    Attributes:
        accounts: how many had a token that was due, all at the same time.
        needs: how many refreshers found them due at once.
        refreshes: how many tokens the network gave, and `requests` how often it was asked, in that first round.
        told: how many tokens publishing was told of that round that are those of the network's log.
        kills: how many processes were killed with the network's answer in hand; `lost`: how many answers did not arrive.
        asked: how many accounts' holders are asked again, each by one event.
        again: how many requests, and second events, came after that.
        seconds: how long the first round took.
    """

    accounts: int
    needs: int
    refreshes: int
    requests: int
    told: int
    kills: int
    lost: int
    asked: int
    again: int
    seconds: float

    @property
    def right(self) -> bool:
        """Whether each need was served once, and who could not be was asked once."""
        return (
            self.refreshes == self.requests == self.told == self.accounts
            and self.asked == self.kills + self.lost
            and self.again == 0
        )


def measure(
    database: TemporaryDatabase, *, accounts: int = 500, needs: int = 4, kills: int = 20, lost: int = 20
) -> Measured:
    """
    Refresh the tokens of so many accounts by several refreshers at once; then kill some, and lose answers.

    Args:
        database: with the empty schema of accounts, on the system's clock.
        accounts: how many; more than `kills` and `lost` together.
        needs: how many refreshers run at once, with eight threads each.
        kills: how many processes die between the network's answer and their commit.
        lost: how many answers of the network do not arrive.
    """
    master = os.urandom(32)
    vault, publishing = Vault(MasterKeys(MasterKey(master))), X25519PrivateKey.generate()
    network = MastodonNetwork()
    with tempfile.TemporaryDirectory() as folder, running_sandbox(Path(folder)) as url:
        ledger = _Ledger(url, Path(folder))
        _plant(database, vault, network, url, accounts)

        def refresh(refreshers: int) -> None:
            each = Refresher(
                database,
                {"mastodon": network},
                redirect_uri=REDIRECT_URI,
                vault=vault,
                publishing_key=publishing.public_key(),
            )
            threads = [threading.Thread(target=each.run) for _ in range(refreshers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        given, asked = ledger.given(), ledger.requests()
        _make_due(database, accounts)
        began = time.perf_counter()
        refresh(needs)
        seconds = time.perf_counter() - began
        refreshes, requests = len(ledger.given() - given), ledger.requests() - asked
        told = len(_told(database, publishing) & ledger.given())

        _make_due(database, kills)
        _kill(database, master, kills)
        httpx.post(
            f"{url}/control/faults",
            json={"operation": "token", "kind": "lost_reply_after_commit", "count": lost},
        ).raise_for_status()
        _make_due(database, kills + lost, but=kills)
        refresh(needs)
        # The leases of the dead have ended, and the pauses after the lost answers.
        _make_due(database, kills + lost)
        refresh(needs)
        # Who met a connection that the server had closed waits for another turn, as after a lost answer.
        _end_leases(database)
        refresh(needs)
        before = ledger.requests()
        _end_leases(database)
        refresh(needs)
        again = ledger.requests() - before
        counted = _asked(database)
    network.close()
    return Measured(
        accounts,
        needs,
        refreshes,
        requests,
        told,
        kills,
        lost,
        asked=sum(1 for times in counted.values() if times == 1),
        again=again + sum(times - 1 for times in counted.values()),
        seconds=seconds,
    )


class _Ledger:
    """What the network says of itself."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._journal = folder / "state.jsonl"

    def given(self) -> set[str]:
        """All access tokens that it ever gave to accounts."""
        entries = map(json.loads, self._journal.read_text().splitlines())
        return {entry["value"] for entry in entries if entry["kind"] == "token" and entry["account_id"]}

    def requests(self) -> int:
        """How often it was asked for a token."""
        count, after = 0, 0
        while True:
            page = httpx.get(f"{self._url}/control/attempts", params={"after": after, "limit": 1000}).json()
            count += sum(each["operation"] == "token" for each in page["attempts"])
            if not page["attempts"]:
                return count
            after = page["attempts"][-1]["attempt"]


def _plant(database: Database, vault: Vault, network: MastodonNetwork, url: str, accounts: int) -> None:
    """Accounts as binding leaves them, whose tokens and refresh tokens are the network's."""
    now = datetime.now(UTC)
    application = network.register(url, REDIRECT_URI)
    with database.transaction(PLATFORM) as tx:
        store.insert_enterprise(tx, Enterprise(_ENTERPRISE, "Bank", "", "", create_time=now, update_time=now))
        Applications({"mastodon": network}, vault.kms, REDIRECT_URI).keep(tx, application)
    with httpx.Client(base_url=url) as http:
        http.post("/control/tokens", json={"seconds": _LIFE.total_seconds()}).raise_for_status()
        given = [_authorize(http, application, f"user{number}") for number in range(accounts)]
    with database.transaction(PLATFORM) as tx:
        for number, token in enumerate(given):
            name, profile = (
                f"{_ENTERPRISE}/accounts/a{number:05}",
                Profile(f"id-{number}", f"user{number}", f"User {number}", "mastodon", "4.5.0"),
            )
            store.save_account(tx, Account(name, "mastodon", url, profile, (), now, now, now))
            keep_token(
                tx,
                vault,
                name,
                application.client_id,
                SecretStr(token["access_token"]),
                refresh=SecretStr(token["refresh_token"]),
                expire_time=tx.now + _LIFE,
            )


def _authorize(http: httpx.Client, application: Application, username: str) -> dict[str, str]:
    http.post("/control/users", json={"username": username, "password": "p" * 12}).raise_for_status()
    asked = {
        "response_type": "code",
        "client_id": application.client_id,
        "redirect_uri": REDIRECT_URI,
        "scope": " ".join(SCOPES),
        "username": username,
        "password": "p" * 12,
    }
    answer = http.post("/oauth/authorize", data=asked)
    code = dict(parse_qsl(urlsplit(answer.headers["location"]).query))["code"]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "client_id": application.client_id,
        "client_secret": application.client_secret.get_secret_value(),
        "redirect_uri": REDIRECT_URI,
    }
    token: dict[str, str] = http.post("/oauth/token", data=form).raise_for_status().json()
    return token


def _make_due(database: Database, first: int, *, but: int = 0) -> None:
    """The tokens of the first accounts are due now, but those of the very first of them; leases on them have ended."""
    with database.transaction(PLATFORM) as tx:
        tx.execute(
            """
            update tokens set refresh_time = %s where refresh_time is not null
              and account in (select name from accounts order by name limit %s offset %s)
            """,
            (tx.now, first - but, but),
        )


def _end_leases(database: Database) -> None:
    """As if time had passed: leases and pauses are over, and what is not due stays so."""
    with database.transaction(PLATFORM) as tx:
        tx.execute(
            "update tokens set refresh_time = %s where refresh_tries > 0 and refresh_time is not null",
            (tx.now,),
        )


def _told(database: Database, key: X25519PrivateKey) -> set[str]:
    """The tokens that publishing was told of by refreshes."""
    with database.transaction(PLATFORM) as tx:
        rows = tx.execute(
            "select content_type, body from outbox where type = %s",
            (event_type(accounts_pb2.AccountTokenRefreshed),),
        ).fetchall()
    told = [
        decode(row["content_type"], bytes(row["body"]), accounts_pb2.AccountTokenRefreshed) for row in rows
    ]
    return {open_sealed(key, each.sealed_token, each.account).decode() for each in told}


def _asked(database: Database) -> Counter[str]:
    """How often each holder is asked, by events."""
    with database.transaction(PLATFORM) as tx:
        rows = tx.execute(
            "select subject from outbox where type = %s", (event_type(accounts_pb2.AccountReauthRequired),)
        )
        return Counter(row["subject"] for row in rows)


def _kill(database: TemporaryDatabase, master: bytes, kills: int) -> None:
    """So many processes refresh one token each, and are killed with the network's answer in hand."""
    killing = subprocess.run(
        [
            sys.executable,
            "-m",
            "services.accounts.tests.measure_refresh",
            database.url,
            database.schema,
            str(kills),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}"},  # noqa: TID251 -- what a child process gets
        input=b64encode(master),
        check=True,
    )
    assert killing.returncode == 0


class _Killer(MastodonNetwork):
    """Nobody hears what it was answered."""

    def refresh(self, application: Application, refresh_token: SecretStr) -> Renewal:
        super().refresh(application, refresh_token)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed, and still here")


def _die(url: str, schema: str, master: bytes) -> None:
    Refresher(
        Database(url, schema=schema, clock=SystemClock()),
        {"mastodon": _Killer()},
        redirect_uri=REDIRECT_URI,
        vault=Vault(MasterKeys(MasterKey(master))),
        publishing_key=X25519PrivateKey.generate().public_key(),
    ).refresh_one()


def _main(url: str, schema: str, kills: int) -> None:
    master = b64decode(sys.stdin.buffer.read())
    for _ in range(kills):
        child = os.fork()
        if not child:
            _die(url, schema, master)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            sys.exit("a process that should have been killed was not")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
