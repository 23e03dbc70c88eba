"""cache_store: looking an answer up and letting it go, storing one."""
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from fastgw._core.cache_layout cimport META
from fastgw._core.cache_store cimport FILL_OK, LOOK_HIT, Fill, Found, Key, Storage, Times

cdef bytes NAME = b"api.example.com/api/svc0000/items?page=1&size=50"


cdef void _put(Storage storage, Key key, const char *name, size_t n, const char *body, size_t size):
    cdef Fill fill
    cdef Times times
    cdef uint8_t meta[META]
    memset(meta, 0, META)
    times.stored = times.expires = times.asked = 1
    times.keep_until = <int64_t>1 << 62
    assert storage.begin(&fill, key, name, n, NAME, 48, meta, &times, NULL, 0, size) == FILL_OK
    assert storage.append(&fill, body, size) == FILL_OK
    assert storage.finish(&fill) == FILL_OK


def hash_key(long n):
    cdef Storage storage = Storage.private(4 * 1024 * 1024)
    cdef long i
    cdef Key key
    for i in range(n):
        key = storage.key(NAME, 48)
    assert n < 1 or key.lo != key.hi


def look_and_release(long n):
    cdef Storage storage = Storage.private(4 * 1024 * 1024)
    cdef Key key = storage.key(NAME, 48)
    cdef Found found
    cdef long i
    cdef int hits = 0
    _put(storage, key, NAME, 48, NAME, 48)
    for i in range(n):
        hits += storage.look(key, NAME, 48, &found) == LOOK_HIT
        storage.release(&found)
    assert hits == n


cdef Storage _many
cdef Key[10_000] _keys


def look_of_ten_thousand(long n):
    """Answers of 1 KiB that lie apart in memory, with the hash of their keys made before."""
    global _many
    cdef Found found
    cdef long i
    cdef int hits = 0
    cdef bytes body = bytes(1024)
    cdef char name[48]
    memset(name, 120, 48)
    if _many is None:
        _many = Storage.private(64 * 1024 * 1024)
        for i in range(10_000):
            (<int*>name)[0] = <int>i
            _keys[i] = _many.key(name, 48)
            _put(_many, _keys[i], name, 48, body, 1024)
    for i in range(n):
        (<int*>name)[0] = <int>(i * 7919 % 10_000)
        hits += _many.look(_keys[i * 7919 % 10_000], name, 48, &found) == LOOK_HIT
        _many.release(&found)
    assert hits == n


def look_in_vain(long n):
    cdef Storage storage = Storage.private(4 * 1024 * 1024)
    cdef Key key = storage.key(NAME, 48)
    cdef Found found
    cdef long i
    for i in range(n):
        assert storage.look(key, NAME, 48, &found) != LOOK_HIT


def store(long n):
    """Answers of 1 KiB, each with a key of its own, into a memory that is full: one goes for each that comes."""
    cdef Storage storage = Storage.private(8 * 1024 * 1024)
    cdef bytes body = bytes(1024)
    cdef char name[48]
    cdef long i
    memset(name, 120, 48)
    for i in range(n):
        (<long*>name)[0] = i
        _put(storage, storage.key(name, 48), name, 48, body, 1024)


CASES = [
    ("hash a key of 48 bytes", hash_key),
    ("look up and release, one key", look_and_release),
    ("look up and release, of 10,000 keys", look_of_ten_thousand),
    ("look up in vain", look_in_vain),
    ("store 1 KiB", store),
]
