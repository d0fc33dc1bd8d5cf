"""Losses that compare outputs: what is shown in which order, and what is believed."""

from typing import Any

import pytest
from tests.integration.judging_helpers import answering, by_text, judged, ran, schema_of

from inf_engine.errors import LossError, UsageError
from inf_engine.optimization.ranking import ComparisonLoss, RankingLoss
from inf_engine.record import RunRecord
from inf_engine.testing import FunctionClient, ScriptedClient

# -- ComparisonLoss --------------------------------------------------------------------


def prefers(text: str, tie: str = "") -> FunctionClient:
    """A judge that prefers one text wherever it stands."""

    def answer(prompt: str) -> Any:
        if tie and tie in prompt:
            return {"reason": "Equal.", "better": "same"}
        first, second = prompt.index("# Answer A"), prompt.index("# Answer B")
        assert first < second
        is_first = first < prompt.index(f"\n{text}\n") < second
        return {"reason": "Look.", "better": "A" if is_first else "B"}

    return by_text(answer)


@pytest.mark.parametrize("order", ["seeded", "both"])
def test_a_comparison(order: Any) -> None:
    """Better, worse and the same are told, whatever the order was."""
    loss = ComparisonLoss("m", "Prefer cities.", order=order, high=10.0)
    records = [ran("Paris"), ran("Rome"), ran("tie")]
    client = prefers("Paris", "tie")
    told = judged(loss, records, ["Rome", "Paris", "Paris"], client)
    assert told.scores == (10.0, 0.0, 5.0)
    assert len(client.requests) == (3 if order == "seeded" else 6)
    assert len(set(client.arrivals)) == 1
    assert "the output (here: answer" in told[1].content
    assert ") is worse: Look." in told[1].content
    assert ") is neither better nor worse: Equal." in told[2].content
    assert set(told[0].metadata["verdicts"]) == {"better"}
    request = client.requests[0]
    assert schema_of(request)["properties"]["better"]["enum"] == ["A", "B", "same"]
    assert "# Judge by this\n\nPrefer cities.\n" in request.messages[0].text
    assert "What the output should be" not in request.prompt


def test_a_judge_with_a_favourite_place() -> None:
    """Asked both ways it says the same of all; seeded, it cancels over many."""
    records = [ran(f"out {n}") for n in range(200)]
    targets = [f"target {n}" for n in range(200)]
    first = answering(better="A")
    both = ComparisonLoss("m", order="both")
    told = judged(both, records[:3], targets[:3], first)
    assert told.scores == (0.5, 0.5, 0.5)
    assert told[0].content.count("Compared with the reference") == 2
    told = judged(ComparisonLoss("m"), records, targets, answering(better="A"))
    assert 0.4 < told.score < 0.6


def test_the_order_is_that_of_the_texts() -> None:
    """The same texts are shown in the same order anywhere; another seed, another."""

    def firsts(seed: int, numbers: Any) -> list[bool]:
        records = [ran(f"out {n}") for n in numbers]
        loss = ComparisonLoss("m", seed=seed)
        told = judged(loss, records, ["t"] * len(records), answering(better="same"))
        return [item.metadata["output_first"][0] for item in told]

    forward, backward = firsts(0, range(40)), firsts(0, range(39, -1, -1))
    assert forward == backward[::-1]
    assert forward != firsts(1, range(40))


def test_a_reference_of_your_own() -> None:
    """It may be anything that a function gives; its exception is the example's."""

    def reference(record: RunRecord, target: Any) -> Any:
        return {"Paris": "Rome"}[record.output]

    loss = ComparisonLoss("m", reference=reference)
    told = judged(loss, [ran("Paris"), ran("Oslo")], None, prefers("Paris"))
    assert told.scores == (1.0, None) and isinstance(told[1].error, KeyError)


def test_nothing_to_compare_with() -> None:
    """Without a target there is no comparison, and nothing is asked."""
    client = answering(better="A")
    with pytest.raises(LossError, match="nothing to compare the output with: the tar"):
        judged(ComparisonLoss("m"), ran(), None, client)
    assert not client.requests
    told = judged(ComparisonLoss("m"), [ran(), ran()], ["Rome", None], client)
    assert told.scores[1] is None and isinstance(told[1].error, LossError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "random"}, "order must be 'seeded' or 'both', not 'random'"),
        ({"reference": "Rome"}, "reference must be a function of the record"),
    ],
)
def test_options_of_a_comparison(options: Any, message: str) -> None:
    """They are checked when it is built."""
    with pytest.raises(UsageError, match=message):
        ComparisonLoss("m", **options)


# -- RankingLoss -----------------------------------------------------------------------


def best_first(prompt: str) -> Any:
    """Rank numbers, the greatest first."""
    shown = [part.split("\n") for part in prompt.split("# Answer ")[1:]]
    by_value = sorted(shown, key=lambda lines: -int(lines[3]))
    return {"reason": "Greater.", "ranking": [int(lines[0]) for lines in by_value]}


def test_outputs_of_one_input_are_ranked() -> None:
    """One request for each input; the scores are evenly spread."""
    client = by_text(best_first)
    records = [
        ran("1", "a"),
        ran("7", "b"),
        ran("3", "a"),
        ran("2", "a"),
        ran("9", "b"),
    ]
    told = judged(RankingLoss("m", "Greater is better."), records, ["t"] * 5, client)
    assert told.scores == (0.0, 0.0, 1.0, 0.5, 1.0)
    assert len(client.requests) == 2 and len(set(client.arrivals)) == 1
    assert told[3].content.startswith("Ranked 2 of 3 different outputs for this input")
    assert told[3].content.endswith("): Greater.")
    assert [item.metadata["rank"] for item in told] == [3, 2, 1, 2, 1]
    sizes = [
        schema_of(request)["properties"]["ranking"]["maxItems"]
        for request in client.requests
    ]
    assert sizes == [3, 2]
    system = client.requests[0].messages[0].text
    assert (
        '- "ranking": The numbers of all answers, each once, the best first' in system
    )
    assert "# What the output should be\n\n```\nt\n```" in client.prompts[0]


def test_equal_outputs_share_a_rank() -> None:
    """They are shown once; where all are equal nobody is asked."""
    client = by_text(best_first)
    records = [
        ran("1", "a"),
        ran("2", "a"),
        ran("1", "a"),
        ran("5", "b"),
        ran("5", "b"),
    ]
    told = judged(RankingLoss("m"), records, None, client)
    assert told.scores == (0.0, 1.0, 0.0, 0.5, 0.5)
    assert client.prompts[0].count("# Answer ") == 2 and len(client.requests) == 1
    assert told[3].content == "All 2 outputs for this input are equal."


def test_the_order_shown_is_that_of_the_texts() -> None:
    """It depends on the texts and the seed, and not on the order of the batch."""
    outputs = [str(n) for n in range(8)]

    def shown(seed: int, outputs: list[str]) -> str:
        client = by_text(best_first)
        records = [ran(output) for output in outputs]
        judged(RankingLoss("m", seed=seed), records, None, client)
        return client.prompts[0]

    assert shown(0, outputs) == shown(0, outputs[::-1])
    assert shown(0, outputs) != shown(1, outputs)


@pytest.mark.parametrize("wrong", [[1, 1], [1], [0, 1], [2, 1, 3], ["a", "b"]])
def test_a_ranking_that_is_none(wrong: Any) -> None:
    """It is asked for again, once, and is then an error for all that it is about."""
    bad = {"reason": "x", "ranking": wrong}
    good = {"reason": "x", "ranking": [2, 1]}
    records = [ran("1"), ran("2")]
    client = ScriptedClient([bad, good])
    assert sorted(judged(RankingLoss("m"), records, None, client).scores) == [0.0, 1.0]
    client = ScriptedClient([bad, bad])
    with pytest.raises(LossError, match="RankingLoss failed for all 2 examples; the f"):
        judged(RankingLoss("m"), records, None, client)


def test_what_a_judge_is_told_of_a_ranking_that_is_none() -> None:
    """The numbers that it had to give."""
    client = ScriptedClient(
        [{"reason": "x", "ranking": [1, 1]}, {"reason": "x", "ranking": [1, 2]}]
    )
    judged(RankingLoss("m"), [ran("1"), ran("2")], None, client)
    assert "must have each number from 1 to 2 exactly once" in client.prompts[1]


def test_one_output_cannot_be_ranked() -> None:
    """Alone it is an error; among others that of its example."""
    with pytest.raises(LossError, match="only among others for the same input"):
        judged(RankingLoss("m"), ran("1"), None, answering())
    records = [ran("1", "a"), ran("2", "a"), ran("3", "b")]
    told = judged(RankingLoss("m"), records, None, by_text(best_first))
    assert told.scores == (0.0, 1.0, None)
    assert isinstance(told[2].error, LossError)


def test_groups_of_your_own() -> None:
    """A function may say what belongs together; its exception is the example's."""
    loss = RankingLoss("m", group=lambda record, target: target["id"])
    records = [ran("1", "a"), ran("2", "b"), ran("3", "c")]
    told = judged(loss, records, [{"id": 1}, {"id": 1}, {}], by_text(best_first))
    assert told.scores == (0.0, 1.0, None) and isinstance(told[2].error, KeyError)
    with pytest.raises(UsageError, match="group must be a function of the record"):
        RankingLoss("m", group="id")  # ty: ignore[invalid-argument-type]
