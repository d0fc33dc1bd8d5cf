"""What the tests of optimizers of weights share: a CLaaS server as a transport."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from inf_engine.clients.transport import HttpResponse
from inf_engine.errors import EndpointConnectionError, EndpointError

URL = "http://127.0.0.1:8080"
DONE: dict[str, Any] = {
    "id": "job-1",
    "lora": "ann/kuro",
    "state": "done",
    "result": {
        "outcome": "promoted",
        "version": 3,
        "verdict": {"reasons": ["it obeys"], "figures": {"drift": {"after": 0.1}}},
        "figures": {"steps": 4},
    },
}


class Server:
    """A transport to a server that answers what it is told to, and keeps what came."""

    def __init__(self, status: int = 200, **answer: Any) -> None:
        self.status = status
        self.answer = answer or {"jobs": [DONE]}
        self.bodies: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []
        self.is_dead = False

    async def send(
        self, url: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> HttpResponse:
        if self.is_dead:
            raise EndpointConnectionError("nobody there")
        self.asked.append((url, headers["Authorization"]))
        self.bodies.append(json.loads(body))
        return HttpResponse(self.status, {}, json.dumps(self.answer).encode())

    def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        seconds: float,
        refuse: Callable[[HttpResponse], EndpointError],
    ) -> AsyncIterator[bytes | HttpResponse]:
        raise AssertionError("feedback is not streamed")

    async def aclose(self) -> None:
        pass

    @property
    def said(self) -> list[tuple[str, str, str]]:
        """Receipt, kind and content of what came last."""
        rows = self.bodies[-1]["feedback"]
        return [(row["receipt"], row["kind"], row["content"]) for row in rows]
