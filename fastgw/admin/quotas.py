"""Quotas in the admin API.

    GET  /quotas                            what is counted, its period now, and seconds until the next
    GET  /quotas/{name}/usage               who used how much in this period
    GET  /quotas/{name}/usage/{period}      or in another (2026-11, 2026-W47, 2026-11-21, 2026-11-21T14+0100)
    GET  …/usage.csv, …/usage/{period}.csv  the same for a spreadsheet
    POST /quotas/{name}/grant               {"subject": …, "requests": N}: so many more in this period; below 0 takes
    back POST /quotas/{name}/reset               {"subject": …}: what it used in this period is forgotten
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fastgw.server.quotas import QuotaDesk, QuotaProblem

PATH = re.compile(r"/quotas/([^/]+)/(grant|reset|usage)(?:/([^/]+?))?(\.csv)?")
PERIOD = re.compile(r"[0-9]{4}-[0-9A-Z:+T-]{2,24}\Z")
COLUMNS = ("quota", "period", "subject", "plan", "used", "granted", "limit")


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    subject: str = Field(min_length=1, max_length=400)


class Grant(Asked):
    requests: int = Field(ge=-1_000_000_000_000, le=1_000_000_000_000)


def concerns(path: str) -> bool:
    return path == "/quotas" or path.startswith("/quotas/")


def body_of(kind: type[Asked], body: bytes) -> Any:
    try:
        return kind.model_validate(orjson.loads(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise QuotaProblem(400, "bad_request", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise QuotaProblem(400, "bad_request", "The body is not JSON.") from None


def json(value: Any) -> tuple[int, str, bytes]:
    return 200, "application/json", orjson.dumps(value) + b"\n"


def wants(method: str, wanted: str) -> None:
    if method != wanted and not (method == "HEAD" and wanted == "GET"):
        raise QuotaProblem(405, "method_not_allowed", f"Use {wanted}.")


async def answer(desk: QuotaDesk, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    """QuotaProblem when it cannot be done."""
    if path == "/quotas":
        wants(method, "GET")
        return json(await desk.listing())
    found = PATH.fullmatch(path)
    if found is None or (found[2] != "usage" and (found[3] or found[4])):
        raise QuotaProblem(404, "not_found", "GET / lists what there is.")
    name, what = unquote(found[1]), found[2]
    if what == "usage":
        wants(method, "GET")
        return await usage(desk, name, unquote(found[3]) if found[3] else None, bool(found[4]))
    wants(method, "POST")
    if what == "grant":
        asked = body_of(Grant, body)
        return json(await desk.grant(name, asked.subject, asked.requests))
    return json(await desk.reset(name, body_of(Asked, body).subject))


async def usage(desk: QuotaDesk, name: str, period: str | None, sheet: bool) -> tuple[int, str, bytes]:
    if period is not None and not PERIOD.match(period):
        raise QuotaProblem(400, "bad_request", "Periods are written 2026-11, 2026-W47, 2026-11-21, 2026-11-21T14+0100.")
    period, rows = await desk.usage(name, period)
    if not sheet:
        return json({"quota": name, "period": period, "usage": rows})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({"quota": name, "period": period, **row, "subject": harmless(row["subject"])})
    return 200, "text/csv; charset=utf-8", text.getvalue().encode()


def harmless(subject: str) -> str:
    """A claim can be anything: what a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{subject}" if subject[:1] in "=+-@\t\r" else subject
