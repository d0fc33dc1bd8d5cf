"""`butterfly bench`: what it counts, and what it says of servers that do not answer."""

import http.server
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from tests.butterfly.server_helpers import KEY, Server

from butterfly.bench import Answer, BenchOptions, Report, measure
from butterfly.cli import main
from butterfly.errors import ButterflyError, ConfigurationError


def test_what_came_in_the_time_counts() -> None:
    """Tokens are spread over the pieces; what came before or after is left out."""
    answers = [
        Answer(0.0, [0.5, 1.0, 1.2, 1.6], tokens=8),  # three of four pieces
        Answer(1.0, [1.5, 1.9, 2.5]),  # cut off, and nobody counted: two pieces
        Answer(1.8, error="503 Service Unavailable"),
    ]
    found = Report.of(answers, 1.0, 2.0)
    assert found.tokens == 6.0 + 2.0
    assert found.first == [0.5]
    assert found.gaps == pytest.approx([0.2, 0.4, 0.4])
    assert found.answers == 1
    assert found.failed == {"503 Service Unavailable": 1}
    lines = str(found).splitlines()
    assert lines[0] == "tokens/s     8.0"
    assert lines[1] == "first token  p50 500.0 ms, p95 500.0 ms"
    assert lines[2] == "next token   p50 400.0 ms, p95 400.0 ms"
    assert lines[-1] == "failed       1 times: 503 Service Unavailable"


def test_nothing_came() -> None:
    """No figures are made up."""
    assert "first token  none" in str(Report.of([], 0.0, 1.0))


def test_a_server_is_measured(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All streams run, and the model is the server's own."""
    monkeypatch.setenv("BUTTERFLY_API_KEY", KEY)
    line = f"bench --url {server.url} --streams 3 --seconds 2 --words 4 --tokens 9"
    assert main([*line.split(), "--ignore-eos"]) == 0
    said = capsys.readouterr().out
    assert float(said.split()[1]) > 5.0
    assert "next token   p50 " in said and "failed" not in said


def test_answers_have_the_length_that_was_asked_for(server: Server) -> None:
    """`ignore_eos` and `tokens` reach the server, `streams` are that many at once."""
    options = BenchOptions(
        f"{server.url}/v1", "tiny", 2, 1.5, 4, 5, ignore_eos=True, api_key=KEY
    )
    found = measure(options)
    assert found.answers >= 2
    assert found.tokens == pytest.approx(5 * found.answers, abs=5 * 2 * 2)


def test_a_wrong_key_is_told(server: Server) -> None:
    """The server's own words, not the key."""
    options = BenchOptions(server.url, api_key="wrong-key")
    with pytest.raises(ButterflyError, match="names no models: 401 the API key") as e:
        measure(options)
    assert "wrong-key" not in str(e.value) and "wrong-key" not in repr(options)
    with pytest.raises(ButterflyError, match="does not answer: 401 the API key"):
        measure(BenchOptions(server.url, "tiny", api_key="wrong-key"))


def test_no_server_and_no_address() -> None:
    """Exit code 2 is the command line's; here it is an error with the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ButterflyError, match=f":{port} cannot be reached: .*refused"):
        measure(BenchOptions(f"http://127.0.0.1:{port}"))
    with pytest.raises(ConfigurationError, match="'localhost:80' is no address"):
        measure(BenchOptions("localhost:80"))


class _Other(http.server.BaseHTTPRequestHandler):
    """A server that streams two pieces, and has no list of models."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        asked = json.loads(self.rfile.read(size))
        assert self.path == "/v1/chat/completions" and asked["stream"]
        assert "ignore_eos" not in asked  # OpenAI's own server refuses it
        self.send_response(200)
        self.end_headers()
        for text in ("a", "", "b"):
            event = {"choices": [{"delta": {"content": text}}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b": a comment\n\ndata: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def other() -> Generator[str, None, None]:
    """Run another server; give its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Other) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/v1/"
        running.shutdown()
        thread.join()


def test_any_server_will_do() -> None:
    """One that counts no tokens: its pieces are counted."""
    with other() as url:
        with pytest.raises(ButterflyError, match="say which one, with --model"):
            measure(BenchOptions(url, seconds=0.3))
        found = measure(BenchOptions(url, "m", 1, 0.3))
    assert found.tokens > 2 and not found.failed
