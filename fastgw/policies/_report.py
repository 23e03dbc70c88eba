"""What a policy says in the log instead of refusing: bounded, as it is clients who decide how often it happens."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgw._core.exchange import Exchange

logger = logging.getLogger("fastgw.policy")

LINES = 10
"""In each …"""
SECONDS = 1.0


class Report:
    """`report(exchange)`, `report(exchange, "what")`: a line, or one more of those that are only counted."""

    def __init__(self, policy: str, says: str) -> None:
        self.policy = policy
        self.says = says
        self.until = 0.0
        self.lines = 0
        self.skipped = 0

    def __call__(self, exchange: Exchange, what: str = "") -> None:
        now = time.monotonic()
        if now >= self.until:
            if self.skipped:
                logger.warning("%s: %s (%d more that are not listed)", self.policy, self.says, self.skipped)
            self.until = now + SECONDS
            self.lines = self.skipped = 0
        if self.lines >= LINES:
            self.skipped += 1
            return
        self.lines += 1
        logger.warning(
            "%s: %s: %s %r of %s on route %s%s",
            self.policy,
            self.says,
            exchange.method,
            exchange.path[:200],
            exchange.client_ip or "an unknown address",
            exchange.route.name if exchange.route is not None else "none",
            f": {what}" if what else "",
        )
