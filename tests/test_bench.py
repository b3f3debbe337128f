"""The benchmark at tiny size: what it says, when it says nothing, and that its equalities could fail."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError
from tiny import compile_by, make_conditioning, make_identity, make_transformer

from squeeze.balance import Weights
from squeeze.bench import drawing, run, timing, whole
from squeeze.bench.flops import counted, formula, left_out
from squeeze.bench.rows import Row, attempted
from squeeze.bench.run import made_on
from squeeze.bench.scene import Bench, furthest
from squeeze.bench.sizes import SIZES
from squeeze.cli import main
from squeeze.models import loading
from squeeze.models.aggregation import Aggregation
from squeeze.models.dit import Dit
from squeeze.models.memory import PLANS
from squeeze.sampling import grid_ids

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def report():
    """Of a whole run, a round of each measurement; compiling, which takes long, has a test of its own."""
    said, uncompiled = io.StringIO(), torch.compiler.set_stance("force_eager")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), uncompiled:
        patch.setattr(timing, "ROUNDS", 1)
        patch.setattr(drawing, "check_compiler", lambda place: None)
        assert main(["bench", "--device", "cpu", "--minutes", "30", "--json"]) == 0
    return json.loads(said.getvalue())


@pytest.fixture
def bench(tmp_path):
    return Bench(SIZES["tiny"], CPU, timing.Clock(30), tmp_path)


@pytest.fixture
def once(monkeypatch):
    monkeypatch.setattr(timing, "ROUNDS", 1)


def rows_of(report, block):
    return {row["what"]: row for row in report["blocks"][block]["rows"]}


def refused(capsys, *arguments):
    assert main(["bench", "--device", "cpu", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out
    return said.err


# --- a whole run ----------------------------------------------------------------------------------------------------


def test_every_block_says_figures_of_this_machine_and_keeps_what_it_promises(report):
    assert list(report["blocks"]) == list(run.BLOCKS)
    assert report["made"]["size"] == "tiny"
    assert report["made"]["torch"] == torch.__version__
    for name, block in report["blocks"].items():
        assert block["rows"], f"{name} says nothing"
        assert len(block["date"]) == 10
        for row in block["rows"]:
            assert row["value"] is not None, f"{name}: {row}"
            assert row["kept"] is not False, f"{name} misses its goal: {row}"
            assert row["kind"] in ("measured", "derived")
            assert row["unit"] != "s", "a time on a CPU that others share is worth nothing; only ratios are"


def test_all_equalities_are_there(report):
    equalities = {
        ("loop", "ours and FluxKontextPipeline: largest difference of the latents"): 1e-4,
        ("weights", "MLLM tokens at 0.5: largest difference of merged and masked attention"): 1e-5,
        ("weights", "reference tokens at 0.5: largest difference of merged and masked attention"): 1e-5,
        ("memory", "plan swap and resident: largest difference of the latents"): 1e-5,
        ("memory", "plan lean and resident: largest difference of the latents"): 1e-5,
        ("resume", "latents resumed and uninterrupted: largest difference"): 0,
    }
    for (block, what), limit in equalities.items():
        row = rows_of(report, block)[what]
        assert row["value"] <= limit
        assert row["kept"] is True


def test_forwards_are_counted_and_are_the_plans(report):
    rows = rows_of(report, "stages")
    for name in ("naive", "ours"):
        counted = [rows[f"forwards of {name} in stage {stage}"]["value"] for stage in ("meaning", "both", "identity")]
        assert sum(counted) == 2 * SIZES["tiny"].profile["steps"], "two forwards a step with CFG"
        assert min(counted) > 0, "a stage without steps shows nothing"
        assert rows[f"forwards of {name} with other tokens than planned"]["value"] == 0
    assert rows["FLOPs of naive / ours, by the formula"]["kind"] == "derived"
    assert rows["FLOPs of naive / ours, by the formula"]["value"] > 1.3


def test_flops_are_the_formulas_and_what_it_leaves_out(report):
    rows = rows_of(report, "flops")
    rests = [row for what, row in rows.items() if "less what it leaves out" in what]
    assert [row["value"] for row in rests] == [0] * 6
    shares = {what.split()[0]: row["value"] for what, row in rows.items() if "share" in what}
    assert 0 < shares["full"] < 1e-3
    assert 0 < shares["tiny"] < 0.1
    for stage, published in (("meaning", 79.4), ("both", 100.3), ("identity", 84.5)):
        found = rows[f"full size, stage {stage}: TFLOP of a forward"]["value"]
        assert found == pytest.approx(published, abs=0.05), "the full size is not FLUX's"


# --- the equalities could fail --------------------------------------------------------------------------------------


def test_what_must_be_equal_is_not_equal_anyway(bench):
    """Random weights through which tokens, balances and the pipeline's arguments are heard."""
    scene = bench.scene
    ours = scene.drawn(balance=drawing.BOTH, cfg=1.0)[-1]
    assert furthest(drawing.kontext(scene)(), ours) <= 1e-4
    assert furthest(scene.drawn(balance=drawing.STAGES, cfg=1.0)[-1], ours) > 1e-2
    assert furthest(scene.drawn(balance=drawing.BOTH, cfg=2.5, uncond="full")[-1], ours) > 1e-2, "negative says nothing"
    one, half = (drawing.one_step(scene, Weights(mllm=kept, vae=1.0)) for kept in (1.0, 0.5))
    assert furthest(one, half) > 1e-3, "weights between 0 and 1 change nothing"


def test_compiled_blocks_are_compared_with_uncompiled_ones(monkeypatch, bench):
    ran, sides = [], {}

    def taken(given, *_, **__):
        sides.update(given)
        return {name: [1.0] for name in given}

    def noting(graph, _inputs):
        return lambda *tensors: (ran.append(graph), graph(*tensors))[1]

    monkeypatch.setattr(drawing, "check_compiler", lambda place: None)
    monkeypatch.setattr(drawing, "interleaved", taken)
    monkeypatch.setattr(drawing, "STAGES", (0.0, 0.0, 0.0))  # fewer graphs than all stages
    compile_by(monkeypatch, noting)
    rows = drawing.compiled(bench)
    assert [next(rows).kept for _ in range(2)] == [True, None], "a difference, then a ratio"
    rows.close()  # what is new with weights takes as long again
    assert "scene" not in vars(bench), "the next block would find it compiled"
    ran.clear()
    sides["uncompiled"]()
    assert not ran
    sides["compiled"]()
    assert ran


@pytest.mark.parametrize("weights", [Weights(mllm=1.0, vae=1.0), Weights(mllm=0.0, vae=1.0), Weights(mllm=1.0, vae=0)])
@pytest.mark.parametrize("shape", [(2, 1, False), (1, 3, True)])
def test_the_formula_holds_for_other_shapes(weights, shape):
    doubles, singles, guided = shape
    made = make_transformer().config | {"num_layers": doubles, "num_single_layers": singles, "guidance_embeds": guided}
    dit = Dit(FluxTransformer2DModel.from_config(made))
    said, seen = make_conditioning(1), make_identity(2)
    text, pictures = 9 * (weights.mllm > 0), 8 + 6 * (weights.vae > 0)
    total = counted(dit, torch.randn(1, 8, 16), grid_ids(2, 4), said, seen, weights)
    assert total == formula(dit.model, text + pictures) + left_out(dit.model, text, pictures)


def test_the_full_size_is_the_papers():
    size = SIZES["full"]
    with torch.device("meta"):
        squeezed = Aggregation(refiner=False, mode="last_layer").config
    assert (squeezed.layers, squeezed.width) == (size.text["num_hidden_layers"] + 1, size.text["hidden_size"])
    assert (size.side // 16) ** 2 == 4096
    assert (size.reference // 16) ** 2 == 1024
    assert size.words + size.pictures == 768
    assert size.row().mllm_8bit
    assert not size.row().adapter


# --- when a figure cannot be had ------------------------------------------------------------------------------------


def test_a_block_out_of_memory_is_a_sentence_and_the_next_one_runs(monkeypatch, tmp_path, capsys):
    def bursts(_bench):
        yield Row(what="first", value=1.0)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setitem(run.BLOCKS, "loop", bursts)
    monkeypatch.setitem(run.BLOCKS, "stages", lambda _bench: iter([Row(what="second", value=2.0)]))
    file = tmp_path / "bench.json"
    assert main(["bench", "--device", "cpu", "--only", "stages", "loop", "--json", str(file)]) == 0
    blocks = json.loads(file.read_text())["blocks"]
    assert list(blocks) == ["loop", "stages"], "blocks keep their order"
    assert [row["value"] for row in blocks["loop"]["rows"]] == [1.0, None]
    assert "too little memory" in blocks["loop"]["rows"][1]["note"]
    assert blocks["stages"]["rows"][0]["value"] == 2.0
    table = capsys.readouterr().out
    assert "| loop | loop | not measured |" in table


def test_a_device_that_fails_is_a_sentence_and_what_was_measured_is_kept(monkeypatch, tmp_path, capsys):
    def fails(*_):
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")

    def first(_bench):
        yield Row(what="first", value=1.0)
        monkeypatch.setattr(torch.cuda, "empty_cache", fails)  # it says so to whoever asks from now on
        fails()

    monkeypatch.setitem(run.BLOCKS, "loop", first)
    monkeypatch.setitem(run.BLOCKS, "stages", fails)
    file = tmp_path / "bench.json"
    assert main(["bench", "--device", "cpu", "--only", "loop", "stages", "--json", str(file)]) == 0
    rows = [row for block in json.loads(file.read_text())["blocks"].values() for row in block["rows"]]
    assert [row["value"] for row in rows] == [1.0, None, None]
    for row in rows[1:]:
        assert row["note"] == "Not measured: the device failed (CUDA error: unspecified launch failure)."


def test_other_errors_are_not_hidden():
    def breaks():
        yield Row(what="first", value=1.0)
        raise KeyError("a defect")

    with pytest.raises(KeyError):
        list(attempted("loop", breaks()))


def test_without_bitsandbytes_it_says_so_and_measures_the_rest(monkeypatch, bench, once):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loading, "version", missing)
    read = list(whole.mllm(bench))
    assert read[0].value is None
    assert "pip install -U bitsandbytes" in read[0].note
    assert [row.what for row in read[1:]] == ["weights in float32"]
    original = whole.load

    def full(profile, *arguments, memory, **options):
        assert not profile.mllm_8bit
        if memory == "swap":
            raise torch.OutOfMemoryError("out of memory")
        return original(profile, *arguments, memory=memory, **options)

    monkeypatch.setattr(whole, "load", full)
    plans = {row.what: row for row in whole.memory(bench)}
    assert plans["plan swap"].value is None, "a plan that does not fit is a sentence"
    lean = plans["plan lean and resident: largest difference of the latents"]
    assert lean.kept
    assert "bitsandbytes" in lean.note, "which MLLM was measured is not said"


def test_on_a_card_bytes_and_seconds_are_measured_too(monkeypatch, bench, once):
    """The rows of a card on the CPU: its counters are made up, and peaks last until they are reset."""
    held, peak = [0], [0]

    def takes(gib, work, passing=1):
        def taking(*arguments, **options):
            made = work(*arguments, **options)
            held[0] += gib * 2**30
            peak[0] = max(peak[0], held[0] + passing * 2**30)
            return made

        return taking

    def reset():
        peak[0] = held[0]

    for name in ("max_memory_reserved", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: peak[0])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: held[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(whole, "_reader", takes(5, whole._reader, passing=3))
    monkeypatch.setattr(whole, "_read", takes(0, whole._read))
    bench.card = True
    rows = list(whole.mllm(bench))
    read = {row.what: row for row in rows}
    assert len(read) == len(rows), "one thing is said twice"
    assert read["weights in 8-bit"].value == 5
    assert read["passing tensors of a reading in float32"].value == 1
    assert read["weights in 8-bit"].kind == "measured"
    assert {"reading: 8-bit", "reading: float32"} <= set(read)
    load, sizes = whole.load, {"resident": 29, "swap": 19, "lean": 22}

    def loaded(*arguments, memory, **options):
        held[0] = 0  # the plan before is gone
        return takes(sizes[memory], load)(*arguments, memory=memory, **options)

    held[0] = peak[0] = 40 * 2**30  # of what was measured before
    monkeypatch.setattr(whole, "load", loaded)
    monkeypatch.setattr(whole, "cleared", lambda: held.__setitem__(0, 0))
    plans = {row.what: row for row in whole.memory(bench)}
    peaks = {name: plans[f"plan {name}: peak reserved memory, loading included"] for name in PLANS}
    assert [(row.value, row.kept) for row in peaks.values()] == [(30, True), (20, None), (23, False)]
    assert plans["plan lean: a picture, reading included"].unit == "s"
    assert plans["plan swap and resident: largest difference of the latents"].goal == "= 0"


def test_too_small_a_disk_is_a_sentence(monkeypatch, bench):
    monkeypatch.setitem(whole.DISK["tiny"], "mllm", 2**60)
    (row,) = attempted("mllm", whole.mllm(bench))
    assert "TMPDIR" in row.note


def test_a_full_disk_is_a_sentence_and_half_a_model_is_not_taken_for_a_whole(monkeypatch, bench):
    def full(size, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(whole, "write_mllm", full)
    for _ in range(2):
        (row,) = attempted("mllm", whole.mllm(bench))
        assert "The disk is full" in row.note
        assert "TMPDIR" in row.note


def test_a_stopped_bench_leaves_no_files(tmp_path):
    command = [sys.executable, "-m", "squeeze", "bench", "--device", "cpu", "--only", "loop"]
    place = {"cwd": Path(__file__).parents[1], "env": os.environ | {"TMPDIR": str(tmp_path)}}
    with subprocess.Popen(command, **place, stderr=subprocess.DEVNULL) as running:
        while not any(tmp_path.glob("squeeze-bench-*")):
            assert running.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)  # Python has made the folder a moment before it will remove it
        running.terminate()
        assert running.wait() == 130
    assert not any(tmp_path.glob("squeeze-bench-*"))


# --- flags and files ------------------------------------------------------------------------------------------------


def test_mistakes_are_refused_with_a_sentence(capsys, tmp_path):
    assert "'speed'" in refused(capsys, "--only", "speed")
    assert "There is no folder" in refused(capsys, "--json", str(tmp_path / "none" / "bench.json"))
    for length in (250, 300):  # a file has a longer name until it is whole
        assert "name too long" in refused(capsys, "--json", str(tmp_path / ("b" * length))), length
    assert "There is no folder" in refused(capsys, "--json", str(tmp_path / ("b" * 300) / "bench.json"))
    (tmp_path / "notes.json").write_text("[1, 2]")
    assert "no report" in refused(capsys, "--json", str(tmp_path / "notes.json"))
    assert (tmp_path / "notes.json").read_text() == "[1, 2]"
    for blocks in ({"stages": {"rows": []}}, {"stages": {"date": "2026-11-28", "rows": [{}]}}, [["stages", {}]]):
        damaged = {"made": made_on(torch.device("cpu")), "blocks": blocks}
        (tmp_path / "notes.json").write_text(json.dumps(damaged))
        assert "no report" in refused(capsys, "--json", str(tmp_path / "notes.json")), "found after all was measured"
    if not torch.cuda.is_available():
        assert main(["bench", "--device", "cuda"]) == 2
        assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "soon"])
def test_minutes_must_be_above_zero(capsys, minutes):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", f"--minutes={minutes}"])
    assert stopped.value.code == 2
    assert f"must be a number above 0, not {minutes}" in capsys.readouterr().err


def test_a_report_takes_more_blocks_of_the_same_machine_only(monkeypatch, tmp_path, capsys):
    values = iter(range(1, 5))
    for name in ("loop", "stages", "weights"):
        monkeypatch.setitem(run.BLOCKS, name, lambda _bench: iter([Row(what="one", value=next(values))]))
    file = tmp_path / "bench.json"
    for names in (["stages", "weights"], ["loop", "stages"]):
        assert main(["bench", "--device", "cpu", "--json", str(file), "--only", *names]) == 0
    report = json.loads(file.read_text())
    assert {name: [row["value"] for row in block["rows"]] for name, block in report["blocks"].items()} == {
        "loop": [3], "stages": [4], "weights": [2],
    }  # fmt: skip
    assert capsys.readouterr().out.count("| one |") == 2 + 3, "the table holds every block of the file"
    report["made"]["torch"] = "1.0"
    file.write_text(json.dumps(report))
    before = file.read_bytes()
    assert "torch 1.0" in refused(capsys, "--json", str(file), "--only", "loop")
    assert file.read_bytes() == before
