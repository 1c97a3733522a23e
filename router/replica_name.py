"""What a replica is called where operators look at replicas."""

from __future__ import annotations

import os
import re
import secrets
import socket


def replica_name() -> str:
    """Host, process and four random digits: for `acr policy watch` and `acr model list`."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(2)}"
