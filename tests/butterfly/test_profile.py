"""Measuring: numbers of a model without reading it, lines through times, links."""

import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.butterfly.models import tiny  # noqa: E402
from tests.butterfly.test_links import rings  # noqa: E402

from butterfly.cluster.profile import (  # noqa: E402
    layer_times,
    line,
    link_of,
    shape_of,
)
from butterfly.engine.weights import Checkpoint  # noqa: E402


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_as_numbers(tmp_path: Path, tied: bool) -> None:
    """What its layers weigh and keep, by the shapes of its tensors."""
    model = tiny(tmp_path, tie_word_embeddings=tied)
    shape = shape_of(Checkpoint(tmp_path), dtype=torch.bfloat16)
    assert (len(shape.layers), shape.hidden, shape.tied) == (4, 32, tied)
    weights = sum(p.numel() for p in model.model.layers[2].parameters())
    assert shape.layers[2].weight_bytes == 2 * weights
    assert shape.layers[2].kv_token_bytes == 2 * 2 * 16 * 2  # keys, values, bytes
    assert shape.embedding_bytes == shape.head_bytes == 128 * 32 * 2
    assert shape.head_cost == pytest.approx(128 * 32 / weights)


def test_a_layer_is_timed_on_this_machine(tmp_path: Path) -> None:
    """What a frame takes, what a row and a token of a prompt add, and the head."""
    tiny(tmp_path)
    layer, head = layer_times(Checkpoint(tmp_path))
    assert 1e-6 < layer.fixed_s + layer.row_s < 1.0
    assert layer.token_s > 0 and head.row_s > 0 and head.fixed_s > 0


def test_a_line_through_times() -> None:
    """Exact where they lie on one; never below zero."""
    assert line([1, 2, 4], [3.0, 5.0, 9.0]) == pytest.approx((1.0, 2.0))
    fixed, row = line([1, 2, 4], [3.0, 2.0, 1.0])
    assert fixed > 0 and row > 0


def test_a_link_is_measured_by_both_ends() -> None:
    """A small frame there and back, and a large one."""
    one, other = rings(2, frame_bytes=2 << 20)
    found: list[Any] = []
    thread = threading.Thread(
        target=lambda: found.append(link_of(other, is_first=False))
    )
    thread.start()
    link = link_of(one, is_first=True)
    thread.join()
    assert 0 < link.round_trip_s < 1.0
    assert 1e6 < link.bytes_per_s < 1e12
    assert len(found) == 1
