"""Logs of this service in Serve's replicas."""

from __future__ import annotations

import logging


def log_to_serve(*names: str) -> None:
    """What these loggers say (decisions at INFO) goes where Serve's replicas log."""
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in logging.getLogger("ray.serve").handlers:
            logger.addHandler(handler)
