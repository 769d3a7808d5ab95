#!/usr/bin/env bash
# Writes the locks anew: requirements.lock (all that a checkout needs), and from it the two of the image.
# UPGRADE=1 takes the newest releases. Needs uv. pip's and uv's own configuration decide where packages come from.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock() { uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --python-version 3.11 "$@"; }

lock pyproject.toml --group local --group dev ${UPGRADE:+--upgrade} -o requirements.lock
# chDB asks for pandas and pyarrow, but imports them only to hand out data frames: 300 MB that nothing here uses.
lock pyproject.toml -c requirements.lock -o deploy/image/runtime.lock \
  --no-emit-package pandas --no-emit-package pyarrow --no-emit-package numpy --no-emit-package python-dateutil
lock --group image -c requirements.lock -o deploy/image/build.lock
