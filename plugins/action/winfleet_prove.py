"""Proves by whole trainings what only real machines can show, by the playbooks that a user types; writes the file of proofs."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from ansible import context
from ansible.errors import AnsibleActionFail
from winfleet import report
from winfleet.controller.actions import Action
from winfleet.controller.fetching import SLOW
from winfleet.core.files import write_atomic
from winfleet.core.status import Status, StatusError, fetch, read_file
from winfleet.preflight.problems import read_names
from winfleet.proofs.claims_table import chosen
from winfleet.proofs.on_host import RUNS, WINRM_HTTP, is_open
from winfleet.proofs.outcome import FAILED, Outcome, failed, holds, not_applicable, proved, read_outcomes
from winfleet.proofs.record import merge, summary, write
from winfleet.proofs.trainings import LARGE, OUTPUT, SCRIPT, Home, Said, Trainings, judge_large, lay_out
from winfleet.rehearsal.prediction import rate
from winfleet.support.archive import accounts_here, secrets_of_environment
from winfleet.support.redaction import NAMES_OF_SECRETS
from winfleet.view.speed import ends, speed_of

ROOT: Final = Path(__file__).resolve().parents[2]
# winrm_setup.ps1 takes no more days; a certificate of worker_setup.ps1 lasts five years, a renewed one ten.
RENEW_DAYS: Final = 3_000
CONNECT_SECONDS: Final = 10.0


class ActionModule(Action):
    """winfleet_prove: logs, only (names of claims, empty: all), look_only (what is wrong with these); {"path", "failed_claims"}."""

    def act(self) -> dict[str, Any]:
        """Proves it."""
        try:
            wanted = chosen(read_names(self.given["only"]))
        except ValueError as error:
            raise AnsibleActionFail(f"fleet_prove_only: {error}".replace("\nhint:", "\n  hint:")) from None
        if context.CLIARGS.get("ask_vault_pass") or context.CLIARGS.get("ask_pass"):
            raise AnsibleActionFail(
                "the proofs start playbooks of their own, which cannot ask for a password each time\n"
                "  hint: --vault-password-file FILE in place of --ask-vault-pass, WINFLEET_PASSWORD in place of --ask-pass"
            )
        if self.given.get("look_only") or self.check_mode:
            return {}
        stamp = time.strftime("%Y%m%d-%H%M%S")
        with tempfile.TemporaryDirectory(prefix="winfleet-proof-") as project:
            cluster = Playbooks(self, self.path("logs") / f"{RUNS}{stamp}", Path(project))
            found = self.prove(cluster, stamp, wanted)
        path = cluster.folder.with_suffix(".md")
        secrets, accounts = self.not_for_strangers()
        write_atomic(path, write(found, self.facts(), secrets, accounts))
        self.say(f"Wrote {os.path.relpath(path)}: {summary(found)}")
        return {
            "changed": True, "path": os.path.relpath(path),
            "failed_claims": sorted(name for name, one in found.items() if one.state == FAILED),
        }  # fmt: skip

    def prove(self, cluster: Playbooks, stamp: str, wanted: set[str]) -> dict[str, Outcome]:
        """What came of each claim that is wanted."""
        found = {name: one for name, one in self.of_hosts().items() if name in wanted}
        found |= Trainings(cluster, stamp, self.say, wanted=sorted(wanted)).prove()
        proofs: dict[str, Callable[[], Outcome]] = {
            "port-scan": lambda: self.scanned(found.get("port-scan"), cluster),
            "certificate-renewal": lambda: self.renewed(cluster),
            "oom-real": lambda: self.out_of_memory(cluster, f"{RUNS}{stamp}-oom"),
            "ctrl-c": lambda: not_applicable("launch_distributed.cmd -Prove proves it, at one PC"),
        }
        for name in wanted & set(proofs):
            try:
                found[name] = proofs[name]()
            except OSError as error:  # what was found before is not lost for it
                found[name] = failed(str(error))
        return found | {name: not_applicable("this system has none of it") for name in wanted - set(found)}

    def of_hosts(self) -> dict[str, Outcome]:
        """What each host proved by itself, one outcome a claim."""
        told = {name: read_outcomes((self.of(name).get("prove_host") or {}).get("outcomes")) for name in self.names}
        claims = sorted({claim for each in told.values() for claim in each})
        return {claim: merge({name: each[claim] for name, each in told.items() if claim in each}) for claim in claims}

    def facts(self) -> dict[str, Mapping[str, Any]]:
        """What machines these are."""
        return {name: (self.of(name).get("prove_host") or {}).get("facts") or {} for name in self.names}

    def windows(self) -> list[str]:
        """Hosts that are reached by WinRM."""
        return [name for name in self.names if str(self.of(name).get("ansible_connection")) in SLOW]

    def scanned(self, by_others: Outcome | None, cluster: Playbooks) -> Outcome:
        """Ports as seen from this machine and from other workers; that ours are open in each pair, the rehearsal of a training tells."""
        opened = [name for name in self.windows() if is_open(cluster.addresses[name], WINRM_HTTP)]
        if opened or (by_others and by_others.state == FAILED):
            return failed(
                "; ".join(
                    [*(f"{name}: port {WINRM_HTTP} is open" for name in opened), by_others.seen if by_others else ""]
                )
            )
        if not list(cluster.folder.glob("logs/*/prediction.json")):
            return not_applicable("no training was rehearsed")
        return proved(
            f"every pair of {len(self.names)} hosts connects; port {WINRM_HTTP} is shut at {len(self.windows())} Windows hosts",
        )

    def renewed(self, cluster: Playbooks) -> Outcome:
        """A certificate that is renewed on a listener in use, and pinned anew."""
        if not self.windows():
            return not_applicable("no Windows worker")
        addresses = [cluster.addresses[name] for name in self.windows()]
        before = [ssl.get_server_certificate((address, self.port), timeout=CONNECT_SECONDS) for address in addresses]
        said = cluster.play("worker_setup.yml", winrm_setup_renew_days=RENEW_DAYS)
        if said.code:
            return failed(said.last_error)
        after = [ssl.get_server_certificate((address, self.port), timeout=CONNECT_SECONDS) for address in addresses]
        renewed = sum(old != new for old, new in zip(before, after, strict=True))
        if not renewed:
            return not_applicable(f"all certificates last more than {RENEW_DAYS} days, so none was renewed")
        said = cluster.play("playbooks/proof.yml", proof_what="undo")
        return holds(said.code == 0, f"{renewed} renewed, and reached again" if said.code == 0 else said.last_error)

    def out_of_memory(self, cluster: Playbooks, run: str) -> Outcome:
        """A batch that is too large for the GPUs, halved until it fits."""
        if not any(fact.get("GPUs") for fact in self.facts().values()):
            return not_applicable("no GPU here")
        cluster.train(run, LARGE)
        return judge_large(cluster.finish())

    def not_for_strangers(self) -> tuple[set[str], set[str]]:
        """Secrets, and names of accounts."""
        names = [name for setting in NAMES_OF_SECRETS for name in self.variables.get(setting) or ()]
        secrets = secrets_of_environment([*names, "WINFLEET_PASSWORD"])
        secrets |= {str(self.of(name).get("ansible_password") or "") for name in self.names} - {""}
        return secrets, accounts_here() | {str(self.of(name).get("ansible_user") or "") for name in self.names} - {""}


class Playbooks:
    """The cluster of the inventory: what proofs need of it, each by a playbook, with the options of this one."""

    def __init__(self, action: ActionModule, folder: Path, project: Path) -> None:
        self.hosts: Sequence[str] = action.names
        self.addresses = {name: str(action.of(name)["fleet_address"]) for name in self.hosts}
        self.folder, self.number = folder, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.said = folder
        given = context.CLIARGS
        self.options = [word for path in given.get("inventory") or () for word in ("-i", str(path))]
        self.options += [word for each in given.get("extra_vars") or () for word in ("-e", str(each))]
        self.options += [
            word for each in given.get("vault_password_files") or () for word in ("--vault-password-file", str(each))
        ]
        self.options += [word for each in given.get("vault_ids") or () for word in ("--vault-id", str(each))]
        self.options += [word for word in ("--limit", given.get("subset")) if given.get("subset")]
        folder.mkdir(parents=True)
        self.project = project  # not below logs/, which git ignores
        lay_out(ROOT / "train", project)

    def start(self, name: str, **settings: Any) -> None:
        """Starts a playbook; what it prints stands in the folder."""
        self.number += 1
        self.said = self.folder / f"{self.number:02}-{Path(name).stem}.txt"
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            name,
            *self.options,
            "-e",
            json.dumps(settings),
        ]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
                env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            )  # fmt: skip

    def play(self, name: str, **settings: Any) -> Said:
        """Runs a playbook to its end, beside one that was started."""
        process, said = self.process, self.said
        self.start(name, **settings)
        told = self.finish()
        self.process, self.said = process, said
        return told

    def train(self, run: str, training: Mapping[str, Any]) -> None:
        """Starts deploy_and_train.yml with our own script and these settings of its configuration."""
        config = self.folder / f"{run}.yaml"
        whole = {"wandb": False, "output_dir": OUTPUT, **training}
        write_atomic(config, yaml.safe_dump({"training": whole}, allow_unicode=True))
        self.start(
            "deploy_and_train.yml", fleet_run=run, fleet_follow=True, fleet_project=str(self.project), fleet_include=[],
            fleet_command=f'"{SCRIPT}" --data {{data}} --config {{config}}', fleet_config=str(config),
            fleet_data=str(ROOT / "data" / "text"), fleet_logs=str(self.folder / "logs"), fleet_rehearsal=True, fleet_resume=True,
        )  # fmt: skip

    def begin(self, run: str, steps: int) -> None:
        """See Cluster."""
        self.train(run, {"steps": steps, "checkpoint_every": steps})

    def ended(self) -> bool:
        """See Cluster."""
        return self.process is None or self.process.poll() is not None

    def finish(self) -> Said:
        """See Cluster."""
        code = self.process.wait() if self.process else 2
        return Said(code=code, text=self.said.read_text("utf-8", "replace"))

    def stop(self, run: str) -> Said:
        """See Cluster."""
        del run  # no other goes on
        return self.play("stop.yml")

    def look(self, run: str) -> Sequence[Status]:
        """See Cluster."""
        found = []
        for address in self.addresses.values():
            try:
                status = fetch(address)
            except (OSError, StatusError):
                continue
            found += [status] if status.run == run else []
        return found

    def end(self, host: str, run: str, what: str) -> Sequence[int]:
        """See Cluster."""
        said = self.play("playbooks/proof.yml", proof_host=host, proof_run=run, proof_what=what)
        left = re.search(r"left: (\[.*?\])", said.text)
        if said.code or left is None:
            raise OSError(said.last_error)
        return [int(pid) for pid in json.loads(left[1])]

    def home(self, run: str) -> Home:
        """See Cluster."""
        folder = self.folder / "logs" / run
        try:
            data = report.load(folder)
        except report.ReportError as error:
            raise OSError(str(error)) from None
        predicted, unit = rate(data.prediction.planned) if data.prediction else (None, "")
        measured = speed_of(data)
        statuses = [status for path in folder.glob("*/status.json") if (status := read_file(path))]
        return Home(
            state=data.state, losses=ends(data.metrics), backend=data.plan.backend, predicted=predicted, unit=unit,
            measured=measured.value if measured.unit == unit else None,
            files=[str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()],
            begun=[rank.begun if rank.begun is not None else rank.optimizer_begun or 0 for status in statuses for rank in status.ranks],
        )  # fmt: skip
