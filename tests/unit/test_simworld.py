"""The simulated world: what is true of its models, its metric and its counts."""

import asyncio
import json
import random
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from benchmarks.simworld import (
    FAMILIES,
    MODULES,
    Example,
    Rule,
    World,
    module,
    resources,
)
from benchmarks.simworld.check import main
from benchmarks.simworld.examples import hint
from benchmarks.simworld.families import ROLES
from benchmarks.simworld.rules import WORDINGS

from inf_engine import Engine
from inf_engine.errors import UsageError
from inf_engine.testing import FunctionClient
from inf_engine.types import LLMRequest

DESK = ROLES["desk"]
SURE = 6
"""How many requests of different words leave nothing to chance."""


def asked(model: str, *texts: str, **fields: Any) -> dict[str, Any]:
    """Return a request: a system message if there are two texts, a user message."""
    roles = ["system", "user"][-len(texts) :]
    told = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return {"model": model, "messages": told, **fields}


def reflected(world: World, text: str, **fields: Any) -> str:
    """Return what the reflector says."""
    return world.reply(asked("reflector", text, **fields))


def missing(world: World) -> list[Rule]:
    """Return the rules that the start prompts do not state."""
    said = "\n".join(world.start_prompts().values())
    return [rule for rule in world.book.rules if rule.mark not in said]


def many(world: World, write: Callable[[int], str], **fields: Any) -> list[str]:
    """Return the answers to requests that differ in a number."""
    return [reflected(world, write(n), **fields) for n in range(SURE)]


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON that the server answers."""
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        return json.loads(reply.read())


def said(url: str, body: dict[str, Any]) -> str:
    """Return the text that the server answers."""
    return post(url, body)["choices"][0]["message"]["content"]


# -- the scores ---------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_start_and_oracle(family: str, seed: int) -> None:
    """There is much to learn, and nearly all can be learnt."""
    world = World(family, seed)
    assert 0.3 <= world.true_score(world.start_prompts()) <= 0.5
    assert 0.97 <= world.true_score(world.oracle_prompts()) <= 0.99


def test_a_seed_makes_a_world() -> None:
    """The same seed gives the same examples, another seed others; sets are apart."""
    world = World("one", 1)
    assert world.train == World("one", 1).train
    assert world.train != World("one", 2).train
    sets = [{e.id for e in part} for part in (world.train, world.val, world.test)]
    assert [len(part) for part in sets] == [60, 60, 200]
    assert len(set.union(*sets)) == 320


@pytest.mark.parametrize("wording", range(len(WORDINGS)))
def test_a_rule_counts_in_any_wording(wording: int) -> None:
    """A rule that is said otherwise is stated just as well."""
    world = World("one", 1)
    lines = [rule.sentence(wording=wording) for rule in world.book.rules]
    score = world.true_score({"desk": f"{DESK} {' '.join(lines)}"})
    assert score == pytest.approx(world.true_score(world.oracle_prompts()))


@pytest.mark.parametrize(
    "text",
    [
        "If {condition}, add the mark {other}.",
        "If {condition}, do not add the mark {mark}.",
        "If {condition}, add something. Add {mark}.",
        "If {condition} or a gift, glass, invoice, add {mark}, {other}, {third}.",
    ],
)
def test_what_does_not_state_a_rule(text: str) -> None:
    """A wrong mark, a denied one, a torn sentence and a list of all do not count."""
    world = World("one", 1)
    for rule in missing(world):
        first, second = rule.wrong
        told = text.format(
            condition=rule.condition, mark=rule.mark, other=first, third=second
        )
        prompt = f"{world.start_prompts()['desk']}\n{told}"
        start = world.true_score(world.start_prompts())
        assert world.true_score({"desk": prompt}) <= start + 0.001


def test_a_contradicted_rule_counts_half() -> None:
    """Two marks for one condition are worse than the right one alone."""
    world = World("one", 1)
    (prompt,) = world.oracle_prompts().values()
    rule = world.book.rules[0]
    worse = world.true_score({"desk": f"{prompt}\n{rule.sentence(rule.wrong[0])}"})
    assert worse < world.true_score({"desk": prompt}) - 0.03


def test_a_worked_example_helps_a_little() -> None:
    """An order beside its answer is worth something, but less than the rule."""
    world = World("one", 1)
    rule = missing(world)[0]
    shown = next(e for e in world.train if e.rules == (rule.id,))
    start = world.start_prompts()["desk"]
    demo = world.true_score({"desk": f"{start}\n{shown.text}\n{shown.expected}"})
    stated = world.true_score({"desk": f"{start}\n{rule.sentence()}"})
    assert world.true_score({"desk": start}) < demo < stated


def test_a_stage_needs_its_own_rules() -> None:
    """In the pipeline a rule helps in its stage, and nowhere else."""
    world = World("pipeline", 1)
    rule = missing(world)[0]
    start = world.start_prompts()
    for number, stage in enumerate(start):
        told = {**start, stage: f"{start[stage]}\n{rule.sentence()}"}
        better = world.true_score(told) > world.true_score(start) + 0.01
        assert better == (number == rule.stage)


def test_the_chain_needs_all_three() -> None:
    """In the chain a rule helps when all stages state it, and hardly before."""
    world = World("chain", 1)
    rule = missing(world)[0]
    start = world.start_prompts()
    scores = [world.true_score(start)]
    told = dict(start)
    for stage in start:
        told[stage] += f"\n{rule.sentence()}"
        scores.append(world.true_score(told))
    assert scores[2] - scores[0] < 0.005
    assert scores[3] - scores[2] > 0.02


def test_long_prompts_dilute() -> None:
    """The longer a prompt is beyond its free words, the lower its score."""
    world, other = World("long", 1), World("one", 1)
    (prompt,) = world.oracle_prompts().values()
    padded = [{"desk": prompt + "\nSmall talk is fine." * n} for n in (0, 30, 90, 200)]
    scores = [world.true_score(told) for told in padded]
    assert sorted(set(scores), reverse=True) == scores
    assert len({other.true_score(told) for told in padded}) == 1


def test_prompts_that_do_not_fit_are_refused() -> None:
    """A family and the names of the prompts must be right."""
    with pytest.raises(UsageError, match="no family 'on' of worlds; known: chain"):
        World("on", 1)
    with pytest.raises(UsageError, match=r"has the prompts desk; .* Given: pack\."):
        World("one", 1).true_score({"pack": "Hi."})
    with pytest.raises(UsageError, match="no model 'gpt' here; ask for 'task'"):
        World("one", 1).reply(asked("gpt", "Hi."))


# -- the metric ---------------------------------------------------------------------


def test_the_metric_tells_what_is_missing() -> None:
    """It compares marks, not words; a wrong answer gets a sentence that teaches."""
    world = World("one", 1)
    example = world.train[0]
    rules = [world.book.rules[number] for number in example.rules]
    assert world.metric(example, f"I say {example.expected}!") == (1.0, "Right.")
    score, message = world.metric(example, f"{example.id}: PLAIN")
    assert score == 0.0
    assert message in [hint(rule, rule.mark) for rule in rules]
    assert world.metric(
        example, f"{example.expected} {missing(world)[0].wrong[0]}"
    ) == (
        0.0,
        "There is a mark too much in this answer.",
    )


def test_the_noisy_metric_flips() -> None:
    """A sixth of its scores is wrong, the same ones each time."""
    world = World("noisy", 1)
    right = [world.metric(example, example.expected)[0] for example in world.test]
    wrong = [world.metric(example, "PLAIN")[0] for example in world.test]
    assert 0.12 < 1 - sum(right) / 200 < 0.22
    assert 0.12 < sum(wrong) / 200 < 0.22
    again = [world.metric(e, f"Again: {e.expected}")[0] for e in world.test]
    assert again == right


def test_some_labels_are_wrong() -> None:
    """A sixth of the labels to learn from is wrong, and none that is held out."""
    world = World("contradictory", 1)

    def wrong(examples: tuple[Example, ...]) -> int:
        marks = [[world.book.rules[n].mark for n in e.rules] for e in examples]
        return sum(
            any(mark not in example.expected for mark in own)
            for example, own in zip(examples, marks, strict=True)
        )

    assert 10 <= wrong(world.train + world.val) <= 32
    assert wrong(world.test) == 0


# -- the task model -----------------------------------------------------------------


def clients(world: World) -> dict[str, FunctionClient]:
    """The models of a world without a server."""

    def reply(request: LLMRequest) -> str:
        texts = [{"role": m.role, "content": m.text} for m in request.messages]
        return world.reply({"model": "task", "messages": texts})

    return {"task": FunctionClient(reply, 0.0)}


async def measured(world: World, prompts: dict[str, str], models: Any) -> float:
    """Return how often a program is right."""
    program = MODULES[world.family.name](prompts)
    async with Engine(models, progress=False) as engine:
        outputs = await engine.map(program, [x.text for x in world.test])
    marks = [[world.book.rules[n].mark for n in e.rules] for e in world.test]
    told = zip(outputs, marks, strict=True)
    right = [sorted(output.split()[1:]) == sorted(own) for output, own in told]
    return sum(right) / len(right)


@pytest.mark.parametrize("family", ["pipeline", "chain", "long"])
def test_answers_are_draws_of_the_true_score(family: str) -> None:
    """A program is right as often as the true score says."""
    world = World(family, 1)
    for prompts in (world.start_prompts(), world.oracle_prompts()):
        share = asyncio.run(measured(world, prompts, clients(world)))
        assert share == pytest.approx(world.true_score(prompts), abs=0.09)


def test_answers_over_http_are_the_same_draws() -> None:
    """Whatever order the requests come in; all are counted."""
    world = World("long", 1)
    prompts = world.start_prompts()
    with world.serve() as service:
        models = resources(service.url)
        over_http = asyncio.run(measured(world, prompts, models))
    assert over_http == asyncio.run(measured(world, prompts, clients(world)))
    assert service.counts["task"].calls == len(world.test)


def test_a_program_has_the_start_prompts() -> None:
    """The state of a program is what `true_score` takes."""
    for family in FAMILIES:
        world = World(family, 2)
        assert module(world).state_dict() == world.start_prompts()


def test_other_orders_in_a_request_do_not_confuse() -> None:
    """The task model answers about the last order, also after worked examples."""
    world = World("one", 1)
    shown, order = world.train[:2]
    told = f"{world.oracle_prompts()['desk']}\n{shown.text}\n{shown.expected}"
    assert world.reply(asked("task", told, order.text)).startswith(f"{order.id}:")
    assert world.reply(asked("task", "Hi.")) == "I see no order here."


def test_the_task_model_heeds_forms() -> None:
    """Programs that want fields get them, in JSON or after markers."""
    world = World("one", 1)
    order = world.train[0]
    told = world.oracle_prompts()["desk"]
    tail = "Respond with the fields `[[ ## reasoning ## ]]`, then `[[ ## mark ## ]]`, "
    tail += "and end with `[[ ## completed ## ]]`."
    marked = world.reply(asked("task", told, f"{order.text}\n\n{tail}"))
    assert f"[[ ## mark ## ]]\n{order.id}: " in marked
    assert marked.endswith("[[ ## completed ## ]]")
    schema = {"type": "object", "properties": {"mark": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    reply = world.reply(asked("task", told, order.text, response_format=wanted))
    assert json.loads(reply)["mark"].startswith(order.id)


# -- the reflector ------------------------------------------------------------------


def evidence(world: World, rules: list[Rule]) -> str:
    """Return failed orders with what somebody said about them."""
    orders = [next(e for e in world.train if rule.id in e.rules) for rule in rules]
    return "\n\n".join(
        f"Input: {order.text}\nOutput: {order.id}: PLAIN\n{hint(rule, rule.mark)}"
        for order, rule in zip(orders, rules, strict=True)
    )


def rewriting(world: World, rules: list[Rule]) -> Callable[[int], str]:
    """Return requests for a new prompt in a fence."""
    told = evidence(world, rules)
    prompt = world.start_prompts()["desk"]
    return lambda n: (
        f"Try {n}. The instruction is\n```\n{prompt}\n```\nWhat happened:\n\n{told}\n\n"
        "Write a better instruction within ``` marks."
    )


def fenced(text: str) -> str:
    """Return what stands in the fence of an answer."""
    return text.split("```")[1].strip()


def test_the_reflector_learns_what_it_is_shown() -> None:
    """It adds a rule for which there is feedback, and mostly keeps the old ones."""
    world = World("one", 1)
    rule = missing(world)[0]
    replies = [fenced(reply) for reply in many(world, rewriting(world, [rule] * 3))]
    assert sum(rule.mark in reply for reply in replies) >= SURE - 1
    start = world.start_prompts()["desk"]
    kept = [sum(line in reply for line in start.splitlines()) for reply in replies]
    assert sum(kept) > 0.8 * SURE * len(start.splitlines())


def test_the_reflector_knows_nothing_else() -> None:
    """A right mark that the request does not show is never in an answer."""
    world = World("one", 1)
    rule, *others = missing(world)
    for reply in many(world, rewriting(world, [rule])):
        assert [other.mark for other in others if other.mark in reply] == []
    told = f"{world.start_prompts()['desk']}\n\nWrite a better instruction."
    for reply in many(world, lambda n: f"Try {n}. {told}"):
        assert [r.mark for r in missing(world) if r.mark in reply] == []


def test_the_reflector_picks_up_a_few() -> None:
    """Of all that is missing it learns four rules at most in a reply."""
    world = World("one", 1)
    rules = missing(world)
    replies = many(world, rewriting(world, rules))
    learnt = [sum(rule.mark in reply for rule in rules) for reply in replies]
    assert len(rules) >= 5
    assert max(learnt) <= 4
    assert sum(learnt) > SURE


def test_the_reflector_is_imperfect() -> None:
    """It forgets an old rule at times, and at times makes a wrong one up."""
    world = World("one", 1)
    prompt = world.oracle_prompts()["desk"]

    def request(n: int) -> str:
        return f"Try {n}. Improve the instruction:\n```\n{prompt}\n```\nWithin ```."

    forgotten, wrong = 0, 0
    for n in range(60):
        reply = fenced(reflected(world, request(n)))
        forgotten += sum(rule.mark not in reply for rule in world.book.rules)
        wrong += sum(m in reply for rule in world.book.rules for m in rule.wrong)
    assert 0.01 < forgotten / 60 / len(world.book.rules) < 0.06
    assert 2 <= wrong <= 16


def test_what_did_not_help_is_not_repeated() -> None:
    """A rule that is told as one that did not help is mostly not picked up."""
    world = World("one", 1)
    rule = missing(world)[0]
    tail = f"{world.start_prompts()['desk']}\n\nWrite a better instruction."
    told = [
        reflected(world, f"{n}. What did not help:\n- {rule.sentence()}\n\n{tail}")
        for n in range(20)
    ]
    assert sum(rule.mark in reply for reply in told) <= 5


def test_an_order_beside_its_answer_teaches_less() -> None:
    """From examples without feedback a rule is inferred sometimes."""
    world = World("one", 1)
    rule = missing(world)[0]
    shown = next(e for e in world.train if e.rules == (rule.id,))
    tail = f"{world.start_prompts()['desk']}\n\nWrite a better instruction."
    told = [
        reflected(
            world, f"{n}.\nOrder: {shown.text}\nLabel: {shown.expected}\n\n{tail}"
        )
        for n in range(40)
    ]
    assert 2 <= sum(rule.mark in reply for reply in told) <= 20


def test_the_reflector_criticises() -> None:
    """Asked for criticism it says what it saw, and a rewriter can learn from that."""
    world = World("one", 1)
    rule = missing(world)[0]
    told = evidence(world, [rule] * 3)
    prompt = world.start_prompts()["desk"]
    task = f"The prompt:\n{prompt}\n\n{told}\n\nGive feedback on it. Do not rewrite it."
    notes = many(world, lambda n: f"{n}. {task}")
    assert sum(rule.mark in note for note in notes) >= SURE - 1
    assert all(DESK not in note for note in notes)
    note = next(note for note in notes if rule.mark in note)
    tail = f"Notes:\n{note}\n\nImprove this prompt:\n{prompt}"
    learnt = many(world, lambda n: f"{n}. {tail}")
    assert sum(rule.mark in reply for reply in learnt) >= 2
    assert all(reply.startswith(DESK) for reply in learnt)
    nothing = reflected(world, f"Give feedback on this prompt:\n{DESK}")
    assert nothing == "I see nothing that should change."


STRINGS = {"type": "array", "items": {"type": "string"}}


def schema_of(**properties: Any) -> dict[str, Any]:
    """Return the response format of an object."""
    schema = {"type": "object", "properties": properties}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_the_reflector_fills_a_schema() -> None:
    """Thoughts, prompts and lists of edits are told apart by their names."""
    world = World("one", 1)
    rule = missing(world)[0]
    edit = {
        "type": "object",
        "properties": {
            "op": {"type": "string", "enum": ["replace", "add"]},
            "text": {"type": "string"},
        },
    }
    wanted = schema_of(
        reasoning={"type": "string"},
        new_prompt={"type": "string"},
        rules=STRINGS,
        edits={"type": "array", "items": {"$ref": "#/$defs/Edit"}, "maxItems": 1},
        sure={"type": "number", "minimum": 0, "maximum": 4},
    )
    wanted["json_schema"]["schema"]["$defs"] = {"Edit": edit}
    write = rewriting(world, [rule] * 4)
    replies = [
        json.loads(reply) for reply in many(world, write, response_format=wanted)
    ]
    reply = next(r for r in replies if any(rule.mark in text for text in r["rules"]))
    assert reply["reasoning"].startswith("What the answers lack:")
    assert reply["new_prompt"].startswith(DESK)
    assert rule.mark in reply["new_prompt"]
    assert reply["edits"] == [{"op": "add", "text": reply["rules"][0]}]
    assert reply["sure"] == 2


def test_a_shared_edit_names_the_prompts_it_is_for() -> None:
    """Mostly all of a chain, mostly one of a pipeline; never one that states it."""
    found = {}
    for family in ("chain", "pipeline"):
        world = World(family, 1)
        rule = missing(world)[0]
        prompts = world.start_prompts()
        prompts["bill"] += f"\n- {rule.sentence()}" * (family == "chain")
        shown = "\n\n".join(f"{name}:\n{text}" for name, text in prompts.items())
        told = f"{shown}\n\n{evidence(world, [rule] * 3)}\n\nGive edits. [slip 1]"
        names = {"type": "array", "items": {"type": "string", "enum": list(prompts)}}
        edit = {"names": names, "find": {"type": "string"}, "new": {"type": "string"}}
        items = {"type": "object", "properties": edit}
        wanted = schema_of(edits={"type": "array", "items": items})
        replies = many(world, lambda n: f"{n}. {told}", response_format=wanted)  # noqa: B023
        edits = [edit for reply in replies for edit in json.loads(reply)["edits"]]
        about = [edit for edit in edits if rule.mark in edit["new"]]
        assert about and {edit["find"] for edit in about} == {""}
        found[family] = [name for edit in about for name in edit["names"]]
    assert "bill" not in found["chain"]
    assert SURE <= len(found["chain"]) <= 2 * SURE
    assert len(found["pipeline"]) < 2 * SURE


def test_one_reply_may_hold_three_prompts() -> None:
    """Prompts that are asked for together mostly get the same new rule."""
    world = World("chain", 1)
    rule = missing(world)[0]
    prompts = world.start_prompts()
    shown = "\n\n".join(f"{name}:\n{text}" for name, text in prompts.items())
    told = f"{shown}\n\n{evidence(world, [rule] * 3)}\n\nRewrite all prompts."
    wanted = schema_of(**{stage: {"type": "string"} for stage in prompts})
    learnt = 0
    for text in many(world, lambda n: f"{n}. {told}", response_format=wanted):
        reply = json.loads(text)
        assert all(reply[stage].startswith(ROLES[stage]) for stage in prompts)
        held = [rule.mark in reply[stage] for stage in prompts]
        learnt += sum(held)
    assert 2 * SURE <= learnt < 3 * SURE


@pytest.mark.parametrize("braces", ["{}", ["{{", "}}"]])
def test_the_reflector_writes_json_by_a_template(braces: str | list[str]) -> None:
    """A template in the text says the keys; variables keep their names and texts."""
    left, right = braces
    world = World("pipeline", 1)
    prompts = list(world.start_prompts().values())
    values = "\n".join(f"(str) str{n}={text}" for n, text in enumerate(prompts))
    told = (
        f'Answer in this json format: {left}"reasoning": <yours>, "answer": <yours>, '
        f'"suggestion": {left}<variable>: <value>{right}{right}\n\n#Variables\n'
    )
    reply = json.loads(reflected(world, f"{told}{values}\n\n#Feedback\nBad."))
    assert list(reply) == ["reasoning", "answer", "suggestion"]
    assert list(reply["suggestion"]) == ["str0", "str1", "str2"]
    for text in reply["suggestion"].values():
        assert text.startswith("You ")
        assert text.count("You ") == 1


def test_the_reflector_uses_tags_and_markers() -> None:
    """Tags that ask are filled; tags that only hold something are not."""
    world = World("one", 1)
    start = world.start_prompts()["desk"]
    told = (
        f"Improve the text: <VARIABLE> {DESK} (...) of it. </VARIABLE>\n<CONTEXT>"
        f"<SYSTEM> {start} </SYSTEM></CONTEXT> Use the feedback provided in <NOTE> "
        "tags.\nReply in this form: <NEW_TEXT>{the new text}</NEW_TEXT>"
    )
    reply = reflected(world, told)
    assert reply.startswith(f"<NEW_TEXT>{DESK}")
    assert reply.endswith("</NEW_TEXT>")
    assert reply.count("add the mark") >= 3
    marked = reflected(world, f"{start}\n\nRespond with `[[ ## proposed_text ## ]]`.")
    assert marked.startswith(f"[[ ## proposed_text ## ]]\n{DESK}")


# -- order, concurrency, counts -----------------------------------------------------


def test_order_and_concurrency_change_nothing() -> None:
    """The same request gets the same answer, first or last, alone or in a crowd."""
    world = World("noisy", 1)
    start = world.start_prompts()["desk"]
    bodies = [asked("task", start, example.text) for example in world.test[:40]]
    write = rewriting(world, missing(world))
    bodies += [asked("reflector", write(n)) for n in range(10)]
    with world.serve() as service:
        first = {json.dumps(body): said(service.url, body) for body in bodies}
    random.Random(1).shuffle(bodies)
    again = World("noisy", 1)
    with again.serve() as service, ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda body: said(service.url, body), bodies * 2)
        for body, answer in zip(bodies * 2, answers, strict=True):
            assert answer == first[json.dumps(body)]


def test_all_traffic_is_counted() -> None:
    """Calls and tokens are counted by role, equal requests each time."""
    world = World("one", 1)
    body = asked("task", "x" * 100, world.train[0].text)
    with world.serve() as service:
        usage = [post(service.url, body)["usage"] for _ in range(3)]
        post(service.url, asked("reflector", "y" * 40))
    task, reflector = service.counts["task"], service.counts["reflector"]
    assert (task.calls, reflector.calls, reflector.input_tokens) == (3, 1, 10)
    assert usage[0]["prompt_tokens"] == -(-(100 + len(world.train[0].text)) // 4)
    assert task.input_tokens == 3 * usage[0]["prompt_tokens"]
    assert task.output_tokens == 3 * usage[0]["completion_tokens"] > 0
    assert service.tokens == task.tokens + reflector.tokens


# -- it can be learnt ---------------------------------------------------------------


def climbed(world: World, url: str, rollouts: int) -> str:
    """Return the prompt that a plain hill climber finds over HTTP."""
    prompt = world.start_prompts()["desk"]
    left, draw = rollouts, random.Random(1)

    def outcome(told: str, examples: list[Example]) -> list[tuple[float, str]]:
        nonlocal left
        left -= len(examples)
        bodies = [asked("task", told, example.text) for example in examples]
        outputs = [said(url, body) for body in bodies]
        return [world.metric(e, o) for e, o in zip(examples, outputs, strict=True)]

    while left >= 32:
        batch = draw.sample(world.train, 16)
        before = outcome(prompt, batch)
        failed = [
            f"{example.text}\nFeedback: {message}"
            for example, (score, message) in zip(batch, before, strict=True)
            if not score
        ]
        if not failed:
            continue
        shown = "\n\n".join(failed[:8])
        request = (
            f"Improve the instruction:\n```\n{prompt}\n```\n{shown}\n\nWithin ```."
        )
        new = fenced(said(url, asked("reflector", request)))
        if sum(s for s, _ in outcome(new, batch)) > sum(s for s, _ in before):
            prompt = new
    return prompt


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hill_climber_learns_the_world(seed: int) -> None:
    """Reflect on failures, keep what is better: over 0.9 within 400 rollouts."""
    world = World("one", seed)
    with world.serve() as service:
        prompt = climbed(world, service.url, 400)
    assert world.true_score({"desk": prompt}) > 0.9
    assert service.counts["task"].calls <= 400


def test_the_check_prints_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    """The yardstick of the README runs, and what it finds is between its bounds."""
    main(["1", "130"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["family", "start", "plain", "tuned", "oracle"]
    assert [line.split()[0] for line in lines] == list(FAMILIES)
    for line in lines:
        start, *found, oracle = map(float, line.split()[1:])
        assert all(start - 0.15 <= score <= oracle for score in found)
