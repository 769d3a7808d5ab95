"""`python -m services.publishing {api,worker,sender,migrate}`."""

from services.chassis.process import main

main("publishing", {"sender": "services.publishing.sender:serve"})
