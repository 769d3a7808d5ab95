"""
Decides a snapshot's flags by whatever versions of the engine and of the hash are installed: JSON in, JSON out.

Runs in an environment of its own (`rollout_sides.py`) and knows nothing of Numerator but docs/rollouts.md.
"""

import json
import sys
from importlib.metadata import version

import mmh3
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext


def main() -> None:
    asked = json.load(sys.stdin)
    engine = FlagdCore()
    engine.set_flags(json.dumps(asked["flags"]))
    buckets, sides = {}, {}
    for context in asked["contexts"]:
        name = context["targetingKey"]
        bucket = {
            each: (mmh3.hash(f"{salt}:{name}", 0, signed=False) * 10_000) >> 32
            for each, salt in asked["salts"].items()
        }
        known = EvaluationContext(name, {**context, "bucket": bucket})
        sides[name] = [
            engine.resolve_boolean_value(flag, False, known).value for flag in asked["flags"]["flags"]
        ]
        buckets[name] = list(bucket.values())
    versions = {name: version(name) for name in ("openfeature-flagd-core", "mmh3")}
    json.dump({"versions": versions, "buckets": buckets, "sides": sides}, sys.stdout)


if __name__ == "__main__":
    main()
