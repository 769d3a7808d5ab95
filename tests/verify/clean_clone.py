"""The README's two commands in a clean clone, as somebody new would run them."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.verify.table import Row

ROOT = Path(__file__).resolve().parents[2]
PORT_BASE = "7950"
"""Not the default, so that a platform that runs already is left alone."""


def clean_clone(folder: Path) -> Iterator[Row]:
    """Clone what is committed into `folder`, and run `make demo` twice, `make down` and `make test` there."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    try:
        first, text = _make(folder, "demo")
        yield Row(
            "make demo, in a clean clone", "works; first run under 5 min", f"{first:.0f} s", first < 300
        )
        print(text)
        later, _ = _make(folder, "demo")
        yield Row("make demo again, on the same data", "under 60 s", f"{later:.0f} s", later < 60)
        down, _ = _make(folder, "down")
        cold, _ = _make(folder, "demo")
        yield Row("make demo after make down", "under 60 s", f"{cold:.0f} s (down: {down:.0f} s)", cold < 60)
        _make(folder, "down")
        seconds, text = _make(folder, "test")
        yield Row(
            "make test, in the same clone",
            "passes",
            f"{seconds:.0f} s: {text.strip().splitlines()[-1]}",
            holds=True,
        )
    finally:
        _make(folder, "reset")
        shutil.rmtree(folder, ignore_errors=True)


def _make(folder: Path, target: str) -> tuple[float, str]:
    """The time that a target takes, and what it prints. Raises RuntimeError when it fails."""
    began = time.monotonic()
    done = subprocess.run(
        ["make", target],
        cwd=folder,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(Path.home()),
            "NUMERATOR_PORT_BASE": PORT_BASE,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"make {target} failed with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return time.monotonic() - began, done.stdout
