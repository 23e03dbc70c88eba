"""Drives config.example.yaml in front of the demo services, as a mix of clients would.

    pip install '.[bench]'
    make run                          # or: fastgw demo config.example.yaml
    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080 --headless -u 50 -t 30s

FASTGW_API_KEY is the key of a consumer of that file, FASTGW_TOKEN a bearer token: sent with orders when set.
Without them the answers 401 and 403 of the orders are what is expected. A 429 is the limiter at work.

Locust is itself slower than the gateway: it shows behaviour under a mix of requests, not the gateway's limits
(for these: python -m benchmarks.compare).
"""

from __future__ import annotations

import os
import random

from locust import HttpUser, between, task
from locust.clients import ResponseContextManager

API_KEY = os.environ.get("FASTGW_API_KEY", "")
TOKEN = os.environ.get("FASTGW_TOKEN", "")
REFUSED_WITHOUT_CREDENTIALS = (401, 403)
LIMITED = 429


class ApiClient(HttpUser):
    """One client with keep-alive: mostly reads, some writes."""

    wait_time = between(0.01, 0.1)

    def on_start(self) -> None:
        self.credentials: dict[str, str] = {}
        if API_KEY:
            self.credentials["X-Api-Key"] = API_KEY
        if TOKEN:
            self.credentials["Authorization"] = f"Bearer {TOKEN}"

    def judge(self, answer: ResponseContextManager, wanted: tuple[int, ...]) -> None:
        if answer.status_code in wanted or answer.status_code == LIMITED:
            answer.success()
        else:
            answer.failure(f"{answer.status_code}: {answer.text[:200]}")

    @task(5)
    def list_users(self) -> None:
        with self.client.get("/api/users", catch_response=True) as answer:
            self.judge(answer, (200,))

    @task(5)
    def read_user(self) -> None:
        number = random.randint(1, 3)
        with self.client.get(f"/api/users/{number}", name="/api/users/{id}", catch_response=True) as answer:
            self.judge(answer, (200,))

    @task(1)
    def create_user(self) -> None:
        with self.client.post("/api/users", json={"name": "Edsger Dijkstra"}, catch_response=True) as answer:
            self.judge(answer, (201,))

    @task(3)
    def read_order(self) -> None:
        number = random.randint(1, 2)
        wanted = (200,) if self.credentials else REFUSED_WITHOUT_CREDENTIALS
        with self.client.get(
            f"/api/orders/{number}", headers=self.credentials, name="/api/orders/{id}", catch_response=True
        ) as answer:
            self.judge(answer, wanted)

    @task(4)
    def read_product(self) -> None:
        number = random.randint(1, 3)
        with self.client.get(f"/api/products/{number}", name="/api/products/{id}", catch_response=True) as answer:
            self.judge(answer, (200,))
