"""What every script shares that trains a peer; only the standard library.

A script ``train_NAME.py`` is started by `benchmarks.peers.training`, which serves the
models and knows the worlds. It reads one work after the other from its standard input,
a line of JSON each, asks there for each score, and says which prompts it found.
"""

import http.client
import importlib.metadata
import json
import os
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TextIO
from urllib.parse import urlsplit

KEY = "no-key"
ANSWER = "> "
"""With what a line to the other side begins; libraries print what they like."""

Prompts = dict[str, str]


class Order(NamedTuple):
    """An example: an order's reference, its text, and the answer its label has."""

    id: str
    text: str
    expected: str


class Run(NamedTuple):
    """One run: what each stage got and gave, the answer, its score and a message."""

    calls: dict[str, tuple[str, str]]
    answer: str
    score: float
    message: str


@dataclass
class Work:
    """What is to be trained, and for how much.

    Args:
        url: The base URL of the models "task" and "reflector", ``/v1`` included.
        start: The prompts to start from, by stage, in the order of the stages.
        train: Orders to learn from.
        val: Orders to choose by.
        rollouts: How many runs of the program there may be.
        seed: For whatever the peer draws.
        settings: What replaces the peer's settings; empty but for trying out.
    """

    url: str
    start: Prompts
    train: list[Order]
    val: list[Order]
    rollouts: int
    seed: int
    settings: dict[str, Any]
    used: int = 0
    _channel: TextIO = field(default_factory=lambda: sys.stdout)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connection: http.client.HTTPConnection | None = None

    def score(self, id: str, answer: str) -> tuple[float, str]:
        """Return the score of an answer and what is said about it: a rollout.

        Args:
            id: The order's reference.
            answer: What the program's last stage gave.
        """
        with self._lock:
            self.used += 1
            asked = json.dumps([id, str(answer)])
            print(ANSWER + asked, file=self._channel, flush=True)
            score, message = json.loads(sys.stdin.readline())
        return score, message

    @property
    def left(self) -> int:
        """How many rollouts are left."""
        return self.rollouts - self.used

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return what a model answers.

        Args:
            model: "task" or "reflector".
            messages: The messages of the chat API.
        """
        place = urlsplit(self.url)
        if self._connection is None:
            self._connection = http.client.HTTPConnection(place.netloc, timeout=60)
        body = json.dumps({"model": model, "messages": messages, "temperature": 0})
        headers = {"content-type": "application/json", "authorization": KEY}
        path = f"{place.path}/chat/completions"
        self._connection.request("POST", path, body, headers)
        reply = self._connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            raise RuntimeError(f"the server answers {reply.status}: {answer}")
        return answer["choices"][0]["message"]["content"]

    def run(self, prompts: Prompts, order: Order) -> Run:
        """Run the program on an order, as its module does: a rollout."""
        calls: dict[str, tuple[str, str]] = {}
        given, answer = order.text, ""
        for stage in self.start:
            answer = self.chat("task", told(prompts[stage], given))
            calls[stage] = (given, answer)
            given = f"{order.text}\n{answer}"
        return Run(calls, answer, *self.score(order.id, answer))


def told(system: str, user: str) -> list[dict[str, str]]:
    """Return both texts as messages."""
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
    ]


def climbed(
    work: Work,
    step: Callable[[Prompts, list[Order]], tuple[float, Prompts]],
    *,
    batch: int,
    val: int,
    gate: bool,
) -> Prompts:
    """Return the best prompts by validation, for a peer that has steps and no more.

    A proposal that is not worse stays, ties too; else the step is taken back.

    Args:
        work: The work.
        step: Runs prompts on orders; gives the sum of the scores and new prompts.
        batch: Training orders for a step.
        val: Validation orders for a proposal, those of the start included.
        gate: Whether a proposal that is worse on its own batch is not validated.
    """
    draw = random.Random(work.seed)
    orders: list[Order] = []

    def total(prompts: Prompts, some: Sequence[Order]) -> float:
        return sum(work.run(prompts, order).score for order in some)

    now = dict(work.start)
    best = total(now, work.val[:val])
    cost = batch * (2 if gate else 1) + val
    while work.left >= cost:
        if len(orders) < batch:
            orders = draw.sample(work.train, len(work.train))
        some, orders = orders[:batch], orders[batch:]
        before, new = step(now, some)
        if new == now or (gate and total(new, some) < before):
            continue
        reached = total(new, work.val[:val])
        if reached >= best:
            now, best = new, reached
    return now


def main(train: Callable[[Work], tuple[Prompts, dict[str, Any]]], package: str) -> None:
    """Read works, do them, and print what came of each.

    Args:
        train: Gives the prompts that were found, and the settings used.
        package: The distribution whose version is reported.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints from now on goes elsewhere
    version = importlib.metadata.version(package)
    while line := sys.stdin.readline():
        given = json.loads(line)
        for name in ("train", "val"):
            given[name] = [Order(*row) for row in given[name]]
        prompts, settings = train(Work(**given, _channel=channel))
        found = {"prompts": prompts, "settings": settings, "version": version}
        print(ANSWER + json.dumps(found), file=channel, flush=True)
