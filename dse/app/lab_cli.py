"""``dse lab`` and ``dse serve`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Port = Annotated[int | None, typer.Option(help="Port on this machine; by default the next free one.", min=1, max=65535)]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address only.")]


def attach(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command("lab")(lab)
    app.command("serve")(serve)


def lab(
    folder: Annotated[Path, typer.Option("--dir", help="Your copies of the notebooks.")] = Path("dse-notebooks"),
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Open JupyterLab on the shipped notebooks, in copies of your own; needs 'dse[notebook]'."""
    from dse.app import lab as server

    server.lab(folder, port=port, browser=not no_browser, say=typer.echo)


def serve(
    notebook: Annotated[Path | None, typer.Argument(help="Notebook; by default the workbench.")] = None,
    port: Port = None,
    no_browser: NoBrowser = False,
) -> None:
    """Serve the workbench, or a notebook, as an application in the browser, without its code."""
    from dse.app import lab as server

    server.serve(notebook, port=port, browser=not no_browser, say=typer.echo)
