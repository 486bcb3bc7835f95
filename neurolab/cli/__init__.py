"""The command line: one thin command per job. The logic lives in the rooms."""

from __future__ import annotations

from rich.console import Console

from neurolab.cli import atlases, drawing, judging, training
from neurolab.cli.options import app
from neurolab.errors import NeurolabError

__all__ = ["app", "atlases", "drawing", "judging", "main", "training"]


def main() -> None:
    """Run the command line; errors of neurolab's own end with their message and exit code 1."""
    try:
        app()
    except NeurolabError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, markup=True)
        raise SystemExit(1) from None
