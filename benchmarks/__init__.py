"""Measurements; each module says what it measures and prints its own table. Never part of the tests."""
