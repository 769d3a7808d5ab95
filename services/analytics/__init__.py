"""
Numbers: what was seen, passed on, answered and signed up for. One registry defines every number.

It is for counting facts that others tell or send. It is not for deciding anything, and it holds no person's text.
"""
