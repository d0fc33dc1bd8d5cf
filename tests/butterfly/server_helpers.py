"""A tiny random model, and `butterfly` as a process."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.butterfly.nursery import Born, Nursery

SOURCE = Path(__file__).parents[2] / "src"
KEY = "a-key-for-tests"
SECRET = "ours"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Once upon a time there was a little river in the hills.",
    '{"name": "fox", "age": 12, "colour": "red"}',
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def make_model(folder: Path, *, template: str = TEMPLATE) -> Path:
    """Write a Llama of four layers with random weights, and a tokenizer of its own."""
    import torch  # noqa: PLC0415 - takes seconds
    from tokenizers import (  # noqa: PLC0415
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )
    from transformers import (  # noqa: PLC0415
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.set_num_threads(1)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Program:
    """`butterfly` with some arguments, as a process.

    Args:
        arguments: The arguments.
        environ: More of the environment.
    """

    def __init__(self, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "butterfly", *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(SOURCE),
                "OMP_NUM_THREADS": "1",
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, part: str, patience: float = 120.0) -> str:
        """Wait for a line that has some text."""
        until = time.monotonic() + patience
        while (left := until - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
            except queue.Empty:
                break
            assert line is not None, f"the program ended:\n{''.join(self.lines)}"
            if part in line:
                return line
        raise AssertionError(f"no {part!r} in:\n{''.join(self.lines)}")

    def end(self, number: int = signal.SIGINT, patience: float = 20.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(patience)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self._reader.join(10)
            if self.process.stdout is not None:
                self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)


@dataclass(frozen=True)
class Server:
    """A server.

    Args:
        nursery: What starts processes.
        head: Its process.
        url: Where it is, without ``/v1``.
        place: Where nodes join.
        model: Its model.
    """

    nursery: "Nursery"
    head: "Born"
    url: str
    place: str
    model: Path

    @classmethod
    def begun(cls, nursery: "Nursery", model: str, *given: str, **environ: str) -> Self:
        """Start a head and two nodes, and wait until they serve."""
        environ["BUTTERFLY_SECRET"] = SECRET
        start = "serve", "--model", model, "--stages", "2", "--no-spawn", "--port", "0"
        head = nursery.start(*start, *given, **environ)
        url = head.line("will serve").split()[1].removesuffix("/v1")
        place = head.line("waiting for").split("--join ")[1].strip("`")
        found = cls(nursery, head, url, place, Path(model))
        found.join()
        found.join()
        head.line("ready", 300)
        return found

    def join(self) -> None:
        """Start a node."""
        name = f"node-{len(self.nursery.born)}"
        given = "--join", self.place, "--name", name
        self.nursery.start("node", *given, BUTTERFLY_SECRET=SECRET)


def is_running(pid: int) -> bool:
    """Say whether there is a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(what: Callable[[], bool], patience: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + patience
    while not what():
        assert time.monotonic() < end, "it never became true"
        time.sleep(0.02)
