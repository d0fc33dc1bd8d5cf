"""`functional`: plain Python outside a forward, the same value inside of one."""

import asyncio
import functools
import pickle
from typing import Any

import pytest
from tests.integration.engine_helpers import Flow, echo, run

from inf_engine import (
    ExecutionError,
    InferenceModule,
    LLMInference,
    ModuleError,
    NotBoundError,
    Parameter,
    op,
    trace,
)
from inf_engine import functional as F
from inf_engine.functional import Op
from inf_engine.testing import assert_runs_alike


@op
def shout(text: str) -> str:
    """Shout."""
    return text.upper() + "!"


class Holder:
    """Ops as methods."""

    mark = "?"

    @op
    def ask(self, text: str) -> str:
        return text + self.mark

    @staticmethod
    @op
    def still(text: str) -> str:
        return text


def both(body: Any, *args: Any) -> Any:
    """What a body gives as plain Python and in a forward; they have to agree."""
    plain = body(*args)
    traced = run(Flow(lambda m, *a: body(*a)), *args, client=echo())
    assert traced == plain
    assert type(traced) is type(plain)
    return plain


# -- op ---------------------------------------------------------------------------


def test_an_op_is_its_function_outside_a_forward() -> None:
    """With its name, docstring and signature."""
    assert shout("a") == "A!"
    assert (shout.name, shout.__doc__, repr(shout)) == (
        "shout",
        "Shout.",
        "<op shout>",
    )
    assert Holder().ask("a") == "a?"
    assert Holder.ask(Holder(), "a") == "a?"
    assert Holder.still("a") == "a"
    assert isinstance(Holder.ask, Op)


def test_an_op_pickles_by_name() -> None:
    """As a function does."""
    assert pickle.loads(pickle.dumps(shout)) is shout


class AsyncCallable:
    """An object whose call is a coroutine."""

    async def __call__(self, text: str) -> str:
        return text + "~"


async def wave(text: str) -> str:
    """Async."""
    await asyncio.sleep(0)
    return text + "~"


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda: op(str.upper), "inline"),
        (lambda: op()(str.upper), "inline"),
        (lambda: op(thread=True)(str.upper), "thread"),
        (lambda: op(functools.partial(str.replace, "a")), "inline"),
        (lambda: op(wave), "async"),
        (lambda: op(functools.partial(wave)), "async"),
        (lambda: op(AsyncCallable()), "async"),
    ],
)
def test_the_mode_of_an_op_is_seen_from_its_function(make: Any, mode: str) -> None:
    """Anything callable, sync or async."""
    assert make().mode == mode


def test_async_ops_are_coroutines_outside_and_values_inside() -> None:
    """Functions and callable objects alike."""
    for fn in (wave, AsyncCallable()):
        node: Op[..., Any] = op(fn)
        assert asyncio.run(node("a")) == "a~"
        assert run(Flow(lambda m, x, n=node: n(x)), "a", client=echo()) == "a~"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: op(5), "@op needs a function, not int"),  # ty: ignore
        (lambda: op(thread=True)(wave), "for sync functions, and wave is async"),
        (lambda: op(thread=True)(AsyncCallable()), "AsyncCallable is async"),
    ],
)
def test_what_is_no_op_is_refused(make: Any, message: str) -> None:
    """When it is made."""
    with pytest.raises(ModuleError, match=message):
        make()


def test_an_op_method_in_a_forward_is_a_node() -> None:
    """Its object goes with it."""
    holder = Holder()
    module = Flow(lambda m, x: holder.ask(m.llm(x)))
    assert run(module, "a", client=echo()) == "A?"


def test_a_model_call_inside_an_op_is_refused() -> None:
    """No forward is running there."""
    module = Flow(lambda m, x: op(lambda y: m.llm(y))(x))
    with pytest.raises(ExecutionError) as caught:
        run(module, "a", client=echo())
    assert isinstance(caught.value.cause, NotBoundError)


# -- the same inside and outside ----------------------------------------------------


def test_render_fills_a_text() -> None:
    """With format specs, as str.format."""
    assert both(lambda x: F.render("{a:>3}{b}", a=x, b=2), "x") == "  x2"
    assert both(lambda: F.render("{b[k]}{b[l].real:{w}}", b={"k": 1, "l": 2}, w=2))


def test_a_field_may_have_any_name() -> None:
    """Also those that render's own arguments have."""
    assert both(lambda: F.render("{template}{self}", template=1, self=2)) == "12"


def test_render_fills_a_parameter() -> None:
    """Its value is the template; the node has the parameter itself."""
    style = Parameter("Dear {name},")
    assert both(lambda: F.render(style, name="Ann")) == "Dear Ann,"
    graph = trace(Flow(lambda m, x: F.render(style, name=x)), "Ann")
    assert graph.node("render#1").args == (style,)


def test_gather_makes_one_list() -> None:
    """Of its arguments, or of the one list it is given."""
    assert both(lambda: F.gather(1, 2)) == [1, 2]
    assert both(lambda: F.gather([1, 2])) == [1, 2]
    assert both(lambda: F.gather((1, 2))) == [1, 2]
    assert both(lambda: F.gather()) == []
    assert both(lambda: F.gather(5)) == [5]
    assert both(lambda: F.gather(x for x in (1, [2]))) == [1, [2]]


def test_map_is_the_builtin_as_a_list() -> None:
    """Over lists, several at once, iterators, and nothing."""
    assert both(lambda xs: F.map(shout, xs), ["a", "b"]) == ["A!", "B!"]
    assert both(lambda: F.map(lambda a, b: a + b, [1, 2, 3], (10, 20))) == [11, 22]
    assert both(lambda: F.map(shout, iter("ab"))) == ["A!", "B!"]
    assert both(lambda: F.map(shout, [])) == []
    assert both(lambda: F.map(lambda row: F.map(shout, row), ["ab", "c"])) == [
        ["A!", "B!"],
        ["C!"],
    ]


@pytest.mark.parametrize(("predicate", "wanted"), [(True, "then"), ("", "else")])
def test_cond_calls_one_of_two(predicate: Any, wanted: str) -> None:
    """By truth; the other is never called."""
    called = []

    def then(x: str) -> str:
        called.append("then")
        return x

    def otherwise(x: str) -> str:
        called.append("else")
        return x

    both(lambda: F.cond(predicate, then, otherwise, "x"))
    assert called == [wanted, wanted]
    assert both(
        lambda: F.cond(predicate, then=lambda: "then", otherwise=lambda: "else")
    ) == (wanted)


def test_vote_takes_the_most_frequent_and_the_earliest_of_those() -> None:
    """By value, or by a key; unhashable answers by their text."""
    assert both(lambda: F.vote(["a", "b", "b"])) == "b"
    assert both(lambda: F.vote(["b", "a"])) == "b"
    assert both(lambda: F.vote("a", "b", "b")) == "b"
    assert both(lambda: F.vote(F.gather("a", "b", "b"))) == "b"
    assert both(lambda: F.vote(["Yes", "no", "YES "], key=_plain)) == "Yes"
    assert both(lambda: F.vote([[1], [2], [2]])) == [2]


def _plain(text: str) -> str:
    return text.strip().lower()


def test_first_takes_the_first_good_one() -> None:
    """A check that raises says no."""
    assert both(lambda: F.first(1, 2)) == 1
    assert both(lambda: F.first([1, 2])) == both(lambda: F.first((1, 2))) == 1
    assert both(lambda: F.first([[1, 2]])) == [1, 2]
    assert both(lambda: F.first(1, 2, 3, good=lambda v: v > 1)) == 2
    assert both(lambda: F.first("x", 2, good=lambda v: v / 1)) == 2


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (lambda: F.first(), ModuleError, "needs at least one candidate"),
        (lambda: F.first(1, good=lambda v: False), ModuleError, "none of the "),
        (lambda: F.first("x", good=lambda v: v / 1), TypeError, "unsupported operand"),
        (lambda: F.vote([]), ModuleError, "needs at least one answer"),
        (
            lambda: F.render("{a} {b.c:{d}}", a=1),
            ModuleError,
            "no value for {b}, {d} of the template; known: a. Pass a value by name",
        ),
        (lambda: F.render("{}", a=1), ModuleError, "no value for {} of the template"),
        (lambda: F.render("{a"), ModuleError, "render.*expected '}'.*Write {{ and }}"),
        (lambda: F.render(5), ModuleError, "fills a text or a Parameter, not int"),
        (lambda: F.vote("yes"), ModuleError, "a list of answers, not one str: write"),
        (lambda: F.vote(5), ModuleError, "a list of answers, not one int"),
        (lambda: F.vote(), ModuleError, "needs at least one answer"),
        (lambda: F.first([]), ModuleError, "needs at least one candidate"),
        (lambda: F.first(1, len), ModuleError, "is a function: call it, first"),
        (lambda: F.cond(len, str, str), ModuleError, "is a function.*call it, cond"),
        (lambda: F.map(shout), ModuleError, "at least one list: write map"),
        (lambda: F.map(shout, 5), TypeError, "not iterable"),
    ],
)
def test_what_fails_outside_fails_alike_inside(
    body: Any, kind: type[Exception], message: str
) -> None:
    """The same type: raised in forward, or the cause of a node's failure."""
    with pytest.raises(kind, match=message):
        body()
    with pytest.raises(Exception, match=message) as caught:
        run(Flow(lambda m: body()), client=echo())
    assert isinstance(getattr(caught.value, "cause", caught.value), kind)


@pytest.mark.parametrize("good", [lambda v: v == "B", lambda v: False])
def test_first_of_calls_is_the_same_as_plain_python(good: Any) -> None:
    """Eager and traced agree, also when none is good."""
    module = Flow(lambda m: F.first(m.llm("a"), m.llm("b"), good=good))
    got = assert_runs_alike(module, clients=lambda: {"m": echo(0.0)})
    assert got == "B" or isinstance(got, ModuleError)


def test_acall_gives_the_value_in_an_async_forward_and_outside() -> None:
    """`await op.acall(x)` is what `await op(x)` is, for sync and async functions."""

    @op
    async def fetch(text: str) -> int:
        return len(text)

    @op
    def count(text: str) -> int:
        return len(text)

    class Both(InferenceModule):
        async def forward(self, text: str) -> list[int]:
            return [await fetch.acall(text), await count.acall(text)]

    async def outside() -> list[int]:
        return [await fetch.acall("four"), await count.acall("four")]

    assert assert_runs_alike(Both(), "four", clients=dict) == [4, 4]
    assert asyncio.run(outside()) == [4, 4]


class AsyncMap(InferenceModule):
    """An async forward that maps, votes, and races over lists."""

    def __init__(self) -> None:
        super().__init__()
        self.llm: Any = LLMInference("m")

    async def forward(self, words: list[str]) -> list[Any]:
        known = F.map(self.llm, words)
        later = F.map(lambda w: self.llm(f"{w}?") + "!", self.llm("p q").split())

        async def twice(word: str) -> str:
            return await self.llm(await self.llm(word))

        return [
            await known,
            await later,
            await F.map(twice, words),
            await F.vote(known),
            await F.vote(self.llm("x"), self.llm("y"), self.llm("x")),
            await F.first([self.llm("f"), self.llm("f")]),
            [await v for v in [self.llm("x")]],
        ]


def test_map_in_an_async_forward_is_one_value_to_await() -> None:
    """Over a list that is known as over one that is not; eager and traced agree."""
    got = assert_runs_alike(AsyncMap(), ["1", "2"], clients=lambda: {"m": echo(0.0)})
    words = ["1", "2"]
    assert got == [words, ["P?!", "Q?!"], words, "1", "X", "F", ["X"]]


def test_first_of_a_list_races_its_items() -> None:
    """The slower one is cancelled, as if both had been given one by one."""
    client = echo(lambda r: float(r.prompt))
    module = Flow(lambda m: F.first([m.llm("3"), m.llm("1")]))
    assert run(module, client=client) == "1"
    assert client.cancelled == 1
