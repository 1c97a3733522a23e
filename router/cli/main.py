"""`acr`: serve, ask, explain, train and look after policies, keys and models."""

from __future__ import annotations

import typer

from router.cli import decisions, keys, models, policy
from router.cli.ask import ask_command
from router.cli.calibrate import calibrate_command
from router.cli.demo import demo_command
from router.cli.drift import drift_command
from router.cli.evaluate import evaluate_command
from router.cli.explain import explain_command
from router.cli.model import model_command
from router.cli.record import record_command
from router.cli.replay import replay_command
from router.cli.serve import serve_command
from router.cli.train import train_command

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="The adaptive compute router: just enough inference-time compute for each request.",
)
app.command("serve")(serve_command)
app.command("demo")(demo_command)
app.command("ask")(ask_command)
app.command("explain")(explain_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("calibrate")(calibrate_command)
app.command("record")(record_command)
app.command("drift")(drift_command)
app.command("replay")(replay_command)
app.command("model-fetch")(model_command)
app.add_typer(policy.app, name="policy")
app.add_typer(models.app, name="model")
app.add_typer(keys.app, name="keys")
app.add_typer(decisions.app, name="decisions")

if __name__ == "__main__":
    app()
