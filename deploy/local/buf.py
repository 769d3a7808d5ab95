"""
buf's checks of `protos/`: lint, format, and no breaking change against the last release (git tag).

`python -m deploy.local.buf` checks; with `--fix` it formats. buf wants to see google/api too, which come with
googleapis-common-protos and are not in our tree, so it works on a copy in `.local/buf`.
"""

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from deploy.local.stubs import PROTOS, ROOT, google_protos

WORK = ROOT / ".local" / "buf"
BUF = Path(sys.executable).parent / "buf"


def complete(protos: Path, target: Path) -> Path:
    """A copy of `protos` that holds what it imports."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(protos, target)
    for package in ("api", "rpc", "type"):
        source = google_protos() / "google" / package
        shutil.copytree(source, target / "google" / package, ignore=_all_but_protos)
    return target


def last_release() -> str | None:
    """The youngest tag before this commit; None before the first release."""
    command = ["git", "-C", str(ROOT), "describe", "--tags", "--abbrev=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def protos_of(tag: str) -> Path:
    """The protos of a release, complete."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", tag, "protos"], check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(WORK / tag, filter="data")
    return complete(WORK / tag / "protos", WORK / f"{tag}-complete")


def check() -> bool:
    """Run all checks; whether all are well."""
    now = complete(PROTOS, WORK / "now")
    ours = ["--path", str(now / "numerator")]
    checks = [["lint", str(now), *ours], ["format", "--diff", "--exit-code", str(now), *ours]]
    release = last_release()
    if release:
        checks.append(["breaking", str(now), "--against", str(protos_of(release))])
    outcomes = [_buf(*each) for each in checks]
    print(
        f"buf: lint, format, {f'breaking against {release}' if release else 'no release to compare with yet'}"
    )
    return all(outcomes)


def fix() -> bool:
    """Format `protos/` in place."""
    now = complete(PROTOS, WORK / "now")
    formatted = _buf("format", "--write", str(now), "--path", str(now / "numerator"))
    for path in PROTOS.rglob("*.proto"):
        new = (now / path.relative_to(PROTOS)).read_text()
        if new != path.read_text():
            path.write_text(new)
    return formatted


def _all_but_protos(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".proto") and not (Path(folder) / name).is_dir()]


def _buf(*arguments: str) -> bool:
    return subprocess.run([BUF, *arguments], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(0 if (fix() if sys.argv[1:] == ["--fix"] else check()) else 1)
