"""The story of `make demo`, played as a partner app would: against the gateway's public HTTP API and nothing else."""
