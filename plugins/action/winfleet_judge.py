"""Asks the hosts of a rehearsal, judges what they say, and predicts the run's speed. One task for the whole cluster."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from winfleet.controller.actions import Action
from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan
from winfleet.core.sending import AUTO
from winfleet.preflight.problems import read_names
from winfleet.rehearsal.advice import choose_every
from winfleet.rehearsal.controller import Shelf, rehearse
from winfleet.rehearsal.summary import describe, guide_table, predict_plan
from winfleet.transfer.receiver import token_for

NOT_MEASURED: Final = "a step was not measured, so gradients are sent on each step"


class ActionModule(Action):
    """winfleet_judge: plan (text), key, logs, steps, hours, warnings, guide, average_every; fails with all problems at once.

    Writes logs/<run>/prediction.json; with `guide` it prints the users' guide's table for these links. Where `average_every`
    is auto it returns a number of steps for these links.
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
        prediction, every = predict_plan(plan, outcome.measured), 0
        if given.get("average_every") == AUTO:
            every, why = (
                choose_every(prediction.measured, plan.sending.average_outer[1]) if prediction else (0, NOT_MEASURED)
            )
            self.say(f"  fleet_average_every: {why}")
            plan = dataclasses.replace(plan, sending=dataclasses.replace(plan.sending, average_every=every))
            prediction = predict_plan(plan, outcome.measured)
        self.stop_at(outcome.lacks_memory(plan), warnings)
        if text := describe(plan, outcome, prediction):
            self.say(text)
        if prediction is not None:
            folder = logs / plan.run
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "prediction.json", prediction.to_json())
        if given.get("guide"):
            self.say(guide_table(prediction) if prediction else "no prediction: see the notes above")
        return {"average_every": every}
