"""Hashes of passwords: Argon2 and bcrypt, by their libraries."""

from __future__ import annotations

from fastgw.policies.base import PolicyError

EXTRA = "passwords need argon2-cffi and bcrypt: pip install 'fastgw[passwords]'"


def password_hash(password: str, like: str = "$argon2id$") -> str:
    """A hash of the kind and cost that `like` has; of a kind alone, with the library's costs. PolicyError without
    the extra."""
    try:
        import argon2
        import bcrypt
    except ImportError:
        raise PolicyError(EXTRA) from None
    if not like.startswith("$argon2"):
        rounds = int(like[4:6]) if len(like) > 6 else 12
        return bcrypt.hashpw(prehashable(password), bcrypt.gensalt(rounds)).decode()
    if like.count("$") < 5:
        return argon2.PasswordHasher().hash(password)
    found = argon2.extract_parameters(like)
    hasher = argon2.PasswordHasher(found.time_cost, found.memory_cost, found.parallelism, found.hash_len)
    return hasher.hash(password)


def prehashable(password: str) -> bytes:
    """bcrypt looks at 72 bytes, and its library refuses more: a longer one is wrong, not cut."""
    return password.encode()[:72]


def verifies(password: str, wanted: str) -> bool:
    """Compares in constant time, as the libraries do. Takes tens of milliseconds, without the GIL."""
    import argon2
    import bcrypt

    if wanted.startswith("$argon2"):
        try:
            return argon2.PasswordHasher().verify(wanted, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
    good = bcrypt.checkpw(prehashable(password), wanted.encode())
    return good and len(password.encode()) <= 72 and "\0" not in password
