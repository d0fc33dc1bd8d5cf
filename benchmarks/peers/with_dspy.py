"""DSPy: `Predict` modules, called with `acall`, a semaphore and asyncio.gather.

Its nodes that do nothing are modules without a model, called one after the other: DSPy
knows no graph.
"""

import asyncio
from typing import Any

import common
import dspy  # ty: ignore[import-not-found]


class Extract(dspy.Signature):
    __doc__ = common.EXTRACT
    text: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Compare(dspy.Signature):
    __doc__ = common.COMPARE
    text: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Increment(dspy.Module):
    def forward(self, x: int) -> int:
        return x + 1


class Add(dspy.Module):
    def forward(self, left: int, right: int) -> int:
        return left + right


def predictors(url: str, **options: Any) -> common.Ask:
    lm = dspy.LM("openai/m", api_base=url, api_key=common.KEY, cache=False, **options)
    dspy.configure(lm=lm)
    known = {
        common.EXTRACT: dspy.Predict(Extract),
        common.COMPARE: dspy.Predict(Compare),
    }

    async def ask(system: str, prompt: str) -> str:
        return (await known[system].acall(text=prompt)).answer

    return ask


async def calls(url: str) -> common.Times:
    return await common.gathered(predictors(url))


async def limit(url: str, retries: str) -> common.Times:
    return await common.limited(predictors(url, **common.tries(retries, "num_retries")))


def noop() -> common.Times:
    increment, add = Increment(), Add()

    def chain() -> None:
        x = 0
        for _ in range(common.CHAIN):
            x = increment(x=x)

    def fan_out() -> None:
        for _ in range(common.FAN_OUT):
            increment(x=0)

    def diamonds() -> None:
        for x in range(common.DIAMONDS):
            top = increment(x=x)
            increment(x=add(left=increment(x=top), right=increment(x=top)))

    return common.shapes(chain, fan_out, diamonds)


common.main(
    calls=lambda url: asyncio.run(calls(url)),
    limit=lambda url, retries: asyncio.run(limit(url, retries)),
    noop=noop,
)
