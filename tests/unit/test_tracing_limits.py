"""Where a proxy cannot go: C code, other threads, and out of its forward."""

import concurrent.futures
import contextvars
import datetime
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from tests.unit.tracing_helpers import (
    ran,
    silent,
)

from inf_engine import (
    NotBoundError,
    TracingError,
)


class Card(pydantic.BaseModel):
    """A pydantic model that checks its field."""

    name: str


# -- what Python refuses ------------------------------------------------------------


REFUSED: list[tuple[str, Callable[[Any], Any]]] = [
    ("join", lambda p: ", ".join([p])),
    ("re.search", lambda p: re.search("a", p)),
    ("json.loads", lambda p: json.loads(p)),
    ("pydantic", lambda p: Card(name=p)),
    ("in text", lambda p: p in "abc"),
    ("startswith", lambda p: "abc".startswith(p)),
    ("open", lambda p: open(p)),
    ("with", lambda p: exec("with p: pass", {"p": p})),
    ("json.dumps", lambda p: json.dumps([p])),
    ("int of a base", lambda p: int(p, 2)),
    ("date", lambda p: datetime.date.fromisoformat(p)),
    ("json.loads of a template", lambda p: json.loads(f"{p}")),
    ("key of a dict", lambda p: {}[f"{p}"]),
    ("spec of a text", lambda p: f"{'q':>{p}}"),
]


@pytest.mark.parametrize("use", [r[1] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused_proxy_names_the_fix(use: Callable[[Any], Any]) -> None:
    """Where C code refuses a proxy, the error names f-string, str and @op."""
    fixes = r"str\(p\) to wait for it, an f-string f'\{p\}' to pass it on .* @op"
    with pytest.raises(TracingError, match=fixes) as caught:
        ran(lambda s, x: use(s.llm(x)), "x")
    assert caught.value.__cause__ is not None


def test_own_type_errors_stay() -> None:
    """A TypeError that has nothing to do with proxies is left alone."""
    with pytest.raises(TypeError, match="concatenate str"):
        ran(lambda s, x: x + 1, "x")


# -- threads ------------------------------------------------------------------------


def in_thread(call: Callable[[], Any]) -> Any:
    """Call something in a raw thread."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(call())
        except Exception as exc:  # noqa: BLE001 - raised again below
            outcome.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def in_pool(call: Callable[[], Any]) -> Any:
    """Call something in an executor."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def in_context(call: Callable[[], Any]) -> Any:
    """Call something in a thread, in a copy of this context."""
    context = contextvars.copy_context()
    return in_thread(lambda: context.run(call))


@pytest.mark.parametrize("way", [in_thread, in_pool, in_context])
def test_leaf_in_a_thread(way: Callable[[Callable[[], Any]], Any]) -> None:
    """A model called from another thread is refused, naming ``@op(thread=True)``."""
    client = silent()
    with pytest.raises(TracingError, match=r"@op\(thread=True\)") as caught:
        ran(lambda s, x: way(lambda: s.llm(x)), "x", client=client)
    assert isinstance(caught.value, NotBoundError) is (way is not in_context)
    assert client.requests == []


@pytest.mark.parametrize(
    "use", [str, len, lambda p: f"{p}", lambda p: p.upper(), lambda p: p + "x"]
)
def test_proxy_in_a_thread(use: Callable[[Any], Any]) -> None:
    """A proxy taken to another thread is refused, with the fix."""

    def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        return in_context(lambda: use(p))

    with pytest.raises(TracingError, match="another thread.*@op"):
        ran(forward, "x")


# -- what outlives a forward --------------------------------------------------------


def leaked() -> Any:
    """A proxy that a forward kept."""
    kept: list[Any] = []
    ran(lambda s, x: kept.append(s.llm(x)), "x")
    return kept[0]


@pytest.mark.parametrize(
    "use",
    [
        str,
        bool,
        len,
        hash,
        list,
        lambda p: f"{p}",
        lambda p: p.upper(),
        lambda p: p == 1,
        lambda p: p.append(1),
        lambda p: p + "x",
    ],
)
def test_leaked_proxy(use: Callable[[Any], Any]) -> None:
    """A proxy that outlives its forward says so, and never gives a value."""
    with pytest.raises(TracingError, match="forward .*ha[sd] returned"):
        use(leaked())


def test_leaked_proxy_has_a_repr() -> None:
    """Outside of its forward a proxy only tells its name."""
    assert repr(leaked()) == "<Proxy llm#1>"


def test_proxy_of_another_run() -> None:
    """A proxy kept from an earlier run is refused before anything is paid."""
    kept = leaked()
    client = silent()
    with pytest.raises(TracingError, match="a proxy of another run reached a call"):
        ran(lambda s, x: s.llm(kept), "x", client=client)
    with pytest.raises(TracingError, match="a proxy of another run reached the output"):
        ran(lambda s, x: [kept], "x", client=client)
    assert client.requests == []
