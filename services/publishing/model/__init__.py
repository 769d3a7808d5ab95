"""The rules of publishing. Pure: no I/O, no clock, no framework."""
