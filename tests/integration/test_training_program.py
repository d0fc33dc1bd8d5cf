"""The program of the design, as it is written there, against a server."""

import asyncio
from typing import Any

import pytest
from benchmarks.simworld import World, module, resources

from inf_engine import Budget, Engine
from inf_engine.optimization import (
    ReflectiveEvolution,
    TextGradientDescent,
    Trainer,
    VerifierLoss,
)


def verifier(world: World) -> VerifierLoss:
    """The metric of a world as a loss; its examples are the targets."""
    return VerifierLoss(lambda output, example: world.metric(example, output))


def pairs(examples: Any) -> list[tuple[str, Any]]:
    """Examples as inputs and targets."""
    return [(example.text, example) for example in examples]


async def by_hand(world: World, net: Any, url: str) -> None:
    """Four minibatches: map, loss, backward, step."""
    async with Engine(resources(url), progress=False) as engine:
        loss = verifier(world)
        optimizer = TextGradientDescent(
            net.parameters(), engine=engine, alias="reflector", edits=3
        )
        for turn in range(4):
            xs = world.train[turn * 8 : turn * 8 + 8]
            results = await engine.map(net, [x.text for x in xs], record=True)
            feedback = await loss([r.record for r in results], xs)
            await feedback.backward(engine=engine)
            await optimizer.step()
            optimizer.zero_feedback()


async def fit(world: World, net: Any, url: str, of: Any, **options: Any) -> Any:
    """What the trainer gives for 300 requests."""
    async with Engine(resources(url), progress=False) as engine:
        optimizer = of(net.parameters(), engine=engine, alias="reflector")
        limit = Budget(requests=300)
        trainer = Trainer(
            engine, net, verifier(world), optimizer, budget=limit, **options
        )
        return await trainer.fit(pairs(world.train), pairs(world.val))


def test_steps_by_hand() -> None:
    """Better prompts in the module, by the true score of the world."""
    world = World("pipeline", seed=1)
    net = module(world)
    start = world.true_score(net.state_dict())
    with world.serve() as service:
        asyncio.run(by_hand(world, net, service.url))
        assert service.counts["task"].calls == 4 * 8 * 3
        assert 4 <= service.counts["reflector"].calls <= 4 * 3
    assert world.true_score(net.state_dict()) > start + 0.1


@pytest.mark.parametrize("of", [TextGradientDescent, ReflectiveEvolution])
def test_fit(of: Any) -> None:
    """The trainer's module is truly better, and the budget is kept."""
    world = World("one", seed=4)
    net = module(world)
    start = world.true_score(net.state_dict())
    with world.serve() as service:
        result = asyncio.run(fit(world, net, service.url, of))
        calls = sum(traffic.calls for traffic in service.counts.values())
    assert calls <= 300
    assert world.true_score(net.state_dict()) > start + 0.2
    assert net.state_dict() == dict(result.best.values)


@pytest.mark.parametrize("of", [TextGradientDescent, ReflectiveEvolution])
def test_fit_with_a_critic(of: Any) -> None:
    """A critic over HTTP, which fills in a form: its requests are in the books."""
    world = World("one", seed=1)
    net = module(world)
    start = world.true_score(net.state_dict())
    with world.serve() as service:
        result = asyncio.run(fit(world, net, service.url, of, critic="reflector"))
        calls = {role: traffic.calls for role, traffic in service.counts.items()}
    assert result.spent.requests == sum(calls.values()) <= 300
    assert calls["reflector"] >= 4
    assert world.true_score(net.state_dict()) > start + 0.2
