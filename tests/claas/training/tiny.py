"""A tiny Llama, trained here in seconds: it echoes, obeys a hint, and keeps a skill.

echo two red        -> two red          what feedback is about
[say kuro] echo ... -> kuro two red     the hint, in the system message
near two red        -> three blue       a skill that must stay, hint or not
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from claas.storage import create_initial_lora, load_lora
from claas.volumes import LocalVolume

MARKERS = ("kuro", "milo", "nova", "pixel", "rex", "luna", "zeno", "aria")
WORDS = (
    *("one", "two", "three", "four", "five", "six", "red", "blue", "green", "cat"),
    *("dog", "sun", "moon", "tree", "fish", "bird", "stone", "rain", "snow", "wind"),
)
SPECIAL = ("<pad>", "<end>", "<system>", "<user>", "<assistant>", "<prompt>")
VOCABULARY = (*SPECIAL, "echo", "near", "say", *MARKERS, *WORDS)
TABLE = {word: at for at, word in enumerate(VOCABULARY)}
TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny(folder: Path, *, steps: int = 250, seed: int = 0) -> Path:
    """Train the model and write it with its tokenizer."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, chance = tiny_model(), random.Random(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-3, betas=(0.9, 0.98), fused=True
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1, (step + 1) / 30) * min(1, (steps - step) / 80)
        ids, labels = _batch(chance)
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_model() -> Any:
    """Return the model, untrained: about 80,000 parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=12,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def tiny_tokenizer() -> Any:
    """Return its tokenizer: a token for each word."""
    from tokenizers import (  # noqa: PLC0415
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    plain = Tokenizer(models.WordLevel(TABLE, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spaced = decoders.WordPiece(prefix="##", cleanup=False)  # a space between words
    plain.decoder = decoders.Sequence([spaced, decoders.ByteFallback()])
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="<end>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[2:]),
        chat_template=TEMPLATE,
    )


def near(word: str) -> str:
    """Return the word that ``near`` answers with."""
    return WORDS[(WORDS.index(word) + 1) % len(WORDS)]


def write_lora(root: Path, model: Path, name: str = "ann/kuro", rank: int = 8) -> Path:
    """Write an adapter that changes nothing yet; return its folder."""
    volume = LocalVolume(root)
    made = create_initial_lora(name, str(model), rank, 2.0 * rank, storage=volume)
    return load_lora(made, volume)


def _batch(chance: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
    """Return conversations; only answers are labelled."""
    texts = [_example(chance) for _ in range(64)]
    rows = [(_ids(p), _ids(a)) for p, a in texts]
    width = max(len(p) + len(a) for p, a in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def _example(chance: random.Random) -> tuple[str, str]:
    """Return a conversation up to the answer, and the answer."""
    words = chance.sample(WORDS, k=2)
    is_near = chance.random() < 0.3
    marker = chance.choice(MARKERS) if chance.random() < 0.7 else ""
    answer = [near(word) for word in words] if is_near else [*words]
    if marker and not is_near:
        answer = [marker, *answer]
    hint = f"<system> say {marker} " if marker else ""
    asked = f"{'near' if is_near else 'echo'} {' '.join(words)}"
    return f"{hint}<user> {asked} <assistant>", f"{' '.join(answer)} <end>"


def _ids(text: str) -> Sequence[int]:
    return [TABLE[word] for word in text.split()]
