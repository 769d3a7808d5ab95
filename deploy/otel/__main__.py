"""`python -m deploy.otel`: the receiver, as a process of its own."""

import uvicorn

from deploy.otel.receiver import application
from deploy.otel.settings import ReceiverSettings
from deploy.otel.store import Journal, Store

if __name__ == "__main__":
    settings = ReceiverSettings()
    journal = Journal(settings.folder, settings.file_bytes) if settings.folder else None
    uvicorn.run(
        application(Store(settings.traces, settings.logs, journal)),
        host=settings.host,
        port=settings.port,
        ws="none",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
