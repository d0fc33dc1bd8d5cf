"""`/v1/completions` and `/v1/models`, by OpenAI's own client."""

import json
from typing import Any

import openai
import pytest


def complete(client: openai.OpenAI, prompt: Any, **more: Any) -> Any:
    """Return the response to a short greedy request."""
    given: dict[str, Any] = {"temperature": 0, "max_tokens": 8, **more}
    return client.completions.create(model="tiny", prompt=prompt, **given)


def tokens_of(client: openai.OpenAI, text: str) -> list[int]:
    """Return the tokens of a text."""
    found: Any = complete(client, text, extra_body={"return_token_ids": True})
    tokens: list[int] = found.choices[0].prompt_token_ids
    return tokens


def test_prompts_are_texts_or_tokens(client: openai.OpenAI) -> None:
    """A text, its tokens, and lists of both are answered alike."""
    texts = ["The quick", "Once upon a time"]
    alone = [complete(client, text).choices[0].text for text in texts]
    assert len(set(alone)) == 2
    tokens = [tokens_of(client, text) for text in texts]
    for prompt in (texts, tokens):
        found = complete(client, prompt)
        assert [choice.text for choice in found.choices] == alone
        assert [choice.index for choice in found.choices] == [0, 1]
    assert complete(client, tokens[0]).choices[0].text == alone[0]
    assert found.usage.prompt_tokens == sum(map(len, tokens))


def test_several_prompts_with_n_are_in_order(client: openai.OpenAI) -> None:
    """Prompt 0 has the first n answers."""
    found = complete(client, ["The", "Once"], n=2, echo=True)
    assert [choice.text[:3] for choice in found.choices] == ["The", "The", "Onc", "Onc"]


def test_sixteen_tokens_by_default(client: openai.OpenAI) -> None:
    """As OpenAI has it."""
    found = client.completions.create(model="tiny", prompt="The", temperature=0)
    assert found.usage is not None and found.usage.completion_tokens == 16


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    """The pieces make the whole text, of each prompt."""
    whole = complete(client, ["The", "Once"], echo=True, logprobs=0)
    texts = ["", ""]
    names: list[list[str]] = [[], []]
    offsets: list[list[int]] = [[], []]
    for chunk in complete(client, ["The", "Once"], echo=True, logprobs=0, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            names[choice.index] += choice.logprobs.tokens
            offsets[choice.index] += choice.logprobs.text_offset
    assert texts == [choice.text for choice in whole.choices]
    assert names == [choice.logprobs.tokens for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]


def test_echo_with_logprobs_scores_the_prompt(client: openai.OpenAI) -> None:
    """Without a token after it the prompt is scored; the first token has no score."""
    text = "The lazy dog."
    found = complete(client, text, max_tokens=0, echo=True, logprobs=2)
    (choice,) = found.choices
    assert choice.text == text and found.usage.completion_tokens == 0
    told = choice.logprobs
    assert "".join(told.tokens) == text
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert all(value < 0 for value in told.token_logprobs[1:])
    assert all(2 <= len(top) <= 3 for top in told.top_logprobs[1:])
    assert [
        text[at:][: len(n)] for at, n in zip(told.text_offset, told.tokens, strict=True)
    ] == (told.tokens)


def test_prompt_logprobs_are_those_of_generation(client: openai.OpenAI) -> None:
    """What the model said when it drew tokens it says of them as a prompt, too."""
    body = {"return_token_ids": True}
    drawn = complete(client, "The fox", logprobs=0, extra_body=body).choices[0]
    again = complete(
        client,
        drawn.prompt_token_ids + drawn.token_ids,
        max_tokens=1,
        extra_body={"prompt_logprobs": 1},
    ).choices[0]
    rows = again.prompt_logprobs
    assert rows[0] is None
    own = rows[len(drawn.prompt_token_ids) :]
    for token, value, row in zip(
        drawn.token_ids, drawn.logprobs.token_logprobs, own, strict=True
    ):
        told = row[str(token)]
        assert told["rank"] == 1 and set(told) == {"logprob", "rank", "decoded_token"}
        assert told["logprob"] == pytest.approx(value, abs=1e-4)


def test_a_token_may_end_an_answer(client: openai.OpenAI) -> None:
    """`stop_token_ids` end it; their text is left out, the token is counted."""
    body = {"return_token_ids": True}
    free = complete(client, "The", extra_body=body).choices[0]
    stop = free.token_ids[3]
    place = free.token_ids.index(stop)
    body = {"return_token_ids": True, "stop_token_ids": [stop]}
    found = complete(client, "The", extra_body=body).choices[0]
    assert found.token_ids == free.token_ids[: place + 1]
    assert found.finish_reason == "stop" and found.stop_reason == stop


def test_many_requests_at_once_are_answered_alike(client: openai.OpenAI) -> None:
    """Twelve prompts share four lanes; each is answered as when it was alone."""
    prompts = [f"The {word} fox" for word in "a b c d e f g h i j k l".split()]
    alone = [complete(client, prompt).choices[0].text for prompt in prompts[:3]]
    found = [choice.text for choice in complete(client, prompts).choices]
    assert found[:3] == alone


@pytest.mark.parametrize(
    ("prompt", "more", "said"),
    [
        ([[1, 320]], {}, "320 is no token of the model: tokens are 0 to 319"),
        ([-1], {}, "-1 is no token"),
        ([], {}, "prompt: send a text, a list of tokens, or a list of either"),
        (["a", [1]], {}, "no mixture"),
        ([True, False], {}, "no mixture"),
        ([[1], []], {}, "the prompt has no tokens"),
        ("a", {"best_of": 3, "n": 2}, "'best_of' is 3, and 'n' 2"),
        ("fox " * 600, {}, "the prompt has 601 tokens, and there is room for 511"),
        ("", {}, "the prompt has no tokens"),
        ("a", {"suffix": "b"}, "'suffix' is not supported"),
        ("a", {"logprobs": 99}, "logprobs: Input should be less"),
        ("a\ud800", {}, "(?i)unicode"),
    ],
)
def test_a_bad_prompt_is_refused(
    client: openai.OpenAI, prompt: Any, more: dict[str, Any], said: str
) -> None:
    """The answer is 400, and says what is wrong."""
    given = {"model": "tiny", "prompt": prompt, **more}
    body = json.dumps(given).encode()
    with pytest.raises(openai.BadRequestError, match=said):
        client.post("/completions", content=body, cast_to=object)


def test_too_many_at_once_is_429(client: openai.OpenAI) -> None:
    """The client may try again, and is told when."""
    with pytest.raises(openai.RateLimitError, match="wait already") as caught:
        complete(client, ["The"] * 9, n=128)
    assert caught.value.response.headers["retry-after"]


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    """By its name, with the room that it has."""
    (found,) = client.models.list().data
    assert found.id == "tiny" and found.owned_by == "butterfly"
    assert found.model_dump()["max_model_len"] == 512
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")
