"""The predicted speed: what it is made of, how it grows and shrinks, and what comes from a file is read as data."""

import dataclasses
import itertools
import json
import math
import sys
from typing import Any

import pytest
import torch
from conftest import needs_namespaces, patience
from programs import output_of
from winfleet.rehearsal.advice import advise, choose_every, predict_run, with_cable, with_workers
from winfleet.rehearsal.allreduce import (
    BUCKET,
    FIRST_BUCKET,
    MIB,
    PredictionError,
    RingLink,
    ddp_buckets,
    even_buckets,
    overlapped,
    ring_seconds,
    wire_seconds,
)
from winfleet.rehearsal.prediction import (
    AllReduce,
    HostSpeed,
    Measured,
    Prediction,
    averaging_seconds,
    least_every,
    predict,
    table,
)

GIGABIT = RingLink(bytes_per_second=117e6, latency_seconds=1e-4)


def pc(number: int, **values: Any) -> HostSpeed:
    given = {"name": f"pc{number}", "kind": "RTX 4070", "ranks": 1, "micro_batch_seconds": 0.3, **values}
    return HostSpeed(**given)


def measured(*hosts: HostSpeed, **values: Any) -> Measured:
    given = {"hosts": hosts or (pc(1), pc(2)), "gradient_bytes": 400 * MIB, "samples": 8, "link": GIGABIT, **values}
    return Measured(**given)


def test_buckets_are_those_of_ddp() -> None:
    assert even_buckets(100 * MIB) == (FIRST_BUCKET, BUCKET, BUCKET, BUCKET, 24 * MIB)
    assert even_buckets(26 * MIB) == (FIRST_BUCKET, BUCKET)
    assert even_buckets(100) == (100,)
    assert even_buckets(0) == ()
    assert ddp_buckets([MIB // 2] * 3) == (MIB, MIB // 2)
    assert ddp_buckets([MIB, 20 * MIB, 20 * MIB, 3]) == (MIB, 40 * MIB, 3), "a gradient is never split"
    assert ddp_buckets([]) == ()
    sizes = [size * MIB // 8 for size in (3, 4, 5, 150, 1, 60, 7, 1, 1, 300, 2)]
    gradients = [torch.empty(size, dtype=torch.uint8, device="meta") for size in sizes]
    indices, _ = torch.distributed._compute_bucket_assignment_by_size(gradients, [FIRST_BUCKET, BUCKET])
    assert ddp_buckets(sizes) == tuple(sum(sizes[index] for index in bucket) for bucket in indices)


def test_a_large_all_reduce_is_bound_by_bandwidth_and_a_small_one_by_round_trips() -> None:
    assert ring_seconds(100 * MIB, 1, GIGABIT) == 0.0
    assert ring_seconds(0, 4, GIGABIT) == 0.0
    for ranks in (2, 4, 16):
        large = 2 * (ranks - 1) / ranks * 100 * MIB / 117e6
        assert ring_seconds(100 * MIB, ranks, GIGABIT) == pytest.approx(large, rel=0.02)
        assert wire_seconds(100 * MIB, ranks, GIGABIT) == pytest.approx(large)
        far = RingLink(bytes_per_second=117e6, latency_seconds=0.05)
        # a round trip for each of 2(R - 1) steps
        assert ring_seconds(4, ranks, far) == pytest.approx(2 * (ranks - 1) * 2 * 0.05, rel=0.01)


# Of gloo (torch 2.13) on emulated links of 10 MB/s: ranks, one way's latency in s, KiB, seconds that it took.
@pytest.mark.parametrize(
    ("ranks", "latency", "kib", "seconds"),
    [
        (2, 0.0202, 1, 0.082), (2, 0.0202, 4096, 0.509), (2, 0.0203, 16384, 1.920), (2, 0.0804, 1, 0.326),
        (2, 0.0804, 16384, 2.962), (4, 0.0202, 1, 0.247), (4, 0.0202, 8192, 1.330),
        (4, 0.0202, 32768, 5.112), (4, 0.0805, 1, 0.985), (4, 0.0805, 8192, 1.865), (4, 0.0805, 32768, 7.012),
    ],
)  # fmt: skip
def test_an_all_reduce_takes_what_gloos_took(ranks: int, latency: float, kib: int, seconds: float) -> None:
    link = RingLink(bytes_per_second=9.99e6, latency_seconds=latency)
    assert ring_seconds(kib * 1024, ranks, link) == pytest.approx(seconds, rel=0.08)


def test_all_reduces_overlap_with_what_makes_them_ready_and_with_one_another() -> None:
    assert overlapped([], [], []) == 0.0
    assert overlapped([1, 2, 3], [0.5] * 3, [0.5] * 3) == 3.5, "each is done before the next is ready: the last is seen"
    assert overlapped([1, 2, 3], [4] * 3, [4] * 3) == 13, "one after another on a full link"
    assert overlapped([0, 0, 0], [4] * 3, [1] * 3) == 8, "two at a time where the link is not full"


def test_one_rank_pays_for_no_network() -> None:
    row = predict(measured(), 1)
    assert (row.step_seconds, row.network_seconds, row.speed_up, row.limit) == (0.3, 0.0, 1.0, "compute")
    assert row.samples_per_second == pytest.approx(8 / 0.3)


def test_a_slow_network_can_make_two_pcs_slower_than_one() -> None:
    row = predict(measured())
    # 2(R-1)/R * 400 MiB at 117 MB/s are 3.585 s; buckets begin to leave as soon as the first MiB is there
    assert row.step_seconds == pytest.approx(0.1 + 0.2 / 400 + 3.585, rel=0.01)
    assert row.speed_up == pytest.approx(2 * 0.3 / row.step_seconds)
    assert row.speed_up < 1
    assert row.limit == "network"


def test_the_last_bucket_is_seen_even_on_a_fast_network() -> None:
    slow_compute = measured(pc(1, micro_batch_seconds=60.0), pc(2, micro_batch_seconds=60.0))
    last = even_buckets(400 * MIB)[-1]
    assert predict(slow_compute).network_seconds == pytest.approx(ring_seconds(last, 2, GIGABIT))


def test_ranks_of_one_host_share_a_card_without_more_traffic() -> None:
    wide = measured(pc(1, ranks=4), pc(2, ranks=4))
    narrow = measured(*(pc(number) for number in range(8)))
    assert predict(wide).step_seconds == pytest.approx(predict(narrow).step_seconds)
    assert predict(wide, 4).network_seconds == 0.0, "one host alone, and nothing known of its own link"
    local = RingLink(bytes_per_second=1e9, latency_seconds=1e-5)
    assert predict(dataclasses.replace(wide, local=local), 4).network_seconds > 0.0
    assert predict(measured(), 16, ranks_per_host=4).hosts == 4


def test_a_measured_all_reduce_says_how_well_the_link_is_filled() -> None:
    twice = AllReduce(size_bytes=400 * MIB, ranks=2, hosts=2, seconds=2 * ring_seconds(400 * MIB, 2, GIGABIT))
    inside = dataclasses.replace(twice, hosts=1)
    hosts = [pc(number, backward_seconds=0.0) for number in (1, 2)]  # which hides nothing
    plain, slow = predict(measured(*hosts)), predict(measured(*hosts, all_reduces=(twice,)))
    assert slow.network_seconds / plain.network_seconds == pytest.approx(2)
    assert predict(measured(*hosts, all_reduces=(inside,))) == plain, "one within a host says nothing of the network"


def test_unequal_hosts_wait_for_the_slowest() -> None:
    mixed = measured(pc(1, micro_batch_seconds=0.9, kind="GTX 1060"), pc(2), gradient_bytes=0)
    row = predict(mixed)
    assert (row.compute_seconds, row.limit) == (0.3, "slowest host")
    assert row.waiting_seconds == pytest.approx(0.6)
    assert row.speed_up == pytest.approx(2 / 3), "against the fastest alone"
    assert predict(mixed, 1).speed_up == 1.0
    assert advise(mixed)[0].name == "hosts"
    assert advise(mixed)[0].gain == pytest.approx(1.5)
    assert "--limit '!pc1'" in advise(mixed)[0].setting


def test_loading_data_slower_than_computing_limits() -> None:
    hungry = measured(pc(1, data_seconds=1.2), pc(2, data_seconds=1.2), gradient_bytes=4)
    assert predict(hungry).limit == "data loading"
    assert predict(hungry).speed_up == pytest.approx(2, rel=0.01), "one rank alone waits for its data, too"
    best = advise(hungry)[0]
    assert best.name == "num_workers"
    assert best.gain == pytest.approx(5.0, rel=0.01), "4 load in 0.3 s what takes 1.2 s"
    half = with_workers(dataclasses.replace(hungry, num_workers=1), 2)
    assert half.hosts[0].data_seconds == pytest.approx(1.5 / 2 - 0.3), "one worker that gives a batch in 1.5 s"


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 16])
def test_more_bandwidth_and_accumulation_never_cost_and_more_bytes_never_gain(ranks: int) -> None:
    def speeds(cases: list[Measured]) -> list[float]:
        return [predict(case, ranks).samples_per_second for case in cases]

    links = [RingLink(bytes_per_second=bandwidth, latency_seconds=2e-4) for bandwidth in (1e7, 1e8, 3e8, 1e9, 1e10)]
    for found in (
        speeds([measured(link=link) for link in links]),
        speeds([measured(accumulation=accumulation) for accumulation in (1, 2, 4, 64)]),
        speeds([measured(gradient_bytes=size) for size in (10**9, 10**8, 10**7, 10**6, 1, 0)]),
        speeds([measured(link=RingLink(bytes_per_second=1e9, latency_seconds=late)) for late in (1.0, 0.1, 1e-3, 0.0)]),
    ):
        assert found == sorted(found)
    assert speeds([measured(gradient_bytes=0)])[0] == pytest.approx(ranks * 8 / 0.3)


def test_units_cancel() -> None:
    """Links and compute slowed by one common factor: a step takes as many times as long, and nothing else changes."""
    slow = measured(
        pc(1, micro_batch_seconds=30.0), pc(2, micro_batch_seconds=30.0),
        link=RingLink(bytes_per_second=1.17e6, latency_seconds=1e-2),
    )  # fmt: skip
    for ranks in (1, 2, 8):
        one, hundred = predict(measured(), ranks), predict(slow, ranks)
        assert hundred.step_seconds == pytest.approx(100 * one.step_seconds)
        assert hundred.speed_up == pytest.approx(one.speed_up)


def test_advice_is_the_same_prediction_with_the_setting_and_the_best_comes_first() -> None:
    base = measured()
    found = advise(base)
    gains = [advice.gain for advice in found]
    assert gains == sorted(gains, reverse=True)
    assert all(gain >= 1.02 for gain in gains)
    assert {"accumulation", "fp16", "averaging", "cable"} == {advice.name for advice in found}
    now = predict(base).samples_per_second
    by_setting = {advice.setting: advice for advice in found}
    four = next(advice for setting, advice in by_setting.items() if setting.startswith("gradient accumulation over 4"))
    assert four.samples_per_second == predict(dataclasses.replace(base, accumulation=4)).samples_per_second
    fp16 = next(advice for advice in found if advice.name == "fp16")
    assert fp16.gain == pytest.approx(predict(dataclasses.replace(base, gradients="fp16")).samples_per_second / now)
    faster = with_cable(base, 10)
    assert faster is not None
    assert faster.link is not None
    assert faster.link.bytes_per_second == pytest.approx(1.177e9, rel=0.001)
    assert with_cable(base, 0.1) is None
    averaging = next(advice for advice in found if advice.name == "averaging")
    assert averaging.setting.startswith("fleet_average_every: 128, ")
    assert averaging.gain == pytest.approx(predict(measured(average_every=128)).samples_per_second / now)


def test_an_average_costs_its_share_of_a_round_and_within_a_host_ranks_send_as_always() -> None:
    base = measured()  # 105 million weights at 0.3 s a step
    exchange = averaging_seconds(base, 2)
    assert exchange == pytest.approx(105e6 * (1 + 1 / 256) / 117e6 + 105e6 * 2e-8, rel=0.01)
    assert averaging_seconds(measured(average_bits=32), 2) > 1.8 * exchange
    assert predict(measured(average_every=10**9)).speed_up == pytest.approx(2)
    assert predict(measured(average_every=10)).step_seconds == pytest.approx(0.3 + exchange / 10)
    assert [least_every(measured(gradient_bytes=size * MIB)) for size in (1, 100, 10_000)] == [8, 64, 128]
    local = RingLink(bytes_per_second=1e9)
    both = measured(pc(1, ranks=2), pc(2, ranks=2), local=local)
    far = predict(dataclasses.replace(both, average_every=10**9))
    assert far.network_seconds == pytest.approx(predict(both, 2, 2).network_seconds)


def test_auto_is_the_fewest_steps_that_these_links_bear_or_none() -> None:
    every, why = choose_every(measured())
    assert every == least_every(measured()) == 128
    assert why.startswith("128, as an exchange takes 3 s, 7% of 128 steps; ")
    fast = RingLink(bytes_per_second=12e9, latency_seconds=1e-5)
    assert choose_every(measured(link=fast, gradient_bytes=MIB)) == (
        0, "gradients are sent on each step, as they take 0% of it on this network",
    )  # fmt: skip
    half = measured(pc(1, micro_batch_seconds=3.0), pc(2, micro_batch_seconds=3.0), link=RingLink(bytes_per_second=1e8))
    assert "fp16 is as fast as averages here" in choose_every(half)[1]
    assert choose_every(measured(pc(1, ranks=2), link=None))[0] == 0
    long = measured(pc(1, micro_batch_seconds=5.0), pc(2, micro_batch_seconds=5.0), link=RingLink(bytes_per_second=5e7))
    assert [choose_every(long, momentum)[0] for momentum in (0.0, 0.4, 0.5, 0.9)] == [16, 16, 32, 32]


def test_nothing_is_advised_where_nothing_is_lost() -> None:
    assert advise(measured(gradient_bytes=4)) == ()
    assert advise(measured(pc(1), link=None)) == ()


def test_one_host_is_predicted_as_far_as_it_reaches() -> None:
    alone = predict_run(measured(pc(1, ranks=2), link=None))
    assert [row.ranks for row in alone.grid] == [1, 2]
    with pytest.raises(PredictionError, match="16 ranks need 8 hosts, and no link between hosts was measured"):
        predict(alone.measured, 16)


def test_a_prediction_survives_its_way() -> None:
    made = predict_run(measured(
        pc(1, ranks=2, backward_seconds=0.2), pc(2, data_seconds=0.1, kind="연구실"), accumulation=2, bucket_bytes=(1, 2),
        local=RingLink(bytes_per_second=3e9),
        all_reduces=(AllReduce(size_bytes=100, ranks=3, hosts=2, seconds=0.1),),
    ))  # fmt: skip
    assert Prediction.from_json(made.to_json()) == made
    assert Prediction.from_json(made.to_json().encode()) == made
    assert [row.ranks for row in made.grid] == [1, 2, 3, 4, 8, 16]
    assert made.planned == made.grid[2]
    lines = table(made.grid).splitlines()
    assert len(lines) == 7
    assert made.planned.limit in lines[3]


BAD = {
    "micro_batch_seconds": (0, -1, math.nan, math.inf, "1", True), "optimizer_seconds": (-1, math.nan), "ranks": (0,),
    "data_seconds": (-1, math.inf), "backward_seconds": (-1, math.nan, 0.31),
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
def test_what_was_not_measured_rightly_is_refused(name: str, value: object) -> None:
    with pytest.raises(PredictionError, match=rf"HostSpeed\.{name}"):
        pc(1, **{name: value})


def test_links_and_sizes_that_cannot_be_are_refused() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(PredictionError, match=r"RingLink\.bytes_per_second"):
            RingLink(bytes_per_second=value)
    for values in ({"gradient_bytes": -1}, {"samples": 0}, {"accumulation": 0}, {"bucket_bytes": (0,)}):
        with pytest.raises(PredictionError, match=rf"Measured\.{next(iter(values))}"):
            measured(**values)
    with pytest.raises(PredictionError, match=r"Measured\.hosts"):
        Measured(hosts=(), gradient_bytes=1, samples=1)


def hostile() -> dict[str, str | bytes]:
    good = json.loads(predict_run(measured()).to_json())

    def changed(*path: str | int, value: object) -> str:
        text = json.loads(json.dumps(good))
        *way, last = path
        inner = text
        for step in way:
            inner = inner[step]
        inner[last] = value
        return json.dumps(text)

    return {
        "no JSON": "<html>", "not UTF-8": b'{"planned": "\xff"}', "an array": "[]", "null": "null", "empty": "{}",
        "deep": "[" * 100_000, "too big": " " * 2_000_000, "NaN": changed("planned", "step_seconds", value=math.nan),
        "text as number": changed("planned", "ranks", value="2"), "truth": changed("planned", "ranks", value=True),
        "unknown limit": changed("planned", "limit", value="\x1b[2Jgremlins"), "grid": changed("grid", value={"a": 1}),
        "row": changed("grid", 0, value=7), "link": changed("measured", "link", value="fast"),
        "negative": changed("measured", "hosts", 0, "micro_batch_seconds", value=-1),
        "buckets": changed("measured", "bucket_bytes", value=["a"]), "no hosts": changed("measured", "hosts", value=[]),
        "huge": changed("measured", "gradient_bytes", value=10**400), "measured": changed("measured", value=None),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "text"), hostile().items())
def test_what_is_no_prediction_is_refused_in_a_few_words(name: str, text: str | bytes) -> None:
    with pytest.raises(PredictionError) as refused:
        Prediction.from_json(text)
    assert len(str(refused.value)) < 300
    assert "\x1b" not in str(refused.value)


def test_texts_of_a_prediction_are_cut_and_have_no_control_characters() -> None:
    values = json.loads(predict_run(measured()).to_json())
    values["advice"][0]["setting"] = "\x1b[2J" + "x" * 5000 + "\nforged: line"
    found = Prediction.from_json(json.dumps(values))
    assert found.advice[0].setting.startswith("[2Jxxx")
    assert len(found.advice[0].setting) <= 2000
    values["grid"] = [{**values["grid"][0], "limit": "compute"}] * 2000
    assert len(Prediction.from_json(json.dumps(values)).grid) == 1024


def test_the_grid_never_falls_below_what_fewer_ranks_do_on_a_fast_network() -> None:
    fast = measured(link=RingLink(bytes_per_second=1e10, latency_seconds=1e-5), accumulation=4)
    rates = [row.samples_per_second for row in predict_run(fast).grid]
    assert all(after > before for before, after in itertools.pairwise(rates))


@needs_namespaces
def test_a_real_step_between_namespaces_on_a_limited_link_takes_as_long_as_predicted() -> None:
    case = ["hosts=2", "gbit=1", "gradient_mib=8", "factor=8", "micro_batch_seconds=0.1", "steps=2"]
    printed = output_of(sys.executable, "bench/scaling.py", "--case", *case)
    row = next(line for line in printed.splitlines() if line.startswith("| 2x1"))
    took, predicted, limit = (row.split("|")[column].strip() for column in (3, 4, 8))
    assert limit == "network"
    assert float(predicted) == pytest.approx(float(took), rel=max(0.15, patience(0.05))), row
    assert float(took) > 0.1 + 7 * MIB / 125e6, "the link was not limited"
