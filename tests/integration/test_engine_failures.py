"""What fails in a run: where the error points, what is kept, what else goes on."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from tests.integration.engine_helpers import (
    Ask,
    Compare,
    Flow,
    echo,
    limited,
    run,
    virtually,
)

from inf_engine import (
    DeadlineError,
    Engine,
    ExecutionError,
    LLMInference,
    OutputParseError,
    Parameter,
    ToolArgumentError,
    ToolLoopError,
    op,
)
from inf_engine import functional as F
from inf_engine.errors import EndpointServerError, RateLimitError, RequestRefusedError
from inf_engine.testing import ScriptedClient
from inf_engine.types import LLMRequest, LLMResponse, ToolCall, Usage


def failure(module: Any, *args: Any, client: Any, **options: Any) -> ExecutionError:
    """The ExecutionError that a run raises."""
    with pytest.raises(ExecutionError) as caught:
        run(module, *args, client=client, **options)
    return caught.value


def answers(**table: Any) -> Any:
    """A client that answers each prompt from a table, in upper case if not there."""
    return echo(1.0, lambda r: table.get(r.prompt, r.prompt.upper()))


# -- where and why ----------------------------------------------------------------


def test_an_error_names_node_alias_attempt_and_cause_but_no_prompt() -> None:
    """Never a word of the prompt, which may be private."""

    class Secret(Ask):
        def forward(self, text: str) -> Any:
            return self.llm(f"SECRET {text}")

    refused = RequestRefusedError("the endpoint said no", status=400)
    error = failure(Secret(), "WORD", client=echo(1.0, lambda r: refused))
    assert str(error) == (
        "'llm#1' (alias 'm') failed: RequestRefusedError: the endpoint said no"
    )
    assert (error.node, error.alias, error.attempt) == ("llm#1", "m", 1)
    assert error.cause is refused
    assert error.__cause__ is refused


def test_the_attempt_counts_every_try() -> None:
    """Two retries after the first one."""
    client = echo(1.0, lambda r: EndpointServerError("down"))
    error = failure(Ask(), "x", client=client)
    assert error.attempt == 3
    assert len(client.requests) == 3
    tries = error.record.nodes[0].calls
    assert [type(c.error) for c in tries] == [EndpointServerError] * 3
    assert tries[-1].error is error.cause


def test_an_error_keeps_what_had_been_answered() -> None:
    """The record has the outputs of every node that was done."""
    client = answers(b=ValueError("bad"))
    client._latency = lambda r: 2.0 if r.prompt == "b" else 1.0
    error = failure(Compare(), "a", "b", client=client)
    record = error.record
    assert [(n.name, n.outcome, n.output) for n in record.nodes] == [
        ("extract#1", "done", "A"),
        ("extract#2", "failed", None),
        ("join#1", "cancelled", None),
    ]
    assert record.usage.requests == 1
    assert record.args == ("a", "b")
    assert record.error is error
    assert record.seconds == 2.0
    assert [c.error for c in record.node("extract#2").calls] == [error.cause]


def test_a_failed_op_is_a_node_without_alias() -> None:
    """Ops fail like calls, no request having been made."""

    @op
    def split(text: str) -> str:
        raise LookupError("no colon")

    error = failure(Flow(lambda m, x: split(m.llm(x))), "a", client=echo())
    assert str(error) == "'split#1' failed: LookupError: no colon"
    assert (error.alias, error.attempt) == (None, 0)
    assert error.record.nodes[0].output == "A"


def test_an_error_of_forward_itself_is_raised_as_it_is() -> None:
    """What the user's own line raises is no ExecutionError."""

    def forward(m: Any, x: str) -> Any:
        m.llm(x)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(Flow(forward), "a", client=echo())


def test_a_wrong_argument_of_forward_is_pythons_own_error() -> None:
    """As if forward had been called."""
    with pytest.raises(TypeError, match="forward.. missing 1 required"):
        run(Ask(), client=echo())


# -- the error policy of one run --------------------------------------------------


@pytest.mark.parametrize(("policy", "ended"), [("raise", 1.0), ("collect", 5.0)])
def test_independent_work_follows_the_policy(policy: str, ended: float) -> None:
    """ "raise" cancels it at the first failure, "collect" finishes it first."""
    client = echo(
        lambda r: float(r.prompt),
        lambda r: ValueError("bad") if r.prompt == "1" else r.prompt,
    )

    async def main() -> None:
        async with Engine({"m": client}) as engine:
            with pytest.raises(ExecutionError) as caught:
                await engine.using(errors=policy).run(
                    Flow(lambda m: [m.llm("1"), m.llm("5")])
                )
            assert asyncio.get_running_loop().time() == ended
            outcome = caught.value.record.nodes[1].outcome
            assert outcome == ("done" if policy == "collect" else "cancelled")

    virtually(main)
    assert client.cancelled == (policy == "raise")


# -- timeouts ---------------------------------------------------------------------


def test_a_run_timeout_ends_it_on_the_second_and_keeps_what_was_done() -> None:
    """The DeadlineError names what was open, and carries the record."""
    client = echo(lambda r: 1.0 if r.prompt == "a" else 10.0)

    async def main() -> None:
        async with Engine({"m": client}, timeout=3) as engine:
            with pytest.raises(DeadlineError, match="its timeout of 3 s.*join#1") as e:
                await engine.run(Flow(lambda m: m.join(m.llm("a") + "b"), join="m"))
            assert asyncio.get_running_loop().time() == 3.0
            assert client.in_flight == 0
            assert e.value.record.nodes[0].output == "A"
            assert isinstance(e.value, TimeoutError)

    virtually(main)
    assert client.cancelled == 1


def test_a_node_timeout_fails_the_node_on_the_second() -> None:
    """The other nodes have their own time; the cause is a DeadlineError."""
    client = echo(lambda r: float(r.prompt))
    error = failure(
        Flow(lambda m: [m.llm("2"), m.llm("9")]),
        client=client,
        using={"node_timeout": 2.5, "errors": "collect"},
    )
    assert error.node == "llm#2"
    assert isinstance(error.cause, DeadlineError)
    assert "node_timeout of 2.5 s" in str(error)
    assert error.record.seconds == 2.5
    assert error.record.nodes[0].output == "2"


def test_a_node_timeout_holds_for_async_ops_too() -> None:
    """An async op is cancelled on the second."""

    @op
    async def slow(text: str) -> str:
        await asyncio.sleep(50)
        return text

    module = Flow(lambda m, x: slow(x))
    error = failure(module, "a", client=echo(), using={"node_timeout": 4})
    assert error.record.seconds == 4.0


def test_waiting_for_a_slot_does_not_count_for_the_node() -> None:
    """A node's time begins when its first request leaves."""

    async def main() -> Any:
        async with Engine(limited(echo(2.0))) as engine:
            return await engine.using(node_timeout=3).map(Ask(), "abc")

    assert virtually(main) == ["A", "B", "C"]


def test_a_failure_caught_in_forward_is_no_failure_of_the_run() -> None:
    """try/except around a forced value works as in plain Python."""

    def forward(m: Any, x: str) -> Any:
        try:
            return str(m.llm(x))
        except ValueError:
            return m.llm("instead")

    client = answers(bad=ValueError("bad"))
    assert run(Flow(forward), "bad", client=client) == "INSTEAD"


def test_when_every_candidate_fails_the_run_fails() -> None:
    """first() has nothing to give; the error is that of a candidate."""
    client = echo(lambda r: float(r.prompt), lambda r: ValueError(r.prompt))
    error = failure(Flow(lambda m: F.first(m.llm("1"), m.llm("2"))), client=client)
    assert isinstance(error.cause, ValueError)
    assert [n.outcome for n in error.record.nodes] == ["failed"] * 3


def test_a_failed_first_may_be_caught_whole() -> None:
    """Catching it settles the failures of all its candidates."""

    def forward(m: Any) -> Any:
        try:
            return str(F.first(m.llm("1"), m.llm("2")))
        except ValueError:
            return "none"

    client = echo(lambda r: float(r.prompt), lambda r: ValueError(r.prompt))
    assert run(Flow(forward), client=client) == "none"


def test_when_no_candidate_is_good_the_error_says_so() -> None:
    """The check is the caller's, so is the fix."""
    module = Flow(lambda m: F.first(m.llm("1"), good=lambda v: False))
    error = failure(module, client=echo(lambda r: 1.0))
    assert "none of the 1 candidates of 'first#1' was good" in str(error)


# -- structured answers -----------------------------------------------------------


@dataclass
class Fact:
    """A typed answer."""

    name: str
    year: int


def test_an_answer_that_does_not_fit_is_asked_again_with_the_error() -> None:
    """The model sees what it said and what was wrong; the second answer counts."""
    client = ScriptedClient(['{"name": "x"}', '{"name": "x", "year": 7}'], 1.0)
    module = Ask(response_format=Fact)
    assert run(module, "q", client=client) == Fact("x", 7)
    again = client.requests[1].messages
    assert [m.role for m in again] == ["user", "assistant", "user"]
    assert again[1].text == '{"name": "x"}'
    assert "year" in again[2].text
    assert client.requests[1].response_schema == client.requests[0].response_schema
    assert client.arrivals == [0.0, 1.0]


@pytest.mark.parametrize("reasks", [0, 1, 3])
def test_re_asking_is_bounded_and_the_raw_text_is_kept(reasks: int) -> None:
    """After max_reasks more answers: OutputParseError with .raw as the cause."""
    client = ScriptedClient([f"no {n}" for n in range(9)], 1.0)
    module = Ask(response_format=Literal["yes", "nope"], max_reasks=reasks)
    error = failure(module, "q", client=client)
    assert isinstance(error.cause, OutputParseError)
    assert error.cause.raw == f"no {reasks}"
    assert len(client.requests) == reasks + 1
    assert [c.response.text for c in error.record.nodes[0].calls] == [
        f"no {n}" for n in range(reasks + 1)
    ]


def test_a_field_of_a_typed_answer_is_used_before_it_is_known() -> None:
    """proxy.field is a small node."""
    client = ScriptedClient(['{"name": "x", "year": 7}', "seven"])
    module = Flow(lambda m, q: m.llm(f"{m.fact(q).year + 1}"))
    module.fact = LLMInference("m", response_format=Fact)
    assert run(module, "q", client=client) == "seven"
    assert client.prompts == ["q", "8"]


# -- tools ------------------------------------------------------------------------


def calls(*pairs: tuple[str, str]) -> LLMResponse:
    """A response that asks for tools: (name, arguments) each."""
    wanted = [ToolCall(f"c{n}", name, args) for n, (name, args) in enumerate(pairs)]
    return LLMResponse(
        tool_calls=tuple(wanted), finish_reason="tool_calls", usage=Usage(1, 10, 1)
    )


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def slow_add(a: int, b: int) -> int:
    """Add two numbers, in two seconds."""
    await asyncio.sleep(2)
    return a + b


async def broken(text: str) -> str:
    """Always fails."""
    raise LookupError(f"nothing about {text}")


TOOLS = [add, slow_add, broken]


def test_tools_are_run_and_answered_sync_and_async_at_the_same_time() -> None:
    """Two slow calls take two seconds, not four; answers keep the order of calls."""
    script = [
        calls(
            ("slow_add", '{"a": 1, "b": 2}'),
            ("add", '{"a": 3, "b": 4}'),
            ("slow_add", '{"a": 5, "b": 6}'),
        ),
        "done",
    ]
    client = ScriptedClient(script, 1.0)
    assert run(Ask(tools=TOOLS), "q", client=client) == "done"
    assert client.arrivals == [0.0, 3.0]
    assert [t.name for t in client.requests[0].tools] == ["add", "slow_add", "broken"]
    said = client.requests[1].messages
    assert [m.role for m in said] == ["user", "assistant", "tool", "tool", "tool"]
    assert [call.id for call in said[1].tool_calls] == ["c0", "c1", "c2"]
    assert [(m.tool_call_id, m.text) for m in said[2:]] == [
        ("c0", "3"),
        ("c1", "7"),
        ("c2", "11"),
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("broken", '{"text": "x"}', "LookupError: nothing about x"),
        ("fly", "{}", "there is no tool 'fly'; the tools are add, slow_add, broken"),
        ("add", '{"a": "one"}', "b"),
        ("add", "{not json", "JSON"),
    ],
)
def test_what_is_wrong_with_a_tool_call_goes_back_to_the_model(
    name: str, arguments: str, told: str
) -> None:
    """The tool's exception, an unknown tool, unusable arguments."""
    client = ScriptedClient([calls((name, arguments)), "sorry"])
    assert run(Ask(tools=TOOLS), "q", client=client) == "sorry"
    assert told in client.requests[1].messages[-1].text


def test_a_tools_exception_goes_out_as_configured() -> None:
    """tool_errors="raise" makes it the cause; other tools of the turn are cancelled."""
    client = ScriptedClient(
        [calls(("slow_add", '{"a": 1, "b": 2}'), ("broken", '{"text": "x"}'))]
    )
    error = failure(Ask(tools=TOOLS, tool_errors="raise"), "q", client=client)
    assert isinstance(error.cause, LookupError)
    assert error.record.seconds == 0.0


def test_a_models_own_mistake_never_goes_out() -> None:
    """Unusable arguments are the model's, also with tool_errors="raise"."""
    client = ScriptedClient([calls(("add", "{}"), ("fly", "{}")), "sorry"])
    module = Ask(tools=TOOLS, tool_errors="raise")
    assert run(module, "q", client=client) == "sorry"
    assert issubclass(ToolArgumentError, Exception)


@pytest.mark.parametrize("turns", [0, 2])
def test_tool_turns_are_bounded(turns: int) -> None:
    """A model that never stops calling tools is stopped."""
    client = echo(1.0, lambda r: calls(("add", '{"a": 1, "b": 1}')))
    module = Ask(tools=TOOLS, max_tool_turns=turns)
    error = failure(module, "q", client=client)
    assert isinstance(error.cause, ToolLoopError)
    assert f"still called tools after {turns} turns" in str(error)
    assert len(client.requests) == turns + 1


def test_tools_and_a_typed_answer_go_together() -> None:
    """First the tools, then the answer, asked again when it does not fit."""
    script = [calls(("add", '{"a": 1, "b": 2}')), "three", "3"]
    client = ScriptedClient(script)
    assert run(Ask(tools=[add], response_format=int), "q", client=client) == 3
    assert len(client.requests) == 3


# -- the record -------------------------------------------------------------------


def test_a_record_says_what_happened_when_and_where_it_came_from() -> None:
    """Args, outputs, calls, times, usage, and the prompt with its origins."""

    class Styled(Ask):
        def __init__(self) -> None:
            super().__init__(system_prompt=None)
            self.style = Parameter("Be brief.", description="style")
            self.last = LLMInference("m", system_prompt=self.style)

        def forward(self, text: str) -> Any:
            return self.last(f"{self.style} Say: {self.llm(text)}!")

    async def main() -> Any:
        async with Engine({"m": echo(1.5)}) as engine:
            return await engine.record(Styled(), "hi you")

    record = virtually(main)
    first, last = record.nodes
    assert (record.module, record.args, record.output) == (
        "Styled",
        ("hi you",),
        "BE BRIEF. SAY: HI YOU!",
    )
    assert (first.args, first.output, first.outcome) == (("hi you",), "HI YOU", "done")
    assert (first.ready, first.started, first.seconds) == (0.0, 0.0, 1.5)
    assert (last.ready, last.started, last.seconds) == (1.5, 1.5, 1.5)
    assert last.args == ("Be brief. Say: HI YOU!",)
    assert [(s.text, s.source) for s in last.prompt] == [
        ("Be brief.", "style"),
        (" Say: ", None),
        ("HI YOU", "llm#1"),
        ("!", None),
    ]
    assert [(s.text, s.source) for s in last.system] == [("Be brief.", "style")]
    call = last.calls[0]
    assert (call.started, call.seconds, call.error) == (1.5, 1.5, None)
    assert call.request.prompt == "Be brief. Say: HI YOU!"
    assert call.response.text == last.output
    assert record.usage == first.usage + last.usage
    assert (record.usage.requests, record.seconds) == (2, 3.0)
    assert [n.name for n in record.critical_path()] == ["llm#1", "last#1"]
    assert record.error is None


def test_a_retried_call_is_in_the_record_with_each_try() -> None:
    """Tries are calls: when each left, how long it took, why it failed."""
    client = ScriptedClient([RateLimitError("slow", retry_after=9.0), "ok"], 1.0)

    async def main() -> Any:
        async with Engine({"m": client}) as engine:
            return await engine.record(Ask(), "x")

    node = virtually(main).nodes[0]
    assert [(c.started, c.seconds) for c in node.calls] == [(0.0, 1.0), (10.0, 1.0)]
    assert isinstance(node.calls[0].error, RateLimitError)
    assert node.usage.requests == 1
    assert node.seconds == 11.0


def test_a_request_that_was_cancelled_has_its_time_in_the_record() -> None:
    """What was in flight when the run failed is cancelled, with its seconds."""

    def answer(request: LLMRequest) -> Any:
        return ValueError("bad") if request.prompt == "2" else request.prompt

    client = echo(lambda r: float(r.prompt), answer)
    module = Flow(lambda m: [m.llm("2"), m.llm("7")])

    async def main() -> Any:
        async with Engine({"m": client}) as engine:
            stream = engine.stream(module_of(module), [0], record=True)
            return [r async for r in stream]

    def module_of(inner: Any) -> Any:
        return Flow(lambda m, x: inner.body(m))

    (result,) = virtually(main)
    node = result.record.node("llm#2")
    assert (node.outcome, node.started, node.seconds) == ("cancelled", 0.0, 2.0)
