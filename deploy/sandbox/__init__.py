"""
A small social network that speaks the Mastodon API: what our tests publish to, and what judges them.

It imports nothing of the platform, so that a mistake cannot be made on both sides at once. It is not a
product: no federation, no streaming, no moderation, and everybody follows everybody.
"""
