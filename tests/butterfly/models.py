"""Tiny random models of the families that butterfly splits, and their oracle."""

from pathlib import Path
from typing import Any

import torch

COMMON = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 6, "tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"sliding_window": 6, "query_pre_attn_scalar": 16},
    "gemma3_text": {"sliding_window": 6, "query_pre_attn_scalar": 16},
}


def tiny(folder: Path, family: str = "llama", **options: Any) -> Any:
    """Write a tiny random model; return it."""
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    known = {**COMMON, **FAMILIES[family], **options}
    config = AutoConfig.for_model(family, **known)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():  # random ones are too alike to tell apart
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    model.eval().save_pretrained(folder)
    return model


@torch.no_grad()
def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    """Return the tokens that the whole model generates, without any cache."""
    tokens = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]
