"""Templates: holes travel through text, and whatever damages them is refused."""

import base64
import contextlib
import html
import io
import json
import logging
import re
import shlex
import textwrap
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.tracing_helpers import echo, module, ran, run, silent

from inf_engine import Engine, Parameter, TracingError, trace
from inf_engine.template import (
    _ESCAPED,
    Hole,
    HoleTable,
    Template,
    _is_escaped,
)
from inf_engine.testing import FunctionClient, VirtualTimeLoop

DAMAGE: list[tuple[str, Callable[[str], Any]]] = [
    ("upper", str.upper),
    ("lower", str.lower),
    ("title", str.title),
    ("capitalize", str.capitalize),
    ("swapcase", str.swapcase),
    ("casefold", str.casefold),
    ("head", lambda t: t[:5]),
    ("tail", lambda t: t[-5:]),
    ("middle", lambda t: t[3:9]),
    ("step", lambda t: t[::2]),
    ("reversed", lambda t: t[::-1]),
    ("one letter", lambda t: t[8]),
    ("html.escape", html.escape),
    ("json, not ASCII", lambda t: json.dumps({"a": t}, ensure_ascii=False)),
    ("repr of a template", repr),
    ("repr of a list", lambda t: f"{[t]}"),
    ("re.escape", re.escape),
    ("shlex.quote", shlex.quote),
    ("spread", lambda t: " ".join(t)),
    ("wrapped", lambda t: textwrap.fill(t, 5)),
    ("shortened", lambda t: f"{t:.5}"),
    ("json", json.dumps),
    ("json inside", lambda t: json.dumps({"a": [t]})),
    ("url", urllib.parse.quote),
    ("query", lambda t: urllib.parse.urlencode({"q": t})),
    ("html", lambda t: t.encode("ascii", "xmlcharrefreplace").decode()),
    ("html hex", lambda t: "".join(f"&#x{ord(c):x};" for c in t)),
    ("ascii", ascii),
    ("backslash", lambda t: t.encode("ascii", "backslashreplace").decode()),
    ("unicode escape", lambda t: t.encode("unicode-escape").decode()),
    ("bytes", str.encode),
    ("base64", lambda t: base64.b64encode(t.encode()).decode()),
    ("base64 shifted", lambda t: base64.b64encode(f"x{t}".encode()).decode()),
    ("base64 shifted twice", lambda t: base64.b64encode(f"xy{t}".encode()).decode()),
    ("hex", lambda t: t.encode().hex()),
    ("conversion a", lambda t: f"{t!a}"),
]
damages = pytest.mark.parametrize(
    "damage", [d[1] for d in DAMAGE], ids=[d[0] for d in DAMAGE]
)


@damages
def test_damage_before_a_call(damage: Callable[[str], Any]) -> None:
    """A damaged hole is refused where it reaches a call, and nothing is paid.

    The same text goes on whole as well, so that the damage itself is what is seen.
    """
    client = silent()

    def forward(self: Any, x: str) -> Any:
        text = f"{self.llm(x)}"
        return self.llm(text), self.llm([text, damage(text)])

    fix = r"'llm#1' was changed .* reached a call of 'llm'.*str\(p\).*@op"
    with pytest.raises(TracingError, match=fix):
        ran(forward, "x", client=client)
    assert client.requests == []


@damages
def test_damage_in_the_output(damage: Callable[[str], Any]) -> None:
    """A damaged hole is refused in what forward returns, too."""
    client = silent()
    with pytest.raises(TracingError, match=r"'llm#1'.*(the output|reached no call)"):
        ran(lambda s, x: {"k": damage(f"{s.llm(x)}")}, "x", client=client)
    assert client.requests == []


def logged(text: str) -> None:
    """Log a text."""
    logging.getLogger("test").debug("%s", text)


def printed(text: str) -> None:
    """Print a text."""
    with contextlib.redirect_stdout(io.StringIO()):
        print(text)


UNREAD: list[tuple[str, Callable[[str], Any]]] = [
    ("dropped", lambda t: None),
    ("compared", lambda t: t == "[x]"),
    ("searched", lambda t: "x" in t),
    ("measured", len),
    ("printed", printed),
    ("logged", logged),
    ("cut off", lambda t: t[:0]),
    ("counted", lambda t: t.count("x")),
    ("split off", lambda t: f"a {t}".split()[0]),
    ("hashed", lambda t: {t: 1}.get("[x]")),
]


@pytest.mark.parametrize("use", [u[1] for u in UNREAD], ids=[u[0] for u in UNREAD])
def test_hole_that_reaches_nothing(use: Callable[[str], Any]) -> None:
    """A hole that no call and no output reads is refused, with its line."""
    client = silent()

    def forward(self: Any, x: str) -> Any:
        return use(f"{self.llm(x)}")

    here = rf"'llm#1' at {__file__}:\d+ reached no call and no output.*str\(p\).*@op"
    with pytest.raises(TracingError, match=here):
        ran(forward, "x", client=client)
    assert client.requests == []


def test_each_formatting_counts() -> None:
    """A text that is measured is refused even if another one of the same value is used.

    Each formatting is a hole of its own.
    """
    with pytest.raises(TracingError, match="reached no call"):
        ran(lambda s, x: (lambda p: s.llm(f"{p} {len(f'{p}')}"))(s.llm(x)), "x")


def test_text_of_an_earlier_run() -> None:
    """A text kept from an earlier run is refused, with or without holes of its own."""
    kept: list[str] = []

    def forward(self: Any, x: str, own: bool) -> Any:
        if kept:
            more = f"{self.llm(x)}" if own else ""
            return self.llm(kept[0] + more)
        kept.append(f"{self.llm(x)}")
        return self.llm(kept[0])

    made = module(forward)
    assert run(made, "x", False).output == "[[x]]"
    for own in (False, True):
        client = silent()
        with pytest.raises(TracingError, match="placeholders of another run"):
            run(made, "x", own, client=client)
        assert client.requests == []


@pytest.mark.parametrize(
    "text",
    [
        "ümläut ñandú 漢字 кириллица العربية 🙂",
        "𖹠𖹡𖹢 Medefaidrin letters 𖹀",
        "\\ud81b and %F0%96%B9%A0 and &#93792;",
        "\ud83d lone surrogate",
        "\x00\u2028\ufeff",
        "8Ja5" * 9,
    ],
)
def test_plain_text_is_unharmed(text: str) -> None:
    """Any script and any escape goes through calls as it is, when no hole is about."""
    assert ran(lambda s, x: [s.llm(x), x], text).output == [f"[{text}]", text]


@pytest.mark.parametrize("text", ["ümläut 漢字 🙂", "𐐀 Deseret 𞤀 Adlam", "\ud83d"])
def test_other_scripts_beside_holes(text: str) -> None:
    """Other scripts stand beside holes in one text, inputs and values alike."""
    got = ran(lambda s, x: s.llm(f"{x} {s.llm(x)} {x}"), text)
    assert got.prompts[-1] == f"{text} [{text}] {text}"


@pytest.mark.parametrize("value", ["𖹠𖹡𖹢 𖹀", "\\ud81b\\ude40", "%F0%96%B9%A0"])
def test_answers_may_look_like_placeholders(value: str) -> None:
    """What a model answers is not looked into."""
    got = ran(lambda s: s.llm(f"<{s.llm('x')}>"), answer=lambda request: value)
    assert got.output == value
    assert got.prompts == ["x", f"<{value}>"]


def test_str_subclasses_are_looked_into() -> None:
    """A text of a subclass of str has holes, too; one without stays as it is."""

    class Marked(str):
        __slots__ = ()

    plain = Marked("plain")
    got = ran(lambda s, x: (s.llm(Marked(f"<{s.llm(x)}>")), plain), "x")
    assert got.output[0] == "[<[x]>]"
    assert got.output[1] is plain


def test_format_spec_that_fails() -> None:
    """A spec that the value refuses fails where the text is needed."""
    with pytest.raises(Exception, match="Unknown format code 'd'"):
        ran(lambda s, x: s.llm(f"{s.llm(x):d}"), "x")
    with pytest.raises(ValueError, match="Unknown format code 'd'"):
        ran(lambda s, x: f"{s.llm(x):d}", "x")


def test_parallel_runs_have_tokens_of_their_own() -> None:
    """Runs at the same time do not mix up their holes."""

    async def main() -> list[Any]:
        client = FunctionClient(echo, latency=1.0)
        async with Engine({"a": client}, progress=False) as engine:
            made = module(lambda s, x: s.llm(f"<{s.llm(x)}>"))
            return await engine.map(made, "abc")

    assert VirtualTimeLoop.run(main()) == [f"[<[{x}]>]" for x in "abc"]


# -- the table itself ------------------------------------------------------------------


class Source:
    """What gives a value, in tests of the table."""

    name = "source"


def test_scan_splits_text_and_holes() -> None:
    """A scanned text is a template of texts and holes, in order."""
    table, source = HoleTable(), Source()
    text = f"a {table.issue(source, '>4')} b {table.issue(source)}"
    template = table.scan(text, "a call")
    assert isinstance(template, Template)
    assert [p if isinstance(p, str) else p.spec for p in template.parts] == [
        *("a ", ">4", " b ", "")
    ]
    assert template.fill(lambda _: "v") == "a    v b v"
    assert template.text() == text
    assert [text for text, _ in template.segments(lambda _: "v")] == [
        *("a ", "   v", " b ", "v")
    ]
    table.check_all_read()


def test_scan_gives_plain_text_back() -> None:
    """A text without holes is returned as the same object."""
    table = HoleTable()
    for text in ("plain", "ünicode"):
        assert table.scan(text, "a call") is text
    table.issue(Source())
    for text in ("plain", "ünicode"):
        assert table.scan(text, "a call") is text


def test_many_holes() -> None:
    """Ten thousand holes in one text keep their order."""
    table = HoleTable()
    sources = [Source() for _ in range(10_000)]
    template = table.scan("".join(table.issue(s) for s in sources), "a call")
    assert isinstance(template, Template)
    assert [hole.source for hole in template.holes] == sources


def test_parameter_names_in_messages() -> None:
    """A damaged hole of a parameter is named by the parameter, without its text."""
    style = Parameter("secret prompt")
    made = module(lambda s, x: s.llm(f"{s.style}".upper()), style=style)
    with pytest.raises(TracingError, match="parameter 'style' was changed") as caught:
        run(made, "x")
    assert "secret" not in str(caught.value)


def test_hole_remembers_its_line() -> None:
    """A hole knows file and line of the formatting, for reports."""
    graph = trace(module(lambda s, x: s.llm(f"{x}")), "x")
    (hole,) = graph.nodes[-1].args[0].holes
    assert isinstance(hole, Hole)
    assert hole.where.startswith(f"{__file__}:")


@pytest.mark.parametrize("fill", ["", "é", "x" * 5000])
def test_every_escape_has_a_trace(fill: str) -> None:
    """Whatever the regular expression finds is also found by the short way."""
    escapes = [
        r"\ud81b", r"\UD81B", r"\U00016e40", r"\u00016E7", "%F0%96%B9", "%f0%96%b9",
        "&#93760;", "&#93823;", "&#x16e4", "&#X16E7", "8Ja5" + "a" * 12 + "8Ja5",
        "8jA5" + "a" * 12 + "8JA5", "f096b9a0" * 3, "F096B9A0" * 3,
    ]  # fmt: skip
    for escape in escapes:
        text = f"{fill}{escape}{fill}"
        assert _ESCAPED.search(text), escape
        assert _is_escaped(text), escape
    assert not _is_escaped(fill)
    assert not _is_escaped(f"{fill}d81b &#931; 8ja5{fill}")
