"""`make verify-containers`: measures every promise of the stack in containers, and prints the table."""

import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

from deploy.compose import image
from deploy.compose.secrets import make_secrets
from deploy.compose.settings import ComposeSettings
from deploy.compose.stack import Stack
from deploy.local.stubs import ROOT
from tests.verify.table import Row, verify

HOME = ROOT / ".local" / "verify-containers"
PORTS = 8950
UP_SECONDS, STORY_SECONDS = 120, 120
MEMORY = 3e9
IMAGE = 1e9
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def from_nothing() -> Iterator[Row]:
    """Secrets, volumes, networks, containers, and the story on them; the images are built before."""
    settings = ComposeSettings(
        numerator_project="numerator-verify",
        numerator_image="numerator:test",
        numerator_port=PORTS,
        numerator_sandbox_port=PORTS + 1,
        numerator_prometheus_port=PORTS + 2,
        numerator_dashboards_port=PORTS + 3,
        numerator_otlp_port=PORTS + 4,
        numerator_secrets=HOME / "secrets",
    )
    stack = Stack(settings)
    stack.down(volumes=True)
    began = time.monotonic()
    image.build(stack)
    built = time.monotonic()
    try:
        make_secrets(settings.numerator_secrets)
        stack.up()
        up = time.monotonic()
        told = stack.compose("run", "--rm", "--no-deps", "--no-TTY", "story")
        end = time.monotonic()
        usage = _memory(stack)
        size = int(json.loads(stack.docker("image", "inspect", settings.numerator_image))[0]["Size"])
    finally:
        stack.down(volumes=True)
    yield Row(
        "1. From nothing until all is healthy", f"<= {UP_SECONDS} s", f"{up - built:.0f} s, and {built - began:.0f} s "
        "to build (packages cached)", up - built <= UP_SECONDS,
    )  # fmt: skip
    yield Row(
        "1. The whole story on it", f"<= {STORY_SECONDS} s", f"{end - up:.0f} s",
        end - up <= STORY_SECONDS and "✗" not in told,
    )  # fmt: skip
    heavy = sorted(usage.items(), key=lambda each: -each[1])[:4]
    most = ", ".join(f"{name} {used / 1e6:.0f}" for name, used in heavy)
    yield Row(
        "1. Memory of all containers", f"<= {MEMORY / 1e9:.0f} GB",
        f"{sum(usage.values()) / 1e9:.2f} GB in {len(usage)}; most (MB): {most}", sum(usage.values()) <= MEMORY,
    )  # fmt: skip
    yield Row("1. Size of the image", f"<= {IMAGE / 1e6:,.0f} MB", f"{size / 1e6:,.0f} MB", size <= IMAGE)


def suite() -> Iterator[Row]:
    """All of tests/compose, the slow ones too: counts by file, and the figures that the tests have noted."""
    report = HOME / "suite.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "tests/compose", "-q", "-m", "compose",
         "-o", "junit_family=xunit1", f"--junitxml={report}"],
        cwd=ROOT, check=False,
    )  # fmt: skip
    cases = list(ET.parse(report).getroot().iter("testcase"))
    good, bad = defaultdict[str, int](int), defaultdict[str, list[str]](list)
    for case in cases:
        file = case.attrib["classname"].rpartition(".")[2]
        if any(case.find(tag) is not None for tag in ("failure", "error", "skipped")):
            bad[file].append(case.attrib["name"])
        else:
            good[file] += 1
    for file in sorted({*good, *bad}):
        told = f"{good[file]} passed" + (f", not: {', '.join(bad[file])}" if bad[file] else "")
        yield Row(f"2. {file}.py", "all pass", told, not bad[file])
    for case in cases:
        passed = case.attrib["name"] not in bad[case.attrib["classname"].rpartition(".")[2]]
        for noted in case.iter("property"):
            yield Row(noted.attrib["name"], "its test", noted.attrib["value"], passed)


def _memory(stack: Stack) -> dict[str, float]:
    """What each container uses, in bytes."""
    lines = stack.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").splitlines()
    found = {}
    for line in lines:
        name, used, *_ = line.split()
        measured = re.fullmatch(r"([\d.]+)(\w+)", used)
        if name.startswith(f"{stack.project}-") and measured:
            found[name.removeprefix(f"{stack.project}-")] = float(measured[1]) * _UNITS[measured[2]]
    return found


def main() -> int:
    """Measure it all."""
    Path(HOME).mkdir(parents=True, exist_ok=True)
    return verify(
        "containers",
        [
            ("The suite of the containers, images built anew", partial(suite)),
            ("From nothing to the story", from_nothing),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
