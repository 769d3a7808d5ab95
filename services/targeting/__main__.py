"""`python -m services.targeting {api,worker,migrate}`."""

from services.chassis.process import main

main("targeting")
