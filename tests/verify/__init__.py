"""Measures what we promise, in CI size, and prints one table per area: `make verify-<area>`. It measures; it never quotes."""
