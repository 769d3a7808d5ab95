"""Starts the gateway: `python -m gateway`."""

import asyncio
import logging
import sys
from types import FrameType

import uvicorn
import uvloop

from gateway.app import Gateway
from gateway.http_protocol import bounded_protocol
from gateway.settings import GatewaySettings
from services.chassis.logs import configure_logs
from services.chassis.telemetry import start_telemetry


class _Server(uvicorn.Server):
    """uvicorn, telling the gateway of SIGTERM before it waits for the requests in progress, which may be streams."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        super().handle_exit(sig, frame)


async def serve(settings: GatewaySettings) -> int:
    """Serve HTTP until SIGTERM or SIGINT. 1 when the address is taken."""
    try:
        gateway = Gateway(settings)
    except ValueError as error:
        raise SystemExit(f"the gateway cannot serve: {error}") from None
    config = uvicorn.Config(
        gateway.app,
        host=settings.host,
        port=settings.port,
        http=bounded_protocol(settings.header_bytes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=settings.drain_seconds,
        reset_contextvars=True,
    )
    server = _Server(config, gateway.stopping)
    async with gateway.running():
        await server.serve()
    return 0 if server.started else 1


def main() -> int:
    settings = GatewaySettings.load()
    configure_logs("gateway", "http", settings.log_level)
    # It tells a broker that is away in seven lines and a traceback, once a second; we tell it once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    telemetry = start_telemetry("gateway", "http", settings.metrics_port)
    try:
        return uvloop.run(serve(settings))
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    sys.exit(main())
