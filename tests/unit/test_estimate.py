"""`TokenEstimator`: characters a token and tokens written, learnt from usage."""

import pytest

from inf_engine.resources.estimate import TokenEstimator
from inf_engine.types import (
    IMAGE_TOKENS,
    ImagePart,
    LLMRequest,
    Message,
    ResponseSchema,
    TextPart,
    ToolCall,
    ToolSpec,
    Usage,
)


def asking(text: str, max_tokens: int | None = None) -> LLMRequest:
    """Return a request with one message."""
    return LLMRequest((Message("user", text),), max_tokens=max_tokens)


def test_four_characters_are_a_token_at_first() -> None:
    """Rounded up."""
    assert TokenEstimator().input_tokens(asking("x" * 400)) == 101


@pytest.mark.parametrize("ratio", [1, 2, 7])
def test_the_ratio_is_learnt(ratio: int) -> None:
    """After some answers the estimate is within 5 %."""
    estimator = TokenEstimator()
    request = asking("x" * 7000)
    for _ in range(5):
        estimator.learn(request, Usage(1, 7000 // ratio, 1))
    assert estimator.characters_per_token == pytest.approx(ratio, rel=0.05)
    assert estimator.input_tokens(request) == pytest.approx(7000 / ratio, rel=0.05)


def test_an_image_is_a_fixed_number_of_tokens() -> None:
    """In the estimate, and left out of what is learnt."""
    parts = (TextPart("x" * 400), ImagePart("https://host.test/cat.png"))
    request = LLMRequest((Message("user", parts),))
    estimator = TokenEstimator()
    assert estimator.input_tokens(request) == 101 + IMAGE_TOKENS
    estimator.learn(request, Usage(1, 100 + IMAGE_TOKENS, 1))
    assert estimator.characters_per_token == pytest.approx(4.0)


def test_tools_schemas_and_calls_count_as_text() -> None:
    """Each makes the request longer, and is measured once."""
    long = {"type": "object", "description": "x" * 400}
    plain = TokenEstimator().input_tokens(asking("hi"))
    call = ToolCall("1", "look", '{"a": "' + "x" * 400 + '"}')
    requests = (
        LLMRequest((Message("user", "hi"),), tools=(ToolSpec("look", "", long),)),
        LLMRequest(
            (Message("user", "hi"),), response_schema=ResponseSchema("out", long)
        ),
        LLMRequest((Message("user", "hi"), Message("assistant", "", (call,)))),
    )
    estimator = TokenEstimator()
    for request in requests:
        first = estimator.input_tokens(request)
        assert first > plain + 100
        assert estimator.input_tokens(request) == first


def test_many_tools_do_not_pile_up() -> None:
    """What was measured is forgotten, and measured again."""
    estimator = TokenEstimator()
    tools = [ToolSpec("look", "x" * n, {}) for n in range(600)]
    for _ in range(2):
        counts = [
            estimator.input_tokens(LLMRequest((Message("user"),), tools=(tool,)))
            for tool in tools
        ]
        assert counts == [(6 + n) // 4 + 1 for n in range(600)]
    assert len(estimator._measured) <= 256


@pytest.mark.parametrize(("most", "tokens"), [(None, 256), (1000, 1000), (5, 5)])
def test_before_the_first_answer_all_that_is_allowed_is_expected(
    most: int | None, tokens: int
) -> None:
    """`max_tokens`, or 256."""
    assert TokenEstimator().output_tokens(asking("hi", most)) == tokens


def test_what_is_written_is_learnt_and_capped() -> None:
    """The mean of what was written lately, never above `max_tokens`."""
    estimator = TokenEstimator()
    estimator.learn(asking("hi"), Usage(1, 1, 20))
    assert estimator.output_tokens(asking("hi", 1000)) == 21
    assert estimator.output_tokens(asking("hi", 10)) == 10
    for _ in range(400):
        estimator.learn(asking("hi"), Usage(1, 1, 100))
    assert estimator.output_tokens(asking("hi")) in (100, 101)


def test_an_answer_without_counts_teaches_nothing() -> None:
    """Some servers send no usage."""
    estimator = TokenEstimator()
    estimator.learn(asking("hi" * 100), Usage(1))
    assert estimator.characters_per_token == 4.0
    assert estimator.output_tokens(asking("hi")) == 256
