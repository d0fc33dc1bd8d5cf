"""Graph breaks: forward pauses for a value, and only forward does."""

import re
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.tracing_helpers import (
    clients_for,
    echo,
    module,
    ran,
    run,
    same,
)

from inf_engine import (
    Engine,
    ExecutionError,
    InferenceModule,
    LLMInference,
    ModuleError,
    RateLimitError,
    op,
)
from inf_engine.testing import FunctionClient, assert_runs_alike


def unpacked(s: Any) -> Any:
    """Unpack a proxy."""
    first, second = s.numbers("[4, 5]")
    return second, first


def looped(s: Any) -> Any:
    """Loop over a proxy."""
    found = []
    for number in s.numbers("[4, 5]"):
        found.append(number + 1)
    return found


def starred(s: Any) -> Any:
    """Unpack a proxy into a call."""
    return dict(**s.fields('{"a": 1}')), [*s.numbers("[4, 5]")]


def matched(s: Any) -> Any:
    """Match on the class of a proxy."""
    match s.number("3"):
        case str():
            return "text"
        case int():
            return "number"


BREAKS: list[tuple[str, Callable[[Any], Any]]] = [
    ("if", lambda s: "yes" if s.number("1") else "no"),
    ("not", lambda s: not s.number("0")),
    ("and", lambda s: s.number("0") or s.number("2")),
    ("for", looped),
    ("unpack", unpacked),
    ("star", starred),
    ("match class", matched),
    ("len", lambda s: len(s.numbers("[4, 5]"))),
    ("in", lambda s: 4 in s.numbers("[4, 5]")),
    ("proxy in proxy", lambda s: s.number("4") in s.numbers("[4, 5]")),
    ("proxy in list", lambda s: s.number("4") in [3, 4]),
    ("str", lambda s: str(s.number("4"))),
    ("f-string !s", lambda s: f"{s.number('4')!s:>3}"),
    ("percent s", lambda s: "%s" % s.number("4")),  # noqa: UP031
    ("int", lambda s: int(s.fields('{"a": "4"}')["a"])),
    ("float", lambda s: float(s.number("4"))),
    ("complex", lambda s: complex(s.number("4"))),
    ("bytes", lambda s: bytes(s.numbers("[4, 5]"))),
    ("index", lambda s: "abcde"[s.number("4")]),
    ("range", lambda s: list(range(s.number("4")))),
    ("hash", lambda s: {4: "four"}[s.number("4")]),
    ("less", lambda s: (s.number("4") < 5, 5 <= s.number("4"))),
    ("greater", lambda s: (s.number("4") > s.number("5"), s.number("4") >= 4)),
    ("sorted", lambda s: sorted([s.number("4"), s.number("3")])),
    ("max", lambda s: max(s.number("4"), s.number("3"))),
    ("isinstance", lambda s: isinstance(s.number("4"), int)),
    ("not isinstance", lambda s: isinstance(s.number("4"), (str, list))),
    ("reversed", lambda s: list(reversed(s.numbers("[4, 5]")))),
    ("enumerate", lambda s: list(enumerate(s.numbers("[4, 5]")))),
    ("dict", lambda s: dict(s.fields('{"a": 1}'))),
    ("trunc", lambda s: [__import__("math").floor(s.number("4"))]),
]


@pytest.mark.parametrize("use", [b[1] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_break_gives_real_value(use: Callable[[Any], Any]) -> None:
    """What Python needs at once pauses forward, which goes on with the real value."""
    assert_runs_alike(module(use), clients=clients_for(same))


def test_break_pauses_only_forward() -> None:
    """Everything recorded before a break keeps running; what comes after waits."""

    def forward(self: Any, x: str) -> Any:
        slow = self.llm("slow")
        quick = self.llm(x)
        chained = self.llm(f"after {quick}")
        if quick == "[x]":
            late = self.llm("late")
        return slow, chained, late

    got = ran(forward, "x")
    assert got.output == ("[slow]", "[after [x]]", "[late]")
    assert dict(zip(got.prompts, got.arrivals, strict=True)) == {
        "slow": 0.0,
        "x": 0.0,
        "after [x]": 1.0,
        "late": 1.0,
    }
    assert got.seconds == 5.0


def test_known_value_does_not_pause() -> None:
    """A value that is there already is used at once, however often."""

    def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        return [len(p), str(p), p[0] if p else None, "x" in p]

    got = ran(forward, "x")
    assert got.output == [3, "[x]", "[", True]
    assert got.seconds == 1.0


# -- changing a value ---------------------------------------------------------------


def changed_item(s: Any) -> Any:
    """Set and delete items."""
    p = s.fields('{"a": 1}')
    before = s.llm(f"{p}")
    p["b"] = s.number("5")
    between = s.llm(f"{p}")
    del p["a"]
    return before, between, p


def changed_list(s: Any) -> Any:
    """Call methods that change the value, also through a name and an inner item."""
    p = s.fields('{"list": [1]}')
    before = s.llm(f"{p}")
    push = p["list"].append
    push(s.number("2"))
    between = s.llm(f"{p}")
    p["list"].extend([3, s.number("4")])
    last = p["list"].pop()
    return before, between, last, p


@pytest.mark.parametrize("change", [changed_item, changed_list])
def test_earlier_calls_saw_old_value(change: Callable[[Any], Any]) -> None:
    """A change happens after all earlier calls have seen the value as it was."""
    assert_runs_alike(module(change), clients=clients_for(same))


def test_attributes_change() -> None:
    """Setting and deleting an attribute of a value is a break, too."""

    class Box:
        kept = "old"

    @op
    def box() -> Box:
        return Box()

    @op
    def kept(value: Box) -> str:
        return value.kept

    def forward(self: Any) -> Any:
        b = box()
        before = kept(b)
        b.kept = self.llm("new")
        between = kept(b)
        del b.kept
        return before, between, kept(b)

    assert ran(forward).output == ("old", "[new]", "old")


# -- failures -----------------------------------------------------------------------


def failing(prompt: str) -> Callable[[Any], Any]:
    """An answer that fails for one prompt."""
    return lambda request: (
        RateLimitError("too many") if request.prompt == prompt else echo(request)
    )


def test_failure_is_raised_where_forced() -> None:
    """A failed node is raised at the break, as itself, and may be caught there."""

    def forward(self: Any, x: str) -> Any:
        try:
            return str(self.llm(x))
        except RateLimitError as exc:
            return self.llm(f"instead of {exc}")

    assert ran(forward, "x", answer=failing("x")).output == "[instead of too many]"


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: str(s.llm(x)),
        lambda s, x: s.llm(x),
        lambda s, x: (s.llm(x), "done")[1],
        lambda s, x: f"<{s.llm(x)}>",
        lambda s, x: s.llm(f"<{s.llm(x).strip()}>"),
    ],
    ids=["forced", "returned", "unused", "in a text", "below"],
)
def test_uncaught_failure_names_the_node(forward: Callable[..., Any]) -> None:
    """Uncaught, forced or not, a failure fails the run with the node's name."""
    with pytest.raises(ExecutionError, match=r"'llm#1' \(alias 'a'\)") as caught:
        ran(forward, "x", answer=failing("x"))
    assert isinstance(caught.value.cause, RateLimitError)
    assert caught.value.node == "llm#1"


def test_caught_failure_below_the_output() -> None:
    """A caught failure still fails the run if the output needs that value."""

    def forward(self: Any, x: str) -> Any:
        p = self.llm(x)
        below = self.llm(f"{p}")
        try:
            str(p)
        except RateLimitError:
            return below

    with pytest.raises(ExecutionError, match="'llm#1'"):
        ran(forward, "x", answer=failing("x"))


def test_other_error_from_failure() -> None:
    """What forward raises instead leaves as itself, the failure as its cause."""

    def forward(self: Any, x: str) -> Any:
        try:
            str(self.llm(x))
        except RateLimitError as exc:
            raise KeyError("own") from exc

    with pytest.raises(KeyError, match="own") as caught:
        ran(forward, "x", answer=failing("x"))
    assert isinstance(caught.value.__cause__, RateLimitError)


# -- exceptions of forward ----------------------------------------------------------


class Deep(InferenceModule):
    """A module that raises below a break."""

    def __init__(self) -> None:
        super().__init__()
        self.llm = LLMInference(alias="a")

    def forward(self, x: str) -> Any:
        if self.llm(x):
            raise ValueError(f"about {self.llm('more')}")  # the user's line
        return None


@pytest.mark.parametrize("nested", [False, True])
def test_user_line_in_traceback(nested: bool) -> None:
    """An exception of forward keeps its type, the user's line, and filled holes."""
    made = module(lambda s, x: s.deep(x), deep=Deep()) if nested else Deep()
    with pytest.raises(ValueError, match=r"^about \[more\]$") as caught:
        run(made, "x")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.name) == (__file__, "forward")
    assert last.line is not None
    assert "the user's line" in last.line


@pytest.mark.parametrize(
    "raised",
    [
        lambda p: ValueError(p),
        lambda p: ValueError(f"{p}"),
        lambda p: ValueError([f"{p}"]),
        lambda p: ExceptionGroup("[x]", [ValueError(f"{p}")]),
    ],
    ids=["proxy", "text", "nested", "group"],
)
def test_holes_in_exceptions_are_filled(raised: Callable[[Any], Exception]) -> None:
    """No placeholder leaves forward in an exception."""

    def forward(self: Any, x: str) -> Any:
        raise raised(self.llm(x))

    with pytest.raises((ValueError, ExceptionGroup)) as caught:
        ran(forward, "x")
    text = "".join(traceback.format_exception(caught.value))
    assert "[x]" in text
    assert not re.search("[\U00016e40-\U00016e7f]", text)


def test_hole_of_a_failed_node_in_an_exception() -> None:
    """If the value of a hole in an exception failed, that failure is the outcome."""

    def forward(self: Any, x: str) -> Any:
        raise ValueError(f"{self.llm(x)}")

    with pytest.raises(ExecutionError, match="'llm#1'"):
        ran(forward, "x", answer=failing("x"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["forward", "op", "thread op", "async op"])
def test_interrupts_reach_the_caller(kind: type[BaseException], where: str) -> None:
    """KeyboardInterrupt and SystemExit end the run and reach who called it."""

    def interrupt() -> Any:
        raise kind("now")

    @op
    async def suspended() -> Any:
        raise kind("now")

    ways: dict[str, Callable[[], Any]] = {
        "forward": interrupt,
        "op": op(interrupt),
        "thread op": op(thread=True)(interrupt),
        "async op": suspended,
    }
    made = module(lambda s: ways[where]())
    with pytest.raises(kind, match="now"):
        run(made)
    with (
        Engine({"a": FunctionClient(echo)}, progress=False) as engine,
        pytest.raises(kind, match="now"),
    ):
        engine.run_sync(made)


@pytest.mark.parametrize("threaded", [False, True])
def test_stop_iteration_does_not_hang(threaded: bool) -> None:
    """StopIteration, which no coroutine can raise, arrives as its cause."""

    @op(thread=threaded)
    def stop() -> Any:
        raise StopIteration(3)

    with pytest.raises(RuntimeError, match="raised StopIteration"):
        ran(lambda s: next(iter(())))
    with pytest.raises(ExecutionError, match="StopIteration"):
        ran(lambda s: stop())


def test_a_text_made_before_a_change_keeps_the_old_value() -> None:
    """`t = f"{p}"; p.append(4)`: the text says what p was, as in plain Python."""

    @op
    def numbers(text: str) -> list[int]:
        return [1, 2, 3]

    def forward(self: Any, x: str) -> Any:
        p = numbers(x)
        before, padded = f"{p}", f"{p!r:>12}"
        p.append(4)
        return self.llm(before + padded), f"{p}"

    assert ran(forward, "x").output == ("[[1, 2, 3]   [1, 2, 3]]", "[1, 2, 3, 4]")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, p: s.llm(p, temperature=1), "takes one argument"),
        (lambda s, p: s.llm(), "takes one argument"),
        (lambda s, p: s.llm(p, p), "takes one argument"),
    ],
)
def test_a_wrong_call_is_refused_where_it_stands(call: Any, message: str) -> None:
    """Before the calls that it waits for are paid, and with the user's line."""
    client = FunctionClient(lambda request: "paid")

    def forward(self: Any, x: str) -> Any:
        return call(self, self.llm(x))

    with pytest.raises(ModuleError, match=message) as caught:
        run(module(forward), "x", client=client)
    assert client.requests == []
    files = [str(entry.path) for entry in caught.traceback]
    assert any("test_tracing_breaks.py" in name for name in files)
