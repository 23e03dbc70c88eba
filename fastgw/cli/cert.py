"""`fastgw cert`: a certificate for development."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

MAX_DAYS = 3650
CA_DAYS = 3650


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "cert",
        help="make a certificate for development",
        description="Makes a certificate for localhost, 127.0.0.1, ::1 and the given names, signed by itself, or "
        "(--ca) by a small authority of your own that browsers and clients can be told to trust once. An authority "
        "that is in DIR already signs again. Not for the internet: an authority there asks for proof of the name.",
    )
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help="a name or an address; repeatable")
    parser.add_argument("--out", default=".", metavar="DIR", help="where the files go (default: this folder)")
    parser.add_argument("--days", type=day_count, default=90, metavar="N", help="how long it is valid (default: 90)")
    parser.add_argument("--ca", action="store_true", help="sign it by an authority, ca.crt and ca.key in DIR")
    parser.add_argument("--force", action="store_true", help="write over a certificate that is there")
    parser.set_defaults(run=run)


def day_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to {MAX_DAYS}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    from fastgw.plan.development import LOCAL_NAMES, key_pem, make, pem, write_private

    names = [checked(name) for name in args.name]
    if None in names:
        wrong = args.name[names.index(None)]
        print(f"fastgw cert: {wrong!r} is neither a host name nor an IP address", file=sys.stderr)
        return 2
    wanted = tuple(dict.fromkeys((*(name for name in names if name), *LOCAL_NAMES)))
    folder = Path(args.out)
    stem = wanted[0].replace("*", "_").replace(":", "_")
    cert, key = folder / f"{stem}.crt", folder / f"{stem}.key"
    there = [path for path in (cert, key) if path.exists()]
    if there and not args.force:
        print(f"fastgw cert: {there[0]} is there already; --force writes over it", file=sys.stderr)
        return 3
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written: list[tuple[Path, str]] = []
        issuer = None
        if args.ca:
            issuer, new = authority(folder)
            if new:
                written += [(folder / "ca.crt", "the authority"), (folder / "ca.key", "its key")]
        certificate, private = make(wanted, days=args.days, issuer=issuer)
        write_private(key, key_pem(private))
        cert.write_bytes(pem(certificate))
        written += [(cert, "the certificate: " + ", ".join(wanted)), (key, "its key")]
    except OSError as error:
        print(f"fastgw cert: {error.filename or folder} cannot be written: {error.strerror}", file=sys.stderr)
        return 3
    except ValueError as error:
        print(f"fastgw cert: {error}", file=sys.stderr)
        return 3
    print(told(written, cert, key, wanted[0], folder / "ca.crt" if args.ca else cert))
    return 0


def checked(name: str) -> str | None:
    """A host name in lower case as A-labels, a wildcard, or an address; None when it is nothing of these."""
    from fastgw.config.schema.address import is_ip
    from fastgw.config.schema.tls import dns_name

    try:
        return name if is_ip(name) else dns_name(name)
    except ValueError:
        return None


def authority(folder: Path) -> tuple[tuple[Any, Any], bool]:
    """The authority of a folder (certificate, key), and whether it was made now. ValueError when it can not sign."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from fastgw.plan.development import key_pem, make, pem, write_private

    cert, key = folder / "ca.crt", folder / "ca.key"
    if not cert.exists() and not key.exists():
        made = make((), days=CA_DAYS, authority=True)
        write_private(key, key_pem(made[1]))
        cert.write_bytes(pem(made[0]))
        return made, True
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"the authority {cert}, {key} can not be read: {error}") from None
    if found.public_key() != private.public_key():
        raise ValueError(f"{key} does not belong to {cert}")
    if found.not_valid_after_utc.timestamp() <= time.time():
        raise ValueError(f"the authority {cert} has ended; move it away for a new one")
    return (found, private), False


def told(written: list[tuple[Path, str]], cert: Path, key: Path, name: str, trusted: Path) -> str:
    width = max(len(str(path)) for path, _ in written)
    lines = ["wrote"]
    lines += [f"  {path!s:<{width}}  {what}" for path, what in written]
    host = "localhost" if name.startswith("*") else name
    url = f"https://[{host}]:8443/" if ":" in host else f"https://{host}:8443/"
    lines += [
        "",
        "a listener with it (paths are relative to the configuration file):",
        "",
        "server:",
        "  listeners:",
        "    - bind: 127.0.0.1:8443",
        "      tls:",
        "        certificates:",
        f"          - cert: {cert}",
        f"            key: {key}",
        "",
        f"then: curl --cacert {trusted} {url}",
    ]
    return "\n".join(lines)
