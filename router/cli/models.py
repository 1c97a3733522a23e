"""`acr model`: which classifier decides, what it is worth, and how another one takes its place."""

from __future__ import annotations

import typer

from router.cli.model_look import list_command, show_command
from router.cli.model_promote import promote_command, rollback_command

app = typer.Typer(help="Compare, promote and roll back classifiers.", no_args_is_help=True)
app.command("list")(list_command)
app.command("show")(show_command)
app.command("promote")(promote_command)
app.command("rollback")(rollback_command)
