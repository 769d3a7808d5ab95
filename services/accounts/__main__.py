"""`python -m services.accounts {api,worker,migrate}`."""

from services.chassis.process import main

main("accounts")
