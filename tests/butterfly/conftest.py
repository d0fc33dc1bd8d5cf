"""One server process with two stages for all tests here.

Importing torch and transformers takes seconds in each process, so there is one server
for the whole session, and this process imports them once.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest
from tests.butterfly.server_helpers import KEY, Program, Server, is_running, make_model

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
def server(model: Path) -> Iterator[Server]:
    """A server with two stages."""
    program = Program(
        *("serve", "--model", str(model), "--name", "tiny", "--stages", "2"),
        *("--port", "0", "--lanes", "4", "--positions", "512", "--body", "200000"),
        BUTTERFLY_API_KEY=KEY,
    )
    try:
        line = program.line("will serve")
        url = line.split()[1].removesuffix("/v1")
        program.line("ready")
        yield Server(program, url, model)
        headers = {"Authorization": f"Bearer {KEY}"}
        state = httpx.get(f"{url}/state", headers=headers).json()
        assert program.end() == 130, "Ctrl-C did not end it in order"
        left = [s["pid"] for s in state["stages"] if is_running(s["pid"])]
        assert not left, "nodes outlived the head"
    finally:
        program.end()


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
