"""Errors of replay; each is one sentence that says what to do.

ReplayError
└── NothingToReplay    nothing in the file can be replayed under this policy
"""

from __future__ import annotations


class ReplayError(Exception):
    """Base of everything that replay raises on purpose; picklable, as its message is all there is."""


class NothingToReplay(ReplayError):
    """The file holds nothing that the policy could have decided: no rows, other tenants, other arms."""
