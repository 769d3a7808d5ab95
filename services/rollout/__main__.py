"""`python -m services.rollout {api,worker,migrate,retell,restored}`."""

from services.chassis.process import main

main("rollout", commands={"restored": "services.rollout.restoration:run"})
