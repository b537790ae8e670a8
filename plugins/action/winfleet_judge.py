"""Asks the hosts of a rehearsal, judges what they say, and predicts the run's speed. One task for the whole cluster."""

from __future__ import annotations

from typing import Any

from winfleet.controller.actions import Action
from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan
from winfleet.preflight.problems import read_names
from winfleet.rehearsal.controller import Shelf, rehearse
from winfleet.rehearsal.summary import describe, guide_table, predict_plan
from winfleet.transfer.receiver import token_for


class ActionModule(Action):
    """winfleet_judge: plan (text), key, logs, steps, hours, warnings, guide; fails with all problems at once.

    Writes logs/<run>/prediction.json; with `guide` it prints the users' guide's table for these links.
    """

    _supports_check_mode = False

    def act(self) -> dict[str, Any]:
        """Asks, judges, predicts."""
        given, warnings = self.given, read_names(self.given.get("warnings"))
        plan, logs = Plan.from_json(given["plan"]), self.path("logs")
        token = token_for(f"rehearsal {plan.run}", self.path("key"))
        outcome = rehearse(
            plan, token, Shelf(logs / ".rehearsals", float(given["hours"])), int(given["steps"]), warnings
        )
        self.stop_at(outcome.problems, warnings)
        prediction = predict_plan(plan, outcome.measured)
        if text := describe(plan, outcome, prediction):
            self.say(text)
        if prediction is not None:
            folder = logs / plan.run
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "prediction.json", prediction.to_json())
        if given.get("guide"):
            self.say(guide_table(prediction) if prediction else "no prediction: see the notes above")
        return {}
