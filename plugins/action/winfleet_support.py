"""Writes the zip for a person who helps, from what winfleet_gather brought of each host and what this machine has."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from winfleet.controller.actions import Action
from winfleet.support.archive import (
    Bundle,
    SupportError,
    accounts_here,
    choose_run,
    identity,
    of_controller,
    read_archive,
    secrets_of_environment,
    write,
)
from winfleet.support.redaction import NAMES_OF_SECRETS, SECRET_NAME, secrets_in, without_secrets

OURS = ("fleet_", "uv_env_", "data_sync_", "accelerate_config_", "launch_", "firewall_", "winrm_setup_", "power_plan_")
CONNECTION = ("ansible_connection", "ansible_host", "ansible_port", "ansible_user", "ansible_winrm_transport", "ansible_python_interpreter")  # fmt: skip
ACCOUNTS = ("ansible_user", "ansible_ssh_user", "ansible_become_user")


class ActionModule(Action):
    """winfleet_support: logs, run; returns {"path"} of logs/support-<time>.zip."""

    refused = (SupportError,)

    def act(self) -> dict[str, Any]:
        """Writes it."""
        logs = self.path("logs")
        variables = {name: Variables(self.variables["hostvars"], name) for name in self.names}
        path = logs / f"support-{time.strftime('%Y%m%d-%H%M%S')}.zip"
        run = choose_run(logs, str(self.given["run"] or ""))
        files = of_controller(logs, run, {name: known.shown() for name, known in variables.items()})
        problems, accounts = {}, accounts_here()
        for name in self.names:
            sent, problems[name] = take(self.of(name).get("support_gathered") or {})
            accounts |= identity(sent)
            files |= {f"hosts/{name}/{file}": content for file, content in sent.items()}
        bundle = Bundle(
            files=files, problems={name: why for name, why in problems.items() if why},
            secrets=frozenset(set().union(*(known.secrets() for known in variables.values()))
                              | secrets_of_environment([name for setting in NAMES_OF_SECRETS for name in self.variables.get(setting) or ()])),
            accounts=frozenset(accounts.union(*(known.accounts() for known in variables.values()))),
        )  # fmt: skip
        listed = "" if self.check_mode else write(bundle, path)
        for line in listed.splitlines()[2:]:
            self.say(f"  {line}")
        if listed:
            self.say(f"Wrote {os.path.relpath(path)}; look through it before you send it")
        return {"changed": not self.check_mode, "path": str(path)}


def take(gathered: Mapping[str, Any]) -> tuple[dict[str, bytes], str]:
    """A host's files and why there are none; its archive is removed."""
    if gathered.get("problem") or not gathered.get("archive"):
        return {}, str(gathered.get("problem") or gathered.get("msg") or "it was not asked")
    archive = Path(gathered["archive"])
    try:
        return read_archive(archive), ""
    except SupportError as error:
        return {}, str(error)
    finally:
        shutil.rmtree(archive.parent, ignore_errors=True)


class Variables:
    """A host's variables. Each is filled in by itself, so that one that cannot be filled in hides no other."""

    def __init__(self, hostvars: Any, name: str) -> None:
        self._filled, self._raw = hostvars[name], hostvars.raw_get(name)

    def _value(self, name: str) -> Any:
        try:
            return self._filled.get(name)
        except AnsibleError:
            return None

    def shown(self) -> dict[str, Any]:
        """What helps: ours, and how the host is reached, secret ones without their values."""
        kept = {str(name): self._value(name) for name in self._raw if name.startswith(OURS) or name in CONNECTION}
        return dict(without_secrets(kept))

    def secrets(self) -> set[str]:
        """Values that are secret by their variables' names."""
        named = {str(name): self._value(name) for name in self._raw if SECRET_NAME.search(name)}
        return secrets_in({**named, "environment": self._value("fleet_environment") or {}, "inventory": own(self._raw)})

    def accounts(self) -> set[str]:
        """Names of accounts."""
        return {str(value) for name in ACCOUNTS if (value := self._value(name))}


def own(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings and lists of the inventory, without Ansible's own, which hold all hosts' again."""
    return {
        str(name): value for name, value in raw.items()
        if isinstance(value, dict | list) and name not in ("groups", "hostvars", "vars", "support_gathered")
    }  # fmt: skip
