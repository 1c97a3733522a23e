"""Errors of the drift report."""

from __future__ import annotations


class DriftError(Exception):
    """Drift cannot be told from this log or classifier; the message is one sentence that says what to do."""
