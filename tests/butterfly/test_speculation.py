"""Speculation: drafts change how many frames an answer takes, and nothing else."""

import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import httpx  # noqa: E402
import numpy as np  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tests.butterfly.models import tiny  # noqa: E402

from butterfly.api.grammar import Grammar, grammar_of  # noqa: E402
from butterfly.api.tokenizer import Tokenizer  # noqa: E402
from butterfly.cluster.options import HeadOptions  # noqa: E402
from butterfly.cluster.roles import chain_of, roles_of  # noqa: E402
from butterfly.communication.frames import (  # noqa: E402
    Frame,
    Kind,
    Sampling,
    Segment,
)
from butterfly.communication.penalties import Penalties  # noqa: E402
from butterfly.engine.memory import Memory  # noqa: E402
from butterfly.engine.sampling import (  # noqa: E402
    Drawn,
    draw,
    pack,
    sampled,
    unpack,
    wanted,
)
from butterfly.engine.stage import Shape, Stage  # noqa: E402
from butterfly.engine.weights import Checkpoint  # noqa: E402
from butterfly.engine.worker import Worker  # noqa: E402
from butterfly.errors import ConfigurationError, FrameError  # noqa: E402
from butterfly.scheduling import Batch, Scheduler, Sequence  # noqa: E402

PROMPT = [1, 17, 90, 4, 55, 17, 90]


class Ring:
    """Stages and a head in one thread; frames travel as bytes."""

    def __init__(self, checkpoint: Checkpoint, speculate: int, **how: Any) -> None:
        shapes = [Shape(0, 2, 4, 96), Shape(2, 4, 4, 96)]
        stages = [Stage(checkpoint, shape) for shape in shapes]
        self.workers = [Worker(s, None) for s in stages]  # ty: ignore[invalid-argument-type]
        self.line = Scheduler(4, 96, speculate=speculate, **how)
        self.frames = 0
        self.told: dict[Sequence, list[Drawn]] = {}

    def step(self) -> Batch | None:
        """Send one frame around; None if there is nothing to send."""
        batch = self.line.plan()
        return None if batch is None else self.send(batch)

    def send(self, batch: Batch) -> Batch:
        """Send a frame around, and settle it."""
        tokens = np.array(batch.tokens, "<i4").tobytes()
        frame = Frame(1, batch.step, batch.segments, Kind.TOKENS, tokens)
        for worker in self.workers:
            frame = Frame.decode(frame.encode(), 1)
            kind, codec, payload = worker.step(frame)
            frame = Frame(1, batch.step, batch.segments, kind, payload, codec)
        drawn: dict[int, list[Drawn]] = {}
        for one in unpack(frame.payload, batch.segments):
            drawn.setdefault(one.lane, []).append(one)
        tokens_of = {
            lane: [d.token for d in each if d.token is not None]
            for lane, each in drawn.items()
        }
        self.frames += 1
        found = self.line.settle(batch.step, tokens_of)
        for sequence, part, taken in zip(
            found.sequences, found.segments, found.taken, strict=True
        ):
            self.told.setdefault(sequence, []).extend(drawn[part.lane][:taken])
        return found

    def answer(self, *sequences: Sequence) -> list[list[int]]:
        """Return what is generated for some sequences at once."""
        for sequence in sequences:
            self.line.add(sequence)
        while not all(sequence.finish for sequence in sequences):
            assert self.step() is not None
        assert not any(sequence.failure for sequence in sequences)
        return [sequence.output for sequence in sequences]


class OnlyAlternating:
    """Allows what is of another parity than the token before."""

    def __init__(self) -> None:
        self.last = 1

    def fits(self, draft: list[int]) -> int:
        """Count how many alternate."""
        last = self.last
        for place, token in enumerate(draft):
            if token % 2 == last % 2:
                return place
            last = token
        return len(draft)

    def allowed(self, draft: list[int]) -> bytes:
        """Return bits for 128 tokens and each place."""
        last = [self.last, *draft]
        masks = [
            bytes([0b01010101 if token % 2 else 0b10101010] * 16) for token in last
        ]
        return zlib.compress(b"".join(masks))

    def accept(self, token: int) -> None:
        """Take a token."""
        assert token % 2 != self.last % 2
        self.last = token


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: Any) -> Checkpoint:
    """A tiny random model; its greedy answers repeat themselves before long."""
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("speculation")
    tiny(folder)
    return Checkpoint(folder)


@pytest.fixture(scope="module")
def rings(checkpoint: Checkpoint) -> tuple[Ring, Ring]:
    """A ring without speculation, and one with it."""
    return Ring(checkpoint, 0), Ring(checkpoint, 6)


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"sampling": Sampling(0.9, seed=3)},
    "cut": {"sampling": Sampling(0.7, 0.8, 5, 0.01, seed=4)},
    "penalties": {"penalties": Penalties(((3, 2.0),), 1.1, 0.02, 0.03)},
    "logprobs": {"sampling": Sampling(top_logprobs=3), "prompt_logprobs": True},
    "stops": {"stops": frozenset([33, 56, 72])},
}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_without(rings: tuple[Ring, Ring], kind: str) -> None:
    """The same tokens with the same seed: chance is a function of the position."""
    before = rings[1].line.proposed
    found = [ring.answer(Sequence(PROMPT, 60, **KINDS[kind])) for ring in rings]
    assert found[0] == found[1]
    assert rings[1].line.proposed > before


@pytest.mark.parametrize("kind", ["greedy", "penalties", "logprobs"])
def test_a_draft_that_comes_true_saves_a_frame(
    checkpoint: Checkpoint, kind: str
) -> None:
    """One each; what does not come true costs a row, and nothing is told twice."""
    plain, fast = Ring(checkpoint, 0), Ring(checkpoint, 6)
    one, other = (Sequence(PROMPT, 60, **KINDS[kind]) for _ in range(2))
    assert plain.answer(one) == fast.answer(other)
    line = fast.line
    assert fast.frames == plain.frames - line.accepted < plain.frames
    assert line.rows == plain.line.rows + line.proposed - line.accepted
    mine, theirs = plain.told[one], fast.told[other]
    assert [d.token for d in theirs] == [d.token for d in mine] == one.output
    for a, b in zip(mine, theirs, strict=True):
        assert (a.logprob is None) == (b.logprob is None) == (kind != "logprobs")
        if a.logprob is not None and b.logprob is not None:
            assert b.logprob.logprob == pytest.approx(a.logprob.logprob, abs=1e-4)
            assert b.logprob.rank == a.logprob.rank
            assert [t for t, _ in b.logprob.top] == [t for t, _ in a.logprob.top]


def test_a_form_is_kept(checkpoint: Checkpoint) -> None:
    """Each row of a draft has what may be drawn there; what cannot be is no draft."""
    answers = []
    for speculate in (0, 6):
        ring = Ring(checkpoint, speculate)
        rule = OnlyAlternating()
        answers += ring.answer(Sequence(PROMPT, 60, constraint=rule))
    assert answers[0] == answers[1] and len(answers[0]) == 60
    assert ring.line.accepted > 10


def test_llguidance_tells_what_may_follow_a_draft(model: Path) -> None:
    """As if its tokens were taken one by one, and it is where it was after."""
    checkpoint = Checkpoint(model)
    tokenizer = Tokenizer(model, checkpoint.config())
    form = {"type": "object", "properties": {"a": {"enum": ["fox", "dog"]}}}
    asked = {"type": "json_schema", "json_schema": {"schema": form}}
    one, other = (Grammar(tokenizer.native, grammar_of(asked)) for _ in range(2))
    tokens = tokenizer.encode('{"a": "fox"}', special=False)
    assert one.fits([*tokens, 5]) == len(tokens) and one.fits([5]) == 0
    told = zlib.decompress(one.allowed(tokens))
    expected = [zlib.decompress(other.allowed([]))]
    for token in tokens:
        other.accept(token)
        expected.append(zlib.decompress(other.allowed([])))
    assert told == b"".join(expected)
    assert zlib.decompress(one.allowed([])) == expected[0]


def test_adapters_draw_their_own(checkpoint: Checkpoint) -> None:
    """Rows of a draft go through the adapter of their sequence."""
    answers = []
    for speculate in (0, 6):
        ring = Ring(checkpoint, speculate)
        for worker in ring.workers:
            assert worker.stage is not None
            worker.stage.adapters._known.add(3)
            for layer in worker.stage._inner.layers:
                table = {3: (torch.ones(32, 1), torch.ones(1, 64) * 0.1)}
                worker.stage.adapters._hooked[layer.mlp.up_proj] = table
                layer.mlp.up_proj.register_forward_hook(worker.stage.adapters._add)
        both = Sequence(PROMPT, 40, adapter=3), Sequence(PROMPT, 40)
        answers.append([ring.answer(one) for one in both])
    assert answers[0] == answers[1] and answers[0][0] != answers[0][1]
    assert ring.line.accepted > 0


@pytest.mark.parametrize("limit", range(1, 8))
def test_no_answer_is_longer_than_asked(checkpoint: Checkpoint, limit: int) -> None:
    """The last draft has only as many tokens as there is room for."""
    ring = Ring(checkpoint, 6)
    one = Sequence([9] * 20, limit)
    ring.answer(one)
    assert (len(one.output), one.finish) == (limit, "length")
    assert ring.line._held[0] == [*one.tokens[:-1]]


def test_an_answer_can_be_left_in_the_middle_of_a_draft(checkpoint: Checkpoint) -> None:
    """Its lane is free when the frame is back, and the next one finds it in order."""
    ring = Ring(checkpoint, 6)
    gone, again = Sequence(PROMPT, 60), Sequence(PROMPT, 60)
    (expected,) = Ring(checkpoint, 0).answer(Sequence(PROMPT, 60))
    ring.line.add(gone)
    batch = ring.line.plan()
    while batch is not None and not batch.segments[0].draft:
        ring.send(batch)
        batch = ring.line.plan()
    assert batch is not None
    ring.line.abort(gone)
    ring.send(batch)
    assert gone.lane is None and gone.finish == "abort"
    assert ring.answer(again) == [expected] and again.reused > 0


def test_a_new_epoch_forgets_a_draft(checkpoint: Checkpoint) -> None:
    """What was on its way is drawn again: the same tokens, penalties and all."""
    how = KINDS["penalties"]
    (expected,) = Ring(checkpoint, 0).answer(Sequence(PROMPT, 60, **how))
    ring = Ring(checkpoint, 6)
    one = Sequence(PROMPT, 60, **how)
    ring.line.add(one)
    for number in range(1, 200):
        if one.finish:
            break
        if number % 5:
            ring.step()
        elif ring.line.plan() is not None:
            ring.line.reset()
            for worker in ring.workers:
                worker.memory = Memory()
    assert one.output == expected and ring.line.accepted > 0


def test_who_has_company_brings_no_draft(checkpoint: Checkpoint) -> None:
    """Its rows would be dear; with a frame for each, both may."""
    for frames in (1, 2):
        ring = Ring(checkpoint, 6, frames=frames)
        both = [Sequence([20 + k] * 30, 30) for k in range(2)]
        alone, together = set(), set()
        for one in both:
            ring.line.add(one)
        while (batch := ring.step()) is not None:
            seen = together if len(batch.segments) > 1 else alone
            seen.update(len(part.draft) for part in batch.segments)
        assert together <= {0} and (not alone) == (frames == 1)
        assert ring.line.proposed == 0 or max(alone) == 6


def test_a_draft_ends_before_a_stop() -> None:
    """Nothing after it would be used; what is drawn there ends the answer anyway."""
    said = [1, 2, 3, 4, 9, 5, 1, 2]
    for stops, expected in ((frozenset[int](), [3, 4, 9, 5]), (frozenset([9]), [3, 4])):
        one = Sequence(said, 9, stops=stops)
        assert one.draft(4) == [3]  # until it is known how much comes true
        one.learn(1, 1)
        one.learn(2, 2)
        assert one.draft(4) == expected


def test_there_is_room_for_a_draft_in_a_frame() -> None:
    """For its rows, and for what may be drawn after each, however it deflates."""
    config = SimpleNamespace(hidden_size=4, vocab_size=200_000)
    options = HeadOptions("m", 1, "s", lanes=1, positions=64, speculate=9)
    (role,) = roles_of(options, config, (7, "x", 1), chain_of(options, ["n"], 4, 0.0))
    masks = np.random.default_rng(0).bytes(10 * config.vocab_size // 8)
    rows = 20
    part = Segment(0, 0, rows, draft=(1,) * 9, allowed=zlib.compress(masks))
    frame = Frame(7, 1, (part,), Kind.HIDDEN, bytes(rows * role.row_bytes))
    assert frame.nbytes <= role.frame_bytes


@pytest.mark.parametrize("speculate", [-1, 256])
def test_a_frame_has_room_for_so_many(speculate: int) -> None:
    """The length of a draft is one byte."""
    with pytest.raises(ConfigurationError, match=f"have {speculate} tokens: name at m"):
        Scheduler(1, 64, speculate=speculate)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6))
def test_lanes_hold_what_was_said(
    data: st.DataObject, lanes: int, frames: int, speculate: int
) -> None:
    """With drafts that come true in part, copies, ends and new epochs."""
    line = Scheduler(lanes, 32, frames=frames, chunk=5, speculate=speculate)
    stage: list[list[int]] = [[] for _ in range(lanes)]
    flying: list[Batch] = []
    tokens = st.integers(0, 1)
    prompts = data.draw(st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1))
    sequences = [Sequence(prompt, 7) for prompt in prompts[:6]]
    for one in sequences:
        line.add(one)
    while not all(one.finish for one in sequences):
        while (batch := line.plan()) is not None:
            flying.append(batch)
            at = 0
            for one, part in zip(batch.sequences, batch.segments, strict=True):
                lane = stage[part.lane]
                if part.source >= 0:
                    lane[: part.shared] = stage[part.source][: part.shared]
                assert part.start <= len(lane)
                lane[part.start :] = batch.tokens[at : at + part.length]
                at += part.length
                assert lane == [*one.tokens, *part.draft][: len(lane)]
                assert not part.is_sampled or len(lane) == one.length + len(part.draft)
        event = data.draw(st.sampled_from(["settle"] * 6 + ["abort", "reset"]))
        if event == "abort":
            line.abort(data.draw(st.sampled_from(sequences)))
        elif event == "reset":
            line.reset()
            flying.clear()
        elif flying:
            batch = flying.pop(0)
            drawn = {}
            for part in batch.segments:
                count = data.draw(st.integers(1, part.draws)) if part.draws else 0
                drawn[part.lane] = [*part.draft[: count - 1], data.draw(tokens)][:count]
            line.settle(batch.step, drawn)
    assert all(len(one.output) == 7 for one in sequences if one.finish == "length")


# -- chance ---------------------------------------------------------------------------


def test_what_is_said_is_as_probable_as_without(checkpoint: Checkpoint) -> None:
    """Chi-square over 3,000 seeds: first tokens, and second ones after a hit."""
    (stage,) = [Stage(checkpoint, Shape(0, 4, 1, 96))]
    draft = int(_logits(stage, PROMPT)[-1].argmax())
    rows = _logits(stage, [*PROMPT, draft])[-2:]
    how = [Sampling(2.0, top_k=6, seed=seed) for seed in range(3000)]
    parts = [Segment(0, 6, 2, sampling=one, draft=(draft,)) for one in how]
    found = sampled(rows.repeat(len(parts), 1), parts, Memory())
    first, second = found[0::2], found[1::2]
    hits = [b.token for a, b in zip(first, second, strict=True) if a.token == draft]
    assert 300 < len(hits) < 2700
    assert {
        b.token for a, b in zip(first, second, strict=True) if a.token != draft
    } == {None}
    for logits, tokens in ((rows[0], [one.token for one in first]), (rows[1], hits)):
        best = (logits / 2.0).topk(6)
        chances = best.values.softmax(-1).tolist()
        counts = Counter(tokens)
        assert set(counts) <= set(best.indices.tolist())
        expected = [len(tokens) * chance for chance in chances]
        pairs = zip(best.indices.tolist(), expected, strict=True)
        assert sum((counts[t] - e) ** 2 / e for t, e in pairs) < 20.5  # 5 of 1,000


def _logits(stage: Stage, tokens: list[int]) -> Any:
    """Return the logits after each token."""
    hidden = stage.embed(torch.tensor(tokens))
    return stage.logits(stage.forward(hidden, [Segment(0, 0, len(tokens))]))


# -- the last stage -------------------------------------------------------------------


def test_a_draft_is_believed_up_to_its_first_mistake() -> None:
    """The token that came instead is told, those after it are not; others go on."""
    logits = torch.eye(8)[[3, 4, 5, 6, 7]]
    parts = [Segment(0, 9, 4, draft=(3, 4, 0)), Segment(1, 5, 1)]
    parts[0] = Segment(0, 9, 4, sampling=Sampling(top_logprobs=1), draft=(3, 4, 0))
    assert wanted(parts) == [0, 1, 2, 3, 4]
    found = sampled(logits, parts, Memory())
    assert [one.token for one in found] == [3, 4, 5, None, 7]
    back = unpack(pack(found), parts)
    assert [(one.lane, one.token) for one in back] == [(0, 3), (0, 4), (0, 5), (1, 7)]
    assert [one.logprob is None for one in back] == [False, False, False, True]


def test_drafts_are_drawn_with_the_chance_of_their_position() -> None:
    """So a sequence draws what it would have drawn one by one."""
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    how = Sampling(1.0, seed=11)
    alone = [draw(logits[k], how, 20 + k) for k in range(4)]
    part = Segment(0, 16, 7, sampling=how, draft=tuple(alone[:3]))
    assert wanted([part]) == [3, 4, 5, 6]
    found = sampled(logits, [part], Memory())
    assert [one.token for one in found] == alone


def test_a_draft_without_a_row_before_it_is_damaged() -> None:
    """Nothing says what it is to follow."""
    parts = (Segment(0, 4, 2, draft=(5, 6)),)
    data = Frame(7, 1, parts, Kind.TOKENS, b"12345678").encode()
    with pytest.raises(FrameError, match="rows do not add up"):
        Frame.decode(data, 7)


def test_a_server_guesses_as_it_was_told(http: httpx.Client) -> None:
    """`--speculate`: an answer takes less frames than tokens; metrics say how many."""
    before = counts(http)
    body = {"prompt": "the lazy dog", "max_tokens": 120, "logit_bias": {"17": 100}}
    body |= {"ignore_eos": True, "butterfly": True, "temperature": 0}
    told = http.post("/v1/completions", json=body).json()
    assert told["usage"]["completion_tokens"] == 120
    after = counts(http)
    proposed, accepted = (b - a for a, b in zip(before, after, strict=True))
    (answer,) = told["butterfly"]["answers"]
    assert answer["frames"] == 120 - accepted < 120 and proposed >= accepted


def counts(http: httpx.Client) -> tuple[float, float]:
    """Return how many tokens were proposed and accepted until now."""
    lines = http.get("/metrics").text.splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("proposed", "accepted")
    found = [float(told[f"butterfly_{name}_tokens_total"]) for name in names]
    state = http.get("/state").json()
    assert found == [state[name] for name in names]
    return found[0], found[1]
