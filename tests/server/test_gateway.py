"""`async with Gateway(...)`: the data plane inside somebody else's asyncio program, on any loop."""

import asyncio

import pytest

from fastgw import Gateway
from fastgw.config import ConfigError
from fastgw.testing import FakeUpstream


def serve(connection):
    while True:
        request = connection.read_head()
        connection.read_body(request)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def tree(upstream, **more):
    return {
        "server": {"listeners": ["127.0.0.1:0"]},
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": upstream.url},
        "routes": [{"path": "/a/*", "service": "up"}],
        **more,
    }


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return data


@pytest.mark.parametrize("uvloop", [False, True])
def test_it_serves_in_any_loop(uvloop):
    async def live():
        with FakeUpstream(serve) as up:
            async with Gateway(tree(up)) as gateway:
                assert (await ask(gateway.ports[0], "/a/1")).endswith(b"\r\n\r\nok")
                assert b" 404 " in (await ask(gateway.ports[0], "/b"))
                done, facts = await gateway.reload(tree(up, routes=[{"path": "/b", "service": "up"}]))
                assert (done, facts["generation"]) == (True, 2)
                assert (await ask(gateway.ports[0], "/b")).endswith(b"\r\n\r\nok")
                done, facts = await gateway.reload(tree(up, routes=[{"path": "/b", "service": "nobody"}]))
                assert not done
                assert "unknown_service" in {problem["code"] for problem in facts["problems"]}
                assert (await ask(gateway.ports[0], "/b")).endswith(b"\r\n\r\nok")
            with pytest.raises(OSError):
                await ask(gateway.ports[0], "/b")

    if uvloop:
        import uvloop as loops

        loops.run(live())
    else:
        asyncio.run(live())


def test_a_bad_configuration_raises_with_every_problem():
    async def live():
        with pytest.raises(ConfigError) as caught:
            async with Gateway({"routes": [{"path": "x"}], "sevrices": {}}):
                pass
        return caught.value

    problems = asyncio.run(live()).problems
    assert {"unknown_key", "bad_value"} <= {problem.code for problem in problems}


def test_reloads_that_overlap_come_one_after_the_other():
    async def live():
        with FakeUpstream(serve) as up:
            async with Gateway(tree(up)) as gateway:
                other = tree(up, routes=[{"path": "/b/*", "service": "up"}])
                results = await asyncio.gather(gateway.reload(tree(up)), gateway.reload(other))
                assert [(done, facts["generation"]) for done, facts in results] == [(True, 2), (True, 3)]
                assert b" 404 " in await ask(gateway.ports[0], "/a/x")
                assert b" 200 " in await ask(gateway.ports[0], "/b/x")

    asyncio.run(live())


def test_a_host_name_that_a_reload_brings_is_known_at_once():
    async def live():
        with FakeUpstream(serve) as up:
            async with Gateway(tree(up)) as gateway:
                named = tree(up, services={"up": up.url.replace("127.0.0.1", "localhost")})
                assert (await gateway.reload(named))[0]
                assert b" 200 " in await ask(gateway.ports[0], "/a/x")

    asyncio.run(live())


def test_a_reload_with_a_log_that_cannot_be_opened_changes_nothing(tmp_path):
    async def live():
        with FakeUpstream(serve) as up:
            async with Gateway(tree(up)) as gateway:
                path = str(tmp_path / "no" / "folder.log")
                done, facts = await gateway.reload(tree(up, observability={"access_log": {"path": path}}))
                assert not done
                assert path in str(facts["problems"])
                assert b" 200 " in await ask(gateway.ports[0], "/a/x")
                assert (await gateway.reload(tree(up)))[1]["generation"] == 2

    asyncio.run(live())


def test_no_file_of_a_unix_listener_is_left(tmp_path):
    file = tmp_path / "fastgw.sock"

    async def live():
        with FakeUpstream(serve) as up:
            async with Gateway(tree(up, server={"listeners": [f"unix:{file}"]})):
                assert file.is_socket()
            assert not file.exists()

    asyncio.run(live())
