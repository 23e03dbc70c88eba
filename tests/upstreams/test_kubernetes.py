"""Kubernetes, against a contract fake (registries.py): there is no cluster in the tests."""

import asyncio

from tests.upstreams.registries import FakeKubernetes, endpoint_slice


def options(api, **more):
    return {"type": "kubernetes", "address": f"http://{api.address}", "namespace": "shop", **more}


def test_slices_are_listed_and_then_watched(watch):
    async def run():
        with FakeKubernetes() as api:
            api.put(endpoint_slice("users-a", "10.1.0.1", "10.1.0.2", zone="eu-1a"))
            async with watch(options(api)) as watched:
                await watched.shows("http://10.1.0.1:8080", "http://10.1.0.2:8080")
                one = watched.sets[0].endpoints[0]
                assert one.zone == "eu-1a" and dict(one.labels) == {"node": "n1", "pod": "pod-10.1.0.1"}
                api.put(endpoint_slice("users-b", "10.1.0.3"))
                await watched.shows("http://10.1.0.1:8080", "http://10.1.0.2:8080", "http://10.1.0.3:8080")
                api.put(endpoint_slice("users-b", "10.1.0.3", ready=False))
                await watched.shows("http://10.1.0.1:8080", "http://10.1.0.2:8080")
                api.delete("users-a")
                await watched.shows()
            lists = [query for _, query, _ in api.asked if "watch" not in query]
            assert len(lists) == 1
            path, query, _ = api.asked[1]
            assert path == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
            assert query["labelSelector"] == "kubernetes.io/service-name=users"
            assert (query["watch"], query["resourceVersion"], query["timeoutSeconds"]) == ("1", "101", "300")

    asyncio.run(run())


def test_a_version_that_expired_is_listed_again(watch):
    async def run():
        with FakeKubernetes() as api:
            api.put(endpoint_slice("users-a", "10.1.0.1"))
            async with watch(options(api)) as watched:
                await watched.shows("http://10.1.0.1:8080")
                with api.changed:
                    api.slices["users-a"] = endpoint_slice("users-a", "10.1.0.9")    # nobody was told of this one
                api.compact()
                await watched.shows("http://10.1.0.9:8080")
                assert watched.watcher.failures == 0

    asyncio.run(run())


def test_a_watch_that_ends_goes_on_where_it_was(watch):
    async def run():
        with FakeKubernetes() as api:
            api.put(endpoint_slice("users-a", "10.1.0.1"))
            async with watch(options(api, refresh="1s")) as watched:
                await watched.shows("http://10.1.0.1:8080")
                await watched.until(lambda: sum("watch" in query for _, query, _ in api.asked) >= 3)
                assert sum("watch" not in query for _, query, _ in api.asked) == 1
                assert watched.watcher.state.age < 2

    asyncio.run(run())


def test_a_list_in_pages(watch):
    async def run():
        with FakeKubernetes() as api:
            api.page = 2
            for number in range(5):
                api.put(endpoint_slice(f"users-{number}", f"10.1.0.{number}"))
            async with watch(options(api)) as watched:
                await watched.shows(*(f"http://10.1.0.{number}:8080" for number in range(5)))

    asyncio.run(run())


def test_the_port_is_chosen_or_the_choice_is_asked_for(watch):
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "metrics", "port": 9090, "protocol": "TCP"},
             {"name": "dns", "port": 53, "protocol": "UDP"}]  # fmt: skip

    async def run():
        with FakeKubernetes() as api:
            api.put(endpoint_slice("users-a", "10.1.0.1", ports=ports))
            async with watch(options(api)) as unclear, watch(options(api, port="metrics")) as named:
                await named.shows("http://10.1.0.1:9090")
                await unclear.until(lambda: unclear.watcher.failures)
                assert "http, metrics" in unclear.watcher.error
            async with watch(options(api, port=8080)) as numbered:
                await numbered.shows("http://10.1.0.1:8080")

    asyncio.run(run())


def test_the_service_account_of_the_pod_is_read_for_every_call(watch, tmp_path, monkeypatch):
    async def run():
        with FakeKubernetes() as api:
            api.token = "first"
            api.put(endpoint_slice("users-a", "10.1.0.1"))
            (tmp_path / "token").write_text("first\n")
            (tmp_path / "namespace").write_text("shop\n")
            given = {"type": "kubernetes", "address": f"http://{api.address}", "refresh": "1s"}
            watched = watch(given)
            watched.watcher.source.cluster.account = tmp_path
            async with watched:
                await watched.shows("http://10.1.0.1:8080")
                (tmp_path / "token").write_text("second")
                api.token = "second"
                api.put(endpoint_slice("users-a", "10.1.0.2"))
                await watched.shows("http://10.1.0.2:8080")
                await watched.until(lambda: api.asked[-1][2].get("Authorization") == "Bearer second")
            assert {path.split("/")[5] for path, _, _ in api.asked} == {"shop"}

    asyncio.run(run())


def test_outside_of_a_cluster_it_says_so(watch, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def run():
        async with watch({"type": "kubernetes"}) as watched:
            await watched.until(lambda: watched.watcher.failures)
            assert "KUBERNETES_SERVICE_HOST" in watched.watcher.error

    asyncio.run(run())
