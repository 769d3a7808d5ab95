"""`python -m services.publishing {api,worker,sender,migrate,retell,restored}`."""

from services.chassis.process import main

main(
    "publishing",
    {"sender": "services.publishing.sender:serve"},
    {"restored": "services.publishing.restoration:run"},
)
