"""
Answers of the API as people read them: short, plain, times as ages. A module for each module of commands.

JSON in; lines, and what rich prints, out. No I/O.
"""
