"""Makes the locked environment on this host, or checks an interpreter that is given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: winfleet_environment
short_description: Makes or checks a Python environment for training
description: With `python` it checks that interpreter; without, it makes env/<digest> below home with uv.
options:
  home: {description: Folder for everything of winfleet on this host., type: path, required: true}
  direct: {description: Packages that are needed and their locked versions., type: dict, required: true}
  torch: {description: The locked version of torch., type: str, required: true}
  python: {description: An interpreter to check., type: path}
  digest: {description: Names the environment., type: str, required: true}
  uv: {description: Path of uv on this host., type: path}
  requirements: {description: "The lock, as requirements with hashes.", type: str, default: ""}
  python_version: {description: "Python to make the environment with, as 3.11.", type: str, default: "3.11"}
  torch_backend: {description: "uv's --torch-backend; empty: torch from the index that uv is set to.", type: str, default: auto}
  wheels: {description: Folder of wheels on this host to install from without internet., type: path}
author: [winfleet]
"""
EXAMPLES = """
- winfleet_environment: {home: ~/.winfleet, python: /usr/bin/python3, direct: {torch: [2.13.0]}, torch: 2.13.0, digest: 0123456789ab}
"""
RETURN = """
python: {description: The interpreter to train with., type: str, returned: always}
versions: {description: Versions of Python and the packages that were asked for., type: dict, returned: always}
"""

KEEP = 2  # environments: the new one, and the one before it

LOOK = """
import importlib.metadata, json, platform, sys
found = {"python": platform.python_version()}
for name in json.loads(sys.argv[1]):
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
PROVE = """
import torch
for device in [f"cuda:{n}" for n in range(torch.cuda.device_count())] or ["cpu"]:
    ones = torch.ones(64, 64, device=device)
    assert float((ones @ ones).sum()) == 64.0**3, f"a matrix product on {device} is wrong"
"""


def look(python: str, names: list[str]) -> dict[str, str]:
    """Versions of an interpreter and its packages. Raises OSError or CalledProcessError."""
    found = subprocess.run([python, "-I", "-c", LOOK, json.dumps(names)], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def differences(found: dict[str, str], wanted: dict[str, list[str]], python_version: str) -> list[str]:
    """What does not satisfy the lock. A local part, as +cpu or +cu130, tells builds of one version apart and is let pass."""
    said = [
        f"{name} is {found.get(name, 'missing')}, the lock says {' or '.join(versions)}"
        for name, versions in sorted(wanted.items())
        if found.get(name, "").partition("+")[0] not in versions
    ]
    if not found["python"].startswith(python_version + "."):
        said.append(f"Python is {found['python']}, wanted is {python_version}")
    return said


def steps(given: dict[str, object], folder: Path, requirements: Path) -> list[list[str]]:
    """The commands that make the environment, in their order."""
    uv, python = str(given["uv"]), str(folder / "bin" / "python")
    offline = ["--offline", "--no-index", "--find-links", str(given["wheels"])] if given["wheels"] else []
    backend = [f"--torch-backend={given['torch_backend']}"] if given["torch_backend"] and not offline else []
    return [
        [uv, "venv", "--quiet", "--python", str(given["python_version"]), *offline[:1], str(folder)],
        [uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", *offline, str(requirements)],
        [uv, "pip", "install", "--quiet", "--python", python, *offline, *backend, f"torch=={given['torch']}"],
        [python, "-I", "-c", PROVE],
    ]


def make(module: AnsibleModule, folder: Path) -> None:
    """Makes the environment; its mark is written last, so that a half-made one is made again."""
    given = module.params
    environment = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(Path(given["home"]) / "agent" / "python")}
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    requirements = folder.parent / f"{folder.name}.requirements.txt"
    requirements.write_text(given["requirements"], encoding="utf-8")
    for command in steps(given, folder, requirements):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-3_000:]
            module.fail_json(
                msg=f"`{' '.join(command[:3])}` failed with {done.returncode}:\n{said}\n"
                "hint: is the package index reachable from this host? set uv_env_wheels for a host without internet"
            )
    for old in sorted(folder.parent.glob("*/winfleet.json"), key=lambda path: path.stat().st_mtime)[: -KEEP + 1]:
        shutil.rmtree(old.parent)
    (folder / "winfleet.json").write_text(json.dumps({"digest": given["digest"]}), encoding="utf-8")


def main() -> None:
    """Ansible's entry."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "required": True},
            "direct": {"type": "dict", "required": True},
            "torch": {"type": "str", "required": True},
            "python": {"type": "path"},
            "digest": {"type": "str", "required": True},
            "uv": {"type": "path"},
            "requirements": {"type": "str", "default": ""},
            "python_version": {"type": "str", "default": "3.11"},
            "torch_backend": {"type": "str", "default": "auto"},
            "wheels": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given, changed = module.params, False
    folder = Path(given["home"]) / "env" / given["digest"][:12]
    python = given["python"] or str(folder / "bin" / "python")
    if not given["python"] and not (folder / "winfleet.json").is_file():
        changed = True
        if module.check_mode:
            module.exit_json(changed=True, python=python, versions={})
        make(module, folder)
    try:
        versions = look(python, list(given["direct"]))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        module.fail_json(msg=f"{python} cannot be used: {said}\nhint: set uv_env_python to a Python, or to nothing")
    if wrong := differences(versions, given["direct"], given["python_version"]):
        fix = f"install train/constraints.txt into {python}, or leave uv_env_python empty"
        module.fail_json(msg=f"{python} does not satisfy the lock: {'; '.join(wrong)}\nhint: {fix}")
    module.exit_json(changed=changed, python=python, versions=versions)


if __name__ == "__main__":
    main()
