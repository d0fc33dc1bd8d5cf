"""One server process with two stages for all tests here.

Importing torch and transformers takes seconds in each process, so there is one server
for the whole session, and its processes are forked from one that imported them.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest
from tests.butterfly.nursery import Nursery
from tests.butterfly.server_helpers import KEY, Server, make_model

NEEDS = ("torch", "transformers", "fastapi", "llguidance", "prometheus_client")
MISSING = [name for name in NEEDS if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str | None:
    """Say that the tests here are left out."""
    missing = ", ".join(MISSING)
    said = f"tests/butterfly is left out without the extra 'butterfly': no {missing}"
    return said if MISSING else None


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model."""
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(model: Path, nursery: Nursery) -> Iterator[Server]:
    """A server with two stages; it must end in order at Ctrl-C."""
    given = "--lanes", "4", "--positions", "512", "--body", "200000", "--speculate", "6"
    found = Server.begun(
        nursery, str(model), "--name", "tiny", *given, BUTTERFLY_API_KEY=KEY
    )
    yield found
    headers = {"Authorization": f"Bearer {KEY}"}
    state = httpx.get(f"{found.url}/state", headers=headers).json()
    pids = [stage["pid"] for stage in state["stages"]]
    found.end()
    nodes = [born for born in nursery.born if born.pid in pids]
    assert [node.wait() for node in nodes] == [0, 0], "nodes outlived the head"


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's client for it."""
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=KEY, max_retries=0
    ) as found:
        yield found


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client for what OpenAI does not have."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as found:
        yield found
