"""`python -m services.accounts {api,worker,webhooks,migrate,retell,rotate,audit}`."""

from services.chassis.process import main

main(
    "accounts",
    {"webhooks": "services.accounts.webhooks:serve"},
    {"rotate": "services.accounts.rotate:run", "audit": "services.accounts.audit:run"},
)
