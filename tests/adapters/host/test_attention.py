"""Adapted `nn.MultiheadAttention`, whose projections PyTorch never calls."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from adapters.layer_kinds import Around, close, dense_weights
from cases import gaussian
from models import layers, randomise, wrap


# nn.TransformerEncoderLayer has a fused path, and nn.TransformerEncoder one for padded rows; both would read the bare
# weights.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "targets",
    [
        ["self_attn"],
        ["linear1", "linear2"],
        ["layers.1.self_attn"],
        ["layers.0.linear2"],
        ["self_attn", "linear1"],
    ],
    ids=str,
)
@torch.no_grad()
def test_no_fused_path_around_an_adapter(targets, masked):
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    base, x = nn.TransformerEncoder(block, 2).double().eval(), gaussian(3, 4, 8)
    mask = torch.arange(4) >= torch.tensor([[3], [4], [2]]) if masked else None
    model = wrap(copy.deepcopy(base), target_modules=targets).eval()
    plain = base(x, src_key_padding_mask=mask)
    visible = ~mask if masked else slice(None)
    close(model(x, src_key_padding_mask=mask)[visible], plain[visible])
    randomise(model, size=0.5)
    expected = functional_call(base.train(), dense_weights(model, base), (x,), {"src_key_padding_mask": mask})
    assert (expected - plain)[visible].abs().max() > 0.1
    close(model(x, src_key_padding_mask=mask)[visible], expected[visible])
    with model.disable_adapter():
        close(model(x, src_key_padding_mask=mask)[visible], plain[visible])


@pytest.mark.parametrize("targets", ["all-linear", ["out_proj"]], ids=str)
def test_an_attention_never_calls_its_output_projection(targets):
    with pytest.raises(TypeError, match=r"self_attn\.out_proj is not supported by itself.*exclude_modules"):
        wrap(nn.TransformerEncoderLayer(8, 2, 12), target_modules=targets)
    model = (
        wrap(
            nn.TransformerEncoderLayer(8, 2, 12),
            target_modules=targets,
            exclude_modules=["self_attn.out_proj"],
        )
        if (targets == "all-linear")
        else wrap(nn.TransformerEncoderLayer(8, 2, 12), target_modules=["self_attn", *targets])
    )
    assert len(layers(model)) == 2


def test_attention_of_unequal_sizes_is_refused():
    with pytest.raises(ValueError, match="one size"):
        wrap(Around(nn.MultiheadAttention(8, 2, kdim=6)), target_modules=["layer"])
