"""Keeps a cluster's password in its inventory, encrypted with the vault password that Ansible was given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, match_encrypt_secret
from winfleet.controller.actions import Action

VARIABLES = {"ansible_user": "WINFLEET_USER", "ansible_password": "WINFLEET_PASSWORD"}  # by name in the environment
HEAD = "# Made by add_workers.yml, which replaces it. Settings of your own go into another file of this folder.\n"


class ActionModule(Action):
    """winfleet_vault: folder, the cluster's. Writes group_vars/windows/vault.yml there; nothing without a password of both kinds.

    What is secret is read from the environment here, so that no task has it. Returns {"changed", "path": "" or the file's}.
    """

    refused = (OSError,)

    def act(self) -> dict[str, Any]:
        """Writes the file where it is another."""
        vault: VaultLib = self._loader._vault
        folder = self.path("folder") / "group_vars"
        path = folder / "windows" / "vault.yml"
        if not vault.secrets or not os.environ.get("WINFLEET_PASSWORD"):
            return {"path": str(path) if path.exists() else ""}
        check_not_hidden(folder)
        changed = not path.exists() or read(vault, path) != wanted()
        if changed and not self.check_mode:
            write(vault, path, wanted())
        return {"changed": changed, "path": str(path)}

    def tell(self, error: Exception) -> str:
        """Names the file."""
        assert isinstance(error, OSError)
        return f"{error.filename}: {error.strerror}"


def wanted() -> str:
    """The file before it is encrypted. !unsafe: braces in a password are no template."""
    values = {name: os.environ.get(variable) for name, variable in VARIABLES.items()}
    return HEAD + "".join(f"{name}: !unsafe {json.dumps(value)}\n" for name, value in values.items() if value)


def check_not_hidden(folder: Path) -> None:
    """Ansible reads a folder `windows` in place of a file of that name. Raises AnsibleActionFail where there is one."""
    for name in ("windows.yml", "windows.yaml", "windows.json"):
        if (folder / name).exists():
            raise AnsibleActionFail(
                f"{folder / name} would be ignored beside {folder}/windows/vault.yml\n"
                f"  hint: move it to {folder}/windows/main.yml and run this again"
            )


def read(vault: VaultLib, path: Path) -> str:
    """What the file has now. Raises AnsibleActionFail where it is of another vault password."""
    try:
        return str(vault.decrypt(path.read_bytes()).decode())
    except AnsibleError as error:
        raise AnsibleActionFail(
            f"{path} cannot be read: {error.message}\n"
            "  hint: give the vault password that it was made with, or remove the file"
        ) from None


def write(vault: VaultLib, path: Path, text: str) -> None:
    """Replaces the file as a whole, for its owner alone. The text is never on disk."""
    vault_id, secret = match_encrypt_secret(vault.secrets, constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".vault.new")  # Ansible passes over hidden files
    temporary.write_bytes(vault.encrypt(text, secret=secret, vault_id=vault_id))
    temporary.chmod(0o600)
    os.replace(temporary, path)
