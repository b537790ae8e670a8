"""Judges what was found on the hosts, and names the run. Runs on the controller and changes nothing there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from winfleet.controller.settings import as_typed
from winfleet.preflight.comparisons import table
from winfleet.preflight.found import Found, read
from winfleet.preflight.judge import Wanted, find_problems, runs_going_on
from winfleet.preflight.problems import error_text, read_names, sort_out
from winfleet.transfer.including import as_patterns


class ActionModule(ActionBase):
    """winfleet_check: returns {"run", "command", "joining", "finished"}; fails with all problems at once.

    `joining`: the run is there already, so nothing is deployed; `finished`: it needs no following either. With `look_only`
    no run is named, the table of the hosts is printed even where nothing is wrong, and {"run", "command", "going_on"} returned.
    """

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given, names, hostvars = self._task.args, task_vars["ansible_play_hosts_all"], task_vars["hostvars"]
        looked = {name: hostvars[name].get("fleet_host") or {} for name in names}
        hosts = {name: read(each["host"]) for name, each in looked.items() if "host" in each}
        silent = {name: why_silent(each) for name, each in looked.items() if "host" not in each}
        command = as_typed(context.CLIARGS.get("extra_vars") or ()) or str(given["command"])
        wanted = Wanted(
            project=Path(given["project"]).expanduser(), command=command,
            data=optional_path(given["data"]), config=optional_path(given["config"]), run=str(given["run"] or ""),
            free_disk_gb=float(given["free_disk_gb"]),
            processes={name: int(hostvars[name].get("fleet_processes", 0)) for name in names},
            warnings=read_names(given["warnings"]), torch_backend=str(given["torch_backend"]),
            python_version=str(given["python_version"]), include=as_patterns(given["include"]),
        )  # fmt: skip
        look_only = bool(given["look_only"])
        running = runs_going_on(hosts)
        finished = bool(wanted.run) and not silent and all(host.run_state == "finished" for host in hosts.values())
        if look_only or not (wanted.run in running or finished):
            judge(hosts, silent, wanted, always=look_only)
        if look_only:
            for one, where in running.items():
                Display().display(f"run {one} is going on on {', '.join(where)}")
            return {**result, "changed": False, "run": "", "command": command, "going_on": list(running)}
        if running and wanted.run not in running:
            raise AnsibleActionFail(say_going_on(running))
        run = wanted.run or time.strftime("%Y%m%d-%H%M%S")
        joining = run in running or finished
        plan = Path(given["logs"]).expanduser() / run / "plan.json"
        if joining and not plan.is_file():
            raise AnsibleActionFail(say_begun_elsewhere(run, plan))
        return {**result, "changed": False, "run": run, "command": command, "joining": joining, "finished": finished}


def judge(hosts: dict[str, Found], silent: dict[str, str], wanted: Wanted, *, always: bool) -> None:
    """Prints table and warnings, where there are any or `always`. Raises AnsibleActionFail with all that stops."""
    problems = find_problems(hosts, silent, wanted)
    if hosts and (problems or always):
        Display().display(table(hosts))
    stopping, warnings = sort_out(problems, wanted.warnings)
    for line in warnings:
        Display().display(line)
    if stopping:
        raise AnsibleActionFail(error_text(stopping))


def optional_path(value: object) -> Path | None:
    """None for an empty setting."""
    return Path(str(value)).expanduser() if value else None


def why_silent(looked: Any) -> str:
    """Why there are no facts of a host."""
    return str(looked.get("silent") or looked.get("msg") or "no result")


def say_begun_elsewhere(run: str, plan: Path) -> str:
    """The hosts know the run, and this controller does not: it cannot follow or report it."""
    return (
        f"run {run} is there on the hosts, but here is no {plan}\n"
        "  hint: give the folder of its logs: -e fleet_logs=PATH, or another name: -e fleet_run=NAME"
    )


def say_going_on(running: dict[str, list[str]]) -> str:
    """A run is going on: which, where, and how to follow or stop it."""
    run, hosts = next(iter(running.items()))
    return (
        f"run {run} is going on on {', '.join(hosts)}\n"
        f"  hint: follow it with `ansible-playbook deploy_and_train.yml -i INVENTORY -e fleet_run={run}`, "
        "see it with `ansible-playbook status.yml -i INVENTORY`, stop it with `ansible-playbook stop.yml -i INVENTORY`"
    )
