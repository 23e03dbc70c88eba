"""When a store that fails is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastgw.config.schema.stores import StoreBreaker


class Breaker:
    """Closed until `failures` in a row; then open for a pause, after which one call tries. `now` gives seconds."""

    def __init__(self, options: StoreBreaker, now: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.now = now
        self.row = 0
        self.pause = options.pause
        self.until = 0.0
        self.trying = False

    @property
    def paused(self) -> bool:
        return self.row >= self.options.failures

    def admits(self) -> bool:
        """May a call be made? The one that tries again must be told about by `good` or `bad`."""
        if not self.paused:
            return True
        if self.trying or self.now() < self.until:
            return False
        self.trying = True
        return True

    def good(self) -> None:
        self.row = 0
        self.pause = self.options.pause
        self.trying = False

    def bad(self) -> bool:
        """True when this one opened it."""
        self.row += 1
        if not self.paused:
            return False
        opened = self.row == self.options.failures
        if self.trying or opened:
            if self.trying:
                self.pause = min(self.pause * 2, self.options.max_pause)
            self.trying = False
            self.until = self.now() + self.pause
        return opened
