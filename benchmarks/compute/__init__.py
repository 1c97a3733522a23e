"""Inference-time compute, measured: a recorded outcome table replayed into tables and plots."""
