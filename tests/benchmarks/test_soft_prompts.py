"""The soft prompts' benchmark: PEFT's loss, rows apart, a whole record."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import records  # noqa: E402
import soft_prompts as bench  # noqa: E402

from helpers import models  # noqa: E402

# PEFT 0.21 asks transformers 5 for a property by its former name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)


def test_prompt_read_once_has_pefts_loss_and_gradient() -> None:
    base, tokenizer = models.load(device="cpu")
    rows = bench.encoded(tokenizer, "mood", bench.rows_of("mood", "train", 4))
    batch = bench.batch_of(rows, tokenizer.pad_token_id)
    model = bench.started(base, tokenizer, "mood", 6, "vocabulary")
    vectors = model.prompt_encoder["default"].embedding.weight
    found = []
    for loss in bench.soft_loss(base, vectors, batch), model(**batch).loss:
        vectors.grad = None
        loss.backward()
        found.append((loss.detach(), vectors.grad.clone()))
    (ours, our_gradient), (theirs, their_gradient) = found
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(our_gradient, their_gradient, rtol=1e-3, atol=1e-4)
    assert our_gradient.abs().max() > 0


@pytest.mark.parametrize("task", bench.LABELS)
def test_rows_are_balanced_and_frames_apart(task) -> None:
    parts = {part: bench.rows_of(task, part, 60) for part in ("train", "dev", "test")}
    for rows in parts.values():
        labels = [row["label"] for row in rows]
        each = 60 // len(bench.LABELS[task])
        assert all(labels.count(word) == each for word in bench.LABELS[task])
    texts = [{row["text"] for row in rows} for rows in parts.values()]
    assert not texts[0] & (texts[1] | texts[2]) and not texts[1] & texts[2]
    frames = [
        {row["frame"] for row in bench.lexicon_of(task) if row["split"] == part}
        for part in parts
    ]
    assert not frames[0] & (frames[1] | frames[2]) and not frames[1] & frames[2]


def test_label_words_start_is_their_embeddings_over_and_over() -> None:
    base, tokenizer = models.load(device="cpu")
    model = bench.started(base, tokenizer, "mood", 5, "label words")
    ids = tokenizer(" glad sad", add_special_tokens=False)["input_ids"]
    wanted = base.get_input_embeddings().weight[(ids * 5)[:5]]
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, wanted)


def test_a_small_record_is_whole_and_resumes(tmp_path, monkeypatch) -> None:
    small = {
        "LABELS": {"mood": bench.LABELS["mood"]},
        "SIZES": {"train": 20, "dev": 8, "test": 12},
        "STEPS": {"mood": 2},
        "SEEDS": range(2),
        "LENGTHS": (1, 20),
        "SOFT_RATES": (0.3,),
    }
    for name, value in small.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(
        bench, "RATES", {name: rates[:1] for name, rates in bench.RATES.items()}
    )
    for name in "ROOT", "RESULTS":
        monkeypatch.setattr(records, name, tmp_path)
    monkeypatch.setattr(bench, "data_hash", lambda: "0" * 64)
    monkeypatch.setattr(sys, "argv", ["soft_prompts.py"])
    bench.main()
    record = json.loads((tmp_path / "soft_prompts.json").read_text(encoding="utf-8"))
    assert {row["varied"] for row in record["rows"]} == {
        "length",
        "start",
        "rate",
        "technique",
    }
    trained = {
        row["technique"]: row.get("trainable_parameters")
        for row in record["rows"]
        if row["varied"] == "technique"
    }
    assert trained["words alone"] is None
    assert trained["soft prompt"] < trained["IA3"] < trained["LoRA"]
    assert trained["LoRA"] < trained["full tuning"]
    for row in record["rows"]:
        assert row["low"] <= row["value"] <= row["high"]
    monkeypatch.setattr(bench, "run", lambda *_, **__: pytest.fail("ran again"))
    bench.main()
