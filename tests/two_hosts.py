"""Two hosts of this machine, one rank each, with separate folders, for tests of whole trainings by the real launcher."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ENVIRONMENT, patience, wait_until
from winfleet.core.plan import Plan, lay_out_hosts

CODE = "0" * 12
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class TwoHosts:
    """One run of a script on two hosts, which may be started again and again."""

    def __init__(self, folder: Path, script: str, **files: str) -> None:
        self.folder = folder
        for number in (1, 2):
            code = folder / f"pc{number}" / "code" / CODE
            code.mkdir(parents=True)
            (code / "train.py").write_text(script, "utf-8")
            for name, text in files.items():
                (code / name).write_text(text, "utf-8")

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
            for old in (*folder.glob("rank*.log"), folder / "status.json"):
                old.unlink(missing_ok=True)
            command = [sys.executable, "-m", "winfleet.launch", "--plan", str(folder / "plan.json"), "--machine-rank"]
            launchers.append(subprocess.Popen(
                [*command, str(number - 1)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ))  # fmt: skip
        try:
            if stop_at:
                wait_until(self.reached(stop_at), seconds, f"step {stop_at}")
                for number in (1, 2):
                    (self.run_folder(number) / "stop").touch()
            said = "\n".join(launcher.communicate(timeout=patience(seconds))[0] for launcher in launchers)
        finally:
            for launcher in launchers:
                launcher.kill()
        return said

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

    def share(self, name: str) -> None:
        """Brings what the hosts have of a checkpoint to one another, as the launchers do before ranks start."""
        for source, target in ((1, 2), (2, 1)):
            have = self.work(source) / name
            for path in [have] if have.is_file() else have.rglob("*"):
                copy = self.work(target) / path.relative_to(self.work(source))
                if path.is_file() and not copy.exists():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
