"""A file that is watched, and what every watcher does, whatever its source."""

import asyncio
import json
import os

import pytest

from fastgw.config.schema.address import parse_origin
from fastgw.upstreams.discovery import Found
from fastgw.upstreams.discovery.base import MAX_ANSWER


def put(path, text):
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def options(path, **more):
    return {"type": "file", "path": str(path), "refresh": "100ms", **more}


def test_a_change_of_the_file_is_seen(tmp_path, watch):
    path = tmp_path / "endpoints.yaml"
    put(path, "users: [http://10.0.0.1:80, {url: http://10.0.0.2:80, weight: 4, zone: a, labels: {rack: 4}}]")

    async def run():
        async with watch(options(path)) as watched:
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:80")
            assert watched.sets[0].endpoints[1] == Found(
                parse_origin("http://10.0.0.2:80"), 4, "a", (("rack", "4"),)
            )
            put(path, json.dumps(["10.0.0.3:80"]))
            await watched.shows("http://10.0.0.3:80")
            put(path, "services: {users: {endpoints: ['unix:/run/users.sock']}}")
            await watched.shows("unix:/run/users.sock")
            before = watched.watcher.confirmed
            await watched.until(lambda: watched.watcher.confirmed > before + 0.2)
            assert len(watched.sets) == 3

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("users: [", "not YAML, line"),
        ("others: []", "no service 'users'"),
        ("users: 7", "no list"),
        ("a: &a [x]\nb: [*a, *nobody]", "not YAML, line 2"),
        ("- {weight: 2}", "neither a URL"),
        ("- http://10.0.0.1/path", "none"),
        ("- https://10.0.0.1:443", "`scheme` of the discovery is http"),
        ("- 'http://user:pw@10.0.0.1'", "user or password"),
        ("x" * (MAX_ANSWER + 1), "longer than"),
        ("[" * 100_000, "not YAML"),
    ],
)
def test_a_file_that_is_none_changes_nothing(tmp_path, watch, text, words):
    path = tmp_path / "endpoints.yaml"
    put(path, "[http://10.0.0.1:80]")

    async def run():
        async with watch(options(path)) as watched:
            await watched.shows("http://10.0.0.1:80")
            put(path, text)
            await watched.until(lambda: watched.watcher.failures)
            assert words in watched.watcher.error
            assert len(watched.sets) == 1

    asyncio.run(run())


def test_more_than_max_endpoints_are_left_out_and_told(tmp_path, watch, caplog):
    path = tmp_path / "endpoints.yaml"
    put(path, json.dumps([f"10.0.0.{number}:80" for number in range(1, 6)] * 2))

    async def run():
        async with watch(options(path, max_endpoints=3)) as watched:
            await watched.shows("http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80")
            assert watched.watcher.state.left_out == 2

    asyncio.run(run())
    assert "2 endpoints more than `max_endpoints`" in caplog.text


def test_after_keep_the_endpoints_of_the_file_are_used(tmp_path, watch):
    path = tmp_path / "endpoints.yaml"
    put(path, "[http://10.0.0.1:80]")
    spare = Found(parse_origin("http://10.9.9.9:80"), 1)

    async def run():
        async with watch(options(path, keep="300ms"), fallback=(spare,)) as watched:
            await watched.shows("http://10.0.0.1:80")
            path.unlink()
            await watched.shows("http://10.9.9.9:80")
            put(path, "[http://10.0.0.1:80]")
            await watched.shows("http://10.0.0.1:80")
            assert [found.version for found in watched.sets] == [1, 2, 3]

    asyncio.run(run())


def test_pauses_grow_and_have_an_end(tmp_path, watch, monkeypatch):
    waited = []

    async def run():
        async with watch(options(tmp_path / "none")) as watched:
            real = asyncio.sleep

            async def sleep(seconds):
                waited.append(seconds)
                await real(0)

            monkeypatch.setattr(asyncio, "sleep", sleep)
            while len(waited) < 12:
                await real(0.01)
            monkeypatch.setattr(asyncio, "sleep", real)
            assert watched.watcher.failures >= 12

    asyncio.run(run())
    assert 0.25 <= waited[0] <= 0.5 and 0.5 <= waited[1] <= 1.0
    assert max(waited) <= 30 and min(waited[8:]) >= 15
