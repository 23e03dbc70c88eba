"""The keys of issuers, fetched once per host: the agent asks, the workers are told (policies/_keysets.py)."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastgw.config.schema.address import Origin
from fastgw.policies._keysets import KeySet, Source
from fastgw.upstreams.discovery.base import SourceError
from fastgw.upstreams.discovery.http import Call, refused

logger = logging.getLogger("fastgw.keys")

MAX_DOCUMENT = 256 * 1024
WELL_KNOWN = "/.well-known/openid-configuration"
METADATA = (
    "issuer", "authorization_endpoint", "token_endpoint", "userinfo_endpoint", "end_session_endpoint",
    "introspection_endpoint", "jwks_uri",
)  # fmt: skip
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LEAST_REFRESH = 30.0
WAIT = 5.0
"""How long a start or a reload waits for the first answer of a new issuer."""
AGE = re.compile(r"(?:^|,)\s*max-age=\"?([0-9]{1,9})")

Told = Mapping[Source, KeySet | None]


@dataclass(slots=True)
class State:
    """For metrics. `age`: seconds since the issuer last answered well; None when it never did."""

    issuer: str
    keys: int
    age: float | None
    fetches: int
    failures: int


class Fetcher:
    """Keeps the keys of one source. `publish` is called for each change, `checked` after each question."""

    def __init__(self, source: Source, publish: Callable[[KeySet], None], checked: Callable[[], None],
                 before: KeySet | None = None) -> None:  # fmt: skip
        self.source = source
        self.publish = publish
        self.checked = checked
        self.told = before
        self.fetched: list[Mapping[str, Any]] = list(before.keys) if before is not None else []
        self.metadata: Mapping[str, str] = before.metadata if before is not None else {}
        self.retired: list[tuple[Mapping[str, Any], float]] = []
        self.confirmed: float | None = None
        self.began = time.monotonic()
        self.asked = float("-inf")
        self.fetches = self.failures = 0
        self.error = ""
        self.max_age: float | None = None
        self.wanted = asyncio.Event()
        self.first = asyncio.Event()

    @property
    def state(self) -> State:
        age = None if self.confirmed is None else time.monotonic() - self.confirmed
        return State(
            self.source.issuer, len(self.told.keys) if self.told else 0, age, self.fetches, self.failures
        )

    def want(self) -> None:
        """Somebody has a token with a key that is not known."""
        if time.monotonic() - self.asked >= self.source.cooldown:
            self.wanted.set()
        else:
            self.checked()

    async def live(self) -> None:
        """Until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            self.asked = time.monotonic()
            try:
                async with asyncio.timeout(2 * self.source.timeout + 1):
                    await self.fetch()
                pause, wait = FIRST_PAUSE, self.interval()
            except (SourceError, OSError) as error:  # TimeoutError is an OSError
                self.failed(str(error) or type(error).__name__)
                wait, pause = pause * random.uniform(0.5, 1.0), min(pause * 2, LONGEST_PAUSE)
            except Exception as error:
                logger.exception("the keys of %s", self.source.issuer)
                self.failed(type(error).__name__)
                wait, pause = pause * random.uniform(0.5, 1.0), min(pause * 2, LONGEST_PAUSE)
            self.fetches += 1
            self.tell()
            self.first.set()
            self.checked()
            await self.rest(wait)

    def interval(self) -> float:
        """Before what is known expires."""
        wanted = self.source.refresh
        if self.max_age is not None:
            wanted = min(wanted, max(self.max_age * 0.8, LEAST_REFRESH))
        return wanted * random.uniform(0.9, 1.0)

    async def rest(self, seconds: float) -> None:
        """So long, or until the keys are wanted; meanwhile keys go whose time is over."""
        self.wanted.clear()
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(max(0.0, min(left, self.next_end() - time.monotonic()))):
                    await self.wanted.wait()
                return
            except TimeoutError:
                self.tell()

    # ------------------------------------------------------------------ asking

    async def get(self, url: str) -> Any:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        origin = Origin(parts.scheme, parts.hostname or "", port)
        trust = None
        if parts.scheme == "https":
            try:
                trust = ssl.create_default_context(cafile=self.source.ca)
            except (OSError, ssl.SSLError) as error:
                raise SourceError(f"the CA certificates cannot be read: {error}") from None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        async with Call(origin, "GET", target, timeout=self.source.timeout, trust=trust) as call:
            if call.status != 200:
                raise refused(call, url)
            body = await call.text(MAX_DOCUMENT)
            age = AGE.search(call.headers.get("cache-control", ""))
            self.max_age = float(age[1]) if age else None
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise SourceError(f"{url} is not JSON") from None
        if not isinstance(found, dict):
            raise SourceError(f"{url} is not a JSON object")
        return found

    async def fetch(self) -> None:
        from fastgw.policies._jwk import read_jwks  # with the libraries that read keys: only where there are any

        url = self.source.jwks_url
        metadata: Mapping[str, str] = {}
        if url is None:
            metadata = await self.discover()
            url = metadata["jwks_uri"]
        found = await self.get(url)
        good, bad = read_jwks(found.get("keys"), self.source.algorithms)
        if not good:
            # an empty set would lock everybody out by one bad answer: the keys before stay
            raise SourceError(f"{url} has no usable key: {'; '.join(sorted(set(bad))[:3]) or 'it is empty'}")
        now = time.monotonic()
        keys = [jwk for jwk, _ in good]
        if self.source.overlap > 0:
            self.retired += [(jwk, now + self.source.overlap) for jwk in self.fetched if jwk not in keys]
        self.retired = [(jwk, until) for jwk, until in self.retired if jwk not in keys][-100:]
        self.fetched = list(keys)
        self.metadata = metadata
        self.confirmed = now
        if self.error:
            logger.info("the keys of %s: the issuer answers again", self.source.issuer)
            self.error = ""

    async def discover(self) -> dict[str, str]:
        """OpenID Connect Discovery 1.0 §4."""
        url = self.source.issuer.rstrip("/") + WELL_KNOWN
        found = await self.get(url)
        # §4.3: "MUST be identical to the Issuer URL that was used"
        if found.get("issuer") != self.source.issuer:
            raise SourceError(f"{url} is about another issuer: {str(found.get('issuer'))[:200]!r}")
        told = {name: found[name] for name in METADATA if isinstance(found.get(name), str)}
        for name, value in told.items():
            if not acceptable(value) and name != "issuer":
                raise SourceError(f"{url}: {name} is not an https:// URL")
        if "jwks_uri" not in told:
            raise SourceError(f"{url} has no jwks_uri")
        return told

    # ------------------------------------------------------------------ telling

    def keys(self) -> tuple[Mapping[str, Any], ...]:
        """Those in force: none when the issuer has not answered for longer than `keep`."""
        now = time.monotonic()
        if self.source.keep is not None and now >= (self.confirmed or self.began) + self.source.keep:
            return ()
        self.retired = [(jwk, until) for jwk, until in self.retired if until > now]
        return (*self.fetched, *(jwk for jwk, _ in self.retired))

    def next_end(self) -> float:
        ends = [until for _, until in self.retired]
        if self.source.keep is not None and self.told is not None and self.told.keys:
            ends.append((self.confirmed or self.began) + self.source.keep)
        return min(ends, default=float("inf"))

    def tell(self) -> None:
        """Publishes what is in force, when it has changed."""
        if self.confirmed is None and self.told is None:
            return
        keys = self.keys()
        if self.told is not None and self.told.keys == keys and self.told.metadata == self.metadata:
            return
        version = self.told.version + 1 if self.told is not None else 1
        self.told = KeySet(version, keys, self.metadata)
        logger.info("the keys of %s: version %d has %d", self.source.issuer, version, len(keys))
        self.publish(self.told)

    def failed(self, text: str) -> None:
        """Told once, until it answers again; counted every time."""
        self.failures += 1
        if not self.error:
            kept = "the last keys stay" if self.told is not None else "there are none: requests get 503"
            logger.warning("the keys of %s: %s; %s", self.source.issuer, text, kept)
        self.error = text[:500]


def acceptable(url: str) -> bool:
    """https, or plain HTTP to this host."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


class KeySets:
    """All sources of a configuration. `tell(changed, checked)` brings what changed, and which sources were asked, to
    the workers; `known` is what is in force, for those to come."""

    def __init__(
        self, tell: Callable[[Told, tuple[Source, ...]], None], known: Mapping[Source, KeySet] | None = None
    ) -> None:
        self.tell = tell
        self.known: dict[Source, KeySet] = dict(known or {})
        self.running: dict[Source, tuple[Fetcher, asyncio.Task[None]]] = {}
        self.tried = False

    def stop(self) -> None:
        for _, task in self.running.values():
            task.cancel()
        self.running.clear()

    async def follow(self, sources: Iterable[Source]) -> None:
        """Fetches for these from now on. Returns when each new one was asked, or after some seconds."""
        wanted = set(sources)
        for source in self.running.keys() - wanted:
            self.running.pop(source)[1].cancel()
        gone = self.known.keys() - wanted
        for source in gone:
            del self.known[source]
        if gone:
            self.tell(dict.fromkeys(gone), ())
        new = []
        loop = asyncio.get_running_loop()
        for source in wanted - self.running.keys():
            fetcher = Fetcher(
                source, lambda keys, source=source: self.found(source, keys),  # type: ignore[misc]
                lambda source=source: self.tell({}, (source,)), self.known.get(source),  # type: ignore[misc]
            )  # fmt: skip
            self.running[source] = fetcher, loop.create_task(fetcher.live())
            if source not in self.known:
                new.append(loop.create_task(fetcher.first.wait()))
        if new:
            _, late = await asyncio.wait(new, timeout=WAIT)
            for task in late:
                task.cancel()
        self.tried = True

    def found(self, source: Source, keys: KeySet) -> None:
        self.known[source] = keys
        self.tell({source: keys}, ())

    def want(self, source: Source) -> None:
        running = self.running.get(source)
        if running is not None:
            running[0].want()
        else:
            self.tell({}, (source,))

    def states(self) -> list[State]:
        return [fetcher.state for fetcher, _ in self.running.values()]
