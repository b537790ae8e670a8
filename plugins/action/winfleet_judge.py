"""Asks the hosts of a rehearsal, judges what they say, and predicts the run's speed. One task for the whole cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan
from winfleet.preflight.problems import error_text, read_names, sort_out
from winfleet.rehearsal.controller import Shelf, rehearse
from winfleet.rehearsal.summary import describe, guide_table, predict_plan
from winfleet.transfer.receiver import token_for

display = Display()


class ActionModule(ActionBase):
    """winfleet_judge: plan (text), key, logs, steps, hours, warnings, guide; fails with all problems at once.

    Writes logs/<run>/prediction.json; with `guide` it prints the users' guide's table for these links.
    """

    _supports_check_mode = False
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, warnings = self._task.args, read_names(self._task.args.get("warnings"))
        plan, logs = Plan.from_json(given["plan"]), Path(given["logs"]).expanduser()
        token = token_for(f"rehearsal {plan.run}", Path(given["key"]))
        outcome = rehearse(
            plan, token, Shelf(logs / ".rehearsals", float(given["hours"])), int(given["steps"]), warnings
        )
        stopping, lines = sort_out(outcome.problems, warnings)
        for line in lines:
            display.display(line)
        if stopping:
            raise AnsibleActionFail(error_text(stopping))
        prediction = predict_plan(plan, outcome.measured)
        if text := describe(plan, outcome, prediction):
            display.display(text)
        if prediction is not None:
            folder = logs / plan.run
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "prediction.json", prediction.to_json())
        if given.get("guide"):
            display.display(guide_table(prediction) if prediction else "no prediction: see the notes above")
        return {**result, "changed": False}
