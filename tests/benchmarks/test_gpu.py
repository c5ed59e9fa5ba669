"""The GPU benchmark on a CPU: each path on a tiny model, and what can go wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
sys.path.insert(0, str(SCRIPT.parent))

import gpu  # noqa: E402

# PEFT 0.21 asks transformers 5 for a property by its former name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a CPU does")


def run(*options: str, timeout: int = 240) -> subprocess.CompletedProcess:
    call = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(call, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A whole tiny run, in two goes."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    known = gpu.cases(tiny=True)
    keep = {known[0].name, known[1].name}
    first = [{"what": case.name} for case in known if case.name not in keep]
    rows = [row | {"outcome": "missing", "value": None} for row in first]
    blank = {"pair": "", "settings": "", "predicted_bytes": 0, "message": "Kept."}
    out.write_text(json.dumps({"rows": [row | blank for row in rows]}))
    done = run("--tiny", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_it_resumes_where_it_stopped_and_ends_with_every_case(out) -> None:
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    names = [case.name for case in gpu.cases(tiny=True)]
    assert set(rows) == set(names)
    assert [name for name in names if rows[name]["outcome"] == "measured"] == names[:2]
    assert all(rows[name]["message"] == "Kept." for name in names[2:])


def test_a_row_says_what_was_trained_and_what_came_of_it(out) -> None:
    row = json.loads(out.read_text())["rows"][-1]
    assert (row["technique"], row["settings"], row["length"]) == ("qlora", "ours", 64)
    assert row["tokens_per_second"] == row["value"] > 0
    assert len(row["loss"]) == row["case"]["steps"] + gpu.WARM_UP
    assert len(row["step_seconds"]) == row["case"]["steps"]
    assert row["predicted_bytes"] > 0
    assert {"peak_allocated_bytes", "peak_reserved_bytes"} <= set(row)


def test_a_pair_has_one_loss_curve(out) -> None:
    [pair] = json.loads(out.read_text())["pairs"]
    assert pair["largest_loss_difference"] < 0.01
    assert pair["loss_fell_by"] > 5 * pair["largest_loss_difference"]
    assert pair["speed_up"] > 0


RECORD = json.loads((ROOT / "benchmarks/results/gpu.json").read_text("utf-8"))
MEASURED = {r["what"]: r for r in RECORD["rows"] if r["outcome"] == "measured"}


@pytest.mark.parametrize("name", MEASURED)
def test_the_plan_is_within_a_twentieth_of_what_was_measured(name: str) -> None:
    row = MEASURED[name]
    now = gpu.planned_now(row, RECORD["versions"]["torch"])
    assert now == pytest.approx(gpu.own_peak(row), rel=0.05)
    assert row["prediction_error"] == gpu.error_of(row)  # as it was predicted then


def test_packed_rows_repeat_keys_where_the_kernel_cannot_share_them() -> None:
    names = [gpu.packed_attention(v) for v in ("2.9.1", "2.11.0+cu128", "2.12.0")]
    assert names == ["repeated", "repeated", "flash"]


def kept_for_backward(case: gpu.Case, layers: int) -> int:
    """Bytes that autograd saves of a packed step in four bits, weights left out."""
    from peft import get_peft_model

    *sizes, _, heads, kv_heads, tied = gpu.SHAPES[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gpu.SHAPES, 0, (*sizes, layers, heads, kv_heads, tied))
        model = get_peft_model(gpu.build(case), gpu.adapters())
    for weight in model.parameters():  # as TRL does
        weight.data = weight.data.bfloat16() if weight.requires_grad else weight.data
    model.enable_input_require_grads()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            found[place] = tensor
        return tensor

    batch = next(gpu.packed_batches(case))
    del batch["labels"]
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        output = model(**batch, use_cache=False).logits
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def test_a_kernel_that_cannot_share_keys_keeps_what_is_planned(monkeypatch) -> None:
    """The path of the record's PyTorch, with one row, where sdpa can stand in."""
    from torch.nn.attention import varlen

    from helpers import memory

    def kernel(query, key, value, _, __, ___, ____, *, scale=None, is_causal=False):
        assert query.shape == key.shape == value.shape
        states = (x.transpose(0, 1)[None] for x in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(
            *states, scale=scale, is_causal=is_causal
        )[0].transpose(0, 1)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(gpu, "varlen_agrees", lambda: True)
    assert gpu.register_packed_attention() == "varlen"
    case = gpu.Case(0, "qlora", "ours", length=48, batch=1, steps=1)
    seen = (kept_for_backward(case, 3) - kept_for_backward(case, 1)) / 2 / 48
    recipe = replace(gpu.recipe_of(case, [48]), attention="repeated")
    assert memory.layer_bytes(gpu.shape_of(case), recipe) == seen


@pytest.mark.parametrize("words", [5_000, 10_000])
def test_a_chunked_loss_holds_twelve_bytes_for_each_of_its_logits(words: int) -> None:
    from helpers import memory

    states = torch.randn(512, 8, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(words, 8, dtype=torch.bfloat16)
    labels = torch.randint(0, words, (512,))
    watched = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=watched, profile_memory=True) as seen:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = gpu.chunked_loss(states, weight, labels)
        loss.backward()
    held = highest = 0
    for event in seen.profiler.kineto_results.events():
        held += event.nbytes() if event.name() == "[memory]" else 0
        highest = max(highest, held)
    shape = replace(gpu.shape_of(gpu.Case(0, "lora", "bare")), vocabulary=words)
    recipe = memory.Recipe(method="lora", length=512, loss="chunked")
    planned = memory.logit_bytes(shape, recipe)
    assert highest == pytest.approx(planned, rel=0.02)


def trained(case: gpu.Case) -> dict:
    gpu.register_packed_attention()
    row = gpu.measure(case)
    assert row["outcome"] == "measured", row
    return row


def test_settings_loss_and_checkpointing_do_not_change_the_losses() -> None:
    case = gpu.Case(0, "lora", "bare", "mixed", 64, 4, 2, loss="full")
    first = trained(case)["loss"]
    others = [
        replace(case, loss="chunked", checkpointing=True),
        replace(case, settings="ours", loss="fused", checkpointing=True),
    ]
    for other in others:
        assert trained(other)["loss"] == pytest.approx(first, abs=0.01)


def test_rows_that_are_packed_do_not_see_each_other() -> None:
    query, key, value = (torch.randn(1, heads, 9, 8) for heads in (4, 2, 2))
    both = gpu.attend_apart(query, key, value, [0, 4, 9], None)
    value[:, :, :4] = key[:, :, :4] = 0.0  # the first row changes
    again = gpu.attend_apart(query, key, value, [0, 4, 9], None)
    torch.testing.assert_close(both[:, :, 4:], again[:, :, 4:])
    assert not torch.allclose(both[:, :, :4], again[:, :, :4])


def test_a_model_in_four_bits_is_what_from_pretrained_makes(tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    case = gpu.Case(0, "qlora", "defaults")
    plain = gpu.build(replace(case, technique="lora"))
    ours = gpu.build(case)
    plain.save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        quantization_config=ours.config.quantization_config,
        dtype=torch.bfloat16,
    )
    one, other = (
        {name: (type(module), repr(module)) for name, module in model.named_modules()}
        for model in (ours, theirs)
    )
    assert one == other
    states = ours.state_dict(), theirs.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for name in ("is_loaded_in_4bit", "is_quantized", "quantization_method"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.hf_quantizer.is_trainable == theirs.hf_quantizer.is_trainable


def test_the_plan_counts_eight_bit_moments_as_trainer_keeps_them(tmp_path) -> None:
    from helpers import memory

    gpu.register_packed_attention()
    case = gpu.Case(0, "full", "ours", length=64, steps=1, optimizer="adamw_8bit")
    run = gpu.train_with_trainer(case, gpu.build(case), gpu.Watch(), str(tmp_path))
    run()
    states = run.__self__.optimizer.state.values()
    kept = [value for state in states for value in state.values()]
    once = {one.data_ptr(): one.nbytes for one in kept if torch.is_tensor(one)}
    planned = memory.optimizer_bytes(gpu.shape_of(case), gpu.predicted(case)[1])
    assert planned == pytest.approx(sum(once.values()), rel=0.02)


def test_out_of_memory_is_a_row_with_advice(monkeypatch) -> None:
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(gpu, "build", fail)
    case = gpu.Case(8, "full", "defaults", weights="float32", batch=1)
    row = gpu.measure(case)
    assert (row["outcome"], row["value"]) == ("out of memory", None)
    assert "cheapest change by which it fits" in row["message"]
    assert row["message"].count(". ") == 0
    assert gpu.error_of(row) is None
    assert "out of memory" in gpu.told(row)


def test_what_fails_is_a_row_and_ends_nothing(monkeypatch, capsys) -> None:
    def fail(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr(gpu, "build", fail)
    row = gpu.measure(gpu.Case(0, "lora", "ours", "mixed", 64, 4, 2))
    assert (row["outcome"], row["message"]) == ("failed", "ValueError: no such thing")
    assert "no such thing" in capsys.readouterr().out


@NO_GPU
def test_without_liger_its_case_is_missing() -> None:
    row = gpu.measure(gpu.Case(0, "lora", "bare", loss="liger"))
    assert row["outcome"] == "missing"


def test_a_case_whose_process_died_is_a_row(tmp_path, capsys) -> None:
    out = tmp_path / "gpu.json"
    case = gpu.cases(tiny=True)[3]
    assert not gpu.note_crash(True, out, 0)
    out.with_suffix(".now").write_text(case.name)
    assert gpu.note_crash(True, out, -9)
    [row] = json.loads(out.read_text())["rows"]
    assert (row["outcome"], row["what"]) == ("failed", case.name)
    assert case not in gpu.waiting(True, out)
    assert "-9" in capsys.readouterr().out


def test_rows_of_another_machine_are_not_gone_on_with(tmp_path) -> None:
    out = tmp_path / "gpu.json"
    out.write_text(json.dumps({"hardware": "another", "rows": [{"what": "a row"}]}))
    gpu.work(True, out, until=0.0)
    assert not out.exists()


def test_the_time_is_kept(tmp_path, capsys) -> None:
    gpu.work(True, tmp_path / "gpu.json", until=0.0)
    assert "The time is up" in capsys.readouterr().out
    assert not (tmp_path / "gpu.json").exists()


@NO_GPU
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    done = run()
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1 and "no GPU" in done.stdout


def test_cases_have_names_of_their_own_and_pairs_the_same_rows() -> None:
    for tiny in (True, False):
        known = gpu.cases(tiny)
        assert len({case.name for case in known}) == len(known)
        for pair in {case.pair for case in known}:
            members = [case for case in known if case.pair == pair]
            assert all(gpu.lengths(case) == gpu.lengths(members[0]) for case in members)
    assert sum(case.settings != "defaults" for case in gpu.cases(False)) >= 12


def test_the_planner_decides_about_checkpointing() -> None:
    ours = gpu.Case(8, "qlora", "ours", "mixed")
    assert not gpu.checkpoints(ours)
    assert gpu.checkpoints(replace(ours, settings="defaults"))
    assert gpu.checkpoints(replace(ours, rows="even", length=16_384))
    assert not gpu.checkpoints(replace(ours, length=16_384, checkpointing=False))
