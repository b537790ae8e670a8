"""Judges what was found on the hosts, and names the run. Runs on the controller and changes nothing there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from winfleet.controller.actions import Action
from winfleet.controller.clusters import ClusterError, check_certificates, pinned
from winfleet.controller.settings import as_typed
from winfleet.preflight.comparisons import table
from winfleet.preflight.found import read
from winfleet.preflight.judge import Wanted, find_problems, runs_going_on
from winfleet.preflight.problems import Problem, read_names
from winfleet.transfer.including import as_patterns


class ActionModule(Action):
    """winfleet_check: returns {"run", "command", "joining", "finished"}; fails with all problems at once.

    `joining`: the run is there already, so nothing is deployed; `finished`: it needs no following either. With `look_only`
    no run is named, the table of the hosts is printed even where nothing is wrong, and {"run", "command", "going_on"} returned.
    """

    def act(self) -> dict[str, Any]:
        """Judges, and names the run."""
        given, names = self.given, self.names
        looked = {name: self.of(name).get("fleet_host") or {} for name in names}
        hosts = {name: read(each["host"]) for name, each in looked.items() if "host" in each}
        silent = {name: why_silent(each) for name, each in looked.items() if "host" not in each}
        command = as_typed(context.CLIARGS.get("extra_vars") or ()) or str(given["command"])
        wanted = Wanted(
            project=self.path("project"), command=command,
            data=self.optional_path("data"), config=self.optional_path("config"), run=str(given["run"] or ""),
            free_disk_gb=float(given["free_disk_gb"]),
            processes={name: int(self.of(name).get("fleet_processes", 0)) for name in names},
            warnings=read_names(given["warnings"]), torch_backend=str(given["torch_backend"]),
            lacking=[] if boolean(self.of(self.name)["fleet_skip_deploy"]) else self.lacking(),
            python_version=str(given["python_version"]), include=as_patterns(given["include"]),
        )  # fmt: skip
        look_only = bool(given["look_only"])
        running = runs_going_on(hosts)
        finished = bool(wanted.run) and not silent and all(host.run_state == "finished" for host in hosts.values())
        if look_only or not (wanted.run in running or finished):
            problems = [*find_problems(hosts, silent, wanted), *self.find_clones()]
            if hosts and (problems or look_only):
                self.say(table(hosts))
            self.stop_at(problems, wanted.warnings)
        if look_only:
            for one, where in running.items():
                self.say(f"run {one} is going on on {', '.join(where)}")
            return {"run": "", "command": command, "going_on": list(running)}
        if running and wanted.run not in running:
            raise AnsibleActionFail(say_going_on(running))
        run = wanted.run or time.strftime("%Y%m%d-%H%M%S")
        joining = run in running or finished
        plan = self.path("logs") / run / "plan.json"
        if joining and not plan.is_file():
            raise AnsibleActionFail(say_begun_elsewhere(run, plan))
        return {"run": run, "command": command, "joining": joining, "finished": finished}

    def find_clones(self) -> Iterator[Problem]:
        """PCs that show one certificate."""
        files = {name: Path(str(self.of(name).get("ansible_winrm_ca_trust_path", ""))) for name in self.names}
        try:
            check_certificates(pinned(files))
        except ClusterError as error:
            what, _, hint = str(error).partition("\nhint: ")
            yield Problem(where="inventory", check="reachable", what=what, hint=hint)

    def lacking(self) -> list[str]:
        """Of all hosts' uv_env_secrets, what is not set here."""
        wanted = [name for host in self.names for name in self.of(host).get("uv_env_secrets") or ()]
        return [name for name in dict.fromkeys(wanted) if not os.environ.get(name)]


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
