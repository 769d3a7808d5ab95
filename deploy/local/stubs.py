"""Builds the Python stubs of `protos/` into `.local/stubs`, with types and with the descriptors' comments."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
STUBS = ROOT / ".local" / "stubs"


def google_protos() -> Path:
    """The folder that holds google/api/*.proto, as googleapis-common-protos ships them."""
    spec = find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("googleapis-common-protos is not installed: run `make setup`")
    return Path(next(iter(spec.submodule_search_locations))).parents[1]


def build(target: Path = STUBS) -> None:
    """
    Build all stubs anew and swap them in, so that a reader never sees half of them.

    Also writes `numerator/descriptors.binpb`, a FileDescriptorSet with comments: OpenAPI's descriptions come
    from it.
    """
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "numerator").mkdir(parents=True)
    scripts = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{google_protos()}",
            f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
            f"--python_out={fresh}", f"--grpc_python_out={fresh}",
            f"--mypy_out=quiet:{fresh}", f"--mypy_grpc_out=quiet:{fresh}",
            "--include_imports", "--include_source_info",
            f"--descriptor_set_out={fresh / 'numerator' / 'descriptors.binpb'}",
            *sorted(str(path) for path in PROTOS.rglob("*.proto")),
        ],
        check=True,
    )  # fmt: skip
    for folder in filter(Path.is_dir, fresh.glob("numerator/**")):
        (folder / "__init__.py").touch()  # tools that walk packages do not see folders without one
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    build()
