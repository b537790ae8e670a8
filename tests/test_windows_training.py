"""Training on Windows PCs of the lab, by the playbooks as a user types them: one cluster, which each test leaves usable."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, patience, wait_until
from lab_place import LAB, SETTINGS
from run_hosts import losses
from windows_cluster import LAUNCHER, ONE, RANK, TWO, Cluster, added, begun, errors, stranger, tasks
from windows_lab import Lab, in_the_lab

pytestmark = [in_the_lab, pytest.mark.proof]  # molecule's scenario `default` trains on PCs of the lab in make test

PYTHON = r"C:\lab\python\python.exe"
MANAGED = "cpython-3.11.9-windows-x86_64-none"  # the folder of one of uv's own
WORK = r"C:\winfleet\runs\own\work"
SLOW = "fleet_command=bare.py --steps 100000 --sleep 0.02"
START_SECONDS = 240  # for a deploy and the first steps, on a machine that does more than this
MOST_SECONDS = 15  # goal: from a rank's exception to the end of all ranks of all hosts
MOST_TASKS = 7  # of a second deploy that a Windows host has to do: docs/architecture.md lists them
POWERSHELL = "EXEC (via pipeline wrapper)"  # shown for each start of PowerShell on a host
SWARM = "winfleet.transfer.swarm"
DISK_MB = 260  # for the wheels, 64 MiB that stay free, and a file that leaves no room for them
FILLER = "of somebody else"
ARRIVED = 10_000_000  # bytes of the wheels, at which a transfer is in its middle


@pytest.fixture(scope="module")
def made(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two new PCs that worker_setup.yml has set up."""
    with added(lab, "lab-tests") as inventory:
        cluster = Cluster(lab, tmp_path_factory.mktemp("cluster"), inventory)
        setup = cluster.play("worker_setup.yml")
        assert setup.returncode == 0, setup.stdout
        yield cluster


@pytest.fixture
def cluster(made: Cluster) -> Iterator[Cluster]:
    """The cluster, on which nothing runs before a test and nothing of it afterwards."""
    hosts, variables = {host: dict(values) for host, values in made.hosts.items()}, dict(made.variables)
    yield made
    if made.of_runs():
        made.play("stop.yml", "fleet_stop_grace_seconds=0")
    made.hosts, made.variables = hosts, variables
    left = made.of_runs()
    assert not left, f"processes stayed behind: {left}"


@contextlib.contextmanager
def without_runtime(drive: Path, home: Path) -> Iterator[Path]:
    """A PC that has no msvcp140.dll meanwhile, but a Python of uv's own, whose folder is yielded: links to the lab's, without that file."""
    managed, library = home / "agent" / "interpreters" / MANAGED, drive / "windows" / "system32" / "msvcp140.dll"
    shutil.copytree(drive / "lab" / "python", managed, copy_function=os.symlink)
    (managed / library.name).unlink()
    library.rename(library.with_suffix(".away"))
    try:
        yield managed
    finally:
        library.with_suffix(".away").rename(library)


def test_a_host_on_which_uv_fails_is_named_and_nothing_half_made_counts(cluster: Cluster) -> None:
    cluster.hosts = {ONE: {"uv_env_interpreter": ""}, TWO: {"uv_env_interpreter": r"C:\nowhere\python.exe"}}
    with without_runtime(cluster.lab.prefix(ONE.lower()), cluster.home(ONE)) as managed:
        done = cluster.play("deploy_and_train.yml", "fleet_command=bare.py", "fleet_run=no-python")
    assert done.returncode != 0
    assert re.search(
        rf"error: {TWO}: `uv venv .*C:\\nowhere\\python.exe.*` failed with \d+: .+\nhint: .*uv_env_interpreter",
        done.stdout, re.DOTALL,
    )  # fmt: skip
    assert errors(done.stdout) == 1
    assert (cluster.home(ONE) / "agent" / "bundle").exists()
    assert str(managed.name) in (cluster.home(ONE) / "agent" / "python" / "pyvenv.cfg").read_text("utf-8")
    assert not (managed / "msvcp140.dll").is_symlink(), "laid beside uv's own Python"
    assert (managed / "vcruntime140.dll").is_symlink(), "a newer one stays"
    assert not (cluster.home(TWO) / "agent" / "bundle").exists(), "without its mark the next deploy makes it anew"
    assert not any((cluster.home(host) / kind).exists() for host in cluster.hosts for kind in ("code", "env", "runs"))


def arrived(folder: Path) -> int:
    """Bytes of transfers into the folder that are not at their end."""
    with contextlib.suppress(OSError):  # a name may go while it is looked at
        return sum(path.stat().st_blocks * 512 for part in folder.glob(".*.part") for path in part.rglob("*"))
    return 0


def fill_disk(folder: Path) -> None:
    """A file of somebody else takes all that is left."""
    with (folder / FILLER).open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(2**20)):
            pass


def test_transfers_and_uv_that_fail_are_named_and_the_next_run_goes_on(cluster: Cluster) -> None:
    wheels = {ONE: cluster.home(ONE) / "wheels", TWO: cluster.home(TWO) / "wheels"}
    wheels[TWO] = cluster.lab.add_disk(TWO.lower(), wheels[TWO], DISK_MB)
    address, run = cluster.lab.address(ONE.lower()), ("fleet_command=bare.py --steps 2", "fleet_run=broken")

    def end_swarm() -> None:
        for pid in cluster.processes(ONE, SWARM):
            os.kill(pid, 9)

    faults: dict[str, Callable[[], None]] = {ONE: end_swarm, TWO: lambda: fill_disk(wheels[TWO])}

    def strike() -> bool:
        for host in [host for host in faults if arrived(wheels[host]) > ARRIVED]:
            faults.pop(host)()
        return not faults

    with begun(cluster, *run) as following:
        wait_until(strike, START_SECONDS, "the middle of both transfers")
        said, _ = following.communicate(timeout=patience(START_SECONDS))
    assert following.returncode != 0
    lost = rf"{ONE} \({address}\) is gone since 30 s, with \d+ % of its files\nhint: is it switched on, "
    assert re.search(lost, said), said
    full = rf"{TWO} cannot write: .+\nhint: make room there, or set fleet_home to another disk"
    assert re.search(full, said), said
    assert errors(said) == 1
    assert not any(path.is_dir() for folder in wheels.values() for path in folder.glob("[0-9a-f]*"))
    (wheels[TWO] / FILLER).unlink()

    with begun(cluster, *run) as following:
        whole = wait_until(lambda: next(wheels[TWO].glob("[0-9a-f]*"), None), START_SECONDS, "the end of the transfer")
        wheel = min(whole.glob("*.whl"), key=lambda path: path.stat().st_size)
        good = wheel.read_bytes()
        wheel.write_bytes(good[:-1] + b"?")  # after its digest was looked at, as a failing disk would
        said, _ = following.communicate(timeout=patience(START_SECONDS))
        wheel.write_bytes(good)
    assert following.returncode != 0
    total = sum(path.stat().st_size for path in whole.iterdir())
    for host in cluster.hosts:
        result = json.loads((cluster.home(host) / "swarm" / "result.json").read_text("utf-8"))
        assert ARRIVED / 2 < result["reused_bytes"] < total, result
        assert result["down_bytes"] < total - result["reused_bytes"] + ARRIVED, result
    words = rf"error: {TWO}: `.*uv.exe pip sync` failed with \d+:\n(  \| .*\n)+  \|   cause: .*{wheel.name}\n(.|\n)*\[hash-mismatch\]\n  hint: "
    assert re.search(words, said), said
    assert errors(said) == 1
    assert [len(list(cluster.home(host).glob("env/*/winfleet.json"))) for host in (ONE, TWO)] == [1, 0]


def test_the_first_deploy_trains_and_brings_all_home(cluster: Cluster) -> None:
    config = cluster.folder / "small.yaml"
    small = (ROOT / "molecule" / "hosts" / "train_config.yaml").read_text("utf-8")
    config.write_text(small.replace("wandb: false", "wandb: true"), "utf-8")
    cluster.variables.update(
        fleet_project=str(ROOT / "train"), fleet_data=str(ROOT / "data" / "text"), fleet_config=str(config)
    )
    done = cluster.play("deploy_and_train.yml", "fleet_run=first-of-all", seconds=420)
    assert done.returncode == 0, done.stdout
    fell = re.search(r"validation loss fell from ([0-9.]+) to ([0-9.]+) · 2 processes on 2 hosts", done.stdout)
    assert fell, done.stdout
    assert float(fell[2]) < float(fell[1])
    home = cluster.logs / "first-of-all"
    log = (home / ONE / "launcher.log").read_text("utf-8")
    milestones = (
        "Initializing distributed training...", "Rank 0/2 initialized", "All processes joined successfully",
        "Training started with 2 processes across 2 nodes",
    )  # fmt: skip
    places = [log.find(f"[INFO] {line}\n") for line in milestones]
    assert -1 not in places, log
    assert places == sorted(places), log
    for rank, host, outputs in ((0, ONE, home / "output"), (1, TWO, home / TWO / "output")):
        metrics = (home / host / f"metrics-rank{rank}.jsonl").read_text("utf-8").splitlines()
        assert any("loss" in json.loads(line) for line in metrics), metrics
        (run,) = outputs.glob("wandb/offline-run-*/run-*.wandb")
        noted = run.read_bytes()  # a name is noted with its length in front
        assert b"\x0cfirst-of-all" in noted, "the group is the run"
        assert b"\x05rank%d" % rank in noted
    assert "first-of-all" in (home / "report.html").read_text("utf-8")
    assert (home / "output" / "model" / "model.safetensors").exists()
    assert not (home / "data").exists(), "the data was here already"
    cluster.wait_for_the_end(20)


def take_numbers(cluster: Cluster) -> None:
    """Has two ranks on the second PC, and data."""
    data = cluster.folder / "numbers"
    data.mkdir(exist_ok=True)
    (data / "표.csv").write_text("1,2\n", "utf-8")
    cluster.hosts[TWO] = {"fleet_processes": 2}
    cluster.variables["fleet_data"] = str(data)


def test_an_own_script_on_one_and_two_ranks_is_seen_refused_stopped_and_continued(cluster: Cluster) -> None:
    take_numbers(cluster)
    begun = cluster.play("deploy_and_train.yml", SLOW, "fleet_run=own", "fleet_follow=false", seconds=START_SECONDS)
    assert begun.returncode == 0, begun.stdout
    cluster.wait_for_step("own", 5, START_SECONDS)
    for host, rank in ((ONE, 0), (TWO, 1), (TWO, 2)):
        assert f"rank {rank} of 3" in cluster.rank_log("own", host, rank)

    seen = cluster.play("status.yml").stdout
    assert re.search(r"Run own: step \d+/100000 · .* · 3/3 ranks up", seen), seen
    for host, rank in ((ONE, 0), (TWO, 1), (TWO, 2)):
        assert re.search(rf"^ *{rank} +{host} +training +\d+/100000 ", seen, re.MULTILINE), seen

    refused = cluster.play("deploy_and_train.yml", SLOW)
    assert refused.returncode != 0
    assert f"error: run own is going on on {ONE}, {TWO}" in refused.stdout

    assert len(cluster.of_runs(RANK)) >= 3, "what is looked for afterwards can be seen"
    stopped = cluster.play("stop.yml")
    assert stopped.returncode == 0, stopped.stdout
    steps = re.findall(r"run own stopped after step (\d+)", stopped.stdout)
    assert len(steps) == 2, stopped.stdout
    assert len(set(steps)) == 1, stopped.stdout
    assert {rank["step"] for host in cluster.hosts for rank in cluster.status(host, "own")["ranks"]} == {int(steps[0])}
    assert all((cluster.home(host) / "temp").is_dir() for host in cluster.hosts), "the user's own is not taken"
    work = cluster.home(ONE) / "runs" / "own" / "work"
    assert (work / "output" / "checkpoints" / f"step_{int(steps[0]):06d}" / "model.safetensors").exists()
    assert not cluster.of_runs()

    # The second deploy of the same code; -vvv shows each connection to a host and each PowerShell start.
    done = cluster.play(
        "deploy_and_train.yml", "fleet_command=bare.py --steps 4", "fleet_run=own", "-vvv", seconds=START_SECONDS
    )
    assert done.returncode == 0, done.stdout
    assert (cluster.logs / "own" / "result.txt").read_text("utf-8") == "3 ranks\n"
    assert {task for task, text in tasks(done.stdout) if "\nchanged: " in text} == {
        "accelerate_config : Make the plan",
        "accelerate_config : Write plan and Accelerate configuration",
        "launch : Start the launcher",
        "Bring the run's files home",
        "Write the report",
    }
    for host in cluster.hosts:
        asked = done.stdout.count(f"<{cluster.lab.address(host.lower())}> ESTABLISH WINRM CONNECTION")
        assert 0 < asked <= MOST_TASKS
    assert 0 < done.stdout.count(POWERSHELL) <= MOST_TASKS * len(cluster.hosts)
    following = dict(tasks(done.stdout))["launch : Follow the run"]
    assert "Run own: 3 processes on " in following
    assert "WINRM CONNECTION" not in following
    assert POWERSHELL not in following


@pytest.fixture
def own(cluster: Cluster) -> Cluster:
    """The cluster with what run `own` was deployed with; where no test before has had it, it is started and stopped."""
    take_numbers(cluster)
    if not (cluster.home(ONE) / "runs" / "own").exists():
        begun = cluster.play("deploy_and_train.yml", SLOW, "fleet_run=own", "fleet_follow=false", seconds=420)
        assert begun.returncode == 0, begun.stdout
        assert cluster.play("stop.yml").returncode == 0
    return cluster


def test_odd_data_odd_torch_and_a_closed_direction_are_named_on_their_pc(own: Cluster) -> None:
    cluster, words = own, ("fleet_command=bare.py --steps 2", "fleet_rehearsal=true", "fleet_rehearsal_steps=0")
    cluster.hosts[TWO] = {}
    (sent,) = cluster.home(TWO).glob("data/*/표.csv")
    with odd(cluster, TWO, sent):
        bad = cluster.play("preflight.yml", *words, seconds=START_SECONDS)
    assert bad.returncode != 0
    address, folder = cluster.lab.address(TWO.lower()), f"data/{sent.parent.name}"
    for problem in (
        rf"{ONE}, {TWO}: torch [0-9.]+\S* on {ONE} · 2\.9\.1 on {TWO}\n  hint: remove the newest folder below env/",
        rf"{TWO}: {folder} there has the digest [0-9a-f]{{12}}, not what was sent\n  hint: remove {folder} below",
        (
            rf"{ONE} -> {TWO}: TCP port \d+ \(of the dynamic range, as gloo takes\) of {address} cannot be reached: .+\n"
            rf"  hint: worker_setup\.yml opens TCP 49152-65535 in the firewall of {TWO} for {ONE}; "
        ),
    ):
        assert re.search(rf"^(error: )?{problem}", bad.stdout, re.MULTILINE), bad.stdout
    assert errors(bad.stdout) == 1
    assert bad.stdout.partition("\nerror: ")[2].count("\n  hint: ") == 3, bad.stdout
    assert re.search(rf"^System +Windows.*: {ONE} {TWO}$", bad.stdout, re.MULTILINE), bad.stdout

    good = cluster.play("preflight.yml", *words, seconds=START_SECONDS)
    assert good.returncode == 0, good.stdout
    assert re.search(rf"^ +{TWO} -> {ONE} +\d+ +[0-9.]+$", good.stdout, re.MULTILINE), good.stdout
    assert not re.search(rf"^(error|  ({ONE}|{TWO})): ", good.stdout, re.MULTILINE), good.stdout
    assert not (cluster.home(ONE) / "rehearsal").exists()


@contextlib.contextmanager
def odd(cluster: Cluster, host: str, sent: Path) -> Iterator[None]:
    """A PC that is not like the others: another file in its data, another torch, a firewall that keeps the others out."""
    data, (metadata,) = sent.read_bytes(), cluster.home(host).glob("env/*/Lib/site-packages/torch-*.dist-info/METADATA")
    whole = metadata.with_name("whole")
    metadata.rename(whole)  # it may have a second name in uv's cache
    try:
        metadata.write_text(re.sub("(?m)^Version: .*", "Version: 2.9.1", whole.read_text("utf-8")), "utf-8")
        sent.write_bytes(data.replace(b"2", b"3"))
        let_in(cluster, host, [host])
        yield
    finally:
        whole.replace(metadata)
        sent.write_bytes(data)
        let_in(cluster, host, list(cluster.hosts))


def let_in(cluster: Cluster, host: str, others: list[str]) -> None:
    """Has a PC's firewall let these, and nobody else, to gloo's ports."""
    addresses = ", ".join(f"'{cluster.lab.address(other.lower())}'" for other in others)
    script = cluster.folder / "let_in.ps1"
    script.write_text(f"Set-NetFirewallRule -Name winfleet-gloo -RemoteAddress {addresses}\n", "utf-8-sig")
    assert cluster.lab.run(host.lower(), script) == ""


def test_the_generated_configuration_serves_accelerate_launch_typed_on_each_pc(own: Cluster) -> None:
    cluster = own

    def type_at(host: str) -> "subprocess.Popen[str]":
        config = cluster.home(host) / "runs" / "own" / "accelerate.yaml"
        typed = next(line for line in config.read_text("utf-8").splitlines() if "accelerate.commands.launch" in line)
        script = cluster.folder / f"{host}.ps1"
        script.write_text(typed.removeprefix("#").replace("SCRIPT", rf"{WORK}\bare.py --steps 100"), "utf-8-sig")
        command = [str(LAB), "run", host.lower(), "--policy", "Bypass", str(script)]
        return subprocess.Popen(command, env=SETTINGS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    first, second = type_at(ONE), type_at(TWO)
    said = [process.communicate(timeout=patience(START_SECONDS))[0] for process in (first, second)]
    for rank, text in ((0, said[0]), (1, said[1]), (2, said[1])):
        assert f"rank {rank} of 3\n" in text, said
        assert f"rank {rank}: DistributedDataParallel over gloo\n" in text
    assert re.search(r"^loss fell from [0-9.]+ to [0-9.]+$", said[0], re.MULTILINE), said[0]
    assert not any(cluster.processes(host, "bare.py") for host in cluster.hosts)


def test_a_rank_that_raises_ends_all_ranks_of_both_hosts_and_all_go_on_from_rank_0s_checkpoint(
    cluster: Cluster,
) -> None:
    command = "fleet_command=saves.py --fail-step 17"
    with begun(cluster, command, "fleet_run=bad") as following:
        wait_until(lambda: "raise ValueError" in cluster.rank_log("bad", TWO, 1), START_SECONDS, "the exception")
        limit = patience(MOST_SECONDS)
        cluster.wait_for_the_end(MOST_SECONDS, RANK)
        ended = time.time()
        said, _ = following.communicate(timeout=patience(90))
    assert ended - cluster.status(TWO, "bad")["cause"]["time"] < limit, "from the exception on"
    # Without this word the other host would end its ranks only once it finds this launcher silent.
    assert cluster.status(ONE, "bad")["cause"]["text"] == f"a rank on {TWO} failed"
    assert following.returncode != 0
    assert (
        f"error: run bad failed: rank 1 on {TWO} failed (exit code 1): ValueError: on purpose: 손실이 이상합니다"
        in said
    )
    assert '  | [rank1]:     raise ValueError("on purpose: 손실이 이상합니다")' in said
    assert errors(said) == 1
    assert "ValueError: on purpose" in (cluster.logs / "bad" / "report.html").read_text("utf-8")
    cluster.wait_for_the_end(20)

    assert not list((cluster.home(TWO) / "runs" / "bad" / "work").rglob("model.pt")), "rank 0's host alone has it"
    done = cluster.play("deploy_and_train.yml", command, "fleet_run=bad", seconds=START_SECONDS)
    assert done.returncode == 0, done.stdout
    for host, rank in ((ONE, 0), (TWO, 1)):
        first, second = cluster.rank_log("bad", host, rank).split(f"rank {rank} goes on after step 15")
        before, again = losses(first), losses(second)
        assert list(again) == ["16", "17", "18", "19", "20"]
        assert "16" in before, "so that what an uninterrupted run has there is known"
        both = before.keys() & again.keys()
        assert [again[step] for step in both] == pytest.approx([before[step] for step in both], abs=1e-6)
    assert (cluster.logs / "bad" / "out" / "step_000020" / "model.pt").is_file()


def test_hosts_of_one_and_two_ranks_average_and_hold_the_same_weights_bit_for_bit(cluster: Cluster) -> None:
    cluster.hosts[TWO] = {"fleet_processes": 2}
    command = ("fleet_command=averages.py plain 12", "fleet_average_every=4", "fleet_run=averaged")
    done = cluster.play("deploy_and_train.yml", *command, seconds=START_SECONDS)
    assert done.returncode == 0, done.stdout
    logs = [cluster.rank_log("averaged", host, rank) for host, rank in ((ONE, 0), (TWO, 1), (TWO, 2))]
    for words in ("step 4 .*", "step 12 .*", "at last"):
        assert len({re.findall(rf"{words} ([0-9a-f]{{12}})$", log, re.MULTILINE)[0] for log in logs}) == 1, logs
    report = (cluster.logs / "averaged" / "report.html").read_text("utf-8")
    assert re.search(r"(?i)hosts have averaged their weights [34] times: each sent [0-9.]+ MB", report)

    cluster.variables.update(
        fleet_project=str(ROOT / "train"), fleet_data=str(ROOT / "data" / "text"),
        fleet_config=str(ROOT / "molecule" / "hosts" / "train_config.yaml"),
    )  # fmt: skip
    done = cluster.play("deploy_and_train.yml", "fleet_average_every=5", "fleet_run=default-averaged", seconds=420)
    assert done.returncode == 0, done.stdout
    fell = re.search(r"validation loss fell from ([0-9.]+) to ([0-9.]+) · 3 processes on 2 hosts", done.stdout)
    assert fell, done.stdout
    assert float(fell[2]) < float(fell[1])


def test_the_end_of_a_launcher_ends_its_ranks_and_the_run(cluster: Cluster) -> None:
    with begun(cluster, SLOW, "fleet_run=killed", "launch_silent_seconds=12") as following:
        cluster.wait_for_step("killed", 3, START_SECONDS)
        assert cluster.processes(TWO, RANK)
        pid = cluster.status(TWO, "killed")["launcher_pid"]
        cluster.lab.do("run", TWO.lower(), "taskkill.exe", "/F", "/PID", str(pid))
        wait_until(lambda: not cluster.processes(TWO, LAUNCHER, RANK), 10, f"the end of all processes on {TWO}")
        cluster.wait_for_the_end(30, RANK)
        said, _ = following.communicate(timeout=patience(START_SECONDS))
    assert following.returncode != 0
    assert f"lost {TWO}: no beat of its launcher for 10 s" in said
    cluster.wait_for_the_end(20)


def test_what_a_pc_shows_by_itself_is_proved_and_a_planted_fault_turns_its_claim_red(cluster: Cluster) -> None:
    """Somebody listens where WinRM without encryption would, and a rule lets the others in."""
    script = cluster.folder / "rule.ps1"
    script.write_text(
        "New-NetFirewallRule -Name planted -DisplayName planted -Direction Inbound -Protocol TCP -LocalPort 5985 | Out-Null\n",
        "utf-8-sig",
    )
    assert cluster.lab.run(TWO.lower(), script) == ""
    try:
        with stranger(cluster, TWO, 5985):
            done = cluster.play(
                "prove.yml",
                "fleet_prove_agreed=true",
                "fleet_prove_only=task-settings,task-runs,long-paths,keeps-awake,port-scan",
            )
    finally:
        script.write_text("Remove-NetFirewallRule -Name planted\n", "utf-8-sig")
        assert cluster.lab.run(TWO.lower(), script) == ""
    assert ": 3 proved, 1 failed, 1 not applicable\n" in done.stdout, done.stdout
    assert f"  failed: port-scan: {TWO}: port 5985 is open; {ONE}: {TWO}: port 5985 is open\n" in done.stdout, (
        done.stdout
    )
    assert "error: not proved: port-scan\n" in done.stdout


def test_all_that_two_pcs_can_show_is_proved(cluster: Cluster) -> None:
    done = cluster.play("prove.yml", "fleet_prove_agreed=true", seconds=1200)
    red = re.findall("^  failed: ([a-z-]+): ", done.stdout, re.MULTILINE)
    assert set(red) <= {"prediction"}, done.stdout  # a machine in use has another speed
    assert re.search(r": 1\d proved", done.stdout), done.stdout
