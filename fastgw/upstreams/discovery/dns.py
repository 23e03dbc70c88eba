"""Endpoints from DNS: each address of A and AAAA, or each target of SRV, is one.

The next look-up comes when the TTL ends, or after `refresh`, what is sooner. An answer without records counts as
none: a zone that is broken for a moment must not take a service away; `keep` bounds how long.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype

from fastgw.config.schema.address import is_ip, parse_origin
from fastgw.upstreams.discovery.base import HEAVIEST, Alive, Found, Seen, Source, SourceError

SHORTEST = 1.0
"""Seconds between two look-ups, whatever the TTL."""
MAX_TARGETS = 200
"""SRV targets whose addresses are looked up."""
AT_A_TIME = 8


class DnsSource(Source):
    def __init__(self, service: str, options: Any) -> None:
        super().__init__(service, options)
        self.resolver: dns.asyncresolver.Resolver | None = None
        kind = options.record
        self.srv = kind == "srv" or (kind == "auto" and self.name.startswith("_"))
        self.room = asyncio.Semaphore(AT_A_TIME)

    def __str__(self) -> str:
        return f"dns {'SRV' if self.srv else 'A/AAAA'} {self.name}"

    def ready(self) -> dns.asyncresolver.Resolver:
        if self.resolver is None:
            address = self.options.address
            try:
                resolver = dns.asyncresolver.Resolver(configure=address is None)
            except dns.exception.DNSException as error:
                raise SourceError(f"there is no name server: {error}") from None
            if address is not None:
                text = address.rpartition("://")[2]
                origin = parse_origin(f"http://{text}")
                resolver.nameservers = [origin.host]
                resolver.port = origin.port if text.endswith(f":{origin.port}") else 53
            resolver.lifetime = self.options.timeout
            resolver.cache = None
            self.resolver = resolver
        return self.resolver

    async def run(self, seen: Seen, alive: Alive) -> None:
        while True:
            found, ttl = await (self.by_srv() if self.srv else self.by_address(self.name, self.options.port or 80))
            if not found:
                raise SourceError("the name has no addresses")
            seen(found)
            pause = min(self.options.interval, max(ttl, SHORTEST))
            await asyncio.sleep(pause * random.uniform(0.9, 1.0))

    async def ask(self, name: str, kind: dns.rdatatype.RdataType) -> tuple[list[Any], float]:
        """Records and their TTL; none when the name has none of that kind."""
        try:
            answer = await self.ready().resolve(name, kind, raise_on_no_answer=False)
        except dns.exception.Timeout:
            raise SourceError(f"the name server did not answer in {self.options.timeout:g} s") from None
        except dns.exception.DNSException as error:
            raise SourceError(f"{name}: {type(error).__name__}") from None
        if answer.rrset is None:
            return [], self.options.interval
        return list(answer.rrset), float(answer.rrset.ttl)

    async def addresses(self, name: str) -> tuple[list[str], float]:
        if is_ip(name):
            return [name], self.options.interval
        async with self.room:
            parts = await asyncio.gather(
                self.ask(name, dns.rdatatype.A), self.ask(name, dns.rdatatype.AAAA), return_exceptions=True
            )
        good = [part for part in parts if not isinstance(part, BaseException)]
        found = [str(record.address) for records, _ in good for record in records]
        for part in parts:
            if isinstance(part, BaseException) and not found:
                raise part
        return found, min((ttl for records, ttl in good if records), default=self.options.interval)

    async def by_address(self, name: str, port: object) -> tuple[list[Found], float]:
        addresses, ttl = await self.addresses(name)
        return [self.found(address, port) for address in addresses], ttl

    async def by_srv(self) -> tuple[list[Found], float]:
        records, ttl = await self.ask(self.name, dns.rdatatype.SRV)
        # RFC 2782: "A client MUST attempt to contact the target host with the lowest-numbered priority it can reach";
        # a target of "." is a service that is decidedly not there
        records = [record for record in records if record.target != dns.name.root]
        if not records:
            return [], ttl
        first = min(record.priority for record in records)
        records = sorted((r for r in records if r.priority == first), key=lambda r: (str(r.target), r.port))
        heaviest = max(record.weight for record in records)
        scale = HEAVIEST / heaviest if heaviest > HEAVIEST else 1.0
        targets = [str(record.target).rstrip(".") for record in records[:MAX_TARGETS]]
        answers = await asyncio.gather(*map(self.addresses, targets), return_exceptions=True)
        found: list[Found] = []
        for record, answer in zip(records, answers, strict=False):
            if isinstance(answer, BaseException):
                if not isinstance(answer, SourceError):
                    raise answer
                continue                             # one target without an address does not take the others away
            weight = max(1, round(record.weight * scale))
            labels = {"target": str(record.target).rstrip(".")}
            found += [self.found(address, record.port, weight, "", labels) for address in answer[0]]
            ttl = min(ttl, answer[1])
        if not found:
            raise SourceError("none of the SRV targets has an address")
        return found, ttl
