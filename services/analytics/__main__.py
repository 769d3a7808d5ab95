"""`python -m services.analytics {api,worker,migrate}`."""

from services.chassis.process import main

main("analytics")
