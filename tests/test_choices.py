"""What hosts may send, beside one another: speeds are the prediction's own, losses those of the bench's record."""

import dataclasses

import averaging_loss
import pytest
from conftest import ROOT
from winfleet.core.sending import Sending
from winfleet.rehearsal.allreduce import MIB, RingLink
from winfleet.rehearsal.choices import LOSS_ABOVE, choices, table_of
from winfleet.rehearsal.prediction import AVERAGE_EVERY, HostSpeed, Measured, predict

PCS = tuple(HostSpeed(name=name, kind="RTX 4070", ranks=1, micro_batch_seconds=0.3) for name in ("pc1", "pc2"))
LINK = RingLink(bytes_per_second=117e6, latency_seconds=1e-4)
MEASURED = Measured(hosts=PCS, gradient_bytes=100 * MIB, samples=8, link=LINK, average_every=32)


def test_each_way_is_predicted_against_ddp_whatever_the_plan_has() -> None:
    found = choices(MEASURED)
    assert [one.setting for one in found] == [
        "fleet_average_every: 0", "fleet_gradients: fp16", *(f"fleet_average_every: {every}" for every in AVERAGE_EVERY),
    ]  # fmt: skip
    plain = predict(dataclasses.replace(MEASURED, average_every=0))
    assert found[0].forecast == plain
    assert [one.gain for one in found] == sorted(one.gain for one in found), "the fewer bytes, the faster"
    by_setting = {one.setting: one for one in found}
    assert by_setting["fleet_average_every: 32"].forecast == predict(MEASURED)
    assert by_setting["fleet_average_every: 32"].gain == pytest.approx(
        plain.step_seconds / predict(MEASURED).step_seconds
    )
    half = predict(dataclasses.replace(MEASURED, average_every=0, gradients="fp16"))
    assert by_setting["fleet_gradients: fp16"].forecast == half


def test_a_host_alone_has_no_choice() -> None:
    assert choices(dataclasses.replace(MEASURED, hosts=PCS[:1])) == ()
    assert choices(dataclasses.replace(MEASURED, link=None)) == ()
    assert table_of(()) == []


def test_a_line_says_speed_and_loss_and_steps_where_no_samples_are_told() -> None:
    lines = table_of(choices(MEASURED))
    assert lines[0].split()[:5] == ["what", "hosts", "send", "samples/s", "speed-up"]
    assert lines[1].split()[-3:] == ["1.00x", "DDP's", "own"]
    assert lines[2].endswith("not measured")
    assert "steps/s" in table_of(choices(dataclasses.replace(MEASURED, told=False)))[0]


def test_losses_are_those_of_the_benchs_record() -> None:
    record, lr_momentum = averaging_loss.Record(ROOT / "bench/averaging_loss.jsonl"), Sending().average_outer
    name = "every {}, " + "/".join(f"{value:.1f}" if value else "0" for value in lr_momentum)
    rows = {every: averaging_loss.above(record, name.format(every)) for every in AVERAGE_EVERY}
    assert {every: above for every, above in rows.items() if above is not None} == pytest.approx(LOSS_ABOVE, abs=0.0006)
    assert LOSS_ABOVE, "some are measured"
