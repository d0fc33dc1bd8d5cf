"""``inf-engine serve``: a real process, its signals, and what it refuses to start."""

import asyncio
import contextlib
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncGenerator, Coroutine, Generator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.integration.cli_helpers import (
    PIPES,
    Shell,
    child,
    environ,
    resources,
    shell_in,
)

from inf_engine.testing import LoopbackServer

HI = {"inputs": "hi"}
CERTIFICATE = (
    "openssl req -x509 -nodes -newkey rsa:2048 -days 2 -keyout key.pem -out cert.pem "
    "-subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
).split()
SERVE = "serve pipes_of_cli:Ask --resources r.toml --port 0"


@pytest.fixture
def shell(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Generator[Shell]:
    """A folder with modules, and the command line in it."""
    with shell_in(tmp_path, monkeypatch, capsys) as made:
        yield made


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--host 0.0.0.0", "may be reached from other machines, and there is no API"),
        ("--api-key-env NO_SUCH_KEY", "the variable NO_SUCH_KEY holds no API key"),
        ("--reports nowhere", "nowhere is no folder"),
        ("--set alias=other", "'other'"),
        ("--port 99999", "port 99999: bind(): port must be 0-65535. Name another"),
        ("--max-inflight 0", "--max-inflight"),
        ("--budget-usd 1", "a budget in usd needs a price"),
        ("--tls-key r.toml", "--tls-key needs --tls-cert"),
        ("--tls-cert r.toml", "cannot read a certificate and its key from r.toml"),
        ("--tls-cert none.pem --tls-key k.pem", "from none.pem, k.pem: [Errno 2]"),
    ],
)
def test_what_cannot_be_served_is_refused(
    shell: Shell, more: str, message: str
) -> None:
    """With exit code 2 and a message, before anything is served."""
    assert shell(f"{SERVE} {more}") == 2
    assert message in shell.err
    assert "Traceback" not in shell.err


def test_a_service_that_is_told_to_end_finishes_first(tmp_path: Path) -> None:
    """SIGTERM: the run under way is answered, then the process ends with 0."""

    async def main(upstream: LoopbackServer) -> None:
        async with started(tmp_path, upstream, "--api-key-env SERVE_KEY") as (
            process,
            url,
        ):
            assert url.startswith("http://127.0.0.1:")
            async with aiohttp.ClientSession() as session:
                headers = {"Authorization": "Bearer s3cret"}
                asked = asyncio.create_task(
                    session.post(
                        f"{url}/v1/run", json={"inputs": "hi"}, headers=headers
                    )
                )
                await arrived(upstream)
                process.send_signal(signal.SIGTERM)
                async with await asked as reply:
                    assert (await reply.json())["output"] == "HI"
                _, err = await process.communicate()
                assert process.returncode == 0, err
                assert b"stopping: 1 run under way" in err
                assert b"s3cret" not in err
                with pytest.raises(aiohttp.ClientConnectionError):
                    await session.get(url)

    with LoopbackServer(lambda body: "HI", latency=1.0) as upstream:
        asyncio.run(within(main(upstream)))


def test_options_reach_what_they_are_for(tmp_path: Path) -> None:
    """Name, sizes, cache, what is kept and the reports: each has an effect."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "one.html").write_text("one")
    more = (
        "--name mine --max-bytes 200 --cache c.db --keep-runs 1 "
        "--max-inflight 7 --reports reports --host localhost"
    )

    async def main(upstream: LoopbackServer) -> None:
        async with started(tmp_path, upstream, more, name="mine") as (process, url):
            assert url.startswith("http://localhost:")
            async with aiohttp.ClientSession(url) as session:

                async def run(text: str) -> tuple[int, Any]:
                    async with session.post("/v1/run", json={"inputs": text}) as reply:
                        return reply.status, await reply.json()

                async def get(path: str) -> str:
                    async with session.get(path) as reply:
                        return await reply.text()

                assert (await run("a"))[0] == (await run("a"))[0] == 200
                assert upstream.count == 1
                assert (await run("a" * 200))[0] == 413
                assert "there is no such run" in await get("/runs/1")
                assert '"mine"' in await get("/v1/models")
                assert "of 7 at most" in await get("/")
                assert await get("/reports/one.html") == "one"
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert process.returncode == 0, err

    with LoopbackServer(lambda body: "HI") as upstream:
        asyncio.run(within(main(upstream)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_https_and_the_timeout_of_a_run(tmp_path: Path) -> None:
    """Who trusts the certificate is answered, with 504 when the run takes too long."""
    subprocess.run(CERTIFICATE, cwd=tmp_path, check=True, capture_output=True)
    more = "--tls-cert cert.pem --tls-key key.pem --timeout 0.1"
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))

    async def main(upstream: LoopbackServer) -> None:
        async with started(tmp_path, upstream, more) as (process, url):
            assert url.startswith("https://127.0.0.1:")
            async with aiohttp.ClientSession(url) as session:
                asked = session.post("/v1/run", json=HI, ssl=trusting)
                async with asked as reply:
                    assert reply.status == 504
                    assert "0.1 s" in (await reply.json())["error"]["message"]
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get("/health")
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
            assert process.returncode == 0, err

    with LoopbackServer(latency=60.0) as upstream:
        asyncio.run(within(main(upstream)))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the key")
def test_a_key_with_a_password_is_refused_at_once(shell: Shell, tmp_path: Path) -> None:
    """OpenSSL does not ask at the terminal."""
    made = [*CERTIFICATE[:3], "-passout", "pass:hush", *CERTIFICATE[4:]]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    assert shell(f"{SERVE} --tls-cert cert.pem --tls-key key.pem") == 2
    assert "the key has a password" in shell.err


def test_the_end_of_the_grace_cancels(tmp_path: Path) -> None:
    """The client is told with 503, and the exit code is that of the signal."""

    async def main(upstream: LoopbackServer) -> None:
        async with started(tmp_path, upstream, "--grace 0.1") as (process, url):
            async with aiohttp.ClientSession() as session:
                asked = asyncio.create_task(session.post(f"{url}/v1/run", json=HI))
                await arrived(upstream)
                process.send_signal(signal.SIGTERM)
                async with await asked as reply:
                    assert reply.status == 503
            _, err = await process.communicate()
            assert process.returncode == 128 + signal.SIGTERM, err

    with LoopbackServer(latency=60.0) as upstream:
        asyncio.run(within(main(upstream)))


async def within(work: Coroutine[Any, Any, None]) -> None:
    """Do something within a minute."""
    async with asyncio.timeout(60):
        await work


async def arrived(upstream: LoopbackServer) -> None:
    """Wait until a request has arrived upstream."""
    while not upstream.requests:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def started(
    folder: Path, upstream: LoopbackServer, more: str, name: str = "Ask"
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    """Start a service; give it, and where it is; it has ended in the end."""
    (folder / "r.toml").write_text(resources(upstream))
    (folder / "pipes_of_cli.py").write_text(PIPES)
    process = await asyncio.create_subprocess_exec(
        *child(*SERVE.split(), *more.split()),
        cwd=folder,
        env={**environ(), "SERVE_KEY": "s3cret"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = (await process.stderr.readline()).decode()
        assert line.startswith(f"serving {name} at "), line
        yield process, line.split()[-1]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
