"""`python -m services.accounts {api,worker,webhooks,migrate,retell,rotate}`."""

from services.chassis.process import main

main(
    "accounts",
    {"webhooks": "services.accounts.webhooks:serve"},
    {"rotate": "services.accounts.rotate:run"},
)
