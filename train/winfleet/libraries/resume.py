"""From where a continued run goes on, for a library's trainer to which the script gives no checkpoint of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from winfleet.core.plan import Plan, PlanError
from winfleet.core.status import NO_RESUME, RESUME


@dataclass(kw_only=True, slots=True)
class Resume:
    """The newest whole checkpoint of this run, None where the run is new; it is given out once."""

    checkpoint: Path | None = None
    wanted: bool = True  # fleet_resume
    work: Path = Path()

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] = os.environ) -> Resume:
        """What the launcher said; a path below the current folder alone counts."""
        work, told = Path.cwd(), environ.get(RESUME, "")
        path = (work / told).resolve() if told else None
        below = path is not None and path.is_relative_to(work.resolve()) and path != work.resolve()
        return cls(checkpoint=path if below else None, wanted=environ.get(NO_RESUME) != "1", work=work)

    def within(self, folder: Path, *, deep: bool = False) -> Path | None:
        """The checkpoint, if that folder holds it (or, `deep`, one below it)."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return None
        holds = self.checkpoint.is_relative_to(folder.resolve()) if deep else self.checkpoint.parent == folder.resolve()
        return self.checkpoint if holds else None

    def take(self, found: Path | None, call: str) -> Path | None:
        """Gives out what within() found, once, and says so; `call` is the library's, `trainer.train(resume_from_checkpoint=...)`."""
        if found is None:
            return None
        self.checkpoint = None
        shown = found.relative_to(self.work.resolve())
        first = os.environ.get("RANK", "0") == "0"
        if not self.wanted:
            if first:
                print(f"winfleet: {shown} of this run is not loaded, as fleet_resume is false", flush=True)
            return None
        if first:
            print(
                f"winfleet: goes on from {shown}, the newest checkpoint of this run: {call} "
                "(fleet_resume: false, or False given by the script, begins anew)",
                flush=True,
            )
        return found


def refused(resume: Resume, found: Path | None) -> None:
    """The script said False: the checkpoint is not loaded, nor by a later trainer."""
    if found is not None:
        resume.checkpoint = None


def read_plan() -> Plan | None:
    """The run's plan, None where no launcher started this rank."""
    folder = os.environ.get("WINFLEET_RUN_FOLDER")
    for place in (Path(folder), Path(folder).parent) if folder else ():
        if (place / "plan.json").is_file():
            try:
                return Plan.load(place / "plan.json")
            except PlanError:
                return None
    return None
