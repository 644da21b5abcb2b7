"""An update's two small projections in one launch: on few tokens a GPU waits for launches, not for arithmetic.

Nobody has measured it on a GPU yet; `python -m benchmarks.steps.step --device cuda` does. Import this module only where
tensors lie on a GPU, because it imports Triton wherever that is installed.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found]
    import triton.language as tl  # type: ignore[import-not-found]
except ImportError:  # macOS, Windows and CPU builds of torch have none.
    triton = tl = None

HALF = (torch.bfloat16, torch.float16)
MAX_WIDTH = {torch.bfloat16: 128, torch.float16: 128, torch.float32: 64}
"""The core is one tile. No tensor core multiplies float32, and ptxas reports spilled registers beyond this width."""
PROGRAMS_A_GPU = 256  # A large GPU runs about as many at once.
TILE_BYTES = 16 * 1024  # One step of the loop over features reads this much; four steps are in flight.


def project(
    x: Float[Tensor, "tokens features"],
    basis: Float[Tensor, "features width"],
    core: Float[Tensor, "width width"],
) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens width"]]:
    """`z = x @ basis` in float32 (float64 for a float64 x), and `z @ core` in x's dtype.

    The core's gradient is computed from z, so the kernel does not round z to x's dtype, as the plain path does.
    `z @ core` meets the other basis in a product of x's dtype. An NVIDIA GPU runs one Triton kernel if no gradient
    passes through (inside an `autograd.Function`, say); all else runs plain PyTorch. Either is deterministic.
    torch.compile traces the launch itself, as dynamo knows `@triton.jit` functions; registering with
    `torch.library.triton_op` would load dynamo and inductor.
    """
    if not _has_kernel(x, basis, core):
        return project_plain(x, basis, core)
    if torch.compiler.is_compiling():  # A compiled graph chooses the device itself.
        return _launch(x, basis, core)
    with torch.cuda.device(x.device):  # Triton launches on the current GPU, which may not be x's.
        return _launch(x, basis, core)


def project_plain(
    x: Float[Tensor, "tokens features"],
    basis: Float[Tensor, "features width"],
    core: Float[Tensor, "width width"],
) -> tuple[Float[Tensor, "tokens width"], Float[Tensor, "tokens width"]]:
    """`project` in PyTorch's own operations: the first product in x's dtype, the second in float32 (or float64)."""
    z = (x @ basis.to(x.dtype)).to(torch.promote_types(x.dtype, torch.float32))
    return z, (z @ core.to(z.dtype)).to(x.dtype)


def _has_kernel(x: Tensor, basis: Tensor, core: Tensor) -> bool:
    if triton is None or not x.is_cuda or torch.version.hip is not None:
        return False
    if not x.numel() or not 1 <= basis.shape[1] <= MAX_WIDTH.get(x.dtype, 0):
        return False
    if torch.is_grad_enabled() and (x.requires_grad or basis.requires_grad or core.requires_grad):
        return False
    # Tensor cores for bfloat16 and tf32 start here. Dynamo folds these properties into constants, unlike
    # `get_device_capability`, which it would put into the graph.
    return torch.cuda.get_device_properties(x.device).major >= 8


def _launch(x: Tensor, basis: Tensor, core: Tensor) -> tuple[Tensor, Tensor]:
    (tokens, features), width = x.shape, basis.shape[1]
    z = x.new_empty(tokens, width, dtype=torch.float32)
    zc = x.new_empty(tokens, width)
    tiles = _tiles(tokens, width, x.dtype)
    grid = ((tokens + tiles["TOKENS"] - 1) // tiles["TOKENS"],)
    strides = (*x.stride(), *basis.stride(), *core.stride())
    _project_kernel[grid](x, basis, core, z, zc, tokens, features, width, *strides, **tiles)  # type: ignore[index]
    return z, zc


def _tiles(tokens: int, width: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tile sizes of one program.

    With few tokens a program takes few of them, or most of a GPU would idle; with many it takes more, to read the basis
    less often. No tile makes ptxas report spilled registers for Ampere or Hopper; which of the rest is fastest has not
    been measured.
    """
    half = dtype in HALF
    columns = max(16, 1 << (width - 1).bit_length())
    rows = 16
    # A compiled graph for any number of tokens takes one size; a choice would put a guard on each threshold.
    known = isinstance(tokens, int)
    most = min(128 if known else 32, (2048 if half else 1024) // columns)
    while 2 * rows <= most and (not known or tokens >= 2 * rows * PROGRAMS_A_GPU):
        rows *= 2
    depth = TILE_BYTES // (rows * dtype.itemsize + 4 * columns)
    return {
        "TOKENS": rows,
        "FEATURES": min(128 if half else 32, 1 << (depth.bit_length() - 1)),
        "WIDTH": columns,
        "PRECISION": "tf32x3" if half else "ieee",
        "num_warps": 8 if columns >= 64 else 4,
        "num_stages": 4,
    }


if triton is not None:

    @triton.jit
    @no_type_check  # The tests let jaxtyping check everything else.
    def _project_kernel(
        x_ptr,
        basis_ptr,
        core_ptr,
        z_ptr,
        zc_ptr,
        tokens,
        features,
        width,
        x_token,
        x_feature,
        basis_feature,
        basis_column,
        core_row,
        core_column,
        TOKENS: tl.constexpr,
        FEATURES: tl.constexpr,
        WIDTH: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """For its TOKENS rows: z, summed up over tiles of FEATURES in float32, and while z is at hand, z @ core."""
        row = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)[:, None]
        column = tl.arange(0, WIDTH)[None, :]
        z = tl.zeros((TOKENS, WIDTH), tl.float32)
        for first in range(0, features, FEATURES):
            across = first + tl.arange(0, FEATURES)[None, :]
            down = first + tl.arange(0, FEATURES)[:, None]
            x = tl.load(
                x_ptr + row * x_token + across.to(tl.int64) * x_feature,
                mask=(row < tokens) & (across < features),
                other=0.0,
            )
            basis = tl.load(
                basis_ptr + down * basis_feature + column * basis_column,
                mask=(down < features) & (column < width),
                other=0.0,
            )
            z = tl.dot(x, basis.to(x.dtype), z, input_precision="ieee")
        core_line = tl.arange(0, WIDTH)[:, None]
        core = tl.load(
            core_ptr + core_line * core_row + column * core_column,
            mask=(core_line < width) & (column < width),
            other=0.0,
        )
        zc = tl.dot(z, core.to(tl.float32), input_precision=PRECISION)
        inside = (row < tokens) & (column < width)
        tl.store(z_ptr + row * width + column, z, mask=inside)
        tl.store(zc_ptr + row * width + column, zc.to(zc_ptr.dtype.element_ty), mask=inside)
