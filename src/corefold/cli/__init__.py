"""Floor 4: the command line, one file a command. Parses, calls the floors below, prints."""

try:
    import rich as _rich  # noqa: F401
    import typer as _typer  # noqa: F401
    import yaml as _yaml  # noqa: F401
except ImportError as error:
    raise SystemExit(
        f'corefold: error: the command line needs {error.name}; install it with: pip install "corefold[cli]"'
    ) from error
