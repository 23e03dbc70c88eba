"""`cache`: answers that were given before are given again, as RFC 9111 allows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from fastgw._core.cache import Cache as NativeCache
from fastgw._core.cache_access import Access
from fastgw._core.cache_freshness import Rules
from fastgw._core.cache_key import Keys
from fastgw._core.exchange import Exchange, Hook, Problem, Reply
from fastgw.config.fields import Cidr, Duration, HeaderName, Name, Ratio, Size, shown, wrong
from fastgw.config.schema.base import Room, key
from fastgw.config.templating import Template
from fastgw.policies._parts import listed, parts_of
from fastgw.policies.base import Policy
from fastgw.store.purges import SharedPurge, Teller

PLAIN = (200, 203, 204, 300, 301, 308)
"""What `ttl` is for: successes, and redirects that are for good. The others want `ttl_by_status`."""
CLASSES = ("2xx", "3xx", "4xx", "5xx")
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,59}\Z")
"""An sf-token of RFC 8941, without what would have to be explained."""


Answer = Reply | Problem
Told = Callable[[Answer], None]


def _status(value: object) -> str:
    text = str(value).strip().lower() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if text in CLASSES or (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
        if text in ("206", "304"):
            raise wrong("bad_choice", f"answers with {text} are parts of others, and not kept", "another status")
        return text
    raise wrong("bad_choice", f"{shown(value)} is no status", "200 to 599, or 2xx, 3xx, 4xx, 5xx")


Status = Annotated[
    str, BeforeValidator(_status), WithJsonSchema({"type": ["string", "integer"], "examples": [404, "5xx"]})
]


def _kind(value: str) -> str:
    kind, slash, rest = value.lower().partition("/")
    if not kind or not slash or len(value) > 200 or ";" in value or not value.isascii() or " " in value:
        raise wrong("bad_value", f"{shown(value)} is not a Content-Type", "application/json, or text/ for all of them")
    return f"{kind}/{rest.removesuffix('*')}"


ContentType = Annotated[str, AfterValidator(_kind)]


def _parameter(value: str) -> str:
    bare = value.removesuffix("*")
    if not bare or len(value) > 200 or any(c in bare for c in "*&=#? ") or not value.isascii():
        raise wrong("bad_value", f"{shown(value)} is not the name of a parameter", "a name, or utm_* for several")
    return value


Parameter = Annotated[str, AfterValidator(_parameter)]


def _label(value: str | None) -> str | None:
    if value is not None and not LABEL.match(value):
        raise wrong("bad_value", f"{shown(value)} is no name for Cache-Status", "letters, digits, - and .")
    return value


class Purging(Room):
    """Who may forget answers by the method PURGE."""

    addresses: Annotated[tuple[Cidr, ...], BeforeValidator(listed)] = key(
        (), "Clients of these addresses.", max_length=1000, example=["127.0.0.1", "10.0.0.0/8"]
    )
    consumers: tuple[Name, ...] = key((), "These consumers.", max_length=1000, example=["deployer"])

    @model_validator(mode="after")
    def _somebody(self) -> Purging:
        if not self.addresses and not self.consumers:
            raise wrong("missing_key", "nobody may purge", "`addresses` or `consumers`")
        return self


class CacheOptions(Room):
    """What is kept, for how long, for whom, and who decides. Without any, the service decides."""

    ttl: Duration | None = key(
        None,
        "How long an answer is fresh whose service says nothing of it (200, 203, 204, 300, 301, 308).",
        gt=0,
        le=366 * 86400,
        example="60s",
    )
    ttl_by_status: dict[Status, Duration] = key(
        {}, "The same by status; what is more exact goes first. Failures are kept only so.", max_length=100,
        example={404: "10s", "5xx": "1s"},
    )  # fmt: skip
    override: bool = key(
        False, "`ttl` and `ttl_by_status` hold whatever the service says of freshness, which breaks RFC 9111."
    )
    heuristic: Ratio = key(
        0.0,
        "Without a lifetime, this share of the age of Last-Modified counts as one (RFC 9111 suggests 0.1); 0 is off.",
        example=0.1,
    )
    heuristic_max: Duration = key(86400.0, "And no more than this.", ge=1, le=366 * 86400, example="1d")
    stale_while_revalidate: Duration = key(
        0.0, "So long an old answer is given while a new one is fetched, where the service does not say.", ge=0,
        le=366 * 86400, example="30s",
    )  # fmt: skip
    stale_if_error: Duration = key(
        0.0, "So long an old answer takes the place of a failure, where the service does not say.", ge=0,
        le=366 * 86400, example="10m",
    )  # fmt: skip
    keep_stale: Duration = key(
        3600.0, "So long an old answer is kept to be revalidated, or for clients that accept it (max-stale).", ge=0,
        le=366 * 86400, example="1h",
    )  # fmt: skip
    query: bool = key(True, "The query belongs to the key.")
    ignore_query: tuple[Parameter, ...] = key(
        (), "Parameters of the query that do not.", max_length=100, example=["utm_*", "gclid"]
    )
    zone: Name | None = key(
        None, "Routes of the same zone give each other's answers; by default each route has its own.", example="pages"
    )
    per_identity: bool = key(
        False,
        "Who asks belongs to the key (consumer, claims, Authorization, client certificate): personal answers are kept "
        "for each by himself, `private` ones too.",
    )
    set_cookie: Literal["refuse", "strip", "store"] = key(
        "refuse",
        "Answers with Set-Cookie: `refuse`, they are not kept; `strip`, without their cookies; `store`, with them: "
        "everybody gets the same cookie.",
    )
    max_body: Size = key(1024 * 1024, "Larger answers are not kept.", ge=0, le=1024**3, example="1MiB")
    content_types: tuple[ContentType, ...] = key(
        (), "Only answers of these types are kept; empty: all.", max_length=100, example=["application/json", "text/"]
    )
    honour_clients: bool = key(
        True, "Cache-Control and Pragma of requests count: clients may have answers fetched anew."
    )
    targets: tuple[HeaderName, ...] = key(
        ("CDN-Cache-Control",),
        "Headers of answers that stand in for Cache-Control here (RFC 9213), the first that is there.",
        max_length=10,
        example=["Fastgw-Cache-Control", "CDN-Cache-Control"],
    )
    wait: Duration = key(
        5.0, "So long requests wait for the answer that another one fetches; 0: each fetches for itself.", ge=0, le=3600
    )
    max_waiters: int = key(10_000, "So many may wait for one, in each worker.", ge=1, le=1_000_000)
    remember_refusals: Duration = key(
        10.0, "So long nobody waits for an answer that was found not to be kept.", ge=0, le=86400
    )
    tags: tuple[HeaderName, ...] = key(
        ("Surrogate-Key", "Cache-Tag"), "Headers of answers with tags, by which they are purged.", max_length=10
    )
    strip_tags: bool = key(False, "Clients do not get them.")
    purge: Purging | None = key(None, "PURGE forgets answers.", example={"addresses": ["127.0.0.1"]})
    cache_status: Annotated[str | None, AfterValidator(_label)] = key(
        "fastgw", "The name in Cache-Status (RFC 9211); null: no such header."
    )
    # the last one: from here on the word is taken
    key: Template | None = Field(
        None,
        description="What else tells answers apart, besides scheme, host, path and query.",
        examples=["${request.header.X-Tenant}"],
    )

    @model_validator(mode="after")
    def _fitting(self) -> CacheOptions:
        if self.override and self.ttl is None and not self.ttl_by_status:
            raise wrong("conflict", "`override` without a lifetime", "`ttl` or `ttl_by_status`")
        if not self.query and self.ignore_query:
            raise wrong("conflict", "`ignore_query` with `query: false`", "one of them")
        return self

    def ttls(self) -> dict[int, int]:
        """Seconds by status."""
        found: dict[int, float] = {}
        if self.ttl is not None:
            found |= dict.fromkeys(PLAIN, self.ttl)
        for status, seconds in sorted(self.ttl_by_status.items(), key=lambda item: not item[0].endswith("xx")):
            if status.endswith("xx"):
                first = int(status[0]) * 100
                found |= {each: seconds for each in range(first, first + 100) if each not in (206, 304)}
            else:
                found[int(status)] = seconds
        return {status: round(seconds) for status, seconds in found.items()}


class Cache(Policy):
    """Keeps answers to GET for all workers of the host, and gives them again while they are fresh.

    Order: after what decides who may ask; policies behind it see only requests that go to the service. Failure: answers
    are not kept, and every request goes to the service.
    """

    name = "cache"
    Options = CacheOptions
    options: CacheOptions

    def hook(self) -> Hook:
        options = self.options
        zone = options.zone or self.context.route_name or "*"
        storage = self.context.storage()
        teller = self.context.teller()
        return NativeCache(
            storage=storage,
            keys=Keys(
                zone.encode(),
                None if options.key is None else parts_of(options.key),
                options.query,
                [name.encode() for name in options.ignore_query],
                options.per_identity,
            ),
            rules=Rules(
                ttls=options.ttls(),
                override=options.override,
                heuristic=options.heuristic,
                heuristic_max=round(options.heuristic_max),
                while_revalidate=round(options.stale_while_revalidate),
                if_error=round(options.stale_if_error),
                keep=round(options.keep_stale),
                cookies=options.set_cookie,
                targets=[name.lower().encode() for name in options.targets],
                types=[kind.encode() for kind in options.content_types],
                personal=options.per_identity,
            ),
            name=None if options.cache_status is None else options.cache_status.encode(),
            largest=options.max_body,
            wait=int(options.wait * 1e9),
            max_waiters=options.max_waiters,
            pass_ns=int(options.remember_refusals * 1e9),
            tags=[name.lower().encode() for name in options.tags],
            strip_tags=options.strip_tags,
            honour=options.honour_clients,
            purger=None if options.purge is None else purger(options.purge, Access(storage), teller),
            tiers=self.context.tiers(),
            teller=teller,
        )


def purger(options: Purging, access: Access, teller: Teller | None) -> Callable[[Exchange, Told], Answer | None]:
    """Answers PURGE: of the tags in Surrogate-Key or Cache-Tag, else of the URL. `Soft-Purge: 1` makes them stale.
    None: the other hosts have to be told first."""

    def purge(exchange: Exchange, told: Told) -> Answer | None:
        consumer = exchange.consumer
        address = ipaddress.ip_address(exchange.client_ip)
        if not (consumer is not None and consumer.name in options.consumers) and not any(
            address.version == network.version and address in network for network in options.addresses
        ):
            return Problem(403, "forbidden", "This client may not purge.")
        head: Any = exchange.request
        tags = [tag for name in ("Surrogate-Key", "Cache-Tag") for tag in head.get(name, "").replace(",", " ").split()]
        soft = head.get("Soft-Purge", head.get("Fastly-Soft-Purge", "")) == "1"
        if len(tags) > 256 or any(len(tag) > 4096 for tag in tags):
            return Problem(400, "bad_request", "These are more than 256 tags, or one is longer than 4096 characters.")
        if tags:
            purged = sum(access.purge_tag(tag.encode("latin-1"), soft) for tag in tags)
        else:
            query = f"?{exchange.query}" if exchange.query else ""
            name = f"{exchange.host.lower()}{exchange.path}{query}"
            purged = access.purge_name(name.encode("latin-1"), soft)
        if teller is None:
            return Reply(200, orjson.dumps({"purged": purged}), None, "application/json")

        def done(good: bool) -> None:
            if good:
                told(Reply(200, orjson.dumps({"purged": purged}), None, "application/json"))
            else:
                detail = f"{purged} answers were purged here; the other hosts could not be told: try again."
                told(Problem(503, "not_shared", detail, side=2))

        wishes = [SharedPurge(tag=tag, soft=soft) for tag in tags]
        teller.tell(wishes or [SharedPurge(name=name, soft=soft)], done)
        return None

    return purge
