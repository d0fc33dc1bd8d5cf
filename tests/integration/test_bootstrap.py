"""Searches for demonstrations and choices, against models that are known functions."""

import contextlib
import copy
import dataclasses
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from tests.integration.engine_helpers import virtually

from inf_engine import Engine, InferenceModule, LLMInference, Parameter
from inf_engine.demos import Demo, DemoParameter
from inf_engine.errors import BudgetExceededError, TrainingError, UsageError
from inf_engine.optimization.acceptance import Gate, Verdict
from inf_engine.optimization.bootstrap import BootstrapDemos
from inf_engine.optimization.choices import (
    ChoiceParameter,
    ChoiceSearch,
    TokenCost,
    billed,
)
from inf_engine.optimization.descent import TextGradientDescent
from inf_engine.optimization.feedback import Feedback
from inf_engine.optimization.loss import VerifierLoss
from inf_engine.optimization.search import Candidate, Rollout
from inf_engine.optimization.shown import source_of
from inf_engine.optimization.trainer import Trainer
from inf_engine.resources.prices import Price
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest, LLMResponse, Usage

Example = tuple[Any, Any]


class Bench:
    """The smallest search: it runs candidates, and keeps what was decided."""

    def __init__(
        self,
        engine: Any,
        module: InferenceModule,
        names: Sequence[str],
        train: Sequence[Example],
        val: Sequence[Example] = (),
        *,
        most: int = 10_000,
        seed: int = 0,
    ) -> None:
        self.engine, self.module, self.names = engine, module, names
        self.start = Candidate(module.state_dict())
        self.data = {"train": train, "val": val}
        self.train_size, self.val_size = len(train), len(val)
        self.rng = random.Random(seed)
        self.left = most
        self.kept: dict[Any, Rollout] = {}
        self.decisions: list[tuple[Candidate, bool, str]] = []
        self.verdicts: list[Verdict] = []
        self.changes: list[Any] = []
        self._next = 0

    def batch(self) -> Sequence[int]:
        places = [(self._next + k) % self.train_size for k in range(3)]
        self._next += 3
        return list(dict.fromkeys(places))

    async def rollouts(
        self,
        candidate: Candidate,
        places: Sequence[int],
        *,
        split: Any = "train",
        record: bool = False,
    ) -> list[Rollout]:
        keys = [(candidate.digest, split, place) for place in places]
        new = [key for key in keys if key not in self.kept]
        if len(new) > self.left:
            raise BudgetExceededError("gone")
        self.left -= len(new)
        module = copy.deepcopy(self.module)
        module.load_state_dict(dict(candidate.values))
        for key in new:
            inputs, target = self.data[split][key[2]]
            ran = await self.engine.record(module, *inputs)
            score = float(ran.output == target)
            told = Feedback("", score, record=ran)
            self.kept[key] = Rollout(key[2], score, told, ran)
        found = [self.kept[key] for key in keys]
        return found if record else [dataclasses.replace(r, record=None) for r in found]

    def sources(self, split: Any) -> list[str]:
        runs = [SimpleNamespace(args=tuple(i), kwargs={}) for i, _ in self.data[split]]
        return [source_of(run) for run in runs]

    def accepted(
        self, candidate: Any, parents: Any, changes: Any, verdict: Any
    ) -> None:
        assert parents[0] == self.best
        self.decisions.append((candidate, True, verdict.reason))
        self.verdicts.append(verdict)
        self.changes += changes

    def rejected(self, candidate: Any, parents: Any, changes: Any, reason: str) -> None:
        assert parents[0] == self.best
        self.decisions.append((candidate, False, reason))
        self.changes += changes

    async def notes(self, candidate: Any, rollouts: Any) -> dict[str, list[Any]]:
        raise AssertionError("nobody needs notes here")

    def is_over(self) -> bool:
        return self.left <= 0

    @property
    def best(self) -> Candidate:
        """The last accepted candidate."""
        good = [candidate for candidate, accepted, _ in self.decisions if accepted]
        return good[-1] if good else self.start


def searched(
    optimizer: Any, module: InferenceModule, *data: Any, clients: Any, **options: Any
) -> Bench:
    """Return a search after the optimizer is through with it."""

    async def main() -> Bench:
        async with Engine(clients, progress=False) as engine:
            bench = Bench(engine, module, optimizer.names, *data, **options)
            with contextlib.suppress(BudgetExceededError):
                await optimizer.search(bench)
            return bench

    found: Bench = virtually(main)
    return found


# -- demonstrations ---------------------------------------------------------------


class Plural(InferenceModule):
    """Two nodes with demonstrations of their own, and a text."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Parameter("Be brief.")
        self.clean_demos = DemoParameter()
        self.demos = DemoParameter()
        self.clean = LLMInference("m", self.clean_demos)
        self.plural = LLMInference("m")

    def forward(self, word: str) -> Any:
        word = self.clean(word)
        return self.plural(f"{self.rules}\n{self.demos}\nWord: {word}")


def grammarian(request: LLMRequest) -> str:
    """Knows the plural of a word if it ends as one in a demonstration does.

    Without demonstrations it knows words of three letters.
    """
    word = request.prompt.rpartition("Word: ")[2]
    if "Word: " not in request.prompt:
        return word.strip().lower()
    shown = [
        line.removeprefix("Input: Word: ")
        for line in request.prompt.splitlines()
        if line.startswith("Input: Word: ")
    ]
    knows = len(word) == 3 or any(other[-1] == word[-1] for other in shown)
    return f"{word}s" if knows else word


def words(text: str) -> list[Example]:
    """Return examples: a word with a capital, and its plural."""
    return [((word.title(),), f"{word}s") for word in text.split()]


TRAIN = words("cat dog pen cup car map horse table window")
VAL = words("goat frog garden mop star bat lamp")


def bootstrap(
    module: Plural | None = None, train: Any = TRAIN, val: Any = VAL, **options: Any
) -> tuple[Bench, BootstrapDemos, FunctionClient]:
    """Search with the grammarian."""
    module = Plural() if module is None else module
    seeds = {key: options.pop(key) for key in ("seed", "most") if key in options}
    optimizer = BootstrapDemos(module.parameters(), **options)
    client = FunctionClient(grammarian)
    clients = {"m": client}
    bench = searched(optimizer, module, train, val, clients=clients, **seeds)
    return bench, optimizer, client


def test_good_runs_become_demonstrations_that_raise_the_held_out_score() -> None:
    """Each node gets those of its own calls, out of the same runs, word for word."""
    bench, optimizer, _ = bootstrap()
    assert optimizer.names == ("clean_demos", "demos")
    assert bench.best != bench.start
    plural = [Demo.of(d) for d in bench.best.values["demos"]]
    clean = [Demo.of(d) for d in bench.best.values["clean_demos"]]
    assert [d.source for d in plural] == [d.source for d in clean]
    for one, two in zip(clean, plural, strict=True):
        word = str(one.inputs).lower()
        assert (one.output, two.inputs) == (word, f"Word: {word}")
        assert two.output == f"{word}s"
        assert len(word) == 3, "only those runs went well"
    assert bench.best.values["rules"] == "Be brief."
    assert {change.parameter for change in bench.changes} <= {"clean_demos", "demos"}
    assert optimizer.harvested == 6
    assert len(plural) <= 4


def test_the_winner_is_better_on_held_out_examples() -> None:
    """Every accepted candidate passed the gate; the last one is the best of all."""
    bench, _, _ = bootstrap()

    def score(candidate: Candidate) -> float:
        kept = bench.kept
        return sum(kept[candidate.digest, "val", k].score or 0 for k in range(len(VAL)))

    assert score(bench.best) > score(bench.start)
    assert score(bench.best) == max(score(c) for c, _, _ in bench.decisions)
    reasons = [why for _, accepted, why in bench.decisions if not accepted]
    assert all(why.startswith("on held-out examples: refused") for why in reasons)


def test_never_the_example_under_test_in_its_own_prompt() -> None:
    """No request shows a demonstration of the word that it asks about.

    Though half of the training words are held-out words too, and all of them would be
    good demonstrations.
    """
    both = words("cat dog pen")
    bench, optimizer, client = bootstrap(
        train=[*TRAIN, *both], val=[*VAL, *both], candidates=30
    )
    assert optimizer.harvested == 3  # cup, car and map
    held_out = [r.record for k, r in bench.kept.items() if k[1] == "val"]
    tested = {source_of(record) for record in held_out if record is not None}
    for candidate, _, _ in bench.decisions:
        for demo in candidate.values["demos"]:
            assert demo["source"] not in tested
    asked = [r.prompt for r in client.requests if "Input: Word: " in r.prompt]
    assert asked
    for prompt in asked:
        word = prompt.rpartition("Word: ")[2]
        assert f"Input: Word: {word}\n" not in prompt
    assert all(key[1] == "val" or key[0] == bench.start.digest for key in bench.kept), (
        "candidates run on held-out examples only"
    )


def test_a_run_that_was_shown_its_own_answer_gives_no_demonstration() -> None:
    """What stands in the prompt from the start is no evidence."""
    first, _, _ = bootstrap(train=words("cat dog"))
    shown = first.decisions[0][0].values
    module = Plural()
    module.load_state_dict(dict(shown))
    again, optimizer, _ = bootstrap(module, train=words("cat dog cup"))
    assert optimizer.harvested == 1
    assert [d["output"] for d in again.decisions[0][0].values["demos"]] == ["cups"]


def test_without_held_out_examples_it_is_refused() -> None:
    """Training examples are what demonstrations are from."""
    with pytest.raises(UsageError, match=r"needs held-out examples.*Give val"):
        bootstrap(val=())


def test_the_same_seed_gives_the_same_search() -> None:
    """And another seed another one."""
    runs = [bootstrap(seed=seed) for seed in (1, 1, 2)]
    told = [[(c.digest, *rest) for c, *rest in bench.decisions] for bench, _, _ in runs]
    assert told[0] == told[1] != told[2]
    assert runs[0][2].prompts == runs[1][2].prompts


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_candidate_shows_more_than_it_may(most: int) -> None:
    """Nor is one tried twice, nor more than so many."""
    bench, optimizer, _ = bootstrap(max_demos=most, candidates=50)
    tried = [candidate for candidate, _, _ in bench.decisions]
    assert len({c.digest for c in tried}) == len(tried) <= 50
    assert optimizer.steps == len(tried)
    assert {len(c.values["demos"]) for c in tried} == set(range(1, most + 1))


def test_nothing_good_leaves_everything_as_it_is() -> None:
    """The search ends, and tells that there was nothing to show."""
    bench, optimizer, _ = bootstrap(train=words("horse table"))
    assert (bench.decisions, optimizer.harvested) == ([], 0)


def test_a_lower_threshold_takes_what_is_less_than_right() -> None:
    """A threshold of 0 takes all that ran."""
    _, optimizer, _ = bootstrap(train=words("horse table"), threshold=0.0)
    assert optimizer.harvested == 2


@pytest.mark.parametrize("most", [3, 7, 10, 16, 25])
def test_a_budget_that_is_gone_ends_the_search(most: int) -> None:
    """Not the training: what was accepted until then counts."""
    bench, _, _ = bootstrap(most=most)
    whole, _, _ = bootstrap()
    assert bench.decisions == whole.decisions[: len(bench.decisions)]
    assert len(bench.decisions) == max(0, (most - 7 - 9) // 7)


def test_the_gate_decides() -> None:
    """One that asks for more than luck turns small gains down."""
    bench, _, _ = bootstrap(gate=Gate("significant", level=0.001))
    assert bench.best == bench.start
    assert len(bench.decisions) == 8


class Typed(InferenceModule):
    """A template with fields, one of them the demonstrations; JSON comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.demos = DemoParameter()
        self.llm = LLMInference(
            "m", prompt="{demos}\n{count} of {word}", response_format=list[str]
        )

    def forward(self, word: str, count: int) -> Any:
        return self.llm(demos=f"{self.demos}", word=word, count=count)


class Chat(InferenceModule):
    """Demonstrations behind the rules of a system message."""

    def __init__(self) -> None:
        super().__init__()
        self.rules = Parameter("Be brief.")
        self.demos = DemoParameter()
        self.llm = LLMInference("m")

    def forward(self, word: str, count: int) -> Any:
        system = f"{self.rules}\n\n{self.demos}"
        return self.llm(
            [
                {"role": "system", "content": system},
                {"role": "user", "content": "first"},
                {"role": "assistant", "content": "yes"},
                {"role": "user", "content": f"{self.rules} {count} of {word}"},
            ]
        )


@pytest.mark.parametrize(
    ("module", "answer", "inputs", "output"),
    [
        (Typed(), {"value": ["a"]}, {"word": "cat", "count": 2}, {"value": ["a"]}),
        (Chat(), "a", "2 of cat", "a"),
    ],
)
def test_inputs_are_what_the_call_was_given(
    module: InferenceModule, answer: Any, inputs: Any, output: Any
) -> None:
    """The fields of a template, or what the user said last, without parameters."""
    optimizer = BootstrapDemos(module.parameters())
    target = ["a"] if answer != "a" else "a"
    train, val = [(("cat", 2), target)], [(("dog", 2), target)]
    clients = {"m": FunctionClient(lambda r: answer)}
    bench = searched(optimizer, module, train, val, clients=clients)
    (demo,) = bench.decisions[0][0].values["demos"]
    assert (demo["inputs"], demo["output"]) == (inputs, output)


def test_it_trains_with_a_trainer() -> None:
    """The best demonstrations stand in the module afterwards."""
    module = Plural()
    optimizer = BootstrapDemos(module.parameters(), candidates=3)
    loss = VerifierLoss(lambda output, target: output == target)

    async def main() -> Any:
        async with Engine({"m": FunctionClient(grammarian)}, progress=False) as engine:
            trainer = Trainer(module, loss, optimizer, engine=engine, rollouts=200)
            train = [(word, target) for (word,), target in TRAIN]
            return await trainer.fit(train, [(word, target) for (word,), target in VAL])

    result = virtually(main)
    assert module.demos.demos
    assert result.best.values == module.state_dict()
    assert result.gain.gain.mean > 0


def test_bad_arguments_are_refused() -> None:
    """With what to give instead."""
    module = Plural()
    everything = list(module.parameters())
    bad: list[tuple[Callable[[], Any], str]] = [
        (lambda: BootstrapDemos([module.rules]), "got no DemoParameter"),
        (lambda: BootstrapDemos(everything, max_demos=0), "max_demos=0: give a whole"),
        (lambda: BootstrapDemos(everything, pool=2), "pool=2: give a whole num.* 4"),
        (
            lambda: BootstrapDemos(everything, threshold=2),
            "threshold=2: give the score",
        ),
        (lambda: ChoiceSearch(everything), "got no ChoiceParameter"),
    ]
    for make, said in bad:
        with pytest.raises(UsageError, match=said):
            make()
    with pytest.raises(UsageError, match=r"parameters \(.*\) are none of those"):
        optimizer = BootstrapDemos(everything)
        other = Bench(None, module, ["rules"], TRAIN, VAL)
        virtually(lambda: optimizer.search(other))
    desk = Desk()
    for optimizer in (BootstrapDemos(everything), ChoiceSearch(desk.parameters())):
        with pytest.raises(UsageError, match="takes no step from feedback"):
            virtually(optimizer.step)


# -- choices ----------------------------------------------------------------------


class Desk(InferenceModule):
    """An alias and a number of samples to choose."""

    def __init__(self, alias: str = "fast") -> None:
        super().__init__()
        self.samples = ChoiceParameter(1, [1, 3])
        self.llm = LLMInference(ChoiceParameter(alias, ["fast", "smart"]))

    def forward(self, text: str) -> Any:
        return [self.llm(text) for _ in range(self.samples.value)][0]


def endpoints(fast: str = "knows cat dog") -> dict[str, FunctionClient]:
    """A model that knows some words, and one that knows all."""
    known = fast.split()
    return {
        "fast": FunctionClient(lambda r: "yes" if r.prompt in known else "no"),
        "smart": FunctionClient(lambda r: "yes"),
    }


ASKED: list[Example] = [((word,), "yes") for word in "cat dog pen cup".split()]
PRICES = {"fast": Price(1.0, 1.0), "smart": Price(20.0, 20.0)}


def chosen(
    module: Desk | None = None, clients: Any = None, val: Any = ASKED, **options: Any
) -> tuple[Bench, ChoiceSearch]:
    """Search for the best choices."""
    module = Desk() if module is None else module
    optimizer = ChoiceSearch(module.parameters(), **options)
    clients = endpoints() if clients is None else clients
    return searched(optimizer, module, ASKED, val, clients=clients), optimizer


def test_the_better_value_wins_if_cost_counts_for_nothing() -> None:
    """The smart alias; more samples are no better, so they are not taken."""
    bench, optimizer = chosen()
    assert bench.best.values == {"samples": 1, "llm.alias": "smart"}
    assert [accepted for _, accepted, _ in bench.decisions] == [False, True, False]
    assert optimizer.objectives[bench.best.digest][0] == 1.0
    (change,) = [c for c in bench.changes if c.after == "smart"]
    assert (change.parameter, change.before) == ("llm.alias", "fast")


@pytest.mark.parametrize(
    ("weight", "winner"), [(0.0, "smart"), (100.0, "smart"), (50_000.0, "fast")]
)
def test_cost_changes_the_winner(weight: float, winner: str) -> None:
    """The same scores: what a USD is worth decides between half right and all right."""
    bench, optimizer = chosen(cost_weight=weight, cost=TokenCost(PRICES))
    assert bench.best.values["llm.alias"] == winner
    means = optimizer.objectives
    both = {name: bench.start.with_values({"llm.alias": name}) for name in PRICES}
    if winner == "smart":
        gain = bench.verdicts[-1].gain.mean
        old, new = (means[both[name].digest] for name in ("fast", "smart"))
        assert new[1] == pytest.approx(20 * old[1])
        objective = (new[0] - weight * new[1]) - (old[0] - weight * old[1])
        assert gain == pytest.approx(objective)


def test_of_equal_scores_the_cheaper_one_wins() -> None:
    """Tokens count, too: three samples cost three times as much as one."""
    module = Desk("smart")
    module.samples.value = 3
    clients = endpoints("cat dog pen cup")
    options: dict[str, Any] = {"cost_weight": 0.01, "cost": TokenCost(PRICES)}
    bench, optimizer = chosen(module, clients, **options)
    assert bench.best.values == {"samples": 1, "llm.alias": "fast"}
    start, best = (optimizer.objectives[c.digest] for c in (bench.start, bench.best))
    assert start[1] == pytest.approx(60 * best[1])
    assert start[0] == best[0] == 1.0
    assert "cost from" in bench.decisions[-1][2]


@pytest.mark.parametrize(("weight", "winner"), [(0.0, "smart"), (50_000.0, "fast")])
def test_a_trainer_keeps_the_choice_that_costs_less(weight: float, winner: str) -> None:
    """It chooses by the optimizer's objective; the scores are reported as they are."""
    module = Desk("smart")
    costs: dict[str, Any] = {"cost_weight": weight, "cost": TokenCost(PRICES)}
    optimizer = ChoiceSearch(module.parameters(), **costs)

    async def train() -> Any:
        loss = VerifierLoss(lambda output, target: output == target)
        async with Engine(endpoints("cat dog pen"), progress=False) as engine:
            trainer = Trainer(engine, module, loss, optimizer, rollouts=100, seed=0)
            return await trainer.fit(ASKED, ASKED)

    result = virtually(train)
    assert module.llm.alias == winner
    assert result.score.mean == {"fast": 0.75, "smart": 1.0}[winner]
    assert result.baseline.mean == 1.0
    assert (result.gain.gain.mean > 0) is (winner == "fast")


def test_an_answer_that_was_used_again_costs_what_it_costs(tmp_path: Any) -> None:
    """So nothing looks cheap because another candidate, or run, has paid for it."""

    async def costs() -> list[float]:
        clients = endpoints()
        cache = tmp_path / "cache.db"
        async with Engine(clients, progress=False, cache=cache) as engine:
            records = [await engine.record(Desk(), "cat") for _ in range(2)]
            assert records[1].cost == 0.0
            assert len(clients["fast"].requests) == 1
            with pytest.raises(TrainingError, match="used answers of the cache"):
                billed(records[1])
            return [TokenCost(PRICES)(record) for record in records]

    first, second = virtually(costs)
    assert first == second > 0


def test_tokens_are_those_that_the_endpoint_counted(tmp_path: Any) -> None:
    """Also of an answer that is used again; where it counts none, by characters."""
    used = Usage(1, 300, 20)

    async def costs() -> list[float]:
        counting = FunctionClient(lambda request: LLMResponse("cat", usage=used))
        cache = tmp_path / "cache.db"
        clients = {"fast": counting, "smart": counting}
        async with Engine(clients, progress=False, cache=cache) as engine:
            records = [await engine.record(Desk(), "cat") for _ in range(2)]
        calls = [call for r in records for node in r.nodes for call in node.calls]
        assert [call.reused for call in calls] == [None, "cache"]
        assert [call.usage for call in calls] == [used, used]
        assert records[1].usage.total_tokens == 0
        return [TokenCost()(record) for record in records]

    assert virtually(costs) == [320, 320]


def test_bills_are_read_from_the_records() -> None:
    """What the endpoint asked for; a model without a price is refused."""

    def priced(usd: float | None) -> FunctionClient:
        answer = LLMResponse("yes", usage=Usage(1, 10, 10), cost=usd)
        return FunctionClient(lambda r: answer)

    clients = {"fast": priced(0.001), "smart": priced(0.1)}
    module = Desk("smart")
    bench, optimizer = chosen(module, clients, cost_weight=1.0, cost=billed)
    assert bench.best.values["llm.alias"] == "fast"
    assert optimizer.objectives[bench.best.digest] == pytest.approx((1.0, 0.001))
    with pytest.raises(TrainingError, match="a model has no price"):
        chosen(clients={"fast": priced(None), "smart": priced(None)}, cost=billed)


def test_without_held_out_examples_the_training_examples_decide() -> None:
    """All of them."""
    bench, _ = chosen(val=())
    assert bench.best.values["llm.alias"] == "smart"
    assert {key[1] for key in bench.kept} == {"train"}


def test_a_value_that_is_worse_on_a_minibatch_is_not_run_further() -> None:
    """It costs a minibatch, not the held-out examples."""
    bench, _ = chosen(Desk("smart"), clients=endpoints(""))
    ((fast, _, why),) = [
        d for d in bench.decisions if d[0].values["llm.alias"] == "fast"
    ]
    assert why.startswith("on a minibatch: refused: the mean score changed by -1")
    assert {key[1] for key in bench.kept if key[0] == fast.digest} == {"train"}


def test_bad_costs_are_refused() -> None:
    """Before anything is decided by them."""
    bad: list[tuple[dict[str, Any], str]] = [
        ({"cost_weight": -1.0}, "cost_weight=-1.0: give the score"),
        ({"cost_weight": float("nan")}, "cost_weight=nan"),
        ({"cost": 3.0}, "cost must be a function of the record"),
        ({"rounds": 0}, "rounds=0: give a whole number, 1"),
        ({"cost": lambda record: -1.0}, "cost of a run must be a finite number"),
        ({"cost": TokenCost({"fats": PRICES["fast"]})}, "no price .* alias 'fast'"),
    ]
    for options, said in bad:
        with pytest.raises(UsageError, match=said):
            chosen(**options)
    with pytest.raises(UsageError, match=r"parameters \(.*\) are none of those"):
        module = Desk()
        optimizer = ChoiceSearch(module.parameters())
        other = Bench(None, module, ["rules"], ASKED)
        virtually(lambda: optimizer.search(other))


def test_a_frozen_choice_stays() -> None:
    """Only what may be changed is tried."""
    module = Desk()
    module.llm.requires_grad_(False)
    bench, _ = chosen(module)
    assert {c.values["llm.alias"] for c, _, _ in bench.decisions} == {"fast"}


def test_a_step_leaves_choices_and_demonstrations_alone() -> None:
    """They get no feedback, so that no model is asked about them; a search tries."""

    class Mixed(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.tone = ChoiceParameter("kind", ["kind", "brief"])
            self.demos = DemoParameter([Demo("a", "b")])
            self.llm = LLMInference(ChoiceParameter("m", ["m", "n"]))

        def forward(self, text: str) -> Any:
            return self.llm(f"{self.tone} {self.demos} {text}")

    module = Mixed()
    client = FunctionClient(lambda r: "no")
    before = module.state_dict()

    async def main() -> Any:
        async with Engine({"m": client, "n": client}, progress=False) as engine:
            record = await engine.record(module, "hi")
            await Feedback("Wrong.", 0.0, record=record).backward()
            optimizer = TextGradientDescent(
                module.parameters(), engine=engine, alias="m"
            )
            with pytest.raises(
                UsageError, match="tone, demos, llm.alias are chosen by"
            ):
                await optimizer.step()

    virtually(main)
    assert module.state_dict() == before
    assert len(client.requests) == 1
