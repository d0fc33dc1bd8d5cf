"""transformers' own `generate`, in one process or as its pipeline parallelism.

A line of JSON on stdin says how many sequences, prompt tokens and new tokens; a line on
stdout says how long it took. Without RANK and WORLD_SIZE it is one process; with them
the model is loaded with `DistributedConfig(pp_size=WORLD_SIZE)`, on gloo.

    python benchmarks/butterfly/with_transformers.py    # {"batch": 1, "prompt": 16, "new": 8}
"""  # noqa: E501

import json
import os
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from butterfly.engine.weights import Checkpoint


def loaded(model: str) -> Any:
    """Return the model, or the part of it that this rank has."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    split: dict[str, Any] = {"distributed_config": DistributedConfig(pp_size=size)}
    found = AutoModelForCausalLM.from_pretrained(
        Checkpoint.of(model).folder, dtype=torch.float32, **(split if size > 1 else {})
    )
    return found.eval()


@torch.inference_mode()
def seconds(model: Any, prompts: torch.Tensor, new: int) -> tuple[float, float]:
    """Return what it takes to generate so many tokens: wall and CPU seconds."""
    began, used = time.perf_counter(), time.process_time()
    given = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(prompts)
    out = model.generate(prompts, attention_mask=mask, max_new_tokens=new, **given)
    assert out.shape[1] == prompts.shape[1] + new
    return time.perf_counter() - began, time.process_time() - used


def main() -> None:
    """Answer lines."""
    torch.set_num_threads(1)
    model = loaded("smollm2")
    for line in sys.stdin:
        asked = json.loads(line)
        torch.manual_seed(0)
        prompts = torch.randint(100, 10_000, (asked["batch"], asked["prompt"]))
        first, first_cpu = seconds(model, prompts, 1)
        whole, whole_cpu = seconds(model, prompts, asked["new"])
        count = asked["batch"] * (asked["new"] - 1)
        told = {"tokens_per_s": count / (whole - first), "ttft_s": first}
        told |= {"whole_s": whole, "whole_cpu_s": whole_cpu}
        told["token_cpu_s"] = (whole_cpu - first_cpu) / count
        print(json.dumps(told), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
