"""Soft prompts: mixed batches equal one by one and PEFT; files; refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from helpers import generation, models, soft_prompts
from helpers.formats import DataError
from helpers.models import ModelError

# PEFT 0.21 asks transformers 5 for a property by its former name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)

LABELS = {
    "colour": [" red", " blue"],
    "who": [" Mira", " the dog", " nobody at all"],
    "yes": [" yes", " no"],
}
TASKS = ["who", "colour", "yes", "colour", "who"]
TEXTS = ["The ball is with", "The ball", "Is it here?", "one", "Who has the key? It is"]


def vectors(model, count: int, seed: int = 0) -> torch.Tensor:
    width = model.get_input_embeddings().weight.shape[1]
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def prompts_for(model) -> dict[str, torch.Tensor]:
    sizes = {"colour": 1, "who": 7, "yes": 3}
    return {task: vectors(model, k, k) for task, k in sizes.items()}


def by_peft(model, prompt: torch.Tensor):
    """The model under PEFT with these vectors."""
    from peft import PromptTuningConfig, get_peft_model

    settings = PromptTuningConfig(num_virtual_tokens=len(prompt), task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, settings)
    wrapped.prompt_encoder["default"].embedding.weight.data = prompt.clone()
    return wrapped.eval()


@pytest.mark.parametrize("which", ["tiny", "foreign"])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_mixed_batch_equals_peft_row_by_row(request, which, batch_size) -> None:
    model = request.getfixturevalue(f"{which}_model")
    tokenizer = request.getfixturevalue(f"{which}_tokenizer")
    prompts = prompts_for(model)
    mixed = soft_prompts.score_labels(
        model, tokenizer, prompts, TASKS, TEXTS, LABELS, batch_size=batch_size
    )
    for task, text, found in zip(TASKS, TEXTS, mixed, strict=True):
        alone = generation.score_labels(
            by_peft(model, prompts[task]), tokenizer, [text], LABELS[task]
        )["sum"][0]
        assert np.allclose(found, alone, atol=1e-4)
    assert [len(found) for found in mixed] == [3, 2, 2, 2, 3]


def test_each_row_is_read_after_its_own_soft_prompt(tiny_model, tiny_tokenizer) -> None:
    prompts = prompts_for(tiny_model)
    given = (tiny_model, tiny_tokenizer, prompts, TASKS, TEXTS, LABELS)
    before = soft_prompts.score_labels(*given)
    prompts["yes"] = prompts["yes"] + 1
    after = soft_prompts.score_labels(*given)
    moved = [
        not np.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True)
    ]
    assert moved == [task == "yes" for task in TASKS]


def test_labels_of_one_token_share_one_pass(
    tiny_model, tiny_tokenizer, monkeypatch
) -> None:
    rows = []
    forward = soft_prompts._forward
    monkeypatch.setattr(
        soft_prompts,
        "_forward",
        lambda model, prompts, batch: (
            rows.append(len(batch)) or forward(model, prompts, batch)
        ),
    )
    one = {"yes": [" a", " b"]}
    soft_prompts.score_labels(
        tiny_model, tiny_tokenizer, prompts_for(tiny_model), ["yes"] * 2, TEXTS[:2], one
    )
    sizes = {
        len(tiny_tokenizer(t + w)["input_ids"]) for t in TEXTS[:2] for w in one["yes"]
    }
    assert sizes and rows == [2]


def test_a_label_that_merges_with_the_text_is_scored_from_before_it(
    tiny_model, tiny_tokenizer
) -> None:
    prompts = {"end": vectors(tiny_model, 2)}
    given = ("the re", {"end": ["d", "st"]})
    found = soft_prompts.score_labels(
        tiny_model, tiny_tokenizer, prompts, ["end"], [given[0]], given[1]
    )
    wanted = generation.score_labels(
        by_peft(tiny_model, prompts["end"]), tiny_tokenizer, [given[0]], given[1]["end"]
    )["sum"]
    assert np.allclose(found, wanted, atol=1e-4)


def test_plain_peft_loads_what_is_written(
    tmp_path, fresh_model, tiny_tokenizer
) -> None:
    from peft import PeftModel

    wanted = vectors(fresh_model, 5)
    size = soft_prompts.write(wanted, tmp_path / "deep" / "prompt", fresh_model)
    assert wanted.numel() * 4 < size < wanted.numel() * 4 + 500
    assert torch.equal(
        soft_prompts.read(tmp_path / "deep" / "prompt", fresh_model), wanted
    )
    loaded = PeftModel.from_pretrained(fresh_model, str(tmp_path / "deep" / "prompt"))
    ids = torch.tensor([tiny_tokenizer("the ball")["input_ids"]])
    with torch.no_grad():
        same = by_peft(fresh_model, wanted)(input_ids=ids).logits
        assert torch.allclose(loaded(input_ids=ids).logits, same, atol=1e-5)


def test_what_peft_saves_is_read_and_replaced(tmp_path, fresh_model) -> None:
    wanted = vectors(fresh_model, 3)
    by_peft(fresh_model, wanted).save_pretrained(tmp_path)
    assert torch.equal(soft_prompts.read(tmp_path, fresh_model), wanted)
    soft_prompts.write(wanted + 1, tmp_path, fresh_model)
    assert torch.equal(soft_prompts.read(tmp_path, fresh_model), wanted + 1)


def test_models_load_takes_what_is_written(
    tmp_path, fresh_model, tiny_tokenizer
) -> None:
    models.save(fresh_model, tiny_tokenizer, tmp_path / "base")
    base, _ = models.load(tmp_path / "base")
    wanted = vectors(base, 4)
    soft_prompts.write(wanted, tmp_path / "prompt", base)
    adapted, _ = models.load(tmp_path / "base", adapter=tmp_path / "prompt")
    assert torch.equal(adapted.get_prompt(1)[0].cpu(), wanted)


def test_prompt_of_another_base_is_refused(
    tmp_path, fresh_model, foreign_model
) -> None:
    soft_prompts.write(vectors(fresh_model, 2), tmp_path, fresh_model)
    with pytest.raises(ModelError, match=r"another base \(fingerprint \w{12}…\)"):
        soft_prompts.read(tmp_path, foreign_model)
    fresh_model.lm_head.weight.data[0, 0] += 1
    with pytest.raises(ModelError, match="load the base it was trained on"):
        soft_prompts.read(tmp_path, fresh_model)


def test_nan_in_a_stored_prompt_is_refused(tmp_path, tiny_model) -> None:
    from safetensors.torch import save_file

    soft_prompts.write(vectors(tiny_model, 4), tmp_path, tiny_model)
    broken = vectors(tiny_model, 4)
    broken[2, 5] = float("nan")
    save_file({soft_prompts.KEY: broken}, tmp_path / soft_prompts.WEIGHTS)
    with pytest.raises(
        ModelError, match=r"virtual token 3 \(index 2\); train it again"
    ):
        soft_prompts.read(tmp_path, tiny_model)
    with pytest.raises(ModelError, match="not finite"):
        soft_prompts.write(broken, tmp_path, tiny_model)


def test_more_virtual_tokens_than_context_are_refused(
    tmp_path, tiny_model, tiny_tokenizer
) -> None:
    with pytest.raises(ModelError, match="128 virtual tokens, but .* at most 128"):
        soft_prompts.write(vectors(tiny_model, 128), tmp_path, tiny_model)
    prompts = {"yes": vectors(tiny_model, 124)}
    with pytest.raises(DataError, match=r"row 2 \(index 1\) is \d+ tokens long"):
        soft_prompts.score_labels(
            tiny_model,
            tiny_tokenizer,
            prompts,
            ["yes"] * 2,
            ["a", "the ball is with Mira"],
            LABELS,
        )


def test_vectors_of_another_width_are_refused(tmp_path, tiny_model) -> None:
    for wrong in [torch.zeros(3, 5), torch.zeros(64), torch.zeros(0, 64)]:
        with pytest.raises(ModelError, match="reads vectors of 64 numbers"):
            soft_prompts.write(wrong, tmp_path, tiny_model)


@pytest.mark.parametrize(
    ("tasks", "labels", "message"),
    [
        (
            ["who", "wo"],
            LABELS,
            r"row 2 \(index 1\) names the task 'wo', which has no "
            "soft prompt; give one, or use one of colour, who, yes",
        ),
        (["who", "yes"], {"who": [" a"]}, "'yes', which has no list of labels"),
        (["who", "yes"], {"who": [" a"], "yes": []}, "'yes', which has no list"),
        (["who"], LABELS, "1 tasks but 2 texts"),
    ],
)
def test_rows_that_cannot_be_asked_are_refused(
    tiny_model, tiny_tokenizer, tasks, labels, message
) -> None:
    with pytest.raises(DataError, match=message):
        soft_prompts.score_labels(
            tiny_model,
            tiny_tokenizer,
            prompts_for(tiny_model),
            tasks,
            TEXTS[:2],
            labels,
        )


def test_folders_without_a_soft_prompt_are_refused(tmp_path, fresh_model) -> None:
    from peft import LoraConfig, get_peft_model

    with pytest.raises(ModelError, match="could not be read .*; give the folder"):
        soft_prompts.read(tmp_path, fresh_model)
    lora = get_peft_model(fresh_model, LoraConfig(task_type="CAUSAL_LM"))
    lora.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="adapter of type LORA"):
        soft_prompts.read(tmp_path, fresh_model)
    (tmp_path / soft_prompts.CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / soft_prompts.WEIGHTS).write_bytes(b"torn")
    with pytest.raises(ModelError, match="could not be read"):
        soft_prompts.read(tmp_path, fresh_model)
