"""Few rows are multiplied the other way round, to the same numbers."""

import pytest
import torch
from torch import nn

from butterfly.engine.linear import FEW, Linear, hasten


@pytest.mark.parametrize("rows", [1, 2, FEW, FEW + 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gives_what_torch_gives(rows: int, bias: bool) -> None:
    """The sums are torch's, with and without a bias, for few rows and for more."""
    torch.manual_seed(0)
    plain, ours = nn.Linear(24, 40, bias=bias), Linear(24, 40, bias=bias)
    ours.load_state_dict(plain.state_dict())
    given = torch.randn(1, rows, 24)
    with torch.inference_mode():
        found, wanted = ours(given), plain(given)
    assert found.shape == (1, rows, 40) and found.is_contiguous()
    torch.testing.assert_close(found, wanted)


def test_few_rows_are_not_computed_as_torch_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One to four rows in float32 never come to torch's own product, others do."""
    seen: list[int] = []

    def linear(given: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(given.shape[1])
        return given

    monkeypatch.setattr("torch.nn.modules.linear.F.linear", linear)
    layer = Linear(8, 8)
    with torch.inference_mode():
        for rows in range(FEW + 2):
            layer(torch.ones(1, rows, 8))
        layer(torch.ones(1, 1, 8, dtype=torch.bfloat16))
    assert seen == [0, FEW + 1, 1]


def test_all_linear_layers_of_a_model_are_replaced() -> None:
    """Inner ones too; what is more than a linear layer stays what it is."""

    class Own(nn.Linear):
        pass

    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 2, False)))
        model.append(Own(2, 2))
    hasten(model)
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Linear)]
    assert kinds == [Linear, Linear, Own]
    assert [m.bias is None for m in model.modules() if isinstance(m, Linear)] == [
        False,
        True,
    ]
