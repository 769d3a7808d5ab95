"""Builds the images: the one of Numerator, and the small ones beside it."""

import subprocess
import sys

from deploy.compose.stack import Stack
from deploy.local.stubs import ROOT

WHEELS = ROOT / ".local" / "wheels"
LOCKS = ("runtime.lock", "build.lock")


def build(stack: Stack, *, version: str = "dev", offline: bool = False) -> str:
    """
    Build the images; returns the name of Numerator's.

    Args:
        stack: says how the image is named.
        version: becomes its label.
        offline: packages come from `WHEELS`, filled beforehand, and the build has no network.

    Raises StackError with the end of what the builder printed.
    """
    options = ["--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={_revision()}"]
    if offline:
        fill_wheels()
        options += ["--network", "none", "--build-arg", "PIP_NO_INDEX=1"]
    name = stack.settings.numerator_image
    stack.docker("build", "--tag", name, *options, ".")
    stack.compose("build")
    return name


def fill_wheels() -> None:
    """Download what the locks name into `WHEELS`, by hash; what is there already stays. Needs Linux and Python 3.11."""
    for lock in LOCKS:
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes",
                "--no-deps", "--find-links", WHEELS, "--dest", WHEELS, "-r", ROOT / "deploy" / "image" / lock,
            ],
            check=True,
        )  # fmt: skip


def _revision() -> str:
    """The commit that is built, marked when there is more in the folder than in the commit."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or "unknown"
