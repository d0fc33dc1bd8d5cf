"""Nodes die, hang and slow down, networks fall silent: real processes, by pid."""

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.butterfly.fault_helpers import connections, silence, slowed
from tests.butterfly.nursery import Born, Nursery
from tests.butterfly.server_helpers import SECRET, is_running, until

from butterfly.communication.control import Connection
from butterfly.errors import ClusterError

LONG: dict[str, Any] = {
    "prompt": "Once upon a time",
    "max_tokens": 200,
    "temperature": 0.8,
    "seed": 5,
    "ignore_eos": True,
    "return_token_ids": True,
}


def loopback() -> str:
    """Return the address of this machine, of IPv6 where there is one."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        return "127.0.0.1"


@dataclass
class Cluster:
    """A head and its nodes.

    Args:
        nursery: What starts processes.
        head: The head.
        http: A client for it.
        place: Where nodes join.
        expected: The tokens that it says if nothing happens.
    """

    nursery: Nursery
    head: Born
    http: httpx.Client
    place: str
    expected: list[int]

    @property
    def port(self) -> int:
        """The port that nodes join at."""
        return int(self.place.rpartition(":")[2])

    @property
    def state(self) -> dict[str, Any]:
        """What it is like."""
        found: dict[str, Any] = self.http.get("/state").json()
        return found

    def stage(self, number: int) -> Born:
        """Return the process of a stage."""
        pid = self.state["stages"][number - 1]["pid"]
        return next(born for born in self.nursery.born if born.pid == pid)

    def join(self, count: int) -> None:
        """Start nodes until there are some, and wait for two stages."""
        for _ in range(count - self.state["nodes"]):
            self.nursery.start("node", "--join", self.place, BUTTERFLY_SECRET=SECRET)
        until(lambda: self.state["nodes"] == count)

        def serves() -> bool:
            state = self.state  # looked at once: the next one may be another epoch's
            return bool(state["is_serving"]) and len(state["stages"]) == 2

        until(serves)

    def stream(self, act: Callable[[], object] = int) -> tuple[list[int], str]:
        """Return the tokens of a stream in the middle of which something is done.

        And the error that ended it, if one did.
        """
        tokens: list[int] = []
        is_done = False
        given = {**LONG, "stream": True}
        with self.http.stream("POST", "/v1/completions", json=given) as told:
            for line in told.iter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    return tokens, event["error"]["message"]
                tokens += event["choices"][0]["token_ids"]
                if len(tokens) >= 20 and not is_done:
                    is_done = True
                    act()
        return tokens, ""


@pytest.fixture(scope="module")
def cluster(nursery: Nursery, model: Path) -> Iterator[Cluster]:
    """Two stages on IPv6's loopback; it must end in order at SIGTERM."""
    here = loopback()
    head = nursery.start(
        *("serve", "--model", str(model), "--stages", "2", "--no-spawn"),
        *("--port", "0", "--host", here, "--address", here, "--positions", "512"),
        *("--lanes", "4", "--patience", "1.5", "--wait", "1", "--rebalance", "0.5"),
        BUTTERFLY_SECRET=SECRET,
    )
    url = head.line("will serve").split()[1].removesuffix("/v1")
    place = head.line("waiting for").split("--join ")[1].strip("`")
    with httpx.Client(base_url=url, timeout=60) as http:
        found = Cluster(nursery, head, http, place, [])
        found.join(2)
        found.expected, _ = found.stream()
        yield found
        nodes = [found.stage(1), found.stage(2)]
    assert head.end(signal.SIGTERM) == 143, head.said
    assert [node.wait() for node in nodes] == [0, 0]
    assert "Traceback" not in head.said and "head failed" not in head.said


def test_a_silent_link_is_noticed_as_a_pause_only(cluster: Cluster) -> None:
    """Heartbeats go on; it is tried again once, then the node is sent away.

    The client sees the same tokens, both times.
    """
    cluster.join(3)
    node, epoch = cluster.stage(2), cluster.state["epoch"]
    for _ in range(2):
        assert cluster.stage(2) is node
        found = cluster.stream(lambda: silence(node.pid, cluster.port))
        assert found == (cluster.expected, "")
        assert cluster.state["epoch"] > epoch
        epoch = cluster.state["epoch"]
    assert node.wait() == 2
    assert "and frames were stuck at" in node.said
    assert "s, on the way to" in cluster.head.said


def test_a_standby_takes_the_place_of_the_dead(cluster: Cluster) -> None:
    """The other stage keeps its place and its layers."""
    cluster.join(3)
    known = {s["pid"] for s in cluster.state["stages"]}
    first, last = cluster.stage(1), cluster.stage(2)
    assert cluster.stream(last.kill) == (cluster.expected, "")
    assert cluster.stage(1) is first
    assert cluster.stage(2).pid not in known


def test_a_node_that_hangs_is_noticed_as_a_pause_only(cluster: Cluster) -> None:
    """Stopped, it neither computes nor sends heartbeats; nor does it say goodbye."""
    cluster.join(2)
    node = cluster.stage(1)
    stop = lambda: node.kill(signal.SIGSTOP)  # noqa: E731
    try:
        assert cluster.stream(stop) == (cluster.expected, "")
    finally:
        node.kill()
    assert len(cluster.state["stages"]) == 1


def test_a_slow_node_is_given_less(cluster: Cluster) -> None:
    """An epoch ends on purpose: the slow one has fewer layers then, the tokens stay."""
    cluster.join(2)
    until(lambda: cluster.stream() == (cluster.expected, ""))
    (one, _) = cluster.state["stages"]
    layers = one["last"] - one["first"]
    assert layers > 1

    def is_less() -> bool:
        assert cluster.stream() == (cluster.expected, "")
        (slow,) = [s for s in cluster.state["stages"] if s["pid"] == one["pid"]]
        return slow["last"] - slow["first"] < layers

    with slowed(one["pid"]):
        until(is_less)
    assert "a stage is slower than its share" in cluster.head.said


def test_what_is_no_message_ends_its_own_connection_only(cluster: Cluster) -> None:
    """From strangers and from nodes, at the head and at the ports of nodes."""
    cluster.join(2)
    epoch, here = cluster.state["epoch"], cluster.place.rpartition(":")[0].strip("[]")

    async def told(message: dict[str, Any]) -> None:
        connection = await Connection.to(here, cluster.port, SECRET)
        for each in ({"name": "odd"}, {"event": "beat"}, message):
            connection.send(each)
        with pytest.raises(ClusterError, match="was closed"):
            while True:
                await connection.receive()
        connection.close()

    odd: list[dict[str, Any]] = [
        {"event": "adapted"},
        {"event": "adapted", "number": [1]},
        {"event": "beat", "sent": "much"},
        {"event": "beat", "busy": {}},
        {"event": "beat", "received": [1, 2]},
    ]
    for message in odd:
        asyncio.run(asyncio.wait_for(told(message), 20))
    assert cluster.head.said.count("odd is gone: it sent what is no") == len(odd)
    pid = cluster.stage(1).pid
    ports = {each.getsockname()[1] for each in connections(pid)}
    for port in [cluster.port, *sorted(ports)]:
        try:
            with socket.create_connection((here, port), 5) as stranger:
                stranger.sendall(b"\xff" * 10_000)
        except OSError:
            continue  # nobody listens there any more
    assert cluster.stream() == (cluster.expected, "")
    assert cluster.state["epoch"] == epoch


def test_with_no_node_left_clients_are_told(cluster: Cluster) -> None:
    """An open stream ends with an event, others get 503, health says it."""
    cluster.join(2)
    nodes = [cluster.stage(1), cluster.stage(2)]
    tokens, error = cluster.stream(lambda: [node.kill() for node in nodes])
    assert tokens == cluster.expected[: len(tokens)] and len(tokens) >= 20
    assert "nothing can be served: no node is left" in error
    found = cluster.http.post("/v1/completions", json=LONG)
    assert found.status_code == 503 and found.headers["retry-after"]
    assert "no node is left" in found.json()["error"]["message"]
    health = cluster.http.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "no nodes")
    cluster.join(2)
    assert cluster.http.get("/health").status_code == 200
    assert cluster.stream() == (cluster.expected, "")


def test_a_node_that_cannot_load_says_why_and_ends(
    nursery: Nursery, model: Path, tmp_path: Path
) -> None:
    """Without memory or without the file: exit code 2; the head waits for others."""
    folder = shutil.copytree(model, tmp_path / "model")

    def fails(*options: str, breaks: Callable[[], object] = int) -> str:
        head = nursery.start(
            *("serve", "--model", str(folder), "--no-spawn", "--port", "0", *options),
            BUTTERFLY_SECRET=SECRET,
        )
        place = head.line("waiting for").split("--join ")[1].strip("`")
        breaks()
        start = "node", "--join", place, "--name", "mine"
        node = nursery.start(*start, BUTTERFLY_SECRET=SECRET)
        assert node.wait(60) == 2
        head.line("mine is sent away: mine: ")
        assert head.end(signal.SIGTERM) == 143
        return node.said

    said = fails("--lanes", "5000", "--positions", "100000000")
    assert "error: mine: there is not the memory for layers 0 to 3 with 5000" in said
    assert "fewer --lanes or --positions" in said
    said = fails(breaks=(folder / "model.safetensors").unlink)
    assert "has no model.safetensors" in said


def test_a_server_ends_with_its_own_nodes(nursery: Nursery, model: Path) -> None:
    """SIGTERM at any time: 143, and no process is left; here while they load."""
    head = nursery.start(
        *("serve", "--model", str(model), "--port", "0", "--stages", "2"),
        *("--host", "0.0.0.0", "--allow-public"),
    )
    head.line("will serve")
    tasks = Path(f"/proc/{head.pid}/task").iterdir

    def children() -> list[int]:
        said = [(task / "children").read_text() for task in tasks()]
        return [int(pid) for part in said for pid in part.split()]

    until(lambda: len(children()) == 2)
    pids = children()
    began = time.monotonic()
    assert head.end(signal.SIGTERM) == 143
    assert time.monotonic() - began < 10
    assert not [pid for pid in pids if is_running(pid)]
    assert not os.path.exists(f"/proc/{head.pid}")


@pytest.mark.slow
def test_a_server_whose_own_node_cannot_load_ends(
    nursery: Nursery, model: Path
) -> None:
    """Exit code 2, and the reason: starting the node again would not help."""
    head = nursery.start(
        *("serve", "--model", str(model), "--port", "0"),
        *("--lanes", "5000", "--positions", "100000000"),
    )
    assert head.wait(120) == 2
    assert "butterfly: error: node-1: there is not the memory for" in head.said
