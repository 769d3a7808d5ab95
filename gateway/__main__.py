"""Starts the gateway: `python -m gateway`."""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
import uvloop

from gateway.app import Gateway
from gateway.http_protocol import bounded_protocol
from gateway.settings import GatewaySettings
from services.chassis.logs import configure_logs, get_logger
from services.chassis.probes import Pulse
from services.chassis.telemetry import Telemetry, start_telemetry

_log = get_logger("gateway")


class _Server(uvicorn.Server):
    """
    uvicorn, which at SIGTERM first tells that it leaves and goes on, for balancers to notice. Then it tells the gateway,
    before it waits for the requests in progress, which may be streams.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, lame_duck_seconds: float) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._lame_duck_seconds = lame_duck_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's own, does not die of the signal in the end: what runs beside the server is to end too."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self.handle_exit, each, None)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal does not wait."""
        if self._gateway.health.leaving or not self._lame_duck_seconds:
            self._drain(sig, frame)
        else:
            _log.info("gateway.leaving", seconds=self._lame_duck_seconds)
            asyncio.get_running_loop().call_later(self._lame_duck_seconds, self._drain, sig, frame)
        self._gateway.health.leaving = True

    def _drain(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.stopping.set()
        super().handle_exit(sig, frame)


async def serve(settings: GatewaySettings, telemetry: Telemetry) -> int:
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
    telemetry.probes.alive_when(Pulse(asyncio.get_running_loop()).reason)
    telemetry.probes.ready_when(gateway.health.reason)
    server = _Server(config, gateway, settings.lame_duck_seconds)
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
        return uvloop.run(serve(settings, telemetry))
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    sys.exit(main())
