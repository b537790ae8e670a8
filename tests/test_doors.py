"""The .cmd files that users double-click: every word arrives as it was typed, also where the PC's owner must be elevated first.

They are started as a person types them, by a .cmd of the test's own: Wine would quote words in its own way.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, wait_until
from windows_lab import MASTER, Lab, in_the_lab, windows

PYTHON, UV = "C:\\lab\\python\\python.exe", "C:\\lab\\python\\uv.exe"
OF_SEVEN = "C:\\Program Files\\PowerShell\\7\\Modules;C:\\windows\\system32\\WindowsPowerShell\\v1.0\\Modules"
# As they stand in a .cmd file -> as the program gets them. Outside quotation marks & ^ | < > are cmd's own, and Wine's cmd looks for
# variables in what %* brought, as Windows does not.
TYPED = {
    "--data=D:\\x": "--data=D:\\x", "--url=http://a/b": "--url=http://a/b", "--config": "--config", "--": "--", "-debug": "-debug",
    "-Auto:$false": "-Auto:$false", "name:": "name:", '"a b"': "a b", '"say \\"hi\\""': 'say "hi"', '""': "", "!x!": "!x!",
    '"연구 & (1) ^ | <>"': "연구 & (1) ^ | <>", "(a)": "(a)", '"C:\\my dir\\\\"': "C:\\my dir\\", "$env:TEMP;`n'#": "$env:TEMP;`n'#",
}  # fmt: skip
# Wine's cmd at times cannot start a program that is there.
NOT_STARTED = re.compile(r"powershell\.exe\S* 내부, 외부 명령어")
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

    def type(self, line: str, variables: Mapping[str, str] = {}) -> tuple[int, str]:
        """Exit status and output of a line in cmd.exe, with variables of that window."""
        sets = [f'@set "{name}={value}"' for name, value in variables.items()]
        file = self.root.parent / "typed.cmd"
        file.write_bytes("\r\n".join([*sets, f"@{line}", ""]).encode("cp949"))
        done = self.lab.command("run", self.pc, str(file))
        if NOT_STARTED.search(done.stdout + done.stderr) or (done.returncode and not done.stdout + done.stderr):
            done = self.lab.command("run", self.pc, str(file))
        return done.returncode, done.stdout + done.stderr

    @contextlib.contextmanager
    def pressing_keys(self) -> Iterator[None]:
        """Ends each `pause` of a window meanwhile; one that is only starting is started again, so once is not enough."""
        over = threading.Event()
        keys = threading.Thread(target=self.press, args=(over,))
        keys.start()
        try:
            yield
        finally:
            over.set()
            keys.join()

    def press(self, over: threading.Event) -> None:
        while not over.wait(0.3):
            for pid in self.lab.processes(self.pc, "cmd.exe /d /c pause"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def path(self, name: str) -> str:
        return f'"{windows(self.root / "scripts" / name)}"'


@pytest.fixture(scope="module")
def doors(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    """A new PC with the mapped drive Y:, which is \\\\nas\\winfleet."""
    pc = lab.up(1)[0]
    lab.do("reset", pc)
    lab.do("halt", pc)
    made = Doors(lab, pc, tmp_path_factory.mktemp("unpacked") / "winfleet main (1) & 연구!")
    devices = made.disk.parent / "dosdevices"
    (devices / "y:").symlink_to(made.root)
    (devices / "unc" / "nas").mkdir(parents=True)
    (devices / "unc" / "nas" / "winfleet").symlink_to(made.root)
    (made.disk / "lab" / "state.json").write_text(json.dumps({"drives": {"Y:": "\\\\nas\\winfleet"}}))
    lab.up(1)
    return made


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
    status, said = doors.type(
        f'"{shell}" -NoProfile -ExecutionPolicy Bypass -File "{windows(doors.root / "probe.ps1")}" {words}'
    )
    assert expected in said
    assert status == (3 if "|" in expected else 1)


@in_the_lab
def test_words_arrive_at_the_training_as_they_were_typed(doors: Doors) -> None:
    line = (
        f"{doors.path('launch_distributed.cmd')} -python {PYTHON} -Uv {UV} -Fold C:\\typed -WhatIf -- {' '.join(TYPED)}"
    )
    status, said = doors.type(line, {"PSModulePath": OF_SEVEN})
    assert status == 0, said
    _, settings, arrived = said.rstrip().partition("train_config.yaml")
    assert (settings, arrived.removeprefix('"')) == (
        "train_config.yaml",
        f" {subprocess.list2cmdline(TYPED.values())}",
    ), said


@in_the_lab
def test_who_is_no_administrator_is_asked_and_the_elevated_copy_gets_every_word(doors: Doors) -> None:
    """From a mapped drive, which the elevated copy does not see."""
    (doors.disk / "lab" / "unelevated").touch()
    worker = doors.disk / "users" / "Public" / "a & (b) ^ 연구!.yml"
    words = f'-MasterIP {MASTER} -OutFile "C:\\users\\Public\\{worker.name}"'
    with doors.pressing_keys():
        status, said = doors.type(f"Y:\\scripts\\worker_setup.cmd {words}", {"PSModulePath": OF_SEVEN})
        assert (status, said) == (0, "")
        wait_until(
            lambda: worker.exists() and not doors.lab.processes(doors.pc, "worker_setup.cmd --elevated"),
            60,
            "the end of the elevated copy",
        )
    assert yaml.safe_load(worker.read_text("utf-8"))["name"] == doors.pc.upper()


@in_the_lab
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-MasterIp 10.0.0.1 -Createuser -Whatif", "What if: "),
        ("-CreateUsr", "error: there is no -CreateUsr\nhint: the parameters are -MasterIP, -CreateUser, -Remove, -OutFile"),
        ("-MasterIP", "error: -MasterIP needs a value behind it"),
        ("1.2.3", 'error: -MasterIP "1.2.3" is not the IPv4 address of a PC'),
    ],
)  # fmt: skip
def test_words_of_the_door_itself_are_bound_as_powershell_does(doors: Doors, words: str, expected: str) -> None:
    (doors.disk / "lab" / "unelevated").unlink(missing_ok=True)
    status, said = doors.type(f"{doors.path('worker_setup.cmd')} {words}")
    assert expected in said
    assert status == (0 if "What if" in expected else 1 if "IPv4" in expected else 2)


@in_the_lab
def test_constrained_language_is_named_in_one_sentence(doors: Doors) -> None:
    door = doors.root / "scripts" / "master_deploy.cmd"
    text, before = door.read_text("ascii"), '-Command "'
    assert text.count(before) == 1
    constrained = text.replace(before, before + "$ExecutionContext.SessionState.LanguageMode = 'ConstrainedLanguage'; ")
    door.with_name("constrained.cmd").write_text(constrained, "ascii", newline="\r\n")
    status, said = doors.type(doors.path("constrained.cmd"))
    assert "error: Smart App Control or a policy of this PC keeps PowerShell from running scripts" in said
    assert status == 2


def test_the_doors_are_one_text() -> None:
    texts = [path.read_text("ascii") for path in sorted((ROOT / "scripts").glob("*.cmd"))]
    common = {text[text.index("rem From PowerShell 7") :] for text in texts}
    assert (len(texts), len(common)) == (3, 1)
    assert 'set "PSModulePath="' in common.pop()
    assert not [
        path
        for path in (ROOT / "scripts").iterdir()
        if re.search(r"(?i)invoke-expression|\biex\b", path.read_text("utf-8"))
    ]
