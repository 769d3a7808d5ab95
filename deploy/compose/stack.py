"""
The platform in containers, as an ops person handles it: what `docker compose` does not do by itself.

    Stack().up(); Stack().roll("accounts-api"); Stack().down()
"""

import json
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.compose.settings import ComposeSettings
from deploy.local.stubs import ROOT

PROFILES = ("observability", "demo")
TIMEOUT = 240.0
"""Seconds until everything is healthy; some 60 are needed on two idle cores."""

_WEBHOOK_RULES = (
    "NUMERATOR_WEBHOOK_PRIVATE_NETWORKS", "NUMERATOR_WEBHOOK_PLAIN_HTTP", "NUMERATOR_WEBHOOK_ANY_PORT",
)  # fmt: skip
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class StackError(RuntimeError):
    """A command failed, or something did not become healthy; the message says which, and what it printed."""


class Stack:
    """
    The containers of one project.

    Args:
        settings: project, ports, secrets; by default those of the environment.
        profiles: what runs beside the platform itself.

    """

    def __init__(
        self, settings: ComposeSettings | None = None, *, profiles: Iterable[str] = PROFILES
    ) -> None:
        self.settings = settings or ComposeSettings()
        self._profiles = tuple(profiles)

    @property
    def project(self) -> str:
        """Compose's name for all of it."""
        return self.settings.numerator_project

    @property
    def gateway_url(self) -> str:
        """Where the balancer is published."""
        return f"http://127.0.0.1:{self.settings.numerator_port}"

    # ---- all of it

    def up(self, timeout: float = TIMEOUT) -> None:
        """Start what does not run, and wait until everything is healthy. Raises StackError."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(int(timeout)))

    def down(self, *, volumes: bool = False) -> None:
        """Stop and remove the containers; with `volumes` all data too."""
        self.compose("down", "--timeout", "40", "--remove-orphans", *(["--volumes"] if volumes else []))

    # ---- one service

    def roll(self, service: str, *, image: str = "", timeout: float = TIMEOUT) -> None:
        """
        Replace a service's containers one by one, without a pause: the new one is ready before its predecessor is told to stop.

        While both run, two versions work side by side: the messages and tables of one must be readable by the other.

        Args:
            service: as in docker-compose.yml.
            image: the new one; empty for the same again.
            timeout: seconds for each new container to become healthy.

        Raises StackError; a new container that does not become healthy is removed, and the old ones go on.
        """
        old = self.containers(service)
        environment = {"NUMERATOR_IMAGE": image} if image else {}
        for leaving in old:
            before = set(self.containers(service))
            self.compose(
                "up", "--detach", "--no-deps", "--no-recreate", "--scale", f"{service}={len(old) + 1}", service,
                environment=environment,
            )  # fmt: skip
            coming = set(self.containers(service)) - before
            if not coming:
                raise StackError(f"{service}: no new container was started; {leaving[:12]} goes on")
            try:
                self.wait_healthy(coming, timeout)
            except StackError:
                self.docker("rm", "--force", "--volumes", *coming)
                raise
            self.docker("stop", "--time", "40", leaving)
            self.docker("rm", "--volumes", leaving)

    def containers(self, service: str) -> list[str]:
        """The ids of a service's running containers, the oldest first."""
        found = self.compose("ps", "--quiet", "--no-trunc", service).split()
        return sorted(found, key=lambda each: str(self.inspect(each)["Created"]))

    def addresses(self, service: str, network: str) -> list[str]:
        """Where this machine, and no other, reaches a service's containers on one of the stack's networks."""
        found = [self.inspect(each)["NetworkSettings"]["Networks"] for each in self.containers(service)]
        return [each[f"{self.project}_{network}"]["IPAddress"] for each in found]

    def wait_healthy(self, containers: Iterable[str], timeout: float = TIMEOUT) -> None:
        """
        Wait until these containers are healthy, or run where they have no check. Raises StackError.

        Asks by itself: the engine does so seldom, because each time costs a process.
        """
        deadline = time.monotonic() + timeout
        for container in containers:
            while not self._healthy(container):
                state = self.inspect(container)["State"]
                if time.monotonic() > deadline or state["Status"] == "dead":
                    log = self.docker("logs", "--tail", "20", container)
                    raise StackError(
                        f"{container[:12]} is {state['Status']}, not healthy; its log ends:\n{log}"
                    )
                time.sleep(0.3)  # between two looks; the deadline ends them

    def _healthy(self, container: str) -> bool:
        found = self.inspect(container)
        if not found["State"]["Running"]:
            return False
        kind, *command = found["Config"].get("Healthcheck", {"Test": ["NONE"]})["Test"]
        if kind == "NONE":
            return True
        try:
            self.docker("exec", container, *command)
        except StackError:
            return False
        return True

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        found: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return found

    def memory(self) -> dict[str, float]:
        """What each container uses, in bytes."""
        lines = self.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
        found = {}
        for line in lines:
            name, used, *_ = line.split()
            measured = re.fullmatch(r"([\d.]+)(\w+)", used)
            if name.startswith(f"{self.project}-") and measured:
                found[name.removeprefix(f"{self.project}-")] = float(measured[1]) * _UNITS[measured[2]]
        return found

    # ---- the command lines

    def compose(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What `docker compose` prints. Raises StackError with the end of what it prints when it fails."""
        profiles = [part for name in self._profiles for part in ("--profile", name)]
        # Without the receiver there is nobody to send traces to; without the demonstration, webhooks go to public addresses.
        silent = {} if "observability" in self._profiles else {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
        strict = {} if "demo" in self._profiles else dict.fromkeys(_WEBHOOK_RULES, "")
        return _run(
            ["docker", "compose", *profiles, *arguments],
            {**self.settings.variables(), **silent, **strict, **(environment or {})},
        )

    def docker(self, *arguments: str) -> str:
        """What `docker` prints, both streams. Raises StackError."""
        return _run(["docker", *arguments], self.settings.variables())


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise StackError("docker is not installed: install Docker with its compose plugin") from None
    if done.returncode:
        raise StackError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout
