"""`python -m services.rollout {api,worker,migrate}`."""

from services.chassis.process import main

main("rollout")
