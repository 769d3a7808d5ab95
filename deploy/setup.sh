#!/usr/bin/env bash
# Makes this checkout ready on Debian 12, as root or with sudo: system packages, .venv, stubs of protos/.
# Does only what is missing, so that every `make` target can begin with it. Writes nothing outside the checkout
# but Debian packages. pip's own environment and configuration decide where packages come from.
set -euo pipefail
umask 022
cd "$(dirname "$0")/.."
mkdir -p .local
exec 9>.local/setup.lock && flock 9 # two at once would step on each other
log=.local/setup.log

fail() { printf '\n%s\n' "$@" >&2 && exit 1; }

# step "What it does" command…: shows how long it takes, and what the command printed if it fails
step() {
  local what=$1 started=$SECONDS ticker=
  shift
  if [ -t 1 ]; then
    (while sleep 1 && kill -0 $$ 2>/dev/null; do printf '\r  %s … %d s ' "$what" $((SECONDS - started)); done) & ticker=$!
  else
    printf '  %s …\n' "$what"
  fi
  "$@" >"$log" 2>&1 9>&- </dev/null && local status=0 || local status=$?
  [ -z "$ticker" ] || { kill "$ticker" && wait "$ticker" || true; } 2>/dev/null
  [ "$status" = 0 ] || { tail -n 30 "$log" >&2 && fail "$what: failed, see above (whole output: $log)"; }
  [ -t 1 ] && printf '\r'
  printf '  %s: %d s   \n' "$what" $((SECONDS - started))
}

# ---- system packages

lock=$(sha256sum <requirements.lock)
environment_ok() { [ -x .venv/bin/python ] && [ "$(cat .venv/made-in 2>/dev/null)" = "$PWD" ]; } # cannot be moved
missing=()

if ! environment_ok; then
  for python in python3.11 python3 python3.12 python3.13 none; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
  done
  [ "$python" != none ] || fail 'Python 3.11 or newer is needed: apt-get install python3 (Debian 12 has 3.11)'
  "$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
[ -n "${AMQP_URL:-}" ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)

# Installs packages without starting any service, now (policy-rc.d) or at the next boot (disable).
install_packages='
  policy=/usr/sbin/policy-rc.d
  [ ! -e $policy ] || mv $policy $policy.before
  trap "rm -f $policy; [ ! -e $policy.before ] || mv $policy.before $policy" EXIT
  printf "#!/bin/sh\nexit 101\n" >$policy && chmod +x $policy
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q && apt-get install -q -y --no-install-recommends "$@" || exit 1
  [ -d /run/systemd/system ] || exit 0
  for unit in rabbitmq-server.service epmd.service epmd.socket; do
    systemctl is-active --quiet $unit || systemctl disable --quiet $unit || true
  done'

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "Not Debian? Install these by your own means: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    as_root=(sudo)
    { [ -t 0 ] && sudo -v || sudo -n true; } 2>/dev/null ||
      fail "Missing: ${missing[*]}. As root, run: apt-get install ${missing[*]}" 'Then try again; nothing else needs root.'
  fi
  step "System packages: ${missing[*]}" "${as_root[@]}" bash -c "$install_packages" - "${missing[@]}"
fi

# ---- Python packages

if ! environment_ok; then
  step 'Python environment .venv' "$python" -m venv --clear .venv
  printf '%s\n' "$PWD" "$PWD/.local/stubs" >"$(echo .venv/lib/python3*/site-packages)/numerator.pth"
  echo "$PWD" >.venv/made-in
fi
if [ ! -x .venv/bin/numerator ]; then # as pip would have made it, had it installed us
  printf '#!%s\nfrom gateway.cli.__main__ import main\n\nmain()\n' "$PWD/.venv/bin/python" >.venv/bin/numerator
  chmod +x .venv/bin/numerator
fi
if [ "$(cat .venv/lock 2>/dev/null)" != "$lock" ]; then
  step "Python packages: $(grep -c '^[a-z].*==' requirements.lock), by the hashes of requirements.lock" \
    .venv/bin/python -m pip install --no-input --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
  echo "$lock" >.venv/lock
fi

# ---- stubs

protos="$(find protos deploy/local/stubs.py -type f | sort | xargs cat | sha256sum) $lock"
if [ ! -d .local/stubs ] || [ "$(cat .local/stubs.stamp 2>/dev/null)" != "$protos" ]; then
  step 'Stubs of protos/' .venv/bin/python -m deploy.local.stubs
  echo "$protos" >.local/stubs.stamp
fi
