"""What a policy is: its word in the file, its schema, and the hooks it wants.

A policy is one class. Only the hooks a class defines become phases of its routes; what is not defined costs
nothing. A hook answers with None (go on), a `Reply`, a `Problem`, or an awaitable of these.
`docs/writing-a-policy.md` shows one in 20 lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast
from weakref import WeakValueDictionary

from pydantic import BaseModel, ConfigDict

from fastgw.config.fields import Secret
from fastgw.config.registry import Reference
from fastgw.config.schema.cache import Cache
from fastgw.config.schema.stores import Stores
from fastgw.store import Store, open_store
from fastgw.store.tiers import Tiers, open_tiers

if TYPE_CHECKING:
    from fastgw._core.bans import BanTable
    from fastgw._core.bucket import BucketTable
    from fastgw._core.cache_store import Storage
    from fastgw._core.exchange import Exchange, Hook, Problem, Reply, WholeBody
    from fastgw._core.holds import HoldTable
    from fastgw._core.key_auth import KeyTable
    from fastgw._core.limit_counts import LimitCounts
    from fastgw._core.policy import Later
    from fastgw.store.purges import Teller
    from fastgw.store.redis import RedisStore

    Answer = Reply | Problem | None

T = TypeVar("T")


class PolicyError(ValueError):
    """A policy can not be built from its options. Its route refuses every request, the others serve."""


class PolicySecret(Secret):
    """A Secret among the options of a policy.

    Options reach the workers as a pickle, over a pipe between processes of the gateway; what is secret has
    to come along. In all else it shows as little as any Secret.
    """

    __slots__ = ()

    may_wait = True

    def __reduce__(self) -> Any:
        return (type(self), self.state())


class NoOptions(BaseModel):
    """The schema of a policy that has no options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shared:
    """What the policies of one worker keep together, and over reloads: caches, pools, tables."""

    def __init__(self) -> None:
        self._things: dict[object, Any] = {}

    def get_or_create(self, key: object, factory: Callable[[], T]) -> T:
        """The thing under `key`; made by `factory` the first time. `key` should begin with the policy's
        name."""
        if key not in self._things:
            self._things[key] = factory()
        found: T = self._things[key]
        return found

    def __len__(self) -> int:
        return len(self._things)


def stores_of(shared: Shared) -> WeakValueDictionary[object, Store]:
    """The stores of this worker that policies use, by name and options."""
    found: WeakValueDictionary[object, Store] = shared.get_or_create("stores", WeakValueDictionary)
    return found


def cache_view(shared: Shared) -> dict[str, list[dict[str, Any]]]:
    """What the slower levels of the cache, and who tells others of purges, have counted in this worker."""
    tiers: WeakValueDictionary[object, Tiers] = shared.get_or_create("tiers", WeakValueDictionary)
    tellers: WeakValueDictionary[object, Teller] = shared.get_or_create("tellers", WeakValueDictionary)
    rows = [row for each in tiers.values() for row in each.rows()]
    return {"levels": rows, "told": [each.row() for each in tellers.values()]}


def _private_table() -> BucketTable:
    from fastgw._core.bucket import BucketTable

    return BucketTable.private(4096)


def _private_bans() -> BanTable:
    from fastgw._core.bans import BanTable

    return BanTable.private(256)


def _private_cache() -> Storage:
    from fastgw._core.cache_store import Storage

    return Storage.private(8 * 1024 * 1024)


def _private_holds() -> HoldTable:
    from fastgw._core.holds import HoldTable

    return HoldTable.private()


def _private_counts() -> LimitCounts:
    from fastgw._core.limit_counts import LimitCounts

    return LimitCounts.private()


@dataclass(slots=True, kw_only=True)
class BuildContext:
    """What a policy may use while it is built, and keep.

    consumers     the checked `consumers:` of the file (name, groups, plan, scopes, keys, metadata)
    shared        things shared by all policies of this worker, also over reloads
    of_plan       things shared by the policies of this plan alone, and gone with it
    bans          addresses that are kept out, shared likewise
    bucket_table  token buckets shared by all workers of the host (or a private table)
    holds         requests under way, by key, likewise
    limit_counts  what became of requests at limits, likewise
    route_name    the route it stands on; None for one that serves every route
    plans         the checked `plans:` by name (scopes, metadata)
    keys          API keys that are managed while the gateway runs, and counters of their use; see _core.key_auth
    config_dir    the folder of the configuration file, for relative paths; None when there is no file
    policy_key    the stable identity of this policy: the same after a reload that did not touch it
    stores        `stores:` of the file; see `store`
    cache         answers that all workers of the host share; see `storage`
    stand_in      told a policy within another one: what is asked in its place, where nobody serves (`fastgw explain`)
    levels        `cache:` of the file; see `tiers`
    """

    consumers: Sequence[Any] = ()
    plans: Mapping[str, Any] = field(default_factory=dict)
    keys: KeyTable | None = None
    shared: Shared = field(default_factory=Shared)
    of_plan: Shared = field(default_factory=Shared)
    bucket_table: BucketTable = field(default_factory=_private_table)
    bans: BanTable = field(default_factory=_private_bans)
    holds: HoldTable = field(default_factory=_private_holds)
    limit_counts: LimitCounts = field(default_factory=_private_counts)
    route_name: str | None = None
    config_dir: str | None = None
    policy_key: str = ""
    stores: Stores = field(default_factory=Stores)
    cache: Storage | None = None
    stand_in: Callable[[Policy], Policy] | None = None
    levels: Cache | None = None

    def storage(self) -> Storage:
        """Of answers, shared by all workers of the host; a small one of its own where a policy is built by itself."""
        if self.cache is None:
            self.cache = self.shared.get_or_create("cache", _private_cache)
        return self.cache

    def tiers(self) -> Tiers | None:
        """Slower levels of the cache, one set for this worker and over reloads that leave them as they are."""
        if self.levels is None:
            return None
        opened: WeakValueDictionary[object, Tiers] = self.shared.get_or_create("tiers", WeakValueDictionary)
        key = self.levels, self.stores.redis
        found = opened.get(key)
        if found is None:
            found = open_tiers(self.storage(), self.levels, self.stores)
            if found is not None:
                opened[key] = found
        return found

    def teller(self) -> Teller | None:
        """Who tells other hosts what is purged here, one for this worker; None where nobody is to be told."""
        if self.levels is None or self.levels.purges is None:
            return None
        from fastgw._core.cache_access import Access
        from fastgw.store.purges import Teller

        opened: WeakValueDictionary[object, Teller] = self.shared.get_or_create("tellers", WeakValueDictionary)
        found = opened.get(self.stores.redis)
        if found is None:
            found = opened[self.stores.redis] = Teller(cast("RedisStore", self.store("redis")), Access(self.storage()))
        return found

    def store(self, name: str) -> Store:
        """The store of this worker, one for all policies and over reloads that leave it as it is. ValueError when the
        file has none of that name."""
        options = None if name == "memory" else getattr(self.stores, name, None)
        # kept by the policies that use it: a reload with other options lets go of the old one with the old plan
        opened = stores_of(self.shared)
        found = opened.get((name, options))
        if found is None:
            found = opened[name, options] = open_store(name, self.stores)
        return found


class Policy:
    """The base of every policy. Subclasses set `name` and `Options` and define the hooks they need."""

    name: ClassVar[str]
    """The word in the file."""
    Options: ClassVar[type[BaseModel]] = NoOptions
    """Its schema. Every field has a description, from which the documentation is made."""
    terminal: ClassVar[bool] = False
    """It answers every request that comes to it: its route needs no service."""
    identifies: ClassVar[bool] = False
    """It may set `exchange.consumer` or `exchange.claims`."""
    http2: ClassVar[bool] = False
    """It speaks HTTP/2 to the service, whatever the client speaks: `check` says so where the service does not."""
    preflight: ClassVar[bool] = False
    """On CORS pre-flights its `request` runs before every other policy, wherever it stands."""
    outermost: ClassVar[bool] = False
    """Wherever it stands, its place is before the others: it sees the answers of those that refuse."""
    strays: ClassVar[bool] = False
    """Where it stands for every route, its `record` hears of requests too that no route takes."""
    inspects: tuple[str, ...] = ()
    """`client`, `service`: whose WebSocket messages come to `websocket_message` before they go on."""
    message_size: int = 65536
    """Bytes: a message that is inspected may be so large; a larger one closes its socket (1009)."""
    buffer_request: int | None = None
    """Bytes: `request` runs when the whole body is there (413 beyond). None: the body streams."""
    buffer_response: int | None = None
    """Bytes: `response_head` runs when the whole body is there (502 beyond). None: the body streams."""

    @classmethod
    def needs_identity(cls, options: Any) -> bool:
        """Told the options: must a policy before it have found out who calls?"""
        return False

    @classmethod
    def references(cls, options: Any) -> Iterable[Reference]:
        """Told the options: what they need of the configuration, which must have it."""
        return ()

    @classmethod
    def notices(cls, options: Any, workers: int) -> Iterable[str]:
        """Told the options, and how many workers a host has: what `fastgw check` should say of them, though nothing is
        wrong."""
        return ()

    @classmethod
    def sources(cls, options: Any) -> Iterable[Any]:
        """Told the options: whose keys (`_keysets.Source`) are to be fetched, once per host, and kept fresh."""
        return ()

    @classmethod
    def prepare(cls, options: Any) -> Any:
        """The options as the workers get them: what is to be fetched once for all of them is fetched here.

        Runs where a configuration is compiled, at start and at reload, and may block. PolicyError: at a reload the old
        configuration stays; at start a warning is given, and the policy is built from the options as they are.
        """
        return options

    def __init__(self, options: Any, context: BuildContext) -> None:
        """Raise PolicyError (or ValueError) when it can not protect as configured: its route then refuses."""
        self.options = options
        self.context = context

    def hook(self) -> Hook | None:
        """A native hook that stands in the place of the methods below; None to use the methods."""
        return None

    # What follows is the contract. The base versions are never called: the compiler looks which are
    # overridden.

    def request(self, exchange: Exchange) -> Answer | WholeBody | Later | Awaitable[Answer | WholeBody]:
        """The request's head is here. A Reply or Problem answers in the place of the upstream.

        A WholeBody asks to be called again when the body is there; a Later is called when the answer is.
        """
        return None

    async def around_dispatch(
        self, exchange: Exchange, dispatch: Callable[[], Awaitable[Exchange]]
    ) -> Answer:
        """Around the way to the upstream: `await dispatch()` may be called never, once or again."""
        await dispatch()
        return None

    def response_head(self, exchange: Exchange) -> Answer | Awaitable[Answer]:
        """The response's head is here (the upstream's or a local one); runs in reverse order."""
        return None

    def request_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        """A piece of the request's body; what is returned goes on. `end` is true once, at the last piece."""
        return chunk

    def response_body(self, exchange: Exchange, chunk: bytes, end: bool) -> bytes:
        """A piece of the response's body; what is returned goes on."""
        return chunk

    def websocket_message(self, exchange: Exchange, message: bytes, text: bool, side: str) -> Problem | None:
        """A message of a WebSocket, whole; `side` is `client` or `service`, whose it is. A Problem closes the socket
        (1008) with its code, and the message does not go on. Called for the sides in `inspects`, of policies that stand
        on a route by themselves. Such sockets are not compressed."""
        return None

    def record(self, exchange: Exchange) -> None:
        """The exchange is over, whatever became of it. Must be quick and may not wait."""
