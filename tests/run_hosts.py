"""Hosts of this machine with separate folders and a rank each, for tests of whole trainings by the real launcher."""

import contextlib
import re
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builders import pcs
from conftest import ENVIRONMENT, wait_until
from programs import Forked, run_ranks
from winfleet.core.plan import Plan
from winfleet.core.status import Rank, Status, StatusError, fetch, read_file
from winfleet.host.outputs import pack

CODE, RUN = "c0de" * 3, "r1"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class RunHosts:
    """pc1, pc2 … and one run of a script, which may be started again and again. Hosts are named by their number, from 1 on."""

    def __init__(
        self, folder: Path, script: Path, files: Mapping[str, bytes] = MappingProxyType({}), count: int = 2
    ) -> None:
        self.folder, self.script, self.hosts = folder, script.name, pcs(*[1] * count, network="127.0.0")
        for host in self.hosts:
            for name, content in {script.name: script.read_bytes(), **files}.items():
                path = folder / host.name / "code" / CODE / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def launch(self, *words: str, before: Sequence[str] = (), stop_at: int = 0, **values: Any) -> list[int]:
        """Runs it to its end, or until it has stopped; the exit status of each launcher. `values` are of the plan.

        With `stop_at` it is asked to stop once all ranks have done so many steps, at which scripts/libraries wait for that
        (HOLD_AT); so it ends two steps later, or three.
        """
        plan = Plan(run=RUN, command=(*before, self.script, *words), **{"hosts": self.hosts, "code": CODE, **values})
        environment = {**ENVIRONMENT, **OFFLINE, "HOLD_AT": str(stop_at)}
        launchers = list[Forked]()
        for host in self.hosts:
            run = self.run_folder(host.machine_rank + 1)
            run.mkdir(parents=True, exist_ok=True)
            (run / "plan.json").write_text(plan.to_json(), "utf-8")
            for log in run.glob("rank*.log"):
                log.unlink()
            command = [
                "-m",
                "winfleet.launch",
                "--plan",
                str(run / "plan.json"),
                "--machine-rank",
                str(host.machine_rank),
            ]
            launchers.append(Forked(self.folder, *command, output=run / "said", environment=environment))

        def ended() -> bool:
            ranks = list[Rank]()
            for host in self.hosts:  # as a controller that follows does
                with contextlib.suppress(OSError, StatusError):
                    ranks += fetch(host.address).ranks
            if stop_at and len(ranks) == len(self.hosts) and all(rank.step >= stop_at for rank in ranks):
                for host in self.hosts:
                    (self.run_folder(host.machine_rank + 1) / "stop").touch()
            return all(launcher.poll() is not None for launcher in launchers)

        try:
            wait_until(ended, 150, "the end of all launchers")
        finally:
            for launcher in launchers:
                launcher.kill()
        return [launcher.wait(10) for launcher in launchers]

    def uninterrupted(self, *words: str, ranks: int = 2) -> str:
        """What its ranks print where nothing stops them, and no launcher is there."""
        environment = {**ENVIRONMENT, **OFFLINE, "ACCELERATE_USE_CPU": "1"}
        folder = self.folder / "uninterrupted"
        shutil.copytree(self.folder / "pc1" / "code" / CODE, folder)
        return run_ranks(folder, self.script, *words, ranks=ranks, environment=environment)

    def run_folder(self, number: int) -> Path:
        """The run's folder on a host."""
        return self.folder / f"pc{number}" / "runs" / RUN

    def work(self, number: int) -> Path:
        """Where the host's rank works."""
        return self.run_folder(number) / "work"

    @property
    def works(self) -> list[Path]:
        """That of every host."""
        return [self.work(host.machine_rank + 1) for host in self.hosts]

    @property
    def said(self) -> str:
        """What the launchers wrote in the newest start."""
        files = [
            self.run_folder(host.machine_rank + 1) / f"said.{kind}" for host in self.hosts for kind in ("out", "err")
        ]
        return "\n".join(file.read_text("utf-8") for file in files)

    def status(self, number: int) -> Status:
        """What the host tells of the newest start."""
        status = read_file(self.run_folder(number) / "status.json")
        assert status
        return status

    def rank(self, number: int) -> Rank:
        """The host's rank, as its status has it."""
        return self.status(number).ranks[0]

    def log(self, number: int) -> str:
        """What the host's rank printed in the newest start."""
        return (self.run_folder(number) / f"rank{number - 1}.log").read_text("utf-8")

    def events(self, number: int) -> list[str]:
        """What the host's launcher noted in the newest start."""
        return [event.text for event in self.status(number).events]

    def printed(self, words: str) -> list[str]:
        """The lines with these words that ranks printed, a host's behind those of the one before."""
        logs = [self.log(host.machine_rank + 1) for host in self.hosts]
        return [line for log in logs for line in log.splitlines() if words in line]

    def outputs(self, number: int) -> set[str]:
        """What comes home from the host, as paths below work/."""
        packed = pack(self.folder / f"pc{number}", RUN, code=CODE, data="", all_outputs=number == 1, limit_mb=200)
        with tarfile.open(packed["archive"]) as tar:
            return {name.partition("/")[2] for name in tar.getnames() if name.startswith(("work/", "shared/"))}


def losses(text: str) -> dict[str, float]:
    """What a script printed: LOSS <step> <loss>."""
    found: list[tuple[str, str]] = re.findall(r"^LOSS ([\d ]+) (\S+)$", text, re.MULTILINE)
    return {step: float(loss) for step, loss in found}
