"""`make verify-containers`: measures every promise of the stack in containers, and prints the table."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from xml.etree import ElementTree as ET

from deploy.local.stubs import ROOT
from tests.verify.table import Row, verify

REPORT = ROOT / ".local" / "verify-containers" / "suite.xml"
ELSEWHERE = "of_a_chapter or upgrade"
"""What `make test-runbook` runs: the runbook's single commands, which take as long as all the rest."""


def suite() -> Iterator[Row]:
    """The suite with its slow tests: counts by file, the figures that tests have noted, and every panel's value."""
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "tests/compose", "-q", "-m", "compose", "-k", f"not ({ELSEWHERE})",
         "-o", "junit_family=xunit1", "-o", "junit_logging=system-out", f"--junitxml={REPORT}"],
        cwd=ROOT, check=False,
    )  # fmt: skip
    cases = list(ET.parse(REPORT).getroot().iter("testcase"))
    good, bad = defaultdict[str, int](int), defaultdict[str, list[str]](list)
    for case in cases:
        file = case.attrib["classname"].rpartition(".")[2]
        if any(case.find(tag) is not None for tag in ("failure", "error", "skipped")):
            bad[file].append(case.attrib["name"])
        else:
            good[file] += 1
    for case in cases:
        if case.attrib["name"] == "test_panels__all_have_data":
            print(case.findtext("system-out"))
    for file in sorted({*good, *bad}):
        told = f"{good[file]} passed" + (f", not: {', '.join(bad[file])}" if bad[file] else "")
        yield Row(f"2. {file}.py", "all pass", told, not bad[file])
    for case in cases:
        passed = case.attrib["name"] not in bad[case.attrib["classname"].rpartition(".")[2]]
        for noted in case.iter("property"):
            yield Row(noted.attrib["name"], "its test passes", noted.attrib["value"], passed)


if __name__ == "__main__":
    sys.exit(verify("containers", [("The suite of the containers", suite)]))
