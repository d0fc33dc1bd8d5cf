"""`/v1/chat/completions`, by OpenAI's own client."""

import time
from typing import Any

import httpx
import openai
import pytest
from tests.butterfly.server_helpers import KEY, Server

ASKED: list[Any] = [{"role": "user", "content": "The quick brown fox"}]


def ask(client: openai.OpenAI, **more: Any) -> Any:
    """Return the response to a short greedy request."""
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "messages": ASKED}
    return client.chat.completions.create(model="tiny", **{**given, **more})


def streamed(client: openai.OpenAI, **more: Any) -> tuple[dict[int, str], list[Any]]:
    """Return the texts and the chunks of a stream."""
    chunks = list(ask(client, stream=True, **more))
    texts: dict[int, str] = {}
    for choice in [choice for chunk in chunks for choice in chunk.choices]:
        text = choice.delta.content or ""
        texts[choice.index] = texts.get(choice.index, "") + text
    return texts, chunks


def test_an_answer_has_openai_s_form(client: openai.OpenAI) -> None:
    """Id, model, role, text, reason and counts are where OpenAI has them."""
    found = ask(client)
    assert found.object == "chat.completion" and found.id.startswith("chatcmpl-")
    assert found.model == "tiny"
    (choice,) = found.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert found.usage.completion_tokens == 12
    assert found.usage.total_tokens == found.usage.prompt_tokens + 12


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    """The pieces make the whole text; the last one says why, and then what it cost."""
    whole = ask(client)
    texts, chunks = streamed(client, stream_options={"include_usage": True})
    assert texts[0] == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices][
        -1
    ] == "length"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert len(chunks) > 5


def test_a_stream_without_usage_ends_with_the_reason(client: openai.OpenAI) -> None:
    """Usage is only in streams that asked for it."""
    _, chunks = streamed(client)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_stop_is_found_over_the_borders_of_tokens(client: openai.OpenAI) -> None:
    """Text ends before the stop, streamed or not, and the stop is named."""
    text = ask(client, max_tokens=40).choices[0].message.content
    stop = text[7:11]
    expected = text[: text.index(stop)]
    found = ask(client, max_tokens=40, stop=[stop, "never said"])
    assert found.choices[0].message.content == expected
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].stop_reason == stop
    assert streamed(client, max_tokens=40, stop=stop)[0][0] == expected
    kept = ask(
        client,
        max_tokens=40,
        stop=stop,
        extra_body={"include_stop_str_in_output": True},
    )
    assert kept.choices[0].message.content == expected + stop


def test_n_answers_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    """With a seed the same answers come again, alone or in a batch, streamed or not."""
    more: dict[str, Any] = {"temperature": 1.5, "n": 3, "seed": 7}
    found = ask(client, **more)
    texts = [choice.message.content for choice in found.choices]
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    again = [choice.message.content for choice in ask(client, **more).choices]
    assert again == texts
    assert streamed(client, **more)[0] == dict(enumerate(texts))
    assert found.usage.completion_tokens == 36
    other = ask(client, temperature=1.5, n=1, seed=8).choices[0].message.content
    assert other == texts[1]


def test_without_a_seed_chance_decides(client: openai.OpenAI) -> None:
    """Two requests at a high temperature differ."""
    texts = {ask(client, temperature=2).choices[0].message.content for _ in range(3)}
    assert len(texts) > 1


def test_top_k_of_one_is_greedy(client: openai.OpenAI) -> None:
    """top_k, top_p and min_p reach the last stage."""
    greedy = ask(client).choices[0].message.content
    for more in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}):
        found = ask(client, temperature=2, seed=3, extra_body=more)
        assert found.choices[0].message.content == greedy, more
    free = ask(client, temperature=2, seed=3, extra_body={"top_k": -1})
    assert free.choices[0].message.content != greedy


def test_logprobs_stand_beside_the_tokens(client: openai.OpenAI) -> None:
    """Bytes give the text back, the most probable token is the greedy one."""
    found = ask(client, logprobs=True, top_logprobs=3).choices[0]
    rows = found.logprobs.content
    assert len(rows) == 12
    data = bytes([byte for row in rows for byte in row.bytes])
    assert data.decode("utf-8", "replace") == found.message.content
    for row in rows:
        assert len(row.top_logprobs) == 3
        assert row.top_logprobs[0].bytes == row.bytes
        assert 0 >= row.logprob == row.top_logprobs[0].logprob
    _, chunks = streamed(client, logprobs=True)
    parts = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    values = [row.logprob for part in parts for row in part.content]
    assert values == pytest.approx([row.logprob for row in rows], abs=1e-4)


def test_token_ids_come_back_as_vllm_sends_them(client: openai.OpenAI) -> None:
    """Prompt and answer as tokens; a completion of both goes on in the same way."""
    body = {"return_token_ids": True}
    found = ask(client, extra_body=body)
    tokens = found.choices[0].token_ids
    assert len(tokens) == 12
    prompt = found.prompt_token_ids
    assert len(prompt) == found.usage.prompt_tokens
    more: Any = client.completions.create(
        model="tiny",
        prompt=prompt + tokens[:5],
        max_tokens=7,
        temperature=0,
        extra_body=body,
    )
    assert more.choices[0].token_ids == tokens[5:]
    _, chunks = streamed(client, extra_body=body)
    assert chunks[0].prompt_token_ids == prompt
    parts = [getattr(c.choices[0], "token_ids", None) or [] for c in chunks]
    assert [token for part in parts for token in part] == tokens


def test_the_stages_report_what_they_did(client: openai.OpenAI) -> None:
    """`butterfly` in the request brings times and bytes of each stage."""
    found = ask(client, extra_body={"butterfly": True})
    (trace,) = found.butterfly["answers"]
    assert trace["frames"] == 12 and len(trace["hops"]) == 2
    assert all(hop["bytes"] > 0 and hop["computed_ms"] > 0 for hop in trace["hops"])
    assert 0 < trace["first_token_ms"] <= trace["total_ms"]
    _, chunks = streamed(client, extra_body={"butterfly": True})
    assert chunks[-1].butterfly["answers"][0]["frames"] == 12


def test_the_first_parts_of_a_prompt_are_reported_too(client: openai.OpenAI) -> None:
    """Three parts of at most 128 rows: their frames, their bytes and their times."""
    body = {"butterfly": True}
    long: Any = [{"role": "user", "content": "hills " * 100}]
    found = ask(client, messages=long, max_tokens=1, extra_body=body)
    rows = found.usage.prompt_tokens
    assert 256 < rows <= 384
    (trace,) = found.butterfly["answers"]
    assert trace["frames"] == 3
    first, second = [hop["bytes"] for hop in trace["hops"]]
    assert first > 4 * rows and second > 4 * 32 * rows


def test_an_answer_has_the_form_of_its_schema(client: openai.OpenAI) -> None:
    """A random model writes JSON of the schema, and nothing after it."""
    schema = {
        "type": "object",
        "properties": {
            "colour": {"enum": ["red", "green"]},
            "size": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["colour", "size"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = ask(client, max_tokens=60, temperature=1, n=3, response_format=form)
    for choice in found.choices:
        told = httpx.Response(200, content=choice.message.content).json()
        assert set(told) == {"colour", "size"}
        assert told["colour"] in ("red", "green") and 0 <= told["size"] <= 99
        assert choice.finish_reason == "stop"
    text, _ = streamed(client, max_tokens=5, response_format={"type": "json_object"})
    assert text[0].startswith("{")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"content": "a"}]}, r"messages\[0\] has no role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "only text is understood",
        ),
        ({"temperature": -1}, "temperature: Input should be greater"),
        ({"repetition_penalty": 1e39}, "repetition_penalty: Input should be less"),
        ({"repetition_penalty": 1e-60}, "repetition_penalty: Input should be greater"),
        ({"n": 0}, "n: Input should be greater"),
        ({"stop": ""}, "stop.0: String should have at least 1 character"),
        ({"stop": ["a"] * 17}, "stop: List should have at most 16 items"),
        ({"stream_options": {}}, "'stream_options' needs 'stream'"),
        ({"modalities": ["text", "audio"]}, "'modalities' is not supported"),
        ({"top_logprobs": 2}, "'top_logprobs' needs 'logprobs'"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs: Input should be less"),
        ({"guided_regex": "a"}, "'guided_regex' is not supported"),
        ({"response_format": {"type": "xml"}}, "response_format 'xml' is not known"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"schema": {"type": "nope"}},
                }
            },
            "the schema cannot be used: .*nope",
        ),
        (
            {"chat_template_kwargs": {"messages": 1}},
            "the chat template refuses",
        ),
        (
            {"stream": True, "prompt_logprobs": 1},
            "'prompt_logprobs' cannot be streamed",
        ),
        (
            {"messages": [{"role": "user", "content": "fox " * 600}]},
            "there is room for 511: shorten it",
        ),
    ],
)
def test_a_bad_request_is_refused(
    client: openai.OpenAI, more: dict[str, Any], said: str
) -> None:
    """The answer is 400, and says what is wrong."""
    given = {"model": "tiny", "messages": ASKED, "max_tokens": 2, **more}
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.post("/chat/completions", body=given, cast_to=object)
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"[" * 99999, b"\xff", b"[]", b'"a"', b"{}"])
def test_what_is_no_request_is_refused(client: openai.OpenAI, body: bytes) -> None:
    """400 for bytes that are no JSON, or no object."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", content=body, cast_to=object)
    assert caught.value.type == "invalid_request_error"


def test_a_schema_without_end_is_refused(client: openai.OpenAI) -> None:
    """One that is nested too deeply is a bad request, and no failure."""
    text = '{"items":' * 500 + "{}" + "}" * 500
    form = f'{{"type": "json_schema", "json_schema": {{"schema": {text}}}}}'
    asked = '[{"role": "user", "content": "a"}]'
    body = f'{{"messages": {asked}, "response_format": {form}}}'
    with pytest.raises(openai.BadRequestError, match="the schema cannot be used"):
        client.post("/chat/completions", content=body.encode(), cast_to=object)


def test_small_answers_do_not_wait_for_more(client: openai.OpenAI) -> None:
    """No piece is held until the client has acknowledged the one before (40 ms)."""
    client.models.list()
    began = time.perf_counter()
    for _ in range(20):
        client.models.list()
    assert time.perf_counter() - began < 20 * 0.035


def test_neutral_and_unknown_fields_are_let_through(client: openai.OpenAI) -> None:
    """What would change nothing is no reason to refuse."""
    body = {"never_heard_of": 1, "tools": [], "tool_choice": "none", "user": "me"}
    found = ask(client, presence_penalty=0, logit_bias={}, extra_body=body)
    assert found.choices[0].message.content


def test_a_prompt_without_room_has_openai_s_code(client: openai.OpenAI) -> None:
    """Clients look for it, to shorten and try again."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "fox " * 600}])
    assert caught.value.code == "context_length_exceeded"


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    """404, as OpenAI answers."""
    with pytest.raises(openai.NotFoundError, match="use 'tiny'") as caught:
        client.chat.completions.create(model="gpt-x", messages=ASKED)
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_refused(server: Server) -> None:
    """401, and the key is not in the message."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError, match="API key") as caught:
        client.models.list()
    assert "wrong." not in str(caught.value) and KEY not in str(caught.value)
    assert httpx.get(f"{server.url}/v1/models").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_large_request_is_refused(client: openai.OpenAI, server: Server) -> None:
    """413, whether its size is told before or not."""
    with pytest.raises(openai.APIStatusError, match="larger than 200000 bytes") as told:
        ask(client, messages=[{"role": "user", "content": "x" * 200_001}])
    assert told.value.status_code == 413
    parts = (b"x" * 50_000 for _ in range(9))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    url = f"{server.url}/v1/completions"
    found = httpx.post(url, content=parts, headers=headers)
    assert found.status_code == 413
    assert found.json()["error"]["type"] == "invalid_request_error"
