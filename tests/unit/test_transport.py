"""The parts of the transport and the wire that need no network."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inf_engine.clients.events import EventDecoder
from inf_engine.clients.openai import OpenAIClient
from inf_engine.clients.transport import AiohttpTransport, _proxy, place
from inf_engine.errors import ConfigurationError

STREAM = (
    b": hello\r\nevent: one\r\ndata: first\r\n\r\n"
    b"data: second\ndata:  line\n\nid: 3\n\n"
    b"data:third\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_chunks(cuts: list[int]) -> None:
    """However a stream is cut into chunks, its events are the same."""
    decoder = EventDecoder()
    places = [0, *sorted(cuts), len(STREAM)]
    events: list[bytes] = []
    for start, stop in zip(places, places[1:], strict=False):
        events += decoder.feed(STREAM[start:stop])
    assert events + decoder.end() == [b"first", b"second\n line", b"third"]


def test_half_a_line_is_no_event() -> None:
    """A stream that is cut inside a line does not give that line."""
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"a": 1}\n\ndata: {"b"') == [b'{"a": 1}']
    assert decoder.end() == []


def test_a_long_line_is_put_together_once() -> None:
    """A line that comes in many chunks is one event, in time that grows with it."""
    decoder = EventDecoder()
    assert decoder.feed(b"data: ") == []
    for _ in range(20_000):
        assert decoder.feed(b"x" * 1000) == []
    assert decoder.feed(b"\n\n") == [b"x" * 20_000_000]


def test_place_holds_no_secret() -> None:
    """A place is scheme, host and path: no user, no password, no query."""
    assert place("https://u:pw@h.test:8/v1/chat?key=s#f") == "https://h.test:8/v1/chat"


def test_nothing_is_opened_at_construction() -> None:
    """A client can be made where no loop runs, and has opened nothing."""
    transport = AiohttpTransport()
    client = OpenAIClient("m", api_key="k", transport=transport)
    assert repr(transport) == "AiohttpTransport(idle)"
    assert repr(client) == (
        "OpenAIClient(model='m', base_url='https://api.openai.com/v1')"
    )


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy variables are obeyed, except for this machine."""
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    assert _proxy("https://api.test/v1") == "http://proxy.test:3128"
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert _proxy(f"http://{host}/v1") is None
    monkeypatch.setenv("no_proxy", "api.test")
    assert _proxy("https://api.test/v1") is None


@pytest.mark.parametrize("url", ["", "localhost:8000/v1", "ftp://h.test", "http:///v1"])
def test_an_address_that_cannot_be_posted_to_is_refused(url: str) -> None:
    """A base_url without http:// or a host is refused when the client is made."""
    with pytest.raises(ConfigurationError, match=r"no address.*Give base_url as http"):
        OpenAIClient("m", base_url=url, api_key=None)


def test_a_password_in_the_address_is_refused() -> None:
    """A base_url with a password is refused, and the password is not repeated."""
    with pytest.raises(ConfigurationError, match="holds a user name") as caught:
        OpenAIClient("m", base_url="http://me:hush@h.test/v1", api_key=None)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["hush\n", "hush\r\nX: y", "húsh"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    """A key with a line break or a foreign letter is refused and not repeated."""
    with pytest.raises(ConfigurationError, match="API key .* no key has") as caught:
        OpenAIClient("m", api_key=key)
    assert key[:4].strip() not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    """A timeout has to be above 0 seconds."""
    with pytest.raises(ConfigurationError, match="Give seconds above 0"):
        OpenAIClient("m", api_key=None, timeout=timeout)


def test_importing_the_clients_loads_no_http_library() -> None:
    """The clients are imported without aiohttp and without the SDKs."""
    code = (
        "import sys, inf_engine.clients.openai, inf_engine.clients.anthropic; "
        "assert not {'aiohttp', 'httpx', 'openai', 'anthropic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://me:secret@[::1",
        "http://me:secret@host:99999",
        "socks5://me:secret@host:1",
        "me:secret@host",
    ],
)
def test_a_proxy_that_is_no_address_is_never_shown(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold a password; the message names the variables."""
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY .*http://host") as caught:
        _proxy("https://api.test/v1")
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None
