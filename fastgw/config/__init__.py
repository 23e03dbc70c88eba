"""The configuration: text → a checked tree, or every problem at once.

    config = load("gateway.yaml", resolver=resolver)             # raises ConfigError with .problems
    config, problems = check("gateway.yaml", resolver=resolver)  # never raises for what the file holds

`resolver` finds policies by name (see `registry`): a `Registry`, or a plain mapping of name → options model.
The shape of `Config` is told in `schema`; the types of single values in `fields`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeGuard

from fastgw.config.errors import CODES, ConfigError, Finding, Path, Problem, dotted
from fastgw.config.fields import file_stamp
from fastgw.config.openapi import Expansion
from fastgw.config.registry import PolicySpec, Registry, Resolver
from fastgw.config.schema import Config
from fastgw.config.secret_refs import Reader
from fastgw.config.template import ROOT as TEMPLATE_ROOT
from fastgw.config.template import Translation
from fastgw.config.text import Document, Span, collector_off, parse, read

__all__ = [
    "CODES", "Config", "ConfigError", "PolicySpec", "Problem", "Registry", "Resolver", "check", "load",
]  # fmt: skip

Source = str | os.PathLike[str] | Mapping[str, Any]


def load(
    source: Source,
    *,
    resolver: Resolver | Mapping[str, Any],
    env: Mapping[str, str] | None = None,
    file: str | None = None,
    secrets: Reader | None = None,
) -> Config:
    """The checked configuration. Raises ConfigError with all problems when there is an error among them."""
    config, problems = check(source, resolver=resolver, env=env, file=file, secrets=secrets)
    if config is None:
        raise ConfigError(problems)
    return config


def check(
    source: Source,
    *,
    resolver: Resolver | Mapping[str, Any],
    env: Mapping[str, str] | None = None,
    file: str | None = None,
    secrets: Reader | None = None,
) -> tuple[Config | None, list[Problem]]:
    """The configuration (None when there is an error) and all problems, sorted by position.

    `source` is the path of a file, the text itself (a str with a line break in it), or a mapping that has
    been read already. `env` is the environment, by default the process's. `file` is the name to show for a
    text. `secrets` reads what Vault and Kubernetes keep; a secret that it cannot reach is a warning here, and stands in
    `Config.secrets_missing`.
    """
    from fastgw.config.rooms import Check

    environment: Mapping[str, str] = os.environ if env is None else env
    finder: Resolver = Registry(resolver) if isinstance(resolver, Mapping) else resolver
    stamp = file_stamp(os.fspath(source)) if is_file(source) else None
    document = open_source(source, environment, file)
    if document.findings and document.data is None:
        return None, finish(document, document.findings)
    data = document.data
    found = list(document.findings)
    translation = Translation(data) if isinstance(data, dict) and TEMPLATE_ROOT in data else None
    if translation is not None:
        data = translation.data
        found += translation.findings
    expansion = Expansion(data, document.base) if Expansion.concerns(data) else None
    if expansion is not None:
        data = expansion.data
        found += expansion.findings
    state = Check(data, document.file, document.base, finder, secrets)
    with collector_off():
        config = state.run()
    config.stamp = stamp
    state.unread_templates(document.templates)
    found += unread_secrets(state.context, document)
    if expansion is not None:
        for finding in state.findings:
            finding.path = expansion.origin(finding.path)
            finding.mark = None
    if translation is not None:
        for finding in state.findings:
            finding.path = translation.origin(finding.path)
            finding.mark = None
    problems = finish(document, without_echoes(found, state.findings))
    return (None if any(p.severity == "error" for p in problems) else config), problems


def unread_secrets(context: dict[str, Any], document: Document) -> list[Finding]:
    """Secrets whose keepers did not answer, each at the first place where it is written."""
    findings = []
    missing = {str(ref): (text, "what needs it stays closed") for ref, (text, _) in context["secrets_missing"].items()}
    old = {str(ref): (text, "") for ref, text in context["secrets_old"].items()}
    for written, (text, hint) in (missing | old).items():
        before, found, _ = document.text.partition(written)
        mark = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1) if found else None
        findings.append(Finding("unavailable", (), text, hint=hint, mark=mark, severity="warning"))
    return findings


def is_file(source: Source) -> TypeGuard[str | os.PathLike[str]]:
    return not isinstance(source, Mapping) and not (isinstance(source, str) and "\n" in source)


def open_source(source: Source, env: Mapping[str, str], file: str | None) -> Document:
    if isinstance(source, Mapping):
        import yaml

        # through text, so that a mapping means exactly what the same file would
        return parse(
            yaml.safe_dump(dict(source), sort_keys=False, allow_unicode=True),
            file or "<mapping>",
            env,
            os.getcwd(),
        )
    if isinstance(source, str) and "\n" in source:
        return parse(source, file or "<text>", env, os.getcwd())
    return read(source, env)


def without_echoes(first: list[Finding], second: list[Finding]) -> list[Finding]:
    """What the loader found wrong with a value stands; what follows from it at the same place does not."""
    told = {finding.path for finding in first if finding.code in ("env_unset", "bad_reference")}
    kept = first + [finding for finding in second if finding.path not in told]
    unique: dict[tuple[str, Path, str], Finding] = {}
    for finding in kept:
        unique.setdefault((finding.code, finding.path, finding.message), finding)
    return list(unique.values())


def finish(document: Document, findings: list[Finding]) -> list[Problem]:
    """Looks the positions up and sorts."""
    spans: dict[Path, Span] = {}
    if any(finding.mark is None for finding in findings):
        spans, _ = document.locate(finding.path for finding in findings if finding.mark is None)
    problems = [
        Problem(
            f.severity, f.code, document.file, *place(f, spans), dotted(f.path), f.message, f.expected, f.hint
        )
        for f in findings
    ]
    return sorted(problems, key=lambda p: (p.line, p.col, p.code, p.path, p.message))


def place(finding: Finding, spans: dict[Path, Span]) -> tuple[int, int]:
    if finding.mark is not None:
        return finding.mark
    for length in range(len(finding.path), -1, -1):
        span = spans.get(finding.path[:length])
        if span is not None:
            whole = length == len(finding.path)
            at_key = finding.at_key if whole else length > 0 and isinstance(finding.path[length - 1], str)
            return (span.key_line, span.key_col) if at_key else (span.line, span.col)
    return (0, 0)
