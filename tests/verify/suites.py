"""What checks of several areas need: a suite as it is, run and counted, and a database of their own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

from deploy.local.stubs import ROOT
from services.chassis.clock import SystemClock
from services.chassis.testing.databases import Databases, TemporaryDatabase
from services.chassis.testing.servers import Servers


@contextmanager
def own_database(service: str) -> Iterator[TemporaryDatabase]:
    """An empty database of a service, on a server of its own and on the system's clock."""
    servers = Servers()
    try:
        databases = Databases(servers.postgres().url)
        yield databases.make(
            service, clock=SystemClock(), max_size=16, statement_timeout=timedelta(minutes=1)
        )
        databases.drop_all()
    finally:
        servers.stop()


def run_suite(path: str, *options: str) -> tuple[list[str], list[str], dict[str, dict[str, str]]]:
    """Run tests in a process of their own; the names of those that passed, of those that did not, and what each noted."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "suite.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", path, "-q", "-o", "junit_family=xunit1", f"--junitxml={report}", *options],
            cwd=ROOT, check=False,
        )  # fmt: skip
        cases = list(ET.parse(report).getroot().iter("testcase"))
    bad = {
        case.attrib["name"]
        for case in cases
        if any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
    }
    noted = {
        case.attrib["name"]: {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        for case in cases
    }
    return [name for name in noted if name not in bad], sorted(bad), noted
