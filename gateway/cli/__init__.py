"""
The command line `numerator`: what an operator does with rollouts, tenants, reviews, changes and flags, and how they stand.

It is a client of the gateway's REST API and of nothing else: it imports no service, no contract and nothing of the gateway.
It decides nothing; what it prints is what the platform said. See docs/cli.md.
"""
