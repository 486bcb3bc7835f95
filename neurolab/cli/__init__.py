"""The command line: one thin command per job. The logic lives in the rooms."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from neurolab.cli import asking, atlases, drawing, judging, mining, training
from neurolab.cli.options import app
from neurolab.errors import NeurolabError

__all__ = ["app", "asking", "atlases", "drawing", "judging", "main", "mining", "training"]


def main() -> None:
    """Run the command line; errors of neurolab's own end with their message and exit code 1."""
    try:
        app()
    except NeurolabError as error:
        # The message may quote what the user typed, square brackets included.
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from None
