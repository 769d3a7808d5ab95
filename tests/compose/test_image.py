"""The image: what it is made of, and that the same commit makes the same."""

import json
import time

import pytest

from deploy.compose import image
from deploy.compose.stack import Stack
from deploy.local.stubs import ROOT
from tests.compose.conftest import Note

SIZE = 1_000_000_000
"""The most that the image may have, in bytes. Some 550 million of them are chDB's."""

FILES = "find /app /opt/venv -type f -not -name sbom.cdx.json -exec sha256sum {} + | sort | sha256sum"
INSTALLED = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)


@pytest.fixture(scope="module")
def bare(settings: object) -> Stack:
    """Commands for the engine; nothing needs to run."""
    return Stack(settings)  # type: ignore[arg-type]


def inside(bare: Stack, name: str, *command: str) -> str:
    return bare.docker("run", "--rm", "--network=none", f"--entrypoint={command[0]}", name, *command[1:])


def test_image__is_small_labelled_and_nobodys(bare: Stack, built: str, record_property: Note) -> None:
    """Within its size, with OCI labels, a user of its own, a health check and no installer."""
    found = json.loads(bare.docker("image", "inspect", built))[0]
    labels = found["Config"]["Labels"]

    record_property("1. Size of the image", f"{found['Size'] / 1e6:,.0f} MB (at most {SIZE / 1e6:,.0f})")
    assert found["Size"] < SIZE
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Healthcheck"]["Test"] == ["CMD", "ready", "9464"]
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"]
    assert inside(bare, built, "sh", "-c", "ls /opt/venv/bin | grep -c pip || true").strip() == "0"


def test_image__bill_of_materials__names_what_is_installed(bare: Stack, built: str) -> None:
    """CycloneDX, every package with its version and package URL, and nothing that is not in the lock."""
    bill = json.loads(inside(bare, built, "cat", "/opt/venv/sbom.cdx.json"))
    installed = json.loads(inside(bare, built, "python", "-c", INSTALLED))
    listed = {each["name"].lower().replace("_", "-"): each["version"] for each in bill["components"]}

    assert bill["bomFormat"] == "CycloneDX"
    assert listed == installed
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])
    lock = (ROOT / "requirements.lock").read_text()
    assert all(f"{name.replace('.', '-')}=={version} " in lock for name, version in installed.items())


@pytest.mark.slow
def test_image__built_again_without_a_network__is_the_same(
    bare: Stack, built: str, record_property: Note
) -> None:
    """From the wheels of the lock alone, without any cache: file for file the same."""
    image.fill_wheels()
    again, began = f"{built}-offline", time.monotonic()
    bare.docker(
        "build",
        "--quiet",
        "--no-cache",
        "--network=none",
        "--build-arg=PIP_NO_INDEX=1",
        f"--tag={again}",
        ".",
    )

    seconds = time.monotonic() - began
    first, second = inside(bare, built, "sh", "-c", FILES), inside(bare, again, "sh", "-c", FILES)
    record_property(
        "1. The image again, without network and cache",
        f"{seconds:.0f} s; {'the same' if first == second else 'other'} files, {first[:12]} and {second[:12]}",
    )
    assert first == second
