"""Makes the plan of a run from the hosts' facts and writes it to the run's folder on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from winfleet.core.files import write_atomic
from winfleet.core.plan import Plan, PlanError, choose_backend, lay_out_hosts
from winfleet.preflight.judge import split_command


class ActionModule(ActionBase):
    """winfleet_plan: returns {"plan", "path"}; the text is the same for all hosts. Where `logs` is empty it is not written."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            plan = self._plan(self._task.args, task_vars or {})
        except PlanError as error:
            raise AnsibleActionFail(str(error)) from None
        text, logs = plan.to_json(), str(self._task.args["logs"])
        if not logs:
            return {**result, "changed": False, "plan": text, "path": ""}
        path = Path(logs).expanduser() / plan.run / "plan.json"
        changed = not path.is_file() or path.read_text("utf-8") != text
        if changed and not self._task.check_mode:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
        return {**result, "changed": changed, "plan": text, "path": str(path)}

    def _plan(self, given: dict[str, Any], task_vars: dict[str, Any]) -> Plan:
        hostvars, names = task_vars["hostvars"], task_vars["ansible_play_hosts_all"]
        hosts = lay_out_hosts([describe(name, hostvars[name]) for name in names])
        digests = {kind: value[:12] for kind, value in given["digests"].items()}
        config = Path(given["config"]).expanduser().read_text("utf-8") if given["config"] else None
        return Plan(
            run=str(given["run"]), command=tuple(split_command(str(given["command"]))), hosts=hosts,
            code=digests.get("code"), data=digests.get("data"), environment=str(given["environment"]) or None,
            config=config, backend=choose_backend(hosts), mixed_precision=str(given["mixed_precision"]),
            max_restarts=int(given["max_restarts"]), start_timeout_seconds=int(given["start_timeout_seconds"]),
            stuck_seconds=int(given["stuck_seconds"]), resume=boolean(given["resume"]),
            variables={name: variables(name, hostvars[name]) for name in names if hostvars[name].get("fleet_environment")},
        )  # fmt: skip


def describe(name: str, values: Any) -> dict[str, Any]:
    """A host of the plan, from what the preflight found on it."""
    found = values["fleet_host"]["host"]
    gpus = visible([gpu["name"] for gpu in found["gpus"]], variables(name, values).get("CUDA_VISIBLE_DEVICES"))
    return {
        "name": name, "address": found["address"], "adapter": found["adapter"], "os": found["os"], "gpus": gpus,
        "processes": int(values.get("fleet_processes", 0)) or len(gpus) or 1,
    }  # fmt: skip


def visible(gpus: list[str], wanted: str | None) -> tuple[str, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES of fleet_environment leaves; all where it is not set."""
    if wanted is None:
        return tuple(gpus)
    return tuple(gpus[int(index)] for index in wanted.split(",") if index.strip().isdigit() and int(index) < len(gpus))


def variables(name: str, values: Any) -> dict[str, str]:
    """fleet_environment of a host, as texts. Raises PlanError where it is no mapping of names to values."""
    given = values.get("fleet_environment") or {}
    if not isinstance(given, dict) or any(isinstance(value, dict | list) for value in given.values()):
        raise PlanError(
            f"{name}: fleet_environment is {given!r}\nhint: a mapping of names to texts, as {{HF_HOME: D:\\hf}}"
        )
    return {str(key): str(value) for key, value in given.items()}
