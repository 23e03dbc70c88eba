"""`fastgw schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of the configuration",
        description="For editors: with the YAML language server, put `# yaml-language-server: $schema=FILE` into the "
        "first line of the configuration.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastgw.config.describe import schema_text
    from fastgw.policies import RESOLVER

    print(schema_text(RESOLVER), end="")
    return 0
