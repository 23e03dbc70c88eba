"""The command line: one file per verb.

Exit codes: 0 ok, 1 the configuration has problems, 2 wrong usage, 3 it could not be done here, 4 there is a difference
(diff, replay), a test failed (test) or a configuration was not promoted (apply), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys

VERBS = (
    "run", "check", "explain", "routes", "diff", "test", "replay", "schema", "apply", "reload", "status", "upgrade",
    "circuits", "drain", "mirrors", "cert", "keys", "quotas", "cache", "demo", "waf",
)  # fmt: skip

OK, BAD_CONFIG, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def parser(verbs: tuple[str, ...] = VERBS) -> argparse.ArgumentParser:
    from fastgw import __version__

    top = argparse.ArgumentParser(prog="fastgw", description="An API gateway.")
    top.add_argument("--version", action="version", version=f"fastgw {__version__}")
    subparsers = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        importlib.import_module(f"fastgw.cli.{verb}").add_parser(subparsers)
    return top


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    # only the verb that is asked for is imported
    named = tuple(verb for verb in VERBS if arguments[:1] == [verb])
    args = parser(named or VERBS).parse_args(arguments)
    try:
        code: int = args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
