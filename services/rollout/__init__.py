"""
Decides which enterprises are admitted to the edition, stage by stage, and hands the result to every gateway.

It is for records: who is in, since when, why not. It is not for evaluating flags (the gateway does that, in memory)
nor for measuring (analytics does that).
"""
