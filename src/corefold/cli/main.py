"""`corefold`: the entry point. Every command answers bad input with one line and exit code 2."""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Any

import typer

from corefold.cli import compare, complete, demo, evaluate, export, finetune, inspect, merge, predict
from corefold.cli.console import say_error
from corefold.cli.processes import divide_work, end_together
from corefold.errors import InputError

UsageError: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]  # typer exports no name of it

app = typer.Typer(
    name="corefold",
    help="Fine-tune transformers on few examples with Deep LoRA, and complete matrices from some of their entries.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (finetune, compare, predict, evaluate, inspect, export, merge, complete, demo):
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The encoding of a Windows pipe may lack the bars of a spectrum.
            stream.reconfigure(errors="replace")
    # These warnings are meant for developers of the libraries, not for users of the command.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")
    divide_work(sys.argv[1:])
    try:
        sys.exit(app(standalone_mode=False))  # Otherwise typer would answer with a box of several lines.
    except UsageError as error:
        _say_usage(error)
        sys.exit(2)
    except InputError as error:
        say_error(str(error))
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        say_error(f"{error.filename or 'input or output'}: {error.strerror or error}")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:  # newer releases of typer turn Ctrl-C into this
            raise
        say_error(
            "interrupted. Finished work of `finetune`, `compare` and `demo` is kept: continue finetune with --resume, "
            "the others by the same command. `complete` writes the result of its best step so far, if there is one"
        )
        sys.exit(130)
    finally:
        end_together()


def _say_usage(error: Any) -> None:
    """Say on one line which option is wrong; the help that stands in the place of a command says nothing more."""
    message = error.format_message().strip()
    if message:
        command = error.ctx.command_path if error.ctx else app.info.name
        say_error(f"{message.rstrip('.')}; {command} --help lists the options")


if __name__ == "__main__":
    main()
