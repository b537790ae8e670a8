"""The .cmd files that users double-click: every word arrives as it was typed, also where the PC's owner must be elevated first.

They are started as a person types them, by a .cmd of the test's own: Wine would quote words in its own way.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, wait_until
from windows_lab import MASTER, Lab, in_the_lab, windows

PYTHON, UV = "C:\\lab\\python\\python.exe", "C:\\lab\\python\\uv.exe"
OF_SEVEN = "C:\\Program Files\\PowerShell\\7\\Modules;C:\\windows\\system32\\WindowsPowerShell\\v1.0\\Modules"
# As they stand in a .cmd file -> as the program gets them. Outside quotation marks & ^ | < > are cmd's own.
TYPED = {
    "--": "--", "--data=D:\\x": "--data=D:\\x", "--url=http://a/b": "--url=http://a/b", "--config": "--config", "-debug": "-debug",
    "-Auto:$false": "-Auto:$false", "name:": "name:", '"a b"': "a b", '"say \\"hi\\""': 'say "hi"', '""': "", "100%%": "100%", "!x!": "!x!",
    '"연구 & (1) ^ | <>"': "연구 & (1) ^ | <>", "(a)": "(a)", '"C:\\my dir\\\\"': "C:\\my dir\\", "$env:TEMP;`n'#": "$env:TEMP;`n'#",
}  # fmt: skip
PROBE = """
[CmdletBinding(SupportsShouldProcess, PositionalBinding = $false)]
param([switch]$Auto, [string]$Config, [Parameter(ValueFromRemainingArguments)][string[]]$Command)
"$Auto|$Config|$DebugPreference|$($Command -join '|')"
exit 3
"""


class Doors:
    """An unpacked zip on a PC, and a person who types."""

    def __init__(self, lab: Lab, pc: str, root: Path) -> None:
        self.lab, self.pc, self.root, self.disk = lab, pc, root, lab.prefix(pc)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("scripts", "train"):
            shutil.copytree(ROOT / name, root / name, ignore=ignore)

    def type(self, line: str, variables: Mapping[str, str] = {}) -> tuple[int, str]:  # noqa: B006 (not changed)
        """Exit status and output of a line in cmd.exe, with variables of that window."""
        sets = [f'@set "{name}={value}"' for name, value in variables.items()]
        file = self.root.parent / "typed.cmd"
        file.write_bytes("\r\n".join([*sets, f"@{line}", ""]).encode("cp949"))
        done = self.lab.command("run", self.pc, str(file))
        return done.returncode, done.stdout + done.stderr

    def path(self, name: str) -> str:
        return f'"{windows(self.root / "scripts" / name)}"'


@pytest.fixture(scope="module")
def doors(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    pc = lab.up(1)[0]
    lab.do("reset", pc)
    return Doors(lab, pc, tmp_path_factory.mktemp("unpacked") / "winfleet main (1) & 연구!")


@in_the_lab
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-Auto one --epochs 3", "True||SilentlyContinue|one|--epochs|3"),
        ("-Auto -- one", "Parameter cannot be processed because the parameter name '' is ambiguous"),
        ("--data=D:\\x", "False||SilentlyContinue|--data=D|\\x"),
        ("--config a --debug b", "False|a|Continue|b"),
    ],
)
def test_the_labs_powershell_takes_words_behind_file_as_windows_does(doors: Doors, words: str, expected: str) -> None:
    (doors.root / "probe.ps1").write_text(PROBE, "utf-8-sig")
    shell = "%SystemRoot%\\System32\\WindowsPowerShell\\v1.0\\powershell.exe"
    status, said = doors.type(f'"{shell}" -NoProfile -ExecutionPolicy Bypass -File "{windows(doors.root / "probe.ps1")}" {words}')
    assert expected in said
    assert status == (3 if "|" in expected else 1)


@in_the_lab
def test_words_arrive_at_the_training_as_they_were_typed(doors: Doors) -> None:
    line = f"{doors.path('launch_distributed.cmd')} -python {PYTHON} -Uv {UV} -Fold C:\\typed -WhatIf -- {' '.join(TYPED)}"
    status, said = doors.type(line, {"PSModulePath": OF_SEVEN})
    assert status == 0, said
    quoted = [f'"{word}"' if not word or " " in word else word for word in TYPED.values()]
    for place, word in enumerate(TYPED.values()):
        if '"' in word or word.endswith("\\"):
            quoted[place] = json.dumps(word)
    assert said.rstrip().endswith(f"train_config.yaml {' '.join(quoted)}"), said
