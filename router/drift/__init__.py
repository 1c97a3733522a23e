"""Drift of live traffic: what a log of decisions tells, and gauges of what a replica sees."""
