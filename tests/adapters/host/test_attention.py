"""Adapted `nn.MultiheadAttention`, whose projections PyTorch never calls."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import cpu_offload
from torch import nn
from torch.func import functional_call

from adapters.layer_kinds import Around, close, dense_weights, shake
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


class Attentive(nn.Module):
    """An attention after an embedding and before a linear layer, all of which can be offloaded."""

    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(11, 8), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids):
        x = self.table(ids)
        return self.linear(self.attention(x, x, x)[0])


@torch.no_grad()
def test_an_offloaded_attention_must_be_loaded_as_a_whole():
    """accelerate loads a module's parameters when the module is called, and nobody calls the projections."""
    ids, options = torch.tensor([[1, 2, 3], [4, 5, 6]]), {"target_modules": ["table", "attention", "linear"]}
    model = wrap(Attentive().double(), **options).eval()
    shake(model)
    expected = model(ids)
    message = r"attention, which PyTorch uses without calling their module.*\['DeepLoraMultiheadAttention'\]"
    with pytest.raises(ValueError, match=message):
        cpu_offload(copy.deepcopy(model), execution_device="cpu")(ids)
    cpu_offload(model, execution_device="cpu", preload_module_classes=["DeepLoraMultiheadAttention"])
    assert all(parameter.is_meta for parameter in model.parameters())
    close(model(ids), expected)
    with model.disable_adapter():
        assert (model(ids) - expected).abs().max() > 1e-2
    close(model(ids), expected)
