"""Those who use the stack from outside: partners and operators over HTTP, and the judge of the sandbox network."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from uuid import uuid4

import httpx
from rich.console import Console

from deploy.compose.stack import Stack
from deploy.demo import profiles
from deploy.demo.client import Gateway, Json
from deploy.demo.story import Places, Story
from deploy.sandbox.users import PASSWORD

ACCOUNTS = ("tianshan", "tianshan-dealer", "tianshan-jobs", "tianshan-care")
"""Those of the story's company on the sandbox network; a publication goes to all of them."""


class Outside:
    """
    The story's people, silent.

    Attributes:
        story: told on this stack.
    """

    def __init__(self, stack: Stack) -> None:
        secrets = stack.settings.numerator_secrets
        people = secrets.parent / "profiles.jsonl"
        if not people.exists():
            profiles.write(people, count=3_000)
        self.network = f"http://sandbox.localhost:{stack.settings.numerator_sandbox_port}"
        places = Places(
            gateway=stack.gateway_url,
            network=self.network,
            operator_secret=(secrets / "operator-client-secret").read_text(),
            reviewer_secret=json.loads((secrets / "operators").read_text())["reviewer"],
            network_secret=(secrets / "network-client-secret").read_text(),
            profiles=people,
            network_password=PASSWORD,
        )
        self.story = Story(places, Console(file=StringIO()))

    def prepare(self) -> None:
        """Tell the story up to the bound accounts."""
        for step in (self.story.start_rollout, self.story.register, self.story.admit, self.story.bind):
            step()

    def operator(self) -> Gateway:
        """Staff, logged in just now."""
        return self.story.public.client("operator", self.story.places.operator_secret)

    def publish(self, text: str) -> str:
        """Publish on all four accounts; the publication's name. Raises httpx.HTTPError when the gateway refuses."""
        body = {"text": text, "accounts": list(self.story.accounts.values())}
        created = self.call("POST", f"/v1/{self.story.enterprise}/publications", body)
        name = str(created["name"])
        self.call("POST", f"/v1/{name}:schedule")
        return name

    def call(self, method: str, path: str, body: Json | None = None, key: str = "") -> Json:
        """One request of the owner, sent once. Raises httpx.HTTPError when it fails."""
        answer = httpx.request(
            method,
            self.story.places.gateway + path,
            json=body if method == "POST" else None,
            headers={
                "Authorization": f"Bearer {self.story.owner.token}",
                "Idempotency-Key": key or uuid4().hex,
            },
            timeout=30,
        )
        return dict(answer.raise_for_status().json())

    def published(self) -> Counter[tuple[str, str]]:
        """The judge's word: how often each account has each text, plain."""
        seen: Counter[tuple[str, str]] = Counter()
        after = 0
        while page := self._log(after):
            seen.update((post["account"], post["text"]) for post in page)
            after = page[-1]["sequence"]
        return seen

    def missing(self, texts: Iterable[str]) -> set[tuple[str, str]]:
        """Which accounts lack which of these texts."""
        seen = self.published()
        return {(account, text) for account in ACCOUNTS for text in list(texts) if not seen[account, text]}

    def _log(self, after: int) -> list[Json]:
        answer = httpx.get(f"{self.network}/control/log", params={"after": after}, timeout=10)
        return list(answer.raise_for_status().json()["posts"])


@dataclass
class Load:
    """
    What requests without an end came to.

    Attributes:
        done: how many were answered as they should be.
        failures: what the others got.
        texts: of the publications that were accepted.
    """

    done: int = 0
    failures: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, failure: str = "", text: str = "") -> None:
        with self._lock:
            if failure:
                self.failures.append(failure)
            else:
                self.done += 1
                self.texts += [text] if text else []


@contextmanager
def under_load(
    outside: Outside, *, readers: int = 3, writers: int = 1, pause: float = 0.05
) -> Iterator[Load]:
    """Requests without an end beside the block: reads of all services, and publications. None is sent a second time."""
    load, stopping = Load(), threading.Event()
    reads = [
        f"/v1/{outside.story.enterprise}",
        "/v1/edition",
        f"/v1/{outside.story.enterprise}/publications",
        f"/v1/{outside.story.enterprise}/audiences",
        f"/v1/{outside.story.enterprise}/campaigns",
        "/v1/metrics",
    ]

    def run(work: Callable[[], str]) -> None:
        while not stopping.is_set():
            began = time.strftime("%H:%M:%S")
            try:
                load.count(text=work())
            except httpx.HTTPStatusError as error:
                load.count(
                    f"{began} {error.request.method} {error.request.url.path}: {error.response.text[:300]}"
                )
            except httpx.HTTPError as error:
                load.count(f"{began} {error!r}")
            stopping.wait(pause)

    def read(number: int) -> Callable[[], str]:
        paths = reads[number % len(reads) :] + reads[: number % len(reads)]

        def one() -> str:
            paths.append(paths.pop(0))
            outside.call("GET", paths[0])
            return ""

        return one

    def write() -> str:
        text = f"Load {uuid4().hex}"
        outside.publish(text)
        return text

    works = [*(read(number) for number in range(readers)), *([write] * writers)]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
