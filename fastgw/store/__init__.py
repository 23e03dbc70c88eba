"""State that policies of several workers, or several hosts, share.

    store = open_store("redis", config.stores)      # or "memory"
    await store.put("sessions/7", b"…", ttl=60.0)

A call ends within the store's deadline: with its result, or with StoreError. What follows from an error is for the
policy to say, by its `on_failure`.
"""

from __future__ import annotations

from fastgw.config.schema.stores import Stores
from fastgw.store.base import Store, StoreError, StoreState
from fastgw.store.memory import MemoryStore

__all__ = ["MemoryStore", "Store", "StoreError", "StoreState", "open_store"]


def open_store(name: str, stores: Stores) -> Store:
    """ValueError when the configuration has no such store. Connects when it is asked first."""
    if name == "memory":
        return MemoryStore()
    if name == "redis" and stores.redis is not None:
        from fastgw.store.redis import RedisStore

        return RedisStore(stores.redis)
    raise ValueError(f"there is no store {name!r}")
