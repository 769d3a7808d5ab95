"""Compiles `gatewaytest.proto` once a run and gives its module and its descriptors with comments."""

import importlib
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@cache
def compiled() -> tuple[Any, bytes]:
    """The module `gatewaytest_pb2` and the FileDescriptorSet with comments."""
    spec = find_spec("google.api")
    assert spec is not None
    google = Path(next(iter(spec.submodule_search_locations or ()))).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "numerator/gatewaytest/v1/gatewaytest.proto")
        source.parent.mkdir(parents=True)
        source.write_text((HERE / "gatewaytest.proto").read_text())
        subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-I{ROOT / 'protos'}", f"-I{google}",
                f"--python_out={folder}", "--include_imports", "--include_source_info",
                f"--descriptor_set_out={folder}/set.binpb", str(source),
            ],
            check=True,
        )  # fmt: skip
        module_spec = importlib.util.spec_from_file_location("gatewaytest_pb2", source.with_name("gatewaytest_pb2.py"))
        assert module_spec is not None
        assert module_spec.loader is not None
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        return module, Path(folder, "set.binpb").read_bytes()
