"""
Accounts: who an enterprise is, who works for it, and which accounts of which networks it may act for.

It owns enterprises and their verification, members, partner apps, bound accounts and the tokens of these. It does not
admit enterprises to the edition (rollout does), issue access tokens (the gateway does) or act on a network
(publishing does, with tokens that are sealed to it).
"""
