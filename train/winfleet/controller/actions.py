"""The frame of the actions in plugins/action: how one is asked by Ansible, asks a host, tells the user, and fails."""

from __future__ import annotations

import contextlib
import socket
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from winfleet.controller.fetching import SLOW
from winfleet.preflight.problems import Problem, error_text, sort_out

KNOCK_SECONDS: Final = 3.0  # a SYN that is lost is sent again after 1 s


class Action(ActionBase):
    """An action of Ansible's: those that derive from it say in `act` what they do. Arguments stand in their docstrings.

    `given` are the task's arguments, `variables` those of its host. Errors in `refused` fail the task, in the words of `tell`.
    """

    refused: tuple[type[Exception], ...] = ()

    def run(self, tmp: str | None = None, task_vars: Any = None) -> dict[str, Any]:
        """Ansible's entry: what `act` returns; it changed nothing where it does not say so."""
        result = super().run(tmp, task_vars)
        self.given, self.variables = self._task.args, task_vars
        try:
            return {**result, "changed": False, **self.act()}
        except self.refused as error:
            raise AnsibleActionFail(self.tell(error)) from None

    @abstractmethod
    def act(self) -> Mapping[str, Any]:
        """What the task does and returns. Raises AnsibleActionFail, and what is in `refused`."""

    def tell(self, error: Exception) -> str:
        """The task's failure in words."""
        return f"controller: {error}".replace("\nhint:", "\n  hint:")

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""
        return bool(self._task.check_mode)

    @property
    def name(self) -> str:
        """The host's, in the inventory."""
        return str(self.variables["inventory_hostname"])

    @property
    def names(self) -> list[str]:
        """All hosts of the play."""
        return [str(name) for name in self.variables["ansible_play_hosts_all"]]

    @property
    def present(self) -> list[str]:
        """Hosts of the play that have not failed."""
        return [str(name) for name in self.variables["ansible_play_hosts"]]

    @property
    def port(self) -> int:
        """Of the host's WinRM."""
        return int(self.variables.get("ansible_port", 5986))

    def of(self, name: str) -> Any:
        """The variables of a host of the play."""
        return self.variables["hostvars"][name]

    def found_on(self, name: str) -> dict[str, Any]:
        """What the preflight found on a host; nothing where there was no preflight."""
        return (self.of(name).get("fleet_host") or {}).get("host") or {}

    def path(self, argument: str) -> Path:
        """The argument as a path, without its ~."""
        return Path(str(self.given[argument])).expanduser()

    def optional_path(self, argument: str) -> Path | None:
        """None for an empty argument."""
        return self.path(argument) if self.given[argument] else None

    def say(self, text: str) -> None:
        """Shows the user a line, whatever the output settings hide."""
        self._display.display(text)

    def stop_at(self, problems: Sequence[Problem], allowed: Sequence[str]) -> None:
        """Shows warnings. Raises AnsibleActionFail with all problems that stop."""
        stopping, lines = sort_out(problems, allowed)
        for line in lines:
            self.say(line)
        if stopping:
            raise AnsibleActionFail(error_text(stopping))

    def ask(
        self, operation: str, arguments: Mapping[str, Any], secrets: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Has winfleet_host do an operation in the task's `home` on its host; the answer."""
        call = {"operation": operation, "home": self.given["home"], "arguments": dict(arguments)}
        if secrets:
            call["secrets"] = dict(secrets)
        return self.execute("winfleet_host", call)

    def execute(self, module: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Runs a module on the host; its answer. Raises AnsibleConnectionFailure soon for a Windows host that is not there."""
        if self._connection.transport in SLOW and not self._connection.connected and self._leads_to_the_host:
            knock(str(self.variables.get("ansible_host", self.name)), self.port)
        answer: dict[str, Any] = self._execute_module(
            module_name=module, module_args=dict(arguments), task_vars=self.variables
        )
        return answer

    @property
    def _leads_to_the_host(self) -> bool:
        """Whether its connection goes there itself: not by a proxy, and not without the file of its certificate, which it names."""
        pem = self.variables.get("ansible_winrm_ca_trust_path")
        proxy = self.variables.get(f"ansible_{self._connection.transport}_proxy")
        return not proxy and (not pem or Path(str(pem)).is_file())

    @contextlib.contextmanager
    def sent(self, file: Path) -> Iterator[str]:
        """The file on the host meanwhile, as its path there."""
        self._make_tmp_path()
        shell = self._connection._shell
        remote: str = shell.join_path(shell.tmpdir, file.name)
        self._transfer_file(str(file), remote)
        try:
            yield remote
        finally:
            self._remove_tmp_path(shell.tmpdir)
            shell.tmpdir = None


def knock(address: str, port: int) -> None:
    """Raises AnsibleConnectionFailure where nobody takes a connection there within KNOCK_SECONDS, in its own words.

    A connection of its own may take much longer: the first sign-in of an account makes a profile.
    """
    try:
        socket.create_connection((address, port), KNOCK_SECONDS).close()
    except TimeoutError:
        raise AnsibleConnectionFailure(
            f"Connection to {address} timed out. (connect timeout={KNOCK_SECONDS:.0f})"
        ) from None
    except OSError as error:
        raise AnsibleConnectionFailure(f"Failed to establish a new connection to {address}:{port}: {error}") from None


def failed(answer: Mapping[str, Any]) -> bool:
    """Whether the host did not do what it was asked, or was not reached."""
    return bool(answer.get("failed") or answer.get("unreachable"))
