"""
An OpenFeature client with a provider from PyPI: answers each question, a line of JSON, with a line of JSON.

Runs in an environment of its own (`tools.py`) and knows nothing of Numerator.

    client.py ofrep '{"url": "http://…", "token": "…"}'
    client.py flagd '{"host": "127.0.0.1", "port": 8015}'
"""

import json
import sys

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider import AbstractProvider


def provider(kind: str, where: dict) -> AbstractProvider:
    if kind == "ofrep":
        headers = {"Authorization": f"Bearer {where['token']}"} if where["token"] else {}
        return OFREPProvider(where["url"], headers_factory=lambda: headers)
    return FlagdProvider(
        host=where["host"], port=where["port"], tls=False, resolver_type=ResolverType.IN_PROCESS,
        deadline_ms=20_000, retry_backoff_max_ms=1_000,
    )  # fmt: skip


def main() -> None:
    api.set_provider_and_wait(provider(sys.argv[1], json.loads(sys.argv[2])))
    client = api.get_client()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        context = dict(asked["context"])
        details = getattr(client, f"get_{asked['type']}_details")(
            asked["key"], asked["default"], EvaluationContext(context.pop("targetingKey", None), context)
        )
        answer = {
            "value": details.value,
            "variant": details.variant,
            "reason": details.reason,
            "error": details.error_code,
            "metadata": dict(details.flag_metadata),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
