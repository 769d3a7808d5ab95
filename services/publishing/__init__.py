"""
Publishing: says something on many accounts of an enterprise, on each exactly once, and hears the answers.

It owns publications, deliveries and interactions. It does not own accounts (a read model follows the accounts
service) and does not measure results (analytics does).
"""
