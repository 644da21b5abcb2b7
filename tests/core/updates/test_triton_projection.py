"""The fused projection without a GPU: one process interprets the kernel on the CPU, another compiles and traces it.

These are processes of their own, because Triton reads TRITON_INTERPRET once, when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.path.append(os.environ["SOURCE"])  # corefold need not be installed.

from cases import gaussian
from corefold.core.updates import triton_projection

WIDTHS = [1, 2, 7, 8, 16, 33, 128]
SIZES = [(1, 130), (5, 8), (64, 48), (100, 130)]
"""Tokens and features, within one tile and across several, which they fill or not."""

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def operands(tokens, features, width, dtype):
    """x, basis and core in general position."""
    x = gaussian(tokens, features, seed=1, dtype=dtype)
    basis = gaussian(features, width, seed=2, dtype=torch.float32) / features**0.5
    return x, basis, gaussian(width, width, seed=3, dtype=torch.float32) / width**0.5


def within_rounding(got, x, basis, core, rounded):
    """Each entry differs from the dense float64 answer by no more than rounding: `rounded` for each entry of z, one
    float32 error for each term of a sum, and one error in x's dtype for the result of the second product."""
    z, zc = got
    assert z.dtype == torch.promote_types(x.dtype, torch.float32)
    assert zc.dtype == x.dtype
    x, basis, core = x.double(), basis.to(x.dtype).double(), core.double()
    eps = torch.finfo(z.dtype).eps
    z_allowed = x.shape[1] * eps * (x.abs() @ basis.abs()) + rounded * (x @ basis).abs()
    zc_allowed = (
        z_allowed @ core.abs()
        + (core.shape[0] + 1) * eps * ((x @ basis).abs() @ core.abs())
        + torch.finfo(zc.dtype).eps * (x @ basis @ core).abs()
        + torch.finfo(zc.dtype).tiny
    )
    for name, value, expected, allowed in (
        ("z", z, x @ basis, z_allowed),
        ("zc", zc, x @ basis @ core, zc_allowed),
    ):
        assert value.shape == expected.shape
        excess = ((value.double() - expected).abs() - allowed).max().item() if value.numel() else 0.0
        assert excess <= 0, f"{name} is {excess:.2e} beyond its rounding"


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES])
@pytest.mark.parametrize(("tokens", "features", "width"), [(1, 8, 1), (5, 48, 7), (64, 130, 33), (0, 8, 2)])
def test_on_a_cpu_it_is_the_plain_path(tokens, features, width, dtype):
    arguments = operands(tokens, features, width, dtype)
    got, plain = triton_projection.project(*arguments), triton_projection.project_plain(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))
    within_rounding(got, *arguments, rounded=0 if dtype == torch.float64 else torch.finfo(dtype).eps)


def test_plain_passes_gradients():
    arguments = [t.double().requires_grad_() for t in operands(5, 8, 3, torch.float64)]
    assert torch.autograd.gradcheck(triton_projection.project_plain, arguments)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 100, 4096, 1 << 20])
@pytest.mark.parametrize("width", WIDTHS)
def test_tiles_are_powers_of_two_that_hold_the_width(width, tokens, dtype):
    tiles = triton_projection._tiles(tokens, width, dtype)
    sides = [tiles[name] for name in ("TOKENS", "FEATURES", "WIDTH")]
    assert all(side >= 16 and side.bit_count() == 1 for side in sides)
    assert tiles["WIDTH"] >= width


def repair_bfloat16():
    """Triton 3.7's interpreter truncates to bfloat16 where a GPU rounds to the nearest, and multiplies the integers
    in which it stores bfloat16. This corrects both, so that the kernel is measured and not its interpreter."""
    import numpy as np
    from triton.runtime import interpreter

    bfloat16, float32 = interpreter.tl.bfloat16, interpreter.tl.float32
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast_impl, create_dot = builder.cast_impl, builder.create_dot

    def cast(self, src, dst_type):
        if (src.dtype.scalar, dst_type.scalar) != (float32, bfloat16):
            return cast_impl(self, src, dst_type)
        rounded = torch.from_numpy(np.ascontiguousarray(src.data)).to(torch.bfloat16)
        return handle(rounded.view(torch.int16).numpy().view(np.uint16), bfloat16)

    def dot(self, a, b, *rest):
        return create_dot(
            self, *(cast(self, m, float32) if m.dtype.scalar == bfloat16 else m for m in (a, b)), *rest
        )

    builder.cast_impl, builder.create_dot = cast, dot


def check_interpreted_accuracy():
    repair_bfloat16()
    # Every size and every width with every dtype; all three together take the interpreter twice as long.
    pairs = {
        (size, WIDTHS[(place + 2 * i) % len(WIDTHS)])
        for i, size in enumerate(SIZES)
        for place in (0, 3, 4, 6)
    }
    assert {width for _, width in pairs} == {*WIDTHS}
    for dtype, ((tokens, features), width) in product(DTYPES, sorted(pairs)):
        arguments = operands(tokens, features, width, dtype)
        within_rounding(triton_projection._launch(*arguments), *arguments, rounded=0)


def check_interpreted_strides():
    """Every other row, transposed operands and a column-major x give the same bits as contiguous copies."""
    for dtype in (torch.float32, torch.float16):
        x, basis, core = operands(10, 48, 7, dtype)
        for layout in (x[::2], x[:, ::3], x.mT.contiguous().mT):
            columns = layout.shape[1]
            right = basis[:columns].mT.contiguous().mT
            got = triton_projection._launch(layout, right, core.mT)
            same = triton_projection._launch(layout.contiguous(), right.contiguous(), core.mT.contiguous())
            assert all(torch.equal(a, b) for a, b in zip(got, same, strict=True))
            within_rounding(got, layout, right, core.mT, rounded=0)


def check_interpreted_many_tokens():
    """Larger tiles, which start at many tokens, hold the same numbers."""
    arguments = operands(100, 130, 16, torch.float16)
    triton_projection.PROGRAMS_A_GPU = 1
    assert triton_projection._tiles(100, 16, torch.float16)["TOKENS"] == 64
    within_rounding(triton_projection._launch(*arguments), *arguments, rounded=0)


def check_compiled_for_gpus():
    """Ampere and Hopper take every dtype and width, within the shared memory of the smallest of their families."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    for capability in (80, 90):
        for dtype in DTYPES:
            for width in (8, 64, triton_projection.MAX_WIDTH[dtype]):
                constants = triton_projection._tiles(1 << 20, width, dtype)
                options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
                signature = dict.fromkeys(triton_projection._project_kernel.arg_names, "i32")
                signature |= {f"{name}_ptr": "*fp32" for name in ("basis", "core", "z")}
                signature |= {f"{name}_ptr": f"*{types[dtype]}" for name in ("x", "zc")}
                signature |= dict.fromkeys(constants, "constexpr")
                source = ASTSource(triton_projection._project_kernel, signature, constants)
                built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
                assert built.metadata.shared <= 99 * 1024


def check_traced_whole():
    """Inside an autograd.Function, forward and backward, dynamo takes the launch into one graph."""
    import torch.utils._triton

    # A CPU stands in for the GPU, because nothing below runs the graph.
    torch.utils._triton.has_triton = lambda: True
    triton_projection._has_kernel = lambda x, basis, core: not torch.is_grad_enabled()

    class Both(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, basis, core):
            z, zc = triton_projection.project(x, basis, core)
            ctx.save_for_backward(z, basis)
            return zc

        @staticmethod
        def backward(ctx, grad):
            z, basis = ctx.saved_tensors
            g, _ = triton_projection.project(grad, basis[: grad.shape[1]], basis[: basis.shape[1]])
            return None, None, g.mT @ z

    class Seen(Exception):
        pass

    def capture(graph, _):
        launches = [n for g in graph.modules() for n in g.graph.nodes if "triton_kernel" in str(n.target)]
        raise Seen(len(launches))

    x, basis, core = operands(64, 48, 8, torch.float32)
    for dynamic in (False, True):
        torch._dynamo.reset()
        compiled = torch.compile(Both.apply, backend=capture, fullgraph=True, dynamic=dynamic)
        with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match="Seen: 2"):
            compiled(x, basis, core.requires_grad_())


CHECKS = {
    name.removeprefix("check_"): check for name, check in globals().items() if name.startswith("check_")
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """For each check "" or the traceback of its failure."""
    environment = {
        "SOURCE": str(Path(triton_projection.__file__).parents[3]),
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    outcomes = {}
    for interpret in ("0", "1"):
        done = subprocess.run(
            [sys.executable, __file__],
            capture_output=True,
            text=True,
            env=os.environ | environment | {"TRITON_INTERPRET": interpret},
        )
        assert done.returncode == 0, done.stderr
        outcomes |= json.loads(done.stdout.splitlines()[-1])
    return outcomes


@pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed: it has wheels for Linux only"
)
@pytest.mark.parametrize("check", CHECKS)
def test_kernel(check, results):
    assert not results[check], results[check]


def _outcome(check):
    try:
        check()
    except BaseException:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    interpreted = os.environ["TRITON_INTERPRET"] == "1"
    mine = {name: check for name, check in CHECKS.items() if name.startswith("interpreted") == interpreted}
    print(json.dumps({name: _outcome(check) for name, check in mine.items()}))
