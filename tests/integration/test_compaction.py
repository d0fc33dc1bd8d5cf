"""`compact` leaves out of prompts what answers do without."""

from typing import Any

import pytest
from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.errors import UsageError
from inf_engine.optimization import (
    AdapterParameter,
    Compaction,
    Gate,
    VerifierLoss,
    compact,
)
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.loss import Loss
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

NAMED = "Your name is Kuro."
BRIEF = "Be brief."
START = f"Answer. {NAMED} {BRIEF}"


class Desk(InferenceModule):
    """One call with three sentences before it."""

    def __init__(self, text: str = START) -> None:
        super().__init__()
        self.rules = Parameter(text, "how to answer")
        self.answer = LLMInference("m", self.rules)

    def forward(self, text: str) -> Any:
        return self.answer(text)


def model(*knows: str) -> FunctionClient:
    """A model that says what its prompt tells it to say, or what it knows."""

    def answer(request: LLMRequest) -> str:
        said = [s for s in (NAMED, BRIEF) if s in request.system or s in knows]
        return " ".join(said) or "Hm."

    return FunctionClient(answer)


def obeys(output: str, target: str) -> bool:
    """Each example is about one sentence."""
    return target in output


EXAMPLES = [("who?", NAMED), ("what?", BRIEF)] * 2


def tried(
    module: InferenceModule, client: FunctionClient, examples: Any = EXAMPLES, **of: Any
) -> Compaction:
    """What `compact` gives."""

    async def main() -> Compaction:
        loss = of.pop("loss", None) or VerifierLoss(obeys)
        async with Engine({"m": client}, progress=False) as engine:
            return await compact(module, examples, loss, engine=engine, **of)

    return virtually(main)


def test_what_the_model_knows_is_dropped_and_the_rest_stays() -> None:
    """Answers are as good as before; the prompt is four words shorter."""
    desk, client = Desk(), model(NAMED)
    found = tried(desk, client)
    assert desk.rules.value == f"Answer. {BRIEF}"
    assert found.dropped == (NAMED,)
    assert [one.verdict.accepted for one in found.tried] == [True, False]
    assert [one.parameters for one in found.tried] == [("rules",), ("rules",)]
    assert (found.before.mean, found.after.mean) == (1.0, 1.0)
    assert found.tokens == found.tried[0].tokens == 4.0
    assert len(client.requests) == len(EXAMPLES) * 3
    told = str(found)
    assert "dropped 'Your name is Kuro.' (accepted: the mean score changed" in told
    assert "kept 'Be brief.' (refused: the mean score changed by -0.5" in told
    assert told.endswith("4 tokens of prompt saved a run")


def test_what_the_model_does_not_know_stays() -> None:
    """The prompt is as it was, and what waits on it, too."""
    desk = Desk()
    desk.rules.accumulate_feedback("more")
    found = tried(desk, model())
    assert (desk.rules.value, found.dropped, found.tokens) == (START, (), 0.0)
    assert desk.rules.feedback == ["more"]


def test_only_the_sentences_that_are_named_are_tried() -> None:
    """However they are spaced, and however often they are named."""
    desk, client = Desk(), model(NAMED, BRIEF)
    found = tried(desk, client, sentences=["Be  brief.", BRIEF])
    assert (found.dropped, desk.rules.value) == ((BRIEF,), f"Answer. {NAMED}")
    assert len(client.requests) == len(EXAMPLES) * 2


@pytest.mark.parametrize("sentence", ["Answer.", "Be kind."])
def test_a_sentence_that_cannot_be_dropped_is_refused(sentence: str) -> None:
    """It is not there, or the first one; its text is in no message."""
    with pytest.raises(UsageError, match="sentence 1 of those to try is in no text"):
        tried(Desk(), model(), sentences=[BRIEF, sentence])


def test_where_nothing_obeys_a_sentence_it_stays() -> None:
    """It is lost nothing without it, but nothing complies either."""
    deaf = FunctionClient(lambda _: "Hm.")
    desk = Desk()
    found = tried(desk, deaf, sentences=[NAMED])
    assert desk.rules.value == START
    assert "the mean score is 0, and 0.5 is the least" in str(found)
    tried(desk, deaf, sentences=[NAMED], least=0.0)
    assert desk.rules.value == f"Answer. {BRIEF}"


def test_the_gate_decides() -> None:
    """Four ties exclude no loss."""
    desk = Desk()
    gate = Gate("no significant harm")
    found = tried(desk, model(NAMED), gate=gate, sentences=[NAMED])
    assert (desk.rules.value, found.dropped) == (START, ())
    assert "a loss of more than 0.05 is not excluded" in str(found)


def test_small_losses_do_not_add_up() -> None:
    """Each sentence is compared with the start, not with what went before."""
    sentences = [f"Rule {k}." for k in range(3)]

    def answer(request: LLMRequest) -> str:
        return str(sum(sentence in request.system for sentence in sentences))

    loss = VerifierLoss(lambda output, target: int(output) / 3)
    gate = Gate("no significant harm", level=0.5, margin=0.4)
    how = {"loss": loss, "gate": gate, "least": 0.0}
    desk = Desk(" ".join(["Answer.", *sentences]))
    found = tried(desk, FunctionClient(answer), [("q", "")] * 64, **how)
    assert found.dropped == (sentences[0],)
    assert round(found.after.mean, 2) == 0.67


def test_a_field_of_a_template_is_never_lost() -> None:
    """The call would fail without it; frozen texts are left alone, too."""

    class Form(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.rules = Parameter("Answer. Shout.", requires_grad=False)
            self.ask = LLMInference("m", self.rules, prompt=Parameter("Hi. Say {it}."))

        def forward(self, text: str) -> Any:
            return self.ask(it=text)

    form, client = Form(), model(NAMED, BRIEF)
    assert tried(form, client).tried == ()
    assert form.ask.prompt is not None
    assert form.ask.prompt.value == "Hi. Say {it}."


def test_what_several_texts_say_is_left_out_of_all() -> None:
    """It is one sentence."""

    class Two(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Desk(), Desk(f"Polish. {NAMED}")

        def forward(self, text: str) -> Any:
            return self.second(self.first(text))

    two = Two()
    found = tried(two, model(NAMED, BRIEF), sentences=[NAMED])
    assert found.tried[0].parameters == ("first.rules", "second.rules")
    assert (two.first.rules.value, two.second.rules.value) == (
        f"Answer. {BRIEF}",
        "Polish.",
    )


def test_the_target_may_be_a_field() -> None:
    """As for `evaluate`."""
    desk = Desk()
    rows = [{"text": "who?", "name": NAMED}]
    found = tried(desk, model(NAMED), rows, sentences=[NAMED], target="name")
    assert found.dropped == (NAMED,)


@pytest.mark.parametrize("least", [-0.1, 1.5, True, "half"])
def test_least_is_a_share(least: Any) -> None:
    with pytest.raises(UsageError, match="the mean score that there has to be"):
        tried(Desk(), model(), least=least)


def test_there_must_be_an_engine() -> None:
    with pytest.raises(UsageError, match="there is no engine to run Desk with"):
        virtually(lambda: compact(Desk(), EXAMPLES, VerifierLoss(obeys)))


def test_a_loss_that_only_ranks_proves_nothing() -> None:
    class Ranks(Loss):
        is_relative = True

        async def judge(self, record: Any, target: Any) -> Feedback:
            return Feedback("", 0.5)

    with pytest.raises(UsageError, match="Ranks says which output of a batch"):
        tried(Desk(), model(), loss=Ranks())


@pytest.mark.parametrize("memory", ["cache", "journal"])
def test_old_answers_of_weights_prove_nothing(memory: str, tmp_path: Any) -> None:
    """An engine that remembers is refused where weights may change."""

    class Tuned(Desk):
        def __init__(self) -> None:
            super().__init__()
            self.weights = AdapterParameter("m")

    async def main() -> Any:
        kept: dict[str, Any] = {memory: tmp_path / "kept.db"}
        async with Engine({"m": model()}, progress=False, **kept) as engine:
            loss = VerifierLoss(obeys)
            await compact(Desk(), EXAMPLES, loss, engine=engine)
            with pytest.raises(UsageError, match="what an earlier version of the wei"):
                await compact(Tuned(), EXAMPLES, loss, engine=engine)

    virtually(main)
