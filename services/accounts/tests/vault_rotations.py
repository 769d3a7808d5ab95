"""Keys rotate while tokens are read, and whoever rotates is killed again and again. For tests and `make verify-accounts`."""

import os
import random
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.accounts.tests.vault_plants import plant, read_token
from services.accounts.usecases.secrets import Vault
from services.accounts.vault import MasterKey, MasterKeys, VaultError
from services.chassis.database import PLATFORM
from services.chassis.errors import ServiceError
from services.chassis.testing.databases import TemporaryDatabase
from services.chassis.testing.processes import url_of
from services.chassis.testing.rpc import shared_keys
from services.chassis.testing.servers import ROOT
from services.chassis.testing.waiting import eventually

ENTERPRISE = "enterprises/bank"


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What came of it.

    Attributes:
        tokens: how many there were.
        kills: how many rotating processes were killed.
        reads: how many tokens were read meanwhile.
        failures: of the reads that failed or gave another token, by what they said.
        left: how many tokens are not sealed by the newest version of the key.
        versions: which versions of the key there are at the end.
        seconds: how long it took.
    """

    tokens: int
    kills: int
    reads: int
    failures: Counter[str]
    left: int
    versions: list[int]
    seconds: float


def rotate_under_load(database: TemporaryDatabase, *, tokens: int, kills: int, seed: int) -> Measured:
    """
    Plant tokens, read them all the while, and have them rotated by processes that are killed at random points, and by a last one.

    `database` is empty.
    """
    dice = random.Random(seed)
    master = os.urandom(32)
    vault = Vault(MasterKeys(MasterKey(master)))
    planted = plant(database, vault, ENTERPRISE, tokens)
    load = _Load(database, vault, planted, seed)
    started = time.monotonic()
    # From the very first row to nearly the last one.
    for point in sorted(dice.randrange(tokens - 1) for _ in range(kills)):
        rotating = rotate(database, master, "--data-keys")
        eventually(
            lambda point=point, rotating=rotating: (
                tokens - left(database) > point or rotating.poll() is not None
            ),
            timeout=60,
            interval=0.002,
        )
        rotating.kill()
        rotating.communicate(timeout=10)
    last = rotate(database, master, "--data-keys")
    output, _ = last.communicate(timeout=120)
    assert last.returncode == 0, output
    seconds = time.monotonic() - started
    reads, failures = load.stop()
    with database.transaction(PLATFORM) as tx:
        versions = [row["version"] for row in tx.execute("select version from data_keys order by version")]
    return Measured(tokens, kills, reads, failures, left(database), versions, seconds)


def rotate(database: TemporaryDatabase, masters: bytes, *options: str) -> subprocess.Popen[str]:
    """A process that rotates; `masters` are the master keys, 32 bytes each, the newest first."""
    keys = [masters[start : start + 32] for start in range(0, len(masters), 32)]
    public = X25519PrivateKey.generate().public_key()
    environment = {
        **os.environ,  # noqa: TID251 -- what a child process gets
        "PYTHONPATH": f"{ROOT}:{ROOT / '.local' / 'stubs'}",
        "ACCOUNTS_DATABASE_URL": url_of(database.url),
        "AMQP_URL": "amqp://127.0.0.1",
        "PRINCIPAL_PUBLIC_KEY": shared_keys().public,
        "ACCOUNTS_MASTER_KEY": "\n".join(b64encode(key).decode() for key in keys),
        "ACCOUNTS_PUBLISHING_PUBLIC_KEY": public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode(),
        "ACCOUNTS_OPERATOR_SECRET": "operator-secret-of-the-tests",
        "ACCOUNTS_NETWORK_SECRET": "network-secret-of-the-tests",
        "ACCOUNTS_NETWORK_SERVERS": '["https://social.example"]',
        "ACCOUNTS_BINDING_REDIRECT_URI": "https://console.example/bound",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.accounts", "rotate", *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(database: TemporaryDatabase) -> int:
    """How many tokens are sealed by another version of a key than version 2."""
    with database.transaction(PLATFORM) as tx:
        (row,) = tx.execute("select count(*) as left from tokens where key_version <> 2").fetchall()
    return int(row["left"])


class _Load:
    """Two threads that read tokens until they are stopped."""

    def __init__(
        self, database: TemporaryDatabase, vault: Vault, planted: Mapping[str, str], seed: int
    ) -> None:
        self._database, self._vault, self._planted = database, vault, planted
        self._reads, self._failures = 0, Counter[str]()
        self._stopping, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._read, args=(seed + each,)) for each in range(2)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> tuple[int, Counter[str]]:
        """How many reads there were, and the failures."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(30)
        return self._reads, self._failures

    def _read(self, seed: int) -> None:
        dice, accounts = random.Random(seed), list(self._planted)
        while not self._stopping.is_set():
            account = dice.choice(accounts)
            try:
                with self._database.transaction(PLATFORM) as tx:
                    outcome = (
                        "" if read_token(tx, self._vault, account) == self._planted[account] else "WRONG"
                    )
            except (VaultError, ServiceError) as error:
                outcome = str(error)
            with self._lock:
                self._reads += 1
                if outcome:
                    self._failures[outcome] += 1
