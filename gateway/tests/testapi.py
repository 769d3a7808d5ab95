"""Compiles `gatewaytest.proto` once a run, into a folder that is gone when the run ends."""

import atexit
import importlib
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numerator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class TestApi(NamedTuple):
    """The generated modules, and the FileDescriptorSet with comments."""

    __test__ = False

    pb: Any
    grpc: Any
    descriptors: bytes


@cache
def compiled() -> TestApi:
    """The API that the gateway's tests serve."""
    spec = find_spec("google.api")
    assert spec is not None
    google = Path(next(iter(spec.submodule_search_locations or ()))).parents[1]
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    source = folder / "numerator/gatewaytest/v1/gatewaytest.proto"
    source.parent.mkdir(parents=True)
    shutil.copy(HERE / "gatewaytest.proto", source)
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{ROOT / 'protos'}", f"-I{google}",
            f"--python_out={folder}", f"--grpc_python_out={folder}", "--include_imports", "--include_source_info",
            f"--descriptor_set_out={folder}/set.binpb", str(source),
        ],
        check=True,
    )  # fmt: skip
    numerator.__path__.append(str(folder / "numerator"))
    importlib.invalidate_caches()
    return TestApi(
        importlib.import_module("numerator.gatewaytest.v1.gatewaytest_pb2"),
        importlib.import_module("numerator.gatewaytest.v1.gatewaytest_pb2_grpc"),
        (folder / "set.binpb").read_bytes(),
    )
