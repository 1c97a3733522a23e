"""Runs that break things on purpose and count afterwards: `make chaos`."""
