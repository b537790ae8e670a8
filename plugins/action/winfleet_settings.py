"""Refuses settings that nobody knows and values that they cannot have, wherever a user wrote them. Asks no host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible._internal._datatag._tags import Origin
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.vars.plugins import get_vars_from_inventory_sources
from winfleet.controller.actions import Action
from winfleet.controller.settings import UNKNOWN, Given, as_typed, explain_wrong, owner_of, read_options

ROOT = Path(__file__).resolve().parents[2]  # of this repository, whose group_vars and host_vars count as well
PLAIN = (str, int, float, list, tuple, dict, type(None))  # a truth is an int


class ActionModule(Action):
    """winfleet_settings fails with all that is wrong at once.

    It looks where a user may set something for the group `workers`, whatever --limit says: -e, inventories, group_vars, host_vars.
    """

    def act(self) -> dict[str, Any]:
        """Looks at all of them."""
        task_vars, roles = self.variables, read_options(ROOT)
        found = [
            Given(name=str(name), value=self._resolve(value, host, name, task_vars), where=place(name, value, scope))
            for scope, host, values in self._sources(task_vars)
            for name, value in values.items()
            if owner_of(str(name), roles)
        ]
        if said := explain_wrong(found, roles):
            raise AnsibleActionFail("\n".join(said))
        return {}

    def _sources(self, task_vars: Any) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """(who it is for, a host that has it, the variables) of -e, then of groups, then of hosts."""
        manager = self._task.get_variable_manager()
        inventory = manager._inventory
        workers = inventory.groups.get("workers")
        hosts = workers.get_hosts() if workers else []
        someone = hosts[0].name if hosts else ""
        command = as_typed(context.CLIARGS.get("extra_vars") or ())
        extra = {name: value for name, value in manager.extra_vars.items() if not re.search(rf"\s{name}=", command)}
        yield "-e", someone, extra
        members = {group.name: (group, host.name) for host in reversed(hosts) for group in host.get_groups()}
        members.setdefault("all", (inventory.groups["all"], someone))
        folders = [*(task_vars.get("ansible_inventory_sources") or []), str(ROOT)]
        for entity, host in [*members.values(), *((each, each.name) for each in hosts)]:
            yield entity.name, host, entity.vars
            for folder in folders:
                yield entity.name, host, get_vars_from_inventory_sources(self._loader, [folder], [entity], "task")

    def _resolve(self, value: Any, host: str, name: str, task_vars: Any) -> Any:
        """What a template says for the host, UNKNOWN where it says nothing yet; other values as they are."""
        if isinstance(value, PLAIN) and not self._templar.is_template(value):
            return value
        if not host:
            return UNKNOWN
        try:
            said = task_vars["hostvars"][host][name]
        except (AnsibleError, KeyError):
            return UNKNOWN
        return said if isinstance(said, PLAIN) else UNKNOWN


def place(name: Any, value: Any, scope: str) -> str:
    """Where a variable stands, as Ansible remembers it: "inventories/lab/hosts.yml:8 (pc1)", or "-e"."""
    origin = Origin.get_tag(name) or Origin.get_tag(value)
    if origin is None or origin.path is None:
        return scope
    path = os.path.relpath(origin.path)
    shown = origin.path if path.startswith(os.pardir) else path
    return f"{shown}:{origin.line_num} ({scope})" if origin.line_num else f"{shown} ({scope})"
