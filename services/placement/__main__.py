"""`python -m services.placement {api,worker,migrate}`."""

from services.chassis.process import main

main("placement")
