"""Hosts that send nothing for some steps, and then what has changed: the script knows nothing of it."""

import hashlib
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import ENVIRONMENT, SCRIPTS, needs_namespaces, patience, wait_until
from launchers import Launch, copied, launch
from namespaces import in_namespaces, made
from programs import end_ranks
from run_hosts import RunHosts
from winfleet import averaging
from winfleet.averaging.bits import BLOCK, PART, decode, encode
from winfleet.core.sending import Sending
from winfleet.core.status import fetch
from winfleet.rank.meter import Meter
from winfleet.rank.process import bind_gloo
from winfleet.view.verdict import find_culprit, find_slowest

__all__ = ["copied", "launch"]
SCRIPT = SCRIPTS / "averages.py"


def run(folder: Path, variant: str, processes: Sequence[int] = (1, 1), *, ends: int = 0, **settings: Any) -> list[str]:
    """What each rank of the script's variant printed, with so many processes on each host."""
    environment = dict(ENVIRONMENT)
    Sending(**settings).export(processes, environment)
    words = ("-m", "winfleet.runner", SCRIPT, variant)
    ended = end_ranks(folder, *words, ranks=sum(processes), environment=environment)
    assert (ended[0].returncode != 0) == (ends != 0), "\n".join(rank.stdout + rank.stderr for rank in ended)
    return [rank.stdout + rank.stderr for rank in ended]


def weights(logs: Sequence[str], what: str) -> list[str]:
    """The digests behind such words, of each rank."""
    return [re.findall(rf"{what}.* ([0-9a-f]{{12}})$", log, re.MULTILINE)[-1] for log in logs]


def losses(log: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"loss (\S+) ", log)]


def back(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """The numbers as they arrive."""
    out = torch.empty_like(numbers)
    decode(encode(numbers, bits), bits, out)
    return out


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_numbers_in_few_bits_are_off_by_half_a_scale_at_most(bits: int) -> None:
    blocks = PART // BLOCK + 3  # more than are worked on at a time
    numbers = torch.randn(blocks * BLOCK) * torch.logspace(-6, 3, blocks * BLOCK)
    numbers[:BLOCK] = 0
    peak = numbers.view(-1, BLOCK).abs().amax(-1, keepdim=True)
    off = {32: 0 * peak, 16: peak * 2**-11 + 1e-7, 8: peak / 127 / 2, 4: peak / 7 / 2}[bits]
    found = back(numbers, bits)
    assert ((found - numbers).view(-1, BLOCK).abs() <= off * 1.001).all()
    assert (found[:BLOCK] == 0).all()
    assert len(encode(numbers, bits)) == blocks * (BLOCK * bits // 8 + (4 if bits < 16 else 0))
    twice = numbers.clone()
    decode(encode(numbers, bits), bits, twice, add=True)
    assert torch.equal(twice, numbers + found)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bits: int, value: float) -> None:
    numbers = torch.ones(2 * BLOCK)
    numbers[3] = value
    found = back(numbers, bits)
    assert not found[:BLOCK].isfinite().any()
    assert found[BLOCK:].isfinite().all()


@pytest.mark.parametrize(("processes", "bits"), [((1, 1), 8), ((1, 1), 32), ((2, 1), 4), ((1, 1, 1), 16)])
def test_weights_come_together_every_few_steps(tmp_path: Path, processes: tuple[int, ...], bits: int) -> None:
    logs = run(tmp_path, "plain", processes, average_every=4, average_bits=bits)
    for step in (4, 8, 12):
        assert len(set(weights(logs, f"step {step} "))) == 1
    assert len(set(weights(logs, "step 6 "))) == len(processes)  # a host's ranks stay together meanwhile
    assert len(set(weights(logs, "at last"))) == 1
    assert sum(losses(logs[0])[-3:]) < 0.7 * sum(losses(logs[0])[:3])


def test_the_outer_step_is_made_of_the_mean(tmp_path: Path) -> None:
    """Momentum 0 and a learning rate of 1 are the plain mean, so one round and what a barrier does are the same."""
    mean, step = (
        weights(run(tmp_path, "plain", average_every=12, average_bits=32, average_outer=outer), "step 12 ")[0]
        for outer in ((1.0, 0.0), (1.0, 0.5))
    )
    assert mean == weights(run(tmp_path, "plain", average_every=50, average_bits=32), "at last")[0]
    assert step != mean


@pytest.mark.parametrize("variant", ["buffers", "static", "scaler", "uneven", "frozen"])
def test_what_scripts_do_besides_keeps_ranks_together(tmp_path: Path, variant: str) -> None:
    logs = run(tmp_path, variant, average_every=4)
    assert len(set(weights(logs, "at last"))) == 1
    if variant not in ("uneven", "scaler"):
        assert len(set(weights(logs, "step 8 "))) == 1
    if variant == "uneven":  # 12 steps and 7: the rank that has ended takes part in the other's rounds
        assert [re.findall(r"step (\d+) ", log)[-1] for log in logs] == ["12", "7"]


def test_what_is_saved_behind_a_barrier_is_the_mean(tmp_path: Path) -> None:
    logs = run(tmp_path, "barrier", average_every=50)
    assert len(set(weights(logs, "step 5 "))) == 2
    assert len(set(weights(logs, "saved"))) == 1


def test_ranks_that_begin_with_other_weights_take_those_of_rank_0_and_that_is_said(tmp_path: Path) -> None:
    logs = run(tmp_path, "other weights", average_every=4)
    said = "winfleet: ranks began a round with different weights; those of rank 0 are taken"
    assert [said in log for log in logs] == [True, False]
    assert len(set(weights(logs, "step 9 "))) == 1


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("FSDP", "FSDP needs all ranks on every step, so its weights cannot be averaged every few steps"),
        ("DeepSpeed", "DeepSpeed needs all ranks on every step, so its weights cannot be averaged every few steps"),
        ("ZeroRedundancyOptimizer", "ZeroRedundancyOptimizer needs all ranks on every step"),
        ("SyncBatchNorm", "1 is a SyncBatchNorm, which needs all ranks in every forward pass"),
        ("own group", "a DistributedDataParallel has a process group of the script's own, not all ranks"),
        ("no DDP", "AdamW trains no model of DistributedDataParallel"),
        ("frozen on one", "ranks train different numbers of weights: rank 0 161, rank 1 17"),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(tmp_path: Path, variant: str, said: str) -> None:
    (tmp_path / "deepspeed.py").write_text("def initialize(model):\n    return model\n")
    log = "\n".join(run(tmp_path, variant, ends=1, average_every=4))  # who says it first ends the others
    assert said in log
    assert "hint: " in log
    assert variant == "frozen on one" or "step 1 " not in log


def average_by(rank: int, address: str, folder: str) -> str:
    """A digest of a rank's weights behind some rounds, in a network namespace of its own."""
    bind_gloo(address)
    torch.set_num_threads(1)  # a forked process waits for ever for the threads of OpenMP that its parent had
    averaging.install(Sending(average_every=2), (1, 1), Meter(None))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1000, 1000))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(6):
        model(torch.randn(4, 1000)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    dist.barrier()
    dist.destroy_process_group()
    flat = torch.cat([one.detach().reshape(-1) for one in model.parameters()])
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


@needs_namespaces
def test_a_link_that_loses_one_packet_in_a_hundred_carries_averages(tmp_path: Path) -> None:
    with made(2, "10.71.9") as nets:
        for net in nets:
            net.drop("ip protocol tcp numgen random mod 100 == 0 counter drop;")
        given = [(rank, net.address, str(tmp_path)) for rank, net in enumerate(nets)]
        assert len(set(in_namespaces(nets, average_by, given, patience(60)))) == 1
        lost = [net.command("nft", "list", "ruleset") for net in nets]
        counted = [subprocess.run(words, check=True, capture_output=True, text=True).stdout for words in lost]
        assert all(int(re.findall(r"packets (\d+)", text)[0]) > 0 for text in counted)


def test_unequal_steps_are_for_hosts_and_not_for_ranks_of_one(tmp_path: Path) -> None:
    assert "Join lets ranks of one host take unequal steps" in run(tmp_path, "join", (2, 1), ends=1, average_every=4)[0]
    assert len(set(weights(run(tmp_path, "join", (1, 1), average_every=4), "at last"))) == 1


def test_a_collective_of_one_rank_alone_is_named_with_the_steps_of_all(launch: Launch) -> None:
    sending = Sending(average_every=4)
    cluster = launch((1, 1), str(SCRIPT), "own collective", sending=sending, stuck_seconds=round(patience(3)))

    def said() -> str:
        return find_culprit([fetch(f"127.0.0.{host}") for host in (1, 2)]) or ""

    cluster.wait_for_training()
    wait_until(said, 30, "a word of the ranks that wait for one another")
    place = r"rank 0 waits for all ranks in averages.py:\d+ in prepare, in all_reduce \(optimizer step 5\)"
    assert re.match(rf"{place}, rank 1 in an exchange of weights \(step 8\): ", said())
    assert "torch.distributed.barrier() on every rank" in said()
    cluster.stop(0, 1, grace_seconds=1)
    assert cluster.ends() == [3, 3]


def test_a_host_that_goes_away_in_an_exchange_is_named(launch: Launch) -> None:
    cluster = launch((1, 1), str(SCRIPT), "stands", sending=Sending(average_every=2))
    cluster.wait_for_training()
    wait_until(lambda: cluster.status(0)["ranks"][0]["meets"], 60, "an exchange that waits for a rank")
    cluster.launchers[1].kill()
    code, said = cluster.end(0, seconds=15)
    assert code == 1
    assert "lost pc2" in said


def test_a_host_four_times_slower_is_named_and_all_do_the_same_steps(launch: Launch) -> None:
    cluster = launch((1, 1), str(SCRIPT), "slow", "100000", sending=Sending(average_every=4))

    def slowest() -> str:
        return find_slowest([fetch(f"127.0.0.{host}") for host in (1, 2)]) or ""

    cluster.wait_for_training()
    wait_until(slowest, 30, "who is slowest")
    assert re.match(r"rank 1 on pc2 is slowest: it computes 0\.2\d* s a step, the others 0\.0\d+ s$", slowest())
    quick = fetch("127.0.0.1").ranks[0]
    assert quick.communication_seconds is not None
    assert quick.compute_seconds is not None
    assert quick.communication_seconds > quick.compute_seconds
    cluster.stop(0, grace_seconds=30)
    assert cluster.ends() == [3, 3]
    assert len({cluster.status(host)["ranks"][0]["count"] for host in (0, 1)}) == 1


def test_a_stop_ends_a_round_early_and_all_ranks_have_the_same(launch: Launch) -> None:
    cluster = launch((1, 1), str(SCRIPT), "plain", "100000", sending=Sending(average_every=1000))
    cluster.wait_for_training()
    cluster.stop(0, grace_seconds=30)
    assert cluster.ends() == [3, 3]
    steps = {re.findall(r"after step (\d+)", "\n".join(cluster.log(rank, rank)))[0] for rank in (0, 1)}
    assert len(steps) == 1
    for host in (0, 1):
        rank = cluster.status(host)["ranks"][0]
        assert rank["rounds"] >= 1
        assert rank["round_bytes"] > 0
        assert 0 < rank["spread"] < 1


@pytest.mark.parametrize(
    ("script", "stop", "checkpoint"),
    [
        ("hf_trainer.py", 11, "out/checkpoint-{}/model.safetensors"),
        ("lightning_fit.py", 18, "lightning_logs/version_0/checkpoints/epoch=1-step={}.ckpt"),
    ],
)
def test_librarys_trainers_average_save_and_end_with_the_mean(
    tmp_path: Path, script: str, stop: int, checkpoint: str
) -> None:
    hosts = RunHosts(tmp_path, SCRIPTS / "libraries" / script)
    sending = Sending(average_every=4)
    hosts.launch(stop_at=stop, sending=sending)
    stopped = hosts.rank(1)
    assert stopped.rounds > stop // 4
    saved = checkpoint.format(stopped.step)
    assert (hosts.work(1) / saved).is_file()
    beside = [path.name for path in (hosts.work(2) / saved).parent.glob("winfleet_momentum*.pt")]
    assert beside == ["winfleet_momentum_1.pt" if "safetensors" in saved else "winfleet_momentum.pt"]
    hosts.launch(sending=sending)
    whole = saved.removesuffix("/model.safetensors")
    assert f"winfleet: the momentum of averages goes on from {whole}\n" in hosts.log(1)
    ends = {re.findall(r"^WEIGHTS (\w+)$", hosts.log(number), re.MULTILINE)[0] for number in (1, 2)}
    assert len(ends) == 1
    assert all(hosts.rank(number).rounds >= 3 for number in (1, 2))


def test_gradients_in_16_bits_train_as_those_in_32(tmp_path: Path) -> None:
    whole, half = (run(tmp_path, "plain", gradients=gradients) for gradients in ("fp32", "fp16"))
    assert losses(half[0]) == pytest.approx(losses(whole[0]), rel=0.01)
    assert weights(half, "at last") != weights(whole, "at last"), "they were sent in other bits"
    assert len(set(weights(half, "at last"))) == 1


def test_what_does_not_fit_into_16_bits_is_sent_in_32(tmp_path: Path) -> None:
    logs = run(tmp_path, "overflow", gradients="fp16")
    said = "winfleet: gradients of a step were too large for 16 bits and were sent in 32; said once"
    assert [log.count(said) for log in logs] == [1, 0]
    assert len(set(weights(logs, "step 4 "))) == len(set(weights(logs, "at last"))) == 1
    assert "nan" not in logs[0]
