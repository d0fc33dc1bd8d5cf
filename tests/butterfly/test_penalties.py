"""Penalties and biases: on logits, in frames, and in answers over HTTP."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tests.butterfly.server_helpers import Server  # noqa: E402

from butterfly.communication.frames import Segment  # noqa: E402
from butterfly.communication.penalties import Past, Penalties  # noqa: E402
from butterfly.engine.memory import Memory  # noqa: E402
from butterfly.engine.sampling import sampled  # noqa: E402
from butterfly.errors import FrameError  # noqa: E402
from butterfly.scheduling import Scheduler, Sequence  # noqa: E402

TOKENS = st.lists(st.integers(0, 5), max_size=9)
HOW = Penalties(((2, 1.5), (4, -100.0)), 1.3, 0.4, 0.7)


def weighed(
    logits: list[float], how: Penalties, prompt: list[int], output: list[int]
) -> list[float]:
    """Return logits as vLLM's documents have it, in plain Python."""
    count, biases = Counter(output), dict(how.biases)
    found = []
    for token, value in enumerate(logits):
        value += biases.get(token, 0.0)
        if token in prompt or token in output:
            value = value / how.repetition if value > 0 else value * how.repetition
        value -= how.frequency * count[token]
        found.append(value - how.presence * (count[token] > 0))
    return found


@given(TOKENS, TOKENS, st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6))
def test_logits_change_as_in_plain_python(
    prompt: list[int], output: list[int], logits: list[float]
) -> None:
    """Whether the stage heard the output token by token, or all at once."""
    row = torch.tensor(logits)
    expected = pytest.approx(weighed(logits, HOW, prompt, output), abs=1e-4)
    memory = Memory()
    for heard in range(len(output) + 1):
        past = Past.of(HOW, heard - 1 if heard else -1, prompt, output[:heard])
        found = memory.told(3, past.encode(), len(row)).weighed(row)
    assert found.tolist() == expected
    whole = Past.of(HOW, -1, prompt, output).encode()
    assert Memory().told(0, whole, len(row)).weighed(row).tolist() == expected
    assert row.tolist() == logits


def test_a_frame_brings_only_what_is_new() -> None:
    """32 bytes a row; the prompt travels once, and only if it matters."""
    assert Past.decode(Past.of(HOW, -1, [7, 7, 5], [1]).encode()).prompt == (5, 7)
    assert Past.of(Penalties(presence=1.0), -1, [7, 5], []).prompt == ()
    later = Past.of(HOW, 3, [7], [1, 2, 3, 4])
    assert (later.output, later.prompt, later.penalties.biases) == ((4,), (), ())
    assert len(later.encode()) == 32
    back = Past.decode(later.encode())
    assert (back.heard, back.output) == (3, (4,))
    assert back.penalties.repetition == pytest.approx(1.3)


def test_what_was_missed_is_no_guess() -> None:
    """A lane that heard something else, and bytes that are cut, end the epoch."""
    later = Past.of(HOW, 3, [7], [1, 2, 3, 4]).encode()
    with pytest.raises(FrameError, match="lane 0 has heard nothing, and not 3 tokens"):
        Memory().told(0, later, 8)
    for size in (8, len(later) - 1):
        with pytest.raises(FrameError, match="past of a segment is damaged"):
            Past.decode(later[:size])


def test_plain_rows_beside_them_stay_plain() -> None:
    """In one batch each row has its own penalties, or none."""
    past = Past.of(Penalties(frequency=0.5), -1, [], [1, 1]).encode()
    rows = torch.tensor([[0.0, 1.0, 0.5, 0.0, 0.0]]).expand(3, 5)
    parts = [Segment(0, 4, 1), Segment(1, 4, 1, past=past), Segment(2, 4, 1)]
    assert [one.token for one in sampled(rows, parts, Memory())] == [1, 2, 1]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["settle", "reset"]), max_size=20))
def test_the_last_stage_hears_each_token_once(events: list[str]) -> None:
    """Over new epochs, too, after which it hears everything again."""
    line, memory = Scheduler(1, 64, chunk=2), Memory()
    one = Sequence([1, 2, 3], 9, penalties=HOW)
    line.add(one)
    for event in events:
        batch = line.plan()
        if batch is None:
            break
        (part,) = batch.segments
        if part.is_sampled:
            logits = [0.1 * token for token in range(8)]
            found = memory.told(0, part.past, 8).weighed(torch.tensor(logits))
            expected = weighed(logits, HOW, one.prompt, one.output)
            assert found.tolist() == pytest.approx(expected, abs=1e-4)
        if event == "reset":
            line.reset()
            memory = Memory()
        else:
            line.settle(batch.step, {0: [len(one.output)] if part.is_sampled else []})


@pytest.fixture(scope="module")
def oracle(server: Server) -> Any:
    """The whole model, without stages."""
    from transformers import LlamaForCausalLM  # noqa: PLC0415 - takes seconds

    return LlamaForCausalLM.from_pretrained(server.model).eval()


@torch.no_grad()
def expected(model: Any, prompt: list[int], how: Penalties, count: int) -> list[int]:
    """Return what the whole model says with penalties."""
    output: list[int] = []
    for _ in range(count):
        row = model(torch.tensor([prompt + output])).logits[0, -1].tolist()
        changed = weighed(row, how, prompt, output)
        output.append(changed.index(max(changed)))
    return output


def test_answers_are_those_of_the_whole_model(http: httpx.Client, oracle: Any) -> None:
    """Each penalty alone, all together, and none: at once, and each its own."""
    fields: list[dict[str, Any]] = [
        {},
        {"presence_penalty": 2},
        {"frequency_penalty": 1.5},
        {"repetition_penalty": 1.8},
        {"logit_bias": {"17": 100, "23": 99.5}, "frequency_penalty": 1},
        {
            **{"presence_penalty": -0.5, "frequency_penalty": 0.9},
            **{"repetition_penalty": 1.2, "logit_bias": {"40": 3, "41": -100}},
        },
    ]
    prompt = [30, 31, 32, 30, 31]

    def ask(more: dict[str, Any]) -> list[int]:
        given = {"prompt": prompt, "temperature": 0, "max_tokens": 48, **more}
        given |= {"return_token_ids": True, "ignore_eos": True}
        found = http.post("/v1/completions", json=given)
        tokens: list[int] = found.json()["choices"][0]["token_ids"]
        return tokens

    with ThreadPoolExecutor(len(fields)) as pool:
        found = list(pool.map(ask, fields))
    for more, tokens in zip(fields, found, strict=True):
        biases = {int(k): v for k, v in more.get("logit_bias", {}).items()}
        how = Penalties(
            tuple(biases.items()),
            more.get("repetition_penalty", 1.0),
            more.get("frequency_penalty", 0.0),
            more.get("presence_penalty", 0.0),
        )
        assert tokens == expected(oracle, prompt, how, 48), more
    assert len({tuple(tokens) for tokens in found}) >= len(fields) - 1
    assert set(found[4][:6]) == {17, 23}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"logit_bias": {"320": 1}}, "320 is no token of the model"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "less than or equal to 100"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
def test_penalties_without_sense_are_refused(
    http: httpx.Client, more: dict[str, Any], said: str
) -> None:
    """400, by the name of the field."""
    found = http.post("/v1/completions", json={"prompt": "a", **more})
    assert found.status_code == 400
    assert said in found.json()["error"]["message"]
