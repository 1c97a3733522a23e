"""Errors of the drift report."""

from __future__ import annotations


class DriftError(Exception):
    """A log or a classifier that drift cannot be told from; the message is one sentence that says what to do."""
