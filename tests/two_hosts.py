"""Two hosts of this machine, one rank each, with separate folders, for tests of whole trainings by the real launcher."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conftest import ENVIRONMENT, wait_until
from programs import run_ranks
from winfleet.core.plan import Plan, lay_out_hosts
from winfleet.core.status import StatusError, fetch
from winfleet.host.outputs import pack

CODE = "0" * 12
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class TwoHosts:
    """One run of a script on two hosts, which may be started again and again."""

    def __init__(self, folder: Path, script: str, files: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self.folder = folder
        for number in (1, 2):
            code = folder / f"pc{number}" / "code" / CODE
            for name, content in {"train.py": script.encode(), **files}.items():
                (code / name).parent.mkdir(parents=True, exist_ok=True)
                (code / name).write_bytes(content)

    def run_folder(self, number: int) -> Path:
        """The run's folder on the host with that number, from 1 on."""
        return self.folder / f"pc{number}" / "runs" / "r"

    def work(self, number: int) -> Path:
        """Where the host's rank worked."""
        return self.run_folder(number) / "work"

    def run(self, *words: str, stop_at: int = 0, seconds: float = 150, processes: int = 1, **values: Any) -> str:
        """Runs to the end, or until it has stopped; what the launchers said.

        With `stop_at` it is asked to stop once both ranks have done so many steps, at which the script waits for that
        (HOLD_AT), so that it ends two steps later, or three.
        """
        environment = {**ENVIRONMENT, **OFFLINE, "HOLD_AT": str(stop_at), **values.pop("environment", {})}
        hosts = lay_out_hosts([{"name": f"pc{n}", "address": f"127.0.0.{n}", "processes": processes} for n in (1, 2)])
        plan = Plan(run="r", command=("train.py", *words), hosts=hosts, code=CODE, **values)
        launchers = []
        for number in (1, 2):
            folder = self.run_folder(number)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "plan.json").write_text(plan.to_json(), "utf-8")
            stale = [folder / "status.json"] if stop_at else []  # else it tells what the run had reached
            for old in (*folder.glob("rank*.log"), *stale):
                old.unlink(missing_ok=True)
            command = [sys.executable, "-m", "winfleet.launch", "--plan", str(folder / "plan.json"), "--machine-rank"]
            with (folder / "said.txt").open("wb") as said:
                launchers.append(
                    subprocess.Popen([*command, str(number - 1)], env=environment, stdout=said, stderr=said)
                )

        def ended() -> bool:
            for host in hosts:  # as a controller that follows does
                with contextlib.suppress(OSError, StatusError):
                    fetch(host.address)
            return all(launcher.poll() is not None for launcher in launchers)

        try:
            if stop_at:
                wait_until(self.reached(stop_at), seconds, f"step {stop_at}")
                for number in (1, 2):
                    (self.run_folder(number) / "stop").touch()
            wait_until(ended, seconds, "the end of both launchers")
        finally:
            for launcher in launchers:
                launcher.kill()
        return "\n".join((self.run_folder(number) / "said.txt").read_text("utf-8") for number in (1, 2))

    def uninterrupted(self, *words: str) -> str:
        """What both ranks print where nothing stops them, and no launcher is there."""
        environment = {**ENVIRONMENT, **OFFLINE, "ACCELERATE_USE_CPU": "1"}
        folder = self.folder / "uninterrupted"
        shutil.copytree(self.folder / "pc1" / "code" / CODE, folder)
        return run_ranks(folder, "train.py", *words, ranks=2, environment=environment)

    def reached(self, step: int) -> Callable[[], bool]:
        """Whether both ranks have done so many steps, or have ended before."""

        def look() -> bool:
            ranks = [rank for number in (1, 2) for rank in self.status(number).get("ranks", [])]
            ended = any(self.status(number).get("state") in ("failed", "finished") for number in (1, 2))
            return ended or (len(ranks) > 1 and all(rank["step"] >= step for rank in ranks))

        return look

    def status(self, number: int) -> dict[str, Any]:
        """status.json of the host, {} where it is not there yet."""
        path = self.run_folder(number) / "status.json"
        values: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return values

    def rank(self, number: int) -> dict[str, Any]:
        """Its rank in the status."""
        rank: dict[str, Any] = self.status(number)["ranks"][0]
        return rank

    def log(self, number: int) -> str:
        """What its rank said in the newest start."""
        return (self.run_folder(number) / f"rank{number - 1}.log").read_text("utf-8")

    def events(self, number: int) -> list[str]:
        """What its launcher noted in the newest start."""
        return [event["text"] for event in self.status(number)["events"]]

    def home(self, number: int) -> set[str]:
        """Outputs that come home from it, as paths below work/."""
        packed = pack(self.folder / f"pc{number}", "r", code=CODE, data="", all_outputs=number == 1, limit_mb=200)
        with tarfile.open(packed["archive"]) as tar:
            return {name.partition("/")[2] for name in tar.getnames() if name.startswith(("work/", "shared/"))}


def losses(text: str) -> dict[str, float]:
    """What a script printed: LOSS <step> <loss>."""
    found: list[tuple[str, str]] = re.findall(r"^LOSS ([\d ]+) (\S+)$", text, re.MULTILINE)
    return {step: float(loss) for step, loss in found}
