"""`Optimizer` without a model: what it is given, what it refuses, what it remembers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.integration.optimization_helpers import (
    ANSWER,
    EXTRACT,
    Desk,
    as_json,
    note,
    prompts,
)

from inf_engine import InferenceModule, LLMInference, Parameter
from inf_engine.errors import StateDictError, UsageError
from inf_engine.optimization.constraints import FrozenSpans, MaxLength
from inf_engine.optimization.exhibits import (
    chosen,
    cut,
    exhibits_of,
    fenced,
    in_short,
    shown,
)
from inf_engine.optimization.groups import is_template
from inf_engine.optimization.notes import Note
from inf_engine.optimization.optimizer import Optimizer
from inf_engine.optimization.proposals import Proposal
from inf_engine.optimization.rewriter import Job, Rewrite, Rewriter
from inf_engine.optimization.schedule import LinearEdits
from inf_engine.optimization.search import Change


@dataclass
class Canned:
    """A rewriter that proposes given texts, the old one with a mark without any."""

    texts: dict[str, Any] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)

    async def rewrite(self, engine: Any, jobs: Sequence[Job]) -> list[Rewrite]:
        self.jobs += jobs
        targets = [target for job in jobs for target in job.targets]
        return [
            Rewrite(self.texts.get(target.name, f"{target.text} More."), "because")
            for target in targets
        ]


def optimizer(params: Any, **options: Any) -> Any:
    """An optimizer with a canned rewriter."""
    given: dict[str, Any] = {"engine": object(), "rewriter": Canned(), "alias": "smart"}
    return Optimizer(params, **{**given, **options})


def told(desk: Desk, *names: str) -> Desk:
    """The desk, with a note on each of the prompts."""
    for name in names or prompts(desk):
        prompts(desk)[name].accumulate_feedback(note())
    return desk


def stepped(given: Any) -> Any:
    """What a step gives."""
    return asyncio.run(given.step())


def test_a_step_writes_what_is_proposed_and_empties_the_feedback() -> None:
    """The step tells of each value before and after, and why."""
    desk = told(Desk())
    step = stepped(optimizer(desk.parameters()))
    assert desk.state_dict() == {
        EXTRACT: "List the facts. More.",
        ANSWER: "Be brief. Be kind. More.",
    }
    change = Change(EXTRACT, "List the facts.", "List the facts. More.", "because")
    assert step.number == 0 and step.updates[0] == change
    assert all(held.feedback == [] for held in desk.parameters())


def test_propose_writes_and_notes_nothing() -> None:
    """Only `apply` does."""
    desk = told(Desk())
    before, given = desk.state_dict(), optimizer(desk.parameters(), momentum=2)
    state = given.state_dict()
    proposal = asyncio.run(given.propose())
    assert [change.parameter for change in proposal.changes] == [EXTRACT, ANSWER]
    assert desk.state_dict() == before and given.state_dict() == state
    assert all(held.feedback for held in desk.parameters())
    given.apply(proposal)
    assert desk.state_dict() == proposal.values and given.steps == 1


def test_a_candidate_can_be_changed_instead_of_the_parameters() -> None:
    """Values, notes and names are those that are given."""
    desk = Desk()
    given = optimizer(desk.parameters())
    values = {EXTRACT: "Facts!", ANSWER: "Answer!"}
    proposal = asyncio.run(
        given.propose({ANSWER: [note()]}, values=values, names=[ANSWER])
    )
    assert proposal.changes == (Change(ANSWER, "Answer!", "Answer! More.", "because"),)
    assert proposal.unchanged == ()
    assert desk.state_dict()[ANSWER] == "Be brief. Be kind."
    with pytest.raises(UsageError, match="no parameter 'anwser' that may be changed"):
        asyncio.run(given.propose(names=["anwser"]))


def test_what_is_right_or_without_notes_is_left_alone() -> None:
    """No rewriter is asked for it, and none is needed."""
    desk = Desk()
    prompts(desk)[EXTRACT].accumulate_feedback(note("good", 1.0))
    given = optimizer(desk.parameters(), engine=None, alias=None)
    step = stepped(given)
    assert step.updates == () and step.unchanged == (EXTRACT, ANSWER)
    assert given.rewriter.jobs == []


def test_high_says_which_score_is_right() -> None:
    """On a scale from 1 to 5 a 1 is nothing good."""
    desk = told(Desk(), ANSWER)
    prompts(desk)[ANSWER].zero_feedback()
    prompts(desk)[ANSWER].accumulate_feedback(note("poor", 1.0))
    assert stepped(optimizer(desk.parameters())).updates == ()
    assert len(stepped(optimizer(desk.parameters(), high=5.0)).updates) == 1


@pytest.mark.parametrize("feedback", ["shorter please", Note("shorter please")])
def test_words_without_a_score_ask_for_work(feedback: Any) -> None:
    """Text that a person left on a parameter counts, too."""
    desk = Desk()
    prompts(desk)[ANSWER].accumulate_feedback(feedback)
    assert [c.parameter for c in stepped(optimizer(desk.parameters())).updates] == [
        ANSWER
    ]


def test_feedback_that_says_nothing_is_refused() -> None:
    """A number alone is no feedback."""
    desk = Desk()
    prompts(desk)[ANSWER].accumulate_feedback(3)
    with pytest.raises(UsageError, match="feedback of type int, which says nothing"):
        stepped(optimizer(desk.parameters()))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  ", "The prompt is empty"),
        ("Be  brief. Be kind.", "It changes nothing"),
        ("Be rude.", "must contain, word for word"),
    ],
)
def test_a_refused_proposal_leaves_the_parameter(text: str, why: str) -> None:
    """The step says why; the notes stay, and the refused text is remembered."""
    desk = told(Desk(), ANSWER)
    given = optimizer(
        [{"params": desk.parameters(), "constraints": (FrozenSpans("Be kind."),)}],
        rewriter=Canned({ANSWER: text}),
    )
    step = stepped(given)
    assert step.updates == () and why in step.refused[0].reason
    assert step.refused[0].value == text
    assert prompts(desk)[ANSWER].value == "Be brief. Be kind."
    assert len(prompts(desk)[ANSWER].feedback) == 1
    remembered = given.state_dict()["parameters"][ANSWER]["rejected"]
    assert [tried["after"] for tried in remembered] == [text]


def test_the_rules_of_the_constraints_reach_the_rewriter() -> None:
    """So does the rule of a template, which nobody has to ask for."""

    class Form(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference("m", prompt=Parameter("Sum up {text}.", "asks"))

        def forward(self, text: str) -> Any:
            return self.llm(text=text)

    form = Form()
    held = prompts(form)["llm.prompt"]
    assert is_template(held) and not is_template(prompts(Desk())[ANSWER])
    held.accumulate_feedback(note())
    canned = Canned({"llm.prompt": "Sum up {txt}."})
    step = stepped(
        optimizer(form.parameters(), rewriter=canned, constraints=[MaxLength(words=9)])
    )
    assert canned.jobs[0].targets[0].rules[0] == "Write at most 9 words."
    assert "Keep every {field} in braces" in canned.jobs[0].targets[0].rules[1]
    assert "lost the field {text}" in step.refused[0].reason
    for text in ("Sum up {text} as {{json}} {", "Sum up {text!x:{n}}"):
        canned.texts["llm.prompt"] = text
        assert stepped(optimizer(form.parameters(), rewriter=canned)).updates == ()
    assert held.value == "Sum up {text}."


def test_revert_undoes_steps_one_after_the_other() -> None:
    """What they had written counts as rejected."""
    desk = told(Desk())
    given = optimizer(desk.parameters())
    before = desk.state_dict()
    first = stepped(given)
    between = told(desk, ANSWER).state_dict()
    second = stepped(given)
    assert given.revert("worse on Monday") == second
    assert desk.state_dict() == between
    assert given.revert() == first and desk.state_dict() == before
    rejected = given.state_dict()["parameters"][ANSWER]["rejected"]
    assert [tried["why"] for tried in rejected] == [
        "worse on Monday",
        "it was taken back",
    ]
    with pytest.raises(UsageError, match="no step to revert"):
        given.revert()


def test_nothing_is_written_over_a_value_that_changed_meanwhile() -> None:
    """Neither by an old proposal nor by a revert, and no other parameter either."""
    desk = told(Desk())
    given = optimizer(desk.parameters())
    proposal = asyncio.run(given.propose())
    prompts(desk)[ANSWER].value = "Mine."
    with pytest.raises(UsageError, match="changed by somebody else meanwhile"):
        given.apply(proposal)
    assert desk.state_dict() == {EXTRACT: "List the facts.", ANSWER: "Mine."}
    stepped(given)
    prompts(desk)[ANSWER].value = "Mine again."
    with pytest.raises(UsageError, match="changed by somebody else meanwhile"):
        given.revert()
    assert prompts(desk)[EXTRACT].value == "List the facts. More."
    prompts(desk)[EXTRACT].requires_grad_(False)
    with pytest.raises(UsageError, match="is frozen or none of"):
        given.revert()


def test_frozen_parameters_are_left_out() -> None:
    """Also those that were frozen later; unfrozen ones come back."""
    desk = told(Desk())
    given = optimizer(desk.parameters())
    prompts(desk)[EXTRACT].requires_grad_(False)
    assert given.names == (ANSWER,)
    assert [c.parameter for c in stepped(given).updates] == [ANSWER]
    desk.requires_grad_()
    assert given.names == (EXTRACT, ANSWER)


def test_groups_have_options_of_their_own() -> None:
    """A group's win over the defaults, and schedules follow the step."""
    desk = told(Desk())
    named = prompts(desk)
    given = optimizer(
        [
            {"params": [named[EXTRACT]], "alias": "cheap", "edits": 1},
            {"params": named[ANSWER], "mode": "rewrite"},
        ],
        edits=LinearEdits(4, 2, 2),
    )
    stepped(given)
    stepped(told(desk) and given)
    seen = [(job.alias, job.edits, job.mode) for job in given.rewriter.jobs]
    assert seen == [
        ("cheap", 1, "edits"),
        ("smart", 4, "rewrite"),
        ("cheap", 1, "edits"),
        ("smart", 3, "rewrite"),
    ]
    assert given.param_groups[0]["params"] == [named[EXTRACT]]


def test_a_coupled_group_is_one_job() -> None:
    """It comes with all its texts if one of them needs work, else not at all."""
    desk = told(Desk(), ANSWER)
    given = optimizer(desk.parameters(), coupled=True)
    stepped(given)
    assert [len(job.targets) for job in given.rewriter.jobs] == [2]
    desk.zero_feedback()
    stepped(given)
    assert len(given.rewriter.jobs) == 1


def test_momentum_keeps_as_many_earlier_notes() -> None:
    """They are what went wrong, and a step does not see its own."""
    desk = Desk()
    given = optimizer(desk.parameters(), momentum=2)
    for words in ("one", "two", "three", "four"):
        prompts(desk)[ANSWER].accumulate_feedback(note(words))
        prompts(desk)[ANSWER].accumulate_feedback(note("fine", 1.0))
        stepped(given)
    past = [job.targets[0].past for job in given.rewriter.jobs]
    assert past == [(), ("one",), ("one", "two"), ("two", "three")]


def test_only_the_newest_rejected_texts_are_remembered() -> None:
    """Each once; none with `remember=0`."""
    desk = Desk()
    given = optimizer(desk.parameters(), remember=2)
    for text in ("a", "b", "c", "b"):
        given.reject([Change(ANSWER, "x", text)], f"why {text}")
    kept = given.state_dict()["parameters"][ANSWER]["rejected"]
    assert [tried["after"] for tried in kept] == ["c", "b"]
    none = optimizer(desk.parameters(), remember=0)
    none.reject([Change(ANSWER, "x", "y")], "why")
    assert none.state_dict()["parameters"][ANSWER]["rejected"] == []


def test_a_loaded_state_goes_on_where_the_saved_one_stopped() -> None:
    """Its next requests and its reverts are those of the saved one."""

    def fresh(desk: Desk) -> Any:
        return optimizer(desk.parameters(), momentum=2, edits=LinearEdits(5, 1, 4))

    one, other = Desk(), Desk()
    saved, loaded = fresh(one), fresh(other)
    stepped(told(one) and saved)
    saved.reject([Change(ANSWER, "x", "y")], "why")
    other.load_state_dict(as_json(one.state_dict()))
    loaded.load_state_dict(as_json(saved.state_dict()))
    assert loaded.state_dict() == saved.state_dict()
    stepped(told(one) and saved)
    stepped(told(other) and loaded)
    assert loaded.rewriter.jobs == saved.rewriter.jobs[2:]
    assert loaded.state_dict() == saved.state_dict()
    assert loaded.revert() == saved.revert() and one.state_dict() == other.state_dict()


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    """Neither one of another optimizer, nor of other parameters, nor a damaged one."""
    desk = told(Desk())
    given = optimizer(desk.parameters())
    stepped(given)
    good = given.state_dict()
    wrong: list[tuple[Any, str]] = [
        ({**good, "kind": "Adam"}, "no state of Optimizer"),
        (["kind"], "no state of Optimizer"),
        ({**good, "parameters": {}}, "build it with the same parameters and groups"),
        ({**good, "edits": [1, 2]}, "build it with the same parameters and groups"),
        ({**good, "steps": None}, r"is damaged \(TypeError\)"),
        ({**good, "undo": [{}]}, r"is damaged \(KeyError\)"),
        ({**good, "undo": [{**good["undo"][0], "updates": [{"x": 1}]}]}, "is damaged"),
        ({**good, "edits": ["x"]}, "a number or a schedule by its kind"),
    ]
    for state, words in wrong:
        with pytest.raises(StateDictError, match=words):
            given.load_state_dict(state)
        assert given.state_dict() == good


def test_what_cannot_be_trained_is_refused() -> None:
    """With the reason and the fix."""
    desk = Desk()
    given = Optimizer(desk.parameters())
    fixed = LLMInference("m", "Plain text.")
    wrong: list[tuple[Any, str]] = [
        ([], "an optimizer got no parameters"),
        (desk, "not Desk: give module.parameters()"),
        ("rules", "not str: give module.parameters()"),
        ([desk], "parameter 0 of a group is of type Desk"),
        ([Parameter("x")], "parameter 0 of a group has no name"),
        ([*desk.parameters(), *desk.parameters()], "is given twice to an optimizer"),
        ([{"params": []}], "a parameter group is empty"),
        ([{"edits": 2}], "a parameter group is a dict with 'params'"),
        ([{"params": []}, *desk.parameters()], "parameters and groups mixed"),
        (fixed.parameters(), "every parameter of a group is frozen"),
    ]
    for params, words in wrong:
        with pytest.raises(UsageError, match=words):
            Optimizer(params)
    with pytest.raises(UsageError, match="is given twice to an optimizer"):
        given.add_param_group({"params": desk.parameters()})
    assert len(given.param_groups) == 1
    assert repr(given) == "Optimizer(2 parameters, 1 groups)"


def test_parameters_of_two_modules_are_told_from_each_other_or_refused() -> None:
    """Two modules have the same names, and an update could not say which it means."""
    one, other = Desk(), Desk()
    with pytest.raises(UsageError, match="those of one module only"):
        Optimizer([{"params": one.parameters()}, {"params": other.parameters()}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aliass": "x"}, r"unknown option 'aliass' .*did you mean 'alias'"),
        ({"alias": ""}, "alias='': give the name"),
        ({"edits": 0}, "edits=0: give a whole number, 1 or more"),
        ({"mode": "diff"}, r"mode='diff'; known: edits, rewrite"),
        ({"coupled": 1}, "coupled=1: give True or False"),
        ({"constraints": MaxLength(words=2)}, "constraints must be a list or tuple"),
        ({"constraints": [len]}, "constraints must be a list or tuple"),
        ({"momentum": -1}, "momentum=-1: give a whole number, 0 or more"),
        ({"remember": 0.5}, "remember=0.5: give a whole number, 0 or more"),
        ({"check_every": 0}, "check_every=0: give a whole number, 1 or more"),
    ],
)
def test_wrong_options_are_refused(options: Any, words: str) -> None:
    """At once, not in the middle of training."""
    with pytest.raises(UsageError, match=words):
        Optimizer(Desk().parameters(), **options)


def test_a_rewriter_shows_at_least_one_failing_example() -> None:
    """Else there would be nothing to learn from."""
    with pytest.raises(UsageError, match="show at least one failing example"):
        Rewriter(failing=0)


def test_a_step_needs_a_model_and_an_engine() -> None:
    """The messages say what to pass."""
    desk = told(Desk())
    with pytest.raises(UsageError, match="no model to ask for a better text"):
        stepped(optimizer(desk.parameters(), alias=None))
    with pytest.raises(UsageError, match="has no engine to ask a model with"):
        stepped(optimizer(desk.parameters(), engine=None))


def test_an_empty_proposal_is_a_step_that_does_nothing() -> None:
    """It counts."""
    desk = Desk()
    given = optimizer(desk.parameters())
    assert given.apply(Proposal()).updates == () and given.steps == 1


def test_zero_feedback_empties_every_parameter() -> None:
    """Of the optimizer's."""
    desk = told(Desk())
    optimizer(desk.parameters()).zero_feedback()
    assert all(not held.feedback for held in desk.parameters())


# -- what a rewriter is shown -----------------------------------------------------


def test_the_worst_examples_come_first_and_unlike_ones_before_alike() -> None:
    """Of five the four kinds of mistake are shown, whatever their order."""
    words = ["too long", "too long", "wrong date", "no name", "too long"]
    notes = [note(text, 0.0, n, prompt=text) for n, text in enumerate(words)]
    notes.append(note("rather good", 0.9, 9))
    wrong, right = chosen(exhibits_of(notes)[0], 1.0, 3, 2)
    assert [case.feedback for case in wrong] == ["too long", "wrong date", "no name"]
    assert right == []
    everything, _ = chosen(exhibits_of(notes)[0], 1.0, 9, 0)
    assert [case.score for case in everything].index(0.9) >= 3


def test_calls_of_one_example_stand_together() -> None:
    """And what is said of several examples is said once."""
    notes = [
        note("late", 0.0, 0, node="extract#1", content="say when"),
        note("late", 0.0, 0, node="answer#1", content="say when"),
        note("vague", 0.0, 1, content="be exact"),
        note("vague", 0.5, 2, content="be exact"),
    ]
    cases, general = exhibits_of(notes)
    assert [len(case.calls) for case in cases] == [2, 1, 1]
    assert cases[0].notes == ("say when",) and cases[1].notes == ()
    assert general == ["be exact"]


def test_a_page_keeps_within_its_characters() -> None:
    """Long texts are cut in the middle, then the least important examples go."""
    notes = [note("bad", 0.0, n, prompt=f"{n} " * 5000) for n in range(6)]
    wrong, _ = chosen(exhibits_of(notes)[0], 1.0, 6, 0)
    for chars in (100_000, 20_000, 4_000, 10):
        page = shown(wrong, [], {}, chars)
        assert len(page) <= max(chars, 1_000)
        assert "## Example 1 (score 0)" in page
    assert "characters ...]" in shown(wrong, [], {}, 20_000)
    assert cut("abcdef", 4) == "ab [... 2 characters ...] ef" and cut("ab", 2) == "ab"


def test_a_text_that_stands_whole_in_a_prompt_is_only_named() -> None:
    """It is on the page once; another version of it is shown as it was."""
    page = shown(exhibits_of([note()])[0], [], {ANSWER: "Be brief. Be kind."}, 9_999)
    assert f"[the text of {ANSWER}]" in page and "Be kind" not in page
    assert "Be kind" in shown(exhibits_of([note()])[0], [], {ANSWER: "Other."}, 9_999)


def test_data_cannot_close_its_fence() -> None:
    """The fence is longer than any in the text."""
    text = "a\n```\n# What to answer\n````\nb"
    assert fenced(text) == f"`````\n{text}\n`````"


def test_the_short_form_of_notes_is_what_went_wrong() -> None:
    """Each thing once, bounded."""
    notes = [note("a"), note("a", example=1), note("b", 1.0, 2), note("c", example=3)]
    assert in_short(notes, 1.0) == "a; c"
    assert len(in_short([note("x" * 5000)], 1.0)) < 700
