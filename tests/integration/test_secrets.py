"""Keys stay secret: nothing that is written, logged, raised or shown holds one.

Told elsewhere: a YAML file runs no code and no mistake in it repeats a key
(`unit/test_config.py`); reports escape what models write (`unit/test_report.py`); the
journal, reports, traces and outputs have mode 0600 (`unit/test_journal_store.py`,
`unit/test_report.py`, `unit/test_chrome.py`, `integration/test_cli_run.py`).
"""

import asyncio
import base64
import logging
import socket
import ssl
import traceback
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli_helpers import Shell, resources, shell_in, shout
from tests.integration.engine_helpers import Ask
from tests.integration.limit_helpers import endpoint, hello

from inf_engine import Engine, InferenceModule, LLMInference
from inf_engine.clients import from_sdk
from inf_engine.clients.anthropic import AnthropicClient
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import AiohttpTransport
from inf_engine.errors import EndpointConnectionError, RequestRefusedError
from inf_engine.execution.chrome import write_chrome_trace
from inf_engine.resources.config import ResourceConfig
from inf_engine.resources.manager import ResourceManager
from inf_engine.resources.retry import RetryPolicy
from inf_engine.testing import LoopbackServer

KEY = "sk-very-secret-4711"
NEEDLES = (KEY, base64.b64encode(KEY.encode()).decode().rstrip("="))


def leaks(texts: Iterable[str | bytes]) -> list[str]:
    """Where texts hold the key, in whatever case, plain or in base64."""
    found = []
    for text in texts:
        plain = text.decode("latin-1") if isinstance(text, bytes) else text
        for needle in NEEDLES:
            place = plain.lower().find(needle.lower())
            if place >= 0:
                found.append(plain[max(place - 100, 0) : place + 50])
    return found


def files_in(folder: Path) -> list[bytes]:
    """The bytes of each file."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


# -- one failure each -------------------------------------------------------------

TELLTALES: list[Any] = [
    (401, {}, f"Incorrect API key provided: {KEY}"),
    (400, {}, {"error": {"message": f"header Bearer {KEY}", "code": KEY}}),
    (500, {"x-echo": KEY}, f"<html>Authorization: Bearer {KEY}</html>"),
    (200, {}, {"error": {"message": KEY, "type": KEY}}),
    (200, {}, f"not json: {KEY}"),
    (200, {"content-type": KEY}, {"choices": KEY}),
    (302, {"location": f"http://{KEY}@127.0.0.1/?key={KEY}"}, KEY),
]


@pytest.mark.parametrize("fault", [*TELLTALES, "reset", "hang", "half-head", None])
@pytest.mark.parametrize("provider", ["openai-compatible", "anthropic"])
async def test_a_key_is_in_no_log_repr_error_record_or_report(
    fault: Any, provider: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Whatever the server does, also when it repeats the key."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with LoopbackServer(errors=[fault], api_key=KEY) as server:
        openai, url = provider != "anthropic", server.anthropic_url
        seconds = 0.2 if fault == "hang" else 20.0
        options = {"base_url": server.base_url if openai else url, "timeout": seconds}
        table = endpoint(provider=provider, api_key_env="A_KEY", retries=0, **options)
        manager = ResourceManager({"endpoints": {"m": table}}, environ={"A_KEY": KEY})
        async with Engine(manager, progress=False) as engine:
            view = engine.using(errors="collect")
            (result,) = await view.map(Ask(), ["hello"], record=True)
        assert KEY in "".join(server.requests[0].headers.values())
    deployment = manager._deployments[0]
    told = [caplog.text, *map(repr, caplog.records)]
    told += map(repr, (engine, manager, deployment, deployment.client))
    told += map(repr, (deployment.config, deployment.limits, result, result.record))
    told += map(str, (engine.statistics(), result.record))
    told.append(result.record.report(tmp_path / "report.html").read_text())
    told += texts_of(result.error)
    assert (result.error is None) == (fault is None)
    assert [text for text in told if KEY in text] == []


def texts_of(error: BaseException | None) -> list[str]:
    """All that may be printed of an error and of what caused it."""
    texts: list[str] = []
    while error is not None:
        texts += [str(error), repr(error), repr(error.args)]
        if not type(error).__module__.startswith(THEIRS):
            texts.append(repr(vars(error)))
        texts += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return texts


async def test_a_key_is_not_in_the_error_of_what_is_no_http(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The library below keeps the request's headers in its own error."""

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Any:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nbad\x00header\r\n\r\n")
        await writer.drain()
        writer.close()

    caplog.set_level(logging.DEBUG)
    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    table = endpoint(api_key_env="A_KEY", retries=0)
    table["base_url"] = f"http://127.0.0.1:{port}/v1"
    manager = ResourceManager({"endpoints": {"m": table}}, environ={"A_KEY": KEY})
    with pytest.raises(EndpointConnectionError) as caught:
        await manager.complete("m", hello())
    await manager.aclose()
    server.close()
    told = [caplog.text, *texts_of(caught.value)]
    assert [text for text in told if KEY in text] == []


# -- everything at once -----------------------------------------------------------

EVENTS = {"content-type": "text/event-stream"}
LIMITS = {"retry-after": KEY, "x-ratelimit-remaining-requests": KEY}
ECHOES: list[Any] = [
    *TELLTALES,
    (429, {"retry-after": "0", "x-request-id": KEY}, f"too many from {KEY}"),
    (429, LIMITS, {"error": {"message": KEY, "type": KEY, "code": KEY}}),
    (200, EVENTS, f'data: {{"error": {{"message": "{KEY}"}}}}\n\n'),
    (200, EVENTS, f"data: {KEY}\n\n"),
    (529, {}, {"error": {KEY: KEY}}),
    (200, {"content-type": KEY}, "not json"),
    (200, {}, {"choices": [{"message": {"refusal": f"not with {KEY}"}}]}),
    (200, {}, {"choices": [{"message": {"content": {KEY: 1}}}]}),
    (200, {}, {"content": [{"type": "text", "text": {KEY: 1}}], KEY: 1}),
    (200, {}, {"content": [{"type": KEY}], "usage": KEY, "choices": [KEY]}),
    *("reset", "truncate", "short", "malformed", "half-head", "content-type"),
    *("error-event", "hang"),
]
"""Failures of each kind, with the key wherever a server can put it."""


ONCE = RetryPolicy(wait=lambda n, rng: 0.01, stop=lambda n, rng: n > 1)
"""Tries a second time, soon."""

THEIRS = ("openai", "anthropic", "httpx", "httpcore")
"""Loggers of the SDKs, which show at DEBUG what a server sent. That is theirs."""


class Twice(InferenceModule):
    """A call that can be answered elsewhere, and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = LLMInference("safe")
        self.then: Any = LLMInference("m")

    def forward(self, text: str) -> str:
        return self.then(self.first(text))


def failing() -> LoopbackServer:
    """A server at which every second request goes wrong, and that echoes the key."""

    def errors(index: int, body: dict[str, Any]) -> Any:
        return None if index % 2 else ECHOES[index // 2 % len(ECHOES)]

    return LoopbackServer(shout, errors=errors, api_key=KEY)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tables(openai: bool, server: LoopbackServer) -> dict[str, Any]:
    """An endpoint, one whose requests may go on there, and one that is not there."""
    provider = "openai-compatible" if openai else "anthropic"
    url = server.base_url if openai else server.anthropic_url
    here: dict[str, Any] = {
        **{"provider": provider, "base_url": url, "model": "some-model"},
        **{"api_key_env": "A_KEY", "timeout": 1.0},
    }
    dead = f"http://127.0.0.1:{free_port()}/v1"
    return {
        "m": here,
        "safe": {**here, "model": "other-model", "fallbacks": ["m"]},
        "gone": {**here, "base_url": dead, "fallbacks": ["m"]},
    }


def sdk_clients(openai: bool, server: LoopbackServer) -> tuple[Any, dict[str, Any]]:
    """A client of the official SDK, and what an engine takes it as."""
    name = "openai" if openai else "anthropic"
    module = pytest.importorskip(name)
    make = module.AsyncOpenAI if openai else module.AsyncAnthropic
    url = server.base_url if openai else server.anthropic_url
    client = make(api_key=KEY, base_url=url)
    ours = from_sdk(client, "some-model", timeout=1.0)
    return client, dict.fromkeys(("m", "safe", "gone"), ours)


async def told_by(engine: Engine, folder: Path) -> tuple[list[str | bytes], list[Any]]:
    """All that an engine tells in and after a few runs, and the errors of them."""
    view = engine.using(errors="collect", retries=ONCE)
    told: list[str | bytes] = []
    errors: list[Any] = []
    for text in map(str, range(len(ECHOES))):
        try:
            told += [p async for p in view.stream_tokens(Ask(), text)]
        except Exception as exc:  # noqa: BLE001 - which one does not matter here
            errors.append(exc)
    inputs = [f"q{number}" for number in range(len(ECHOES))]
    results = await view.map(Twice(), inputs, record=True)
    results += await view.map(Ask("gone"), ["x", "y"], record=True)
    errors += [result.error for result in results if result.error]
    records: list[Any] = [result.record for result in results]
    for number, record in enumerate(records):
        told.append(record.report(folder / f"{number}.html").read_bytes())
        told += [repr(record), str(record), record._repr_html_()]
        told += [repr(c) for node in record.nodes for c in node.calls]
    write_chrome_trace(records, folder / "trace.json")
    statistics = engine.statistics()
    told += [repr(results), repr(engine), str(statistics), repr(statistics)]
    for error in errors:
        told += texts_of(error)
    return [*told, *files_in(folder)], errors


@pytest.mark.parametrize("sdk", [False, True])
@pytest.mark.parametrize("openai", [True, False])
async def test_a_key_is_nowhere_after_failures_of_each_kind(
    openai: bool, sdk: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Retries, fallbacks, refusals: nothing told, and no byte of a file, holds it."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with failing() as server:
        owner: Any = None
        if sdk:
            owner, given = sdk_clients(openai, server)
            manager = ResourceManager(given)
        else:
            given = {"endpoints": tables(openai, server)}
            manager = ResourceManager(given, environ={"A_KEY": KEY})
        paths: Any = {"journal": tmp_path / "run.db", "cache": tmp_path / "cache.db"}
        async with Engine(manager, progress=False, **paths) as engine:
            told, errors = await told_by(engine, tmp_path)
        assert {401, 429, 500, 529, "truncate"} <= set(server.statuses)
        assert server.count > 2 * len(ECHOES) > len(errors) > 3
        sent = [
            r.headers.get("authorization", r.headers.get("x-api-key", ""))
            for r in server.requests
        ]
        assert all(KEY in text for text in sent)
        if owner is not None:
            await owner.close()
        else:
            assert "Cannot connect to host" in "".join(map(str, told))
    for deployment in manager._deployments:
        held = (deployment, deployment.client, deployment.config, deployment.limits)
        told += map(repr, (*held, *deployment.clients))
    told += map(repr, (manager, manager._routes, manager.spending))
    told += [repr(ResourceConfig.load(given))] if not sdk else []
    for record in caplog.records:
        if not record.name.startswith(THEIRS):
            told += [repr(record), repr(vars(record)), record.getMessage()]
    assert leaks([*told, *files_in(tmp_path)]) == []


# -- the command line -------------------------------------------------------------


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Generator[Shell]:
    """A shell in a fresh folder."""
    monkeypatch.setenv("A_KEY", KEY)
    with shell_in(tmp_path, monkeypatch, capsys) as made:
        yield made


def test_the_command_line_tells_no_key(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the endpoints answer: on no stream, and in no file."""
    caplog.set_level(logging.DEBUG)
    told = []
    with failing() as server:
        fields: dict[str, Any] = {"api_key_env": "A_KEY", "retries": 0, "timeout": 1.0}
        shell.write("r.toml", resources(server, **fields))
        inputs = [f"q{number}" for number in range(2 * len(ECHOES))]
        more = "-vv --journal a.db --cache c.db --trace trace.json"
        codes = [shell.run("pipes_of_cli:Ask", *inputs, more=more)]
        told += [shell.out, shell.err]
        for line in (
            *["check r.toml --timeout 1"] * len(ECHOES),
            "check r.toml --no-call",
            "graph pipes_of_cli:Compare",
            "journal show a.db",
            "journal show a.db --full",
            "journal diff a.db c.db",
            "journal export a.db --out rows.jsonl",
        ):
            codes.append(shell(line))
            told += [shell.out, shell.err]
    failed = [row for row in shell.lines() if row.get("error")]
    assert 5 < len(failed) < len(inputs)
    assert {0, 1} <= set(codes)
    assert leaks([*told, caplog.text, *files_in(shell.folder)]) == []


# -- TLS --------------------------------------------------------------------------

CERTIFICATE = """
MIIBWTCCAQCgAwIBAgIBATAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhsb29wYmFj
azAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowEzERMA8GA1UEAwwI
bG9vcGJhY2swWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAS2Ggns76hG6v/7RN2u
uMuhRmQ4RB5CPELu2TMq/5GD5HkiX3cqCcrSBh7WumX4IUdLpy52x+mgWlIGANO8
ecD2o0MwQTAPBgNVHREECDAGhwR/AAABMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0O
BBYEFCmsDTDvEjlCVJWzm4tuBHyAHygwMAoGCCqGSM49BAMCA0cAMEQCIEZo26TB
4qcIy9GUyeVHwOdjmUaUCXGlf2QbeTl6y/RrAiBfbVenz4u7Nrya96vABFN/DYJ0
D6MrleQeEZcOqLitbQ==
"""
"""Of 127.0.0.1, by itself, from 2020 to 2120."""

ITS_KEY = """
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgV6YpCVc6f3uPcGUo
PzcIA4KmoohUTGYoHdT2SqPddnihRANCAAS2Ggns76hG6v/7RN2uuMuhRmQ4RB5C
PELu2TMq/5GD5HkiX3cqCcrSBh7WumX4IUdLpy52x+mgWlIGANO8ecD2
"""
"""No secret: it signs nothing but the above."""


def pem(kind: str, text: str) -> str:
    """A block of a PEM file."""
    return f"-----BEGIN {kind}-----{text}-----END {kind}-----\n"


@pytest.mark.parametrize("provider", ["openai", "openai-compatible", "anthropic"])
async def test_a_certificate_that_nobody_trusts_is_refused(
    provider: str, tmp_path: Path
) -> None:
    """Not a byte of a request is sent; who is told to trust it gets an answer."""
    file = tmp_path / "server.pem"
    file.write_text(pem("PRIVATE KEY", ITS_KEY) + pem("CERTIFICATE", CERTIFICATE))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    got: list[bytes] = []

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(
        refuse, "127.0.0.1", 0, ssl=context
    ) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        table = {"provider": provider, "model": "some-model", "retries": 0}
        table |= {"api_key_env": "A_KEY", "base_url": url}
        manager = ResourceManager({"endpoints": {"m": table}}, environ={"A_KEY": KEY})
        with pytest.raises(EndpointConnectionError, match="(?i)certificate") as caught:
            await manager.complete("m", hello())
        await manager.aclose()
        assert (got, leaks(texts_of(caught.value))) == ([], [])
        trusting = ssl.create_default_context(cafile=str(file))
        kind = AnthropicClient if provider == "anthropic" else OpenAIClient
        transport = AiohttpTransport(verify=trusting)
        client = kind("some-model", base_url=url, api_key=KEY, transport=transport)
        with pytest.raises(RequestRefusedError, match="404"):
            await client.complete(hello())
        await client.aclose()
        assert [KEY.encode() in head for head in got] == [True]
