"""Answers of a form, and how the scheduler asks for it."""

import zlib
from pathlib import Path

import pytest

from butterfly.api.grammar import Grammar, grammar_of
from butterfly.api.refusals import Refusal
from butterfly.api.tokenizer import Tokenizer
from butterfly.communication.frames import Sampling
from butterfly.engine.weights import Checkpoint
from butterfly.errors import CapacityError, RequestError
from butterfly.scheduling import Scheduler, Sequence


class OnlyEven:
    """Allows even tokens."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def fits(self, draft: list[int]) -> int:
        """Say that all may be drawn."""
        return len(draft)

    def allowed(self, draft: list[int]) -> bytes:
        """Return the even ones of eight tokens."""
        return zlib.compress(bytes([0b01010101]))

    def accept(self, token: int) -> None:
        """Remember a token."""
        self.taken.append(token)


def test_a_constraint_is_asked_when_a_token_is_drawn() -> None:
    """Not for a part of a prompt; it is told each token once, over epochs too."""
    rule = OnlyEven()
    line = Scheduler(1, 64, chunk=4)
    sequence = Sequence([1, 2, 3, 4, 5, 6], 3, Sampling(), constraint=rule)
    line.add(sequence)
    first = line.plan()
    assert first is not None and first.segments[0].allowed == b""
    line.settle(first.step, {})
    second = line.plan()
    assert second is not None and second.segments[0].allowed == rule.allowed([])
    line.settle(second.step, {0: [6]})
    line.reset()
    for token in (2, 4):
        for _ in range(3):
            batch = line.plan()
            assert batch is not None
            is_drawn = batch.segments[0].is_sampled
            line.settle(batch.step, {0: [token] if is_drawn else []})
            if is_drawn:
                break
    assert rule.taken == sequence.output == [6, 2, 4]
    assert sequence.finish == "length"


def test_check_says_what_add_would_say() -> None:
    """And takes nothing."""
    line = Scheduler(1, 8, most_waiting=2)
    with pytest.raises(RequestError, match="room for 7"):
        line.check(Sequence([1] * 8, 1))
    with pytest.raises(RequestError, match="has no tokens"):
        line.check(Sequence([], 1))
    with pytest.raises(CapacityError, match="wait already"):
        line.check(*[Sequence([1], 1) for _ in range(3)])
    assert not line.waiting


def test_what_was_reused_is_counted() -> None:
    """A prompt that begins like one before it finds its keys and values."""
    line = Scheduler(1, 64)
    for expected in (0, 4):
        sequence = Sequence([1, 2, 3, 4, 5], 1)
        line.add(sequence)
        batch = line.plan()
        assert batch is not None
        line.settle(batch.step, {0: [9]})
        assert sequence.reused == expected


def test_a_grammar_goes_from_the_start_to_the_end(model: Path) -> None:
    """Following the first allowed token always gives JSON, and then the end of text."""
    tokenizer = Tokenizer(model, Checkpoint(model).config())
    schema = {"enum": ["red", "green"]}
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    rule = Grammar(tokenizer.native, grammar_of(form))
    tokens: list[int] = []
    while not tokens or tokens[-1] not in tokenizer.ends:
        bits = zlib.decompress(rule.allowed([]))
        allowed = [n for n in range(320) if bits[n // 8] >> n % 8 & 1]
        tokens.append(allowed[0])
        rule.accept(tokens[-1])
        assert len(tokens) < 20
    assert tokenizer.decode(tokens) in ('"red"', '"green"')
    assert grammar_of({"type": "text"}) == grammar_of(None) == ""


def test_a_model_without_a_template_says_so(model: Path) -> None:
    """400, and what to use instead; the template's own refusals, too."""
    tokenizer = Tokenizer(model, Checkpoint(model).config())
    messages = [{"role": "user", "content": "a"}]
    inner = tokenizer._inner
    inner.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(Refusal, match="refuses these messages: roles must alternate"):
        tokenizer.chat(messages)
    inner.chat_template = None
    with pytest.raises(Refusal, match="no chat template: use /v1/completions"):
        tokenizer.chat(messages)
