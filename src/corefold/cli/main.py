"""`corefold`: the entry point, and what every command shares: one line and exit code 2 for bad input."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from corefold.cli import demo, evaluate, export, finetune, inspect, merge, predict
from corefold.cli.console import say_error
from corefold.finetune import InputError

app = typer.Typer(
    name="corefold",
    help="Fine-tune transformers on few examples with Deep LoRA: train small cores, fold them into big weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (finetune, predict, evaluate, inspect, export, merge, demo):
    app.command(name=command.NAME, help=command.HELP)(command.run)


@app.callback(invoke_without_command=True)
def _shared(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from corefold import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Addressed to developers of these libraries, not to who runs the command.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")
    try:
        app()
    except InputError as error:
        say_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        say_error("interrupted; a run goes on with: corefold finetune --resume -o OUT")
        sys.exit(130)


if __name__ == "__main__":
    main()
