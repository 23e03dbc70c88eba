"""`fastgw test FILE`: runs the tests that stand in the configuration, without a network."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import orjson

from fastgw.cli.loading import load_or_print

if TYPE_CHECKING:
    from fastgw.server.rehearsal import Result

FAILED_TESTS = 4


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "test",
        help="run the tests that stand in the configuration",
        description="Sends the requests of `tests:` through the gateway of this file, in this process; stand-ins take "
        "the place of its services. Exit code 0: all is as expected; 4: something is not; 1: the configuration has "
        "problems; 2: it has no tests.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--only", metavar="TEXT", help="only tests with this text in their name or request")
    parser.add_argument("--format", choices=("text", "json", "junit"), default="text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    config = load_or_print(args.file)
    if config is None:
        return 1
    tests = config.tests
    if args.only:
        tests = tuple(item for item in tests if args.only in item[0].title or args.only in item[0].request)
    if not tests:
        print(f"fastgw: {args.file} has no tests" + (f" with {args.only!r}" if args.only else ""), file=sys.stderr)
        return 2
    from fastgw.server.rehearsal import run_tests

    results = asyncio.run(run_tests(config, tests))
    failed = sum(bool(result.failures) for result in results)
    if args.format == "json":
        print(orjson.dumps([as_data(args.file, result) for result in results], option=orjson.OPT_INDENT_2).decode())
    elif args.format == "junit":
        print(junit(args.file, results))
    else:
        for result in results:
            if result.failures:
                print(f"{args.file}:{result.line}: {result.test.title}")
                for line in result.failures:
                    print(f"    {line}")
        print(f"{len(results) - failed} passed, {failed} failed")
    return FAILED_TESTS if failed else 0


def as_data(file: str, result: Result) -> dict[str, Any]:
    return {
        "name": result.test.title,
        "file": file,
        "line": result.line,
        "passed": not result.failures,
        "failures": result.failures,
        "seconds": round(result.seconds, 6),
    }


def junit(file: str, results: list[Result]) -> str:
    failed = sum(bool(result.failures) for result in results)
    suite = ElementTree.Element("testsuite", name=file, tests=str(len(results)), failures=str(failed), errors="0")
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", name=printable(result.test.title), classname=file, file=file, line=str(result.line),
            time=f"{result.seconds:.6f}",
        )  # fmt: skip
        if result.failures:
            text = printable("\n".join(result.failures))
            ElementTree.SubElement(case, "failure", message=text.partition("\n")[0]).text = text
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, "unicode", xml_declaration=True)


def printable(text: str) -> str:
    """XML 1.0 has no control characters, not even as references."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
