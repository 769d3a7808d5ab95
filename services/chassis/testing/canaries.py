"""Secrets that are planted, and searched for wherever they could have got to."""

import base64
import subprocess
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import quote


def forms(secret: str) -> dict[str, bytes]:
    """A secret in the forms in which it is most likely to be found."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3)]
    return {
        "raw": raw,
        "hex": raw.hex().encode(),
        "hex, in capitals": raw.hex().upper().encode(),
        "url-encoded": quote(secret, safe="").encode(),
        **{f"base64 at offset {shift}": form for shift, form in enumerate(shifted)},
        **{f"base64url at offset {shift}": form.translate(_URL_SAFE) for shift, form in enumerate(shifted)},
    }


def search(places: Iterable[Path], secrets: Collection[str], *, leave_out: Sequence[str] = ()) -> list[str]:
    """
    Where any form of these secrets lies, in files and folders: "path: form of secret", the secret cut short.

    All bytes of all files are looked at (`grep -F`), but for files and folders with the names in `leave_out`.
    Raises OSError for what cannot be read, and subprocess.CalledProcessError.
    """
    wanted = {form: f"{what} of {secret[:6]}…" for secret in secrets for what, form in forms(secret).items()}
    if any(b"\n" in form for form in wanted):
        raise ValueError("a secret of several lines cannot be searched for")
    roots = [str(place) for place in places]
    for place in roots:
        if not Path(place).exists():
            raise FileNotFoundError(place)
    with NamedTemporaryFile() as patterns:
        patterns.write(b"\n".join(wanted))
        patterns.flush()
        skipped = [f"--exclude{kind}={name}" for name in leave_out for kind in ("", "-dir")]
        command = ["grep", "--recursive", "--fixed-strings", "--text", "--only-matching", "--null", *skipped]
        found = subprocess.run(  # noqa: S603 -- the command is ours
            [*command, f"--file={patterns.name}", *roots],
            env={"LC_ALL": "C"},
            capture_output=True,
            check=False,
        )
    # 1: nothing found. 2: an error, or a file that could not be read.
    if found.returncode > 1:
        raise subprocess.CalledProcessError(found.returncode, command, stderr=found.stderr)
    hits = (line.split(b"\0", 1) for line in found.stdout.splitlines())
    return [f"{path.decode(errors='replace')}: {wanted[form]}" for path, form in hits]


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
