"""`corefold inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corefold.cli.console import console, number, show_table

NAME = "inspect"
HELP = """Show what an adapter, Deep LoRA or LoRA, adds to each layer: rank, energy, bytes and spectrum.

Example: `corefold inspect out --plot spectra.html`
"""

BARS = "▁▂▃▄▅▆▇█"


def run(
    out: Annotated[Path, typer.Argument(help="Folder of an adapter.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw spectra and ranks, in this .html file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the .html file.")] = False,
) -> None:
    """The command."""
    from corefold.cli.run_report import update_sections, updates_of
    from corefold.report import write_page
    from corefold.tables.writing import check_file

    if plot is not None:
        check_file(plot, overwrite, (".html",))
    updates = updates_of(out)
    show_table(
        ["layer", "weight", "r", "rank", "stable", "energy", "bytes", "spectrum"],
        [
            [
                update.name,
                f"{update.out_features} x {update.in_features}",
                str(update.singular_values.numel()),
                str(update.numerical_rank),
                f"{update.stable_rank:.1f}",
                number(update.energy),
                number(update.bytes),
                _sparkline(update.singular_values.tolist()),
            ]
            for update in updates
        ],
    )
    console.print(
        f"{len(updates)} layers, {sum(u.bytes for u in updates):,} bytes. rank: singular values above 1 % of the "
        "largest; stable: sum of squares over the largest square; energy: Frobenius norm of the update."
    )
    if plot is not None:
        console.print(
            f"plot: {write_page(plot, f'Adapter {out.name}', update_sections(updates))}", soft_wrap=True
        )


def _sparkline(values: list[float], cells: int = 8) -> str:
    top = max(values)
    shown = values[:: -(-len(values) // cells)]
    return "".join(BARS[min(7, int(8 * value / top))] if top > 0 else BARS[0] for value in shown)
