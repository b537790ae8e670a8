"""Makes the plan of a run from the hosts' facts and writes it to the run's folder on the controller."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from winfleet.controller.actions import Action
from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan, PlanError, choose_backend, lay_out_hosts
from winfleet.core.sending import Sending, SendingError
from winfleet.preflight.judge import split_command


class ActionModule(Action):
    """winfleet_plan: returns {"plan", "path"}; the text is the same for all hosts. Where `logs` is empty it is not written."""

    refused = (PlanError, SendingError)

    def act(self) -> dict[str, Any]:
        """Makes it, and writes it where it is another."""
        plan, logs = self._plan(), self.optional_path("logs")
        for note in plan.sending.notes(len(plan.hosts), plan.backend):
            self.say(f"  note: {note}")
        text = plan.to_json()
        if not logs:
            return {"plan": text, "path": ""}
        path = logs / plan.run / "plan.json"
        changed = not path.is_file() or path.read_text("utf-8") != text
        if changed and not self.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        return {"changed": changed, "plan": text, "path": str(path)}

    def tell(self, error: Exception) -> str:
        """The plan's own words."""
        return str(error)

    def _plan(self) -> Plan:
        given, names = self.given, self.names
        hosts = lay_out_hosts([self._describe(name) for name in names])
        digests = {kind: value[:12] for kind, value in given["digests"].items()}
        config = self.optional_path("config")
        return Plan(
            run=str(given["run"]), command=tuple(split_command(str(given["command"]))), hosts=hosts,
            code=digests.get("code"), data=digests.get("data"), environment=str(given["environment"]) or None,
            config=config.read_text("utf-8") if config else None, backend=choose_backend(hosts),
            mixed_precision=str(given["mixed_precision"]), max_restarts=int(given["max_restarts"]),
            start_timeout_seconds=int(given["start_timeout_seconds"]), stuck_seconds=int(given["stuck_seconds"]),
            resume=boolean(given["resume"]), sending=Sending.of_settings(given["sending"]),
            variables={name: own for name in names if (own := self._environment(name))},
        )  # fmt: skip

    def _describe(self, name: str) -> dict[str, Any]:
        found = self.found_on(name)
        gpus = visible([gpu["name"] for gpu in found["gpus"]], self._environment(name).get("CUDA_VISIBLE_DEVICES"))
        return {
            "name": name, "address": found["address"], "adapter": found["adapter"], "os": found["os"], "gpus": gpus,
            "processes": int(self.of(name).get("fleet_processes", 0)) or len(gpus) or 1,
        }  # fmt: skip

    def _environment(self, name: str) -> dict[str, str]:
        given = self.of(name).get("fleet_environment") or {}
        if not isinstance(given, dict) or any(isinstance(value, dict | list) for value in given.values()):
            raise PlanError(
                f"{name}: fleet_environment is {given!r}\nhint: a mapping of names to texts, as {{HF_HOME: D:\\hf}}"
            )
        return {str(key): str(value) for key, value in given.items()}


def visible(gpus: list[str], wanted: str | None) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES of fleet_environment leaves; all where it is not set."""
    if wanted is None:
        return tuple(gpus)
    return tuple(gpus[int(index)] for index in wanted.split(",") if index.strip().isdigit() and int(index) < len(gpus))
