"""Hosts that send nothing for some steps, and then what has changed: the script knows nothing of it."""

import re
from collections.abc import Sequence

import pytest
from conftest import SCRIPTS
from launchers import Cluster, Launch, copied, launch
from winfleet.core.sending import Sending

__all__ = ["copied", "launch"]
SCRIPT = str(SCRIPTS / "averages.py")


def run(
    launch: Launch, processes: Sequence[int], *words: str, ends: Sequence[int] = (0, 0), **settings: object
) -> Cluster:
    """The script's variant on hosts with so many processes each."""
    cluster = launch(processes, SCRIPT, *words, sending=Sending(**settings))  # type: ignore[arg-type]
    assert cluster.ends() == list(ends), "\n\n".join(logs(cluster))
    return cluster


def logs(cluster: Cluster) -> list[str]:
    """Of all ranks."""
    return [
        "\n".join(cluster.log(host.machine_rank, host.first_rank + local))
        for host in cluster.plan.hosts
        for local in range(host.processes)
    ]


def weights(cluster: Cluster, what: str) -> list[str]:
    """The digests behind such words, of each rank."""
    return [re.findall(rf"{what}.* ([0-9a-f]{{12}})$", log, re.MULTILINE)[-1] for log in logs(cluster)]


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
@pytest.mark.parametrize("processes", [(1, 1), (2, 1)], ids=["1 and 1", "2 and 1"])
def test_weights_come_together_every_few_steps(launch: Launch, processes: tuple[int, int], bits: int) -> None:
    cluster = run(launch, processes, "plain", average_every=4, average_bits=bits)
    for step in (4, 8, 12):
        assert len(set(weights(cluster, f"step {step} "))) == 1
    assert len(set(weights(cluster, "step 6 "))) == 2  # each host trains by itself meanwhile, its ranks together
    assert len(set(weights(cluster, "at last"))) == 1
    losses = [float(loss) for loss in re.findall(r"loss (\d\S*) ", logs(cluster)[0])]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("variant", ["buffers", "static", "scaler", "uneven", "frozen"])
def test_what_scripts_do_besides_keeps_ranks_together(launch: Launch, variant: str) -> None:
    cluster = run(launch, (1, 1), variant, average_every=4)
    assert len(set(weights(cluster, "at last"))) == 1
    if variant not in ("uneven", "scaler"):
        assert len(set(weights(cluster, "step 8 "))) == 1
    if variant == "uneven":  # 12 steps and 7: the rank that has ended takes part in the other's rounds
        assert [re.findall(r"step (\d+) ", log)[-1] for log in logs(cluster)] == ["12", "7"]
    status = cluster.status(0)["ranks"][0]
    assert status["rounds"] >= 3
    assert status["round_bytes"] > 0
    assert 0 < status["spread"] < 1


def test_what_is_saved_behind_a_barrier_is_the_mean(launch: Launch) -> None:
    cluster = run(launch, (1, 1), "barrier", average_every=50)
    assert len(set(weights(cluster, "step 5 "))) == 2
    assert len(set(weights(cluster, "saved"))) == 1


def test_ranks_that_begin_with_other_weights_take_those_of_rank_0_and_that_is_said(launch: Launch) -> None:
    cluster = run(launch, (1, 1), "other weights", average_every=4)
    assert "winfleet: ranks began a round with different weights; those of rank 0 are taken" in logs(cluster)[0]
    assert len(set(weights(cluster, "step 4 "))) == 1


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("FSDP", "FSDP needs all ranks on every step, so its weights cannot be averaged every few steps"),
        ("ZeroRedundancyOptimizer", "ZeroRedundancyOptimizer needs all ranks on every step"),
        ("SyncBatchNorm", "1 is a SyncBatchNorm, which needs all ranks in every forward pass"),
        ("own group", "a DistributedDataParallel has a process group of the script's own, not all ranks"),
        ("no DDP", "AdamW trains no model of DistributedDataParallel"),
        ("frozen on one", "ranks train different numbers of weights: rank 0 161, rank 1 17"),
    ],
)
def test_what_cannot_be_averaged_is_refused_by_name(launch: Launch, variant: str, said: str) -> None:
    cluster = run(launch, (1, 1), variant, ends=(1, 1), average_every=4)
    assert said in logs(cluster)[0]
    assert "hint: " in logs(cluster)[0]
    assert variant == "frozen on one" or "step 1 " not in logs(cluster)[0]


def test_a_stop_ends_a_round_early_and_all_ranks_have_the_same(launch: Launch) -> None:
    cluster = launch((1, 1), SCRIPT, "plain", "100000", sending=Sending(average_every=1000))
    cluster.wait_for_training()
    cluster.stop(0, grace_seconds=30)
    assert cluster.ends() == [3, 3]
    steps = {re.findall(r"asked to stop after step (\d+)", log)[0] for log in logs(cluster)}
    assert len(steps) == 1
    assert {host["ranks"][0]["rounds"] for host in (cluster.status(0), cluster.status(1))} == {1}


def test_gradients_in_16_bits_train_as_those_in_32(launch: Launch) -> None:
    losses, ends = {}, {}
    for gradients in ("fp32", "fp16"):
        cluster = run(launch, (1, 1), "plain", gradients=gradients)
        (ends[gradients],) = set(weights(cluster, "at last"))
        losses[gradients] = [float(loss) for loss in re.findall(r"loss (\d\S*) ", logs(cluster)[0])]
        for host in cluster.plan.hosts:
            (cluster.folder / host.name).rename(cluster.folder / f"{host.name}-{gradients}")
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.01)
    assert ends["fp16"] != ends["fp32"], "they were sent in other bits"


def test_what_does_not_fit_into_16_bits_is_sent_in_32(launch: Launch) -> None:
    cluster = run(launch, (1, 1), "overflow", gradients="fp16")
    said = "winfleet: gradients of a step were too large for 16 bits and were sent in 32; said once"
    assert logs(cluster)[0].count(said) == 1
    assert said not in logs(cluster)[1]
    assert len(set(weights(cluster, "step 4 "))) == len(set(weights(cluster, "at last"))) == 1
    assert "nan" not in logs(cluster)[0]
