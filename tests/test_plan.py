"""The planning command: what it prints, what it refuses, and that what it measures is this machine's."""

from __future__ import annotations

import re

import mxnet as mx
import pytest

from partial_fc import plan
from partial_fc.collectives import SingleProcess
from partial_fc.cost_model import MIB, images_per_second, memory, total
from partial_fc.head.partial_fc import DEFAULT_BLOCK_ROWS

TOY = ["--network", "toy", "--device", "cpu", "--no-fp16", "--identities", "10k", "--ranks", "1", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One process, whatever launcher's variables surround the tests."""
    monkeypatch.setattr(plan, "connect", SingleProcess)


def run(capsys, *arguments: str) -> str:
    assert plan.main(arguments) == 0
    return capsys.readouterr().out


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"no {pattern!r} in:\n{text}"
    return float(found[1].replace(",", ""))


def test_the_parts_of_the_memory_add_up_to_the_sum(capsys):
    text = run(capsys, "--identities", "10M", "--ranks", "16", "--storage", "host:float16/int8")
    for place in ("device", "host"):
        parts = [float(one.replace(",", "")) for one in re.findall(rf" ([\d,]+) MiB  {place}\n", text)]
        assert len(parts) >= 4
        assert sum(parts) == pytest.approx(number(rf"all of {place} +([\d,]+) MiB", text), abs=len(parts))


def test_the_figures_are_the_models(capsys):
    options = ["--identities", "1M", "--ranks", "8", "--batch-size", "64", "--logits-chunk", "all"]
    text = run(capsys, *options)
    given = plan.parse(options)
    setting = plan.setting_of(given)
    assert setting.identities == 1_000_000
    assert number(r"all of device +([\d,]+) MiB", text) == pytest.approx(total(memory(setting)) / MIB, abs=0.5)
    speed = images_per_second(setting, plan.GPU_SPEEDS)
    assert number(r"in all .* ms, ([\d,]+) images/s", text) == pytest.approx(speed, abs=0.5)


def test_lazy_updates_take_a_number_a_class(capsys):
    options = ["--identities", "8M", "--ranks", "8", "--storage", "host:float32"]
    assert "last update" not in run(capsys, *options)
    text = run(capsys, *options, "--lazy-updates")
    assert number(r"last update of each center +([\d,]+) MiB  host", text) == pytest.approx(5.6e6 / 2**20, abs=1)


def test_what_fits_is_said_and_what_does_not(capsys):
    assert "it fits in 11 GiB of device" in run(capsys, "--identities", "1M")
    assert "it does NOT fit in 11 GiB of device" in run(capsys, "--identities", "1B")
    text = run(capsys, "--storage", "host:float16", "--host-memory", "4")
    assert number(r"identities at most on 8 ranks: ([\d,]+)", text) == pytest.approx(8 * 2**32 / 3076, rel=0.05)


def test_scaling_reaches_from_1_to_1024_ranks_and_to_a_billion_identities(capsys):
    text = run(capsys).partition("scaling\n")[2]
    rows = [line.split() for line in text.splitlines()[2:-1]]
    assert [int(row[0]) for row in rows] == [2**power for power in range(11)]
    most = [int(row[1].replace(",", "")) for row in rows]
    assert most == sorted(most) and most[-1] > 1_000_000_000 > most[0]
    assert "1,000,000,000" in text and "100,000,000" in text


def test_more_ranks_than_identities_are_left_out_of_the_scaling(capsys):
    last = run(capsys, "--identities", "100", "--ranks", "4").splitlines()[-2].split()
    assert last[0] == "1024" and last[2:4] == ["-", "-"]


def test_the_logits_go_in_chunks_where_they_do_not_fit(capsys):
    text = run(capsys, "--identities", "10M", "--sample-ratio", "1")
    assert f"(--logits-chunk {DEFAULT_BLOCK_ROWS})" in text
    assert "it fits" in text
    assert "logits all kept" in run(capsys, "--identities", "10M", "--sample-ratio", "1", "--logits-chunk", "all")


def test_given_rates_decide(capsys):
    fast = run(capsys, "--backbone-tflops", "100", "--gemm-tflops", "50", "--memory-gb", "1000")
    slow = run(capsys, "--backbone-tflops", "1")
    assert number(r"in all +([\d,.]+) ms", slow) > 10 * number(r"in all +([\d,.]+) ms", fast)
    assert "at 50 TFLOP/s in products, 100 in the backbone, 1e+03 GB/s of memory" in fast


def test_rates_are_measured(capsys):
    if mx.context.num_gpus():
        pytest.skip("this machine computes on GPUs")
    text = run(capsys, *TOY, "--measure", "--memory-gb", "7")
    gemm = number(r"at ([\d.e+-]+) TFLOP/s in products", text)
    backbone = number(r"in products, ([\d.e+-]+) in the backbone", text)
    assert 1e-3 < gemm < 20 and 1e-4 < backbone < 20
    assert 1e12 * gemm != plan.CPU_SPEEDS.gemm_flops
    assert "7 GB/s of memory" in text  # what is given counts before what is measured


def test_the_papers_tables(capsys):
    text = run(capsys, "--paper")
    rows = [line.split() for line in text.splitlines() if line.startswith(("  Model Parallel", "  Partial FC"))]
    assert [row[-7:][0] for row in rows] == ["10408", "8100", "9684", "6722"]
    assert [row[-3] for row in rows] == ["2390", "2780", "4483", "12600"]
    assert all(0.94 < float(row[-4]) < 1.06 for row in rows)  # with the paper's five matrices of logits
    assert all(0.8 < float(row[-1]) < 1.2 for row in rows)
    assert "assum" in text and "batches differ" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--identities", "0"], "at least 1 identity, but got 0"),
        (["--identities", "-3"], "at least 1 identity, but got -3"),
        (["--identities", "ten"], "whole number, such as 10000000 or 10M, but is 'ten'"),
        (["--identities", "4", "--ranks", "8"], "4 identities for 8 ranks"),
        (["--ranks", "0"], "number of ranks must be at least 1, but is 0"),
        (["--batch-size", "0"], "batch size must be at least 1, but is 0"),
        (["--embedding-size", "0"], "embedding size is 0"),
        (["--network", "r51"], "unknown network 'r51': choose one of r18"),
        (["--sample-ratio", "0"], r"sample ratio must lie in (0, 1], but is 0.0"),
        (["--sample-ratio", "1.5"], r"sample ratio must lie in (0, 1], but is 1.5"),
        (["--gpu-memory", "0"], "--gpu-memory must be positive, but is 0.0"),
        (["--host-memory", "-1"], "--host-memory must be positive, but is -1.0"),
        (["--image-size", "8"], "--image-size must be at least 16 pixels, but is 8"),
        (["--logits-chunk", "0"], "chunk of logits must hold at least 1 class, but is 0"),
        (["--storage", "float8"], "must be one of float32, float16, but is 'float8'"),
        (["--memory-gb", "0"], "memory bytes must be positive, but is 0.0"),
        (["--identites", "5"], "unrecognized arguments: --identites 5"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(capsys, arguments, message):
    assert plan.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_measuring_on_another_device_is_refused(capsys):
    other = "cpu" if mx.context.num_gpus() else "gpu"
    assert plan.main(["--measure", "--device", other]) == 2
    assert "--measure finds a" in capsys.readouterr().err
