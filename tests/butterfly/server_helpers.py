"""A tiny random model, and `butterfly` as a process."""

import os
import signal
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
    def begun(
        cls,
        nursery: "Nursery",
        model: str,
        *given: str,
        stages: int = 2,
        **environ: str,
    ) -> Self:
        """Start a head and its nodes, and wait until they serve."""
        environ["BUTTERFLY_SECRET"] = SECRET
        start = "serve", "--model", model, "--stages", str(stages), "--no-spawn"
        head = nursery.start(*start, "--port", "0", *given, **environ)
        url = head.line("will serve").split()[1].removesuffix("/v1")
        place = head.line("waiting for").split("--join ")[1].strip("`")
        found = cls(nursery, head, url, place, Path(model))
        for _ in range(stages):
            found.join()
        head.line("ready", 300)
        return found

    def end(self) -> None:
        """End it in order, and its nodes with it."""
        assert self.head.end(signal.SIGINT) == 130, "Ctrl-C did not end it in order"

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
