"""`python -m services.accounts {api,worker,migrate,retell,rotate}`."""

from services.chassis.process import main

main("accounts", commands={"rotate": "services.accounts.rotate:run"})
