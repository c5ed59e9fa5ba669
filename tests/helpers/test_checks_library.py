"""The libraries really do today what the doctor's rules say.

Each test is marked with the rules that it speaks for. Where one fails after an
update, a library has changed: read the rule again.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers import checks, models

pytestmark = pytest.mark.filterwarnings("ignore:.*removed in v6:FutureWarning")

MASKED = -100
SHOWN: set[str] = set()
"""Rules that a test of this module speaks for."""

ASKED = {"role": "user", "content": "where is the ball?"}
ANSWERED = {"role": "assistant", "content": "in the box."}
TALK = {"messages": [ASKED, ANSWERED]}


def shows(*rules: str) -> Callable[[Callable], Callable]:
    """Mark a test with the rules that it speaks for."""
    assert set(rules) <= checks.RULES.keys()
    SHOWN.update(rules)
    return lambda test: test


@pytest.fixture
def train(fresh_model, tiny_tokenizer, tmp_path):
    """Build an SFTTrainer as its user would, silently."""

    def build(rows: Any, *, tokenizer: Any = None, given: Any = None, **options: Any):
        from trl import SFTConfig, SFTTrainer

        from datasets import Dataset

        kept = {"use_cpu": True, "bf16": False, "report_to": [], "disable_tqdm": True}
        kept |= {"activation_checkpointing": False, "output_dir": str(tmp_path)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SFTTrainer(
                model=fresh_model,
                args=SFTConfig(**kept | options),
                train_dataset=Dataset.from_list(rows),
                processing_class=copy.deepcopy(tokenizer or tiny_tokenizer),
                **given or {},
            )

    return build


def learnt(trainer: Any, row: int = 0) -> tuple[list[int], list[int]]:
    """Ids of a row, and those of them that are learnt."""
    batch = trainer.data_collator([trainer.train_dataset[row]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    return ids, [label for label in labels if label != MASKED]


@pytest.fixture
def retold(tiny_tokenizer):
    """The tiny tokenizer with another template."""

    def build(template: str) -> Any:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return build


# -------------------------------------------------------------------------------- rows


@shows("foreign-roles")
def test_keys_are_renamed_and_roles_are_not() -> None:
    from trl.data_utils import maybe_convert_to_chatml

    row = {"conversations": [{"from": "human", "value": "Hi"}]}
    assert maybe_convert_to_chatml(row) == {
        "messages": [{"role": "human", "content": "Hi"}]
    }


@shows("no-known-format", "needs-conversion")
def test_unknown_columns_end_in_a_key_error(train) -> None:
    with pytest.raises(KeyError, match="text"):
        train([{"instruction": "Add.", "output": "5"}])


@shows("formatting-func-ignored", "prompts-trained")
def test_a_formatting_func_is_not_read_beside_messages(train) -> None:
    given = {"formatting_func": lambda row: "something else"}
    ids, supervised = learnt(train([TALK], given=given))
    assert ids == learnt(train([TALK]))[0]
    assert supervised == ids  # and the prompt is trained as well


@shows("two-formats")
def test_prompt_and_completion_win_over_text(train, tiny_tokenizer) -> None:
    row = {"text": "the dog", "prompt": "the red", "completion": " ball"}
    ids, _ = learnt(train([row]))
    assert (
        tiny_tokenizer.decode(ids, skip_special_tokens=True).strip() == "the red ball"
    )


@shows("messages-as-text")
def test_messages_as_text_are_no_messages(train) -> None:
    from trl.data_utils import is_conversational

    row = {"messages": json.dumps(TALK["messages"])}
    assert not is_conversational(row)
    assert len(train([row]).train_dataset) == 0  # in silence


@shows("blank-content")
def test_a_blank_completion_trains_the_end_alone(train, tiny_tokenizer) -> None:
    _, supervised = learnt(train([{"prompt": "the red", "completion": ""}]))
    assert supervised == [tiny_tokenizer.eos_token_id]


@shows("mixed-types")
def test_a_null_completion_names_no_row(train) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]
    with pytest.raises(AttributeError, match="'NoneType' .* 'endswith'"):
        train(rows)


@shows("other-keys")
def test_keys_that_the_first_row_lacks_are_dropped_and_others_filled() -> None:
    from datasets import Dataset

    rows = [{"a": {"city": "Rome"}}, {"a": {"day": "May"}, "tools": "[]"}]
    data = Dataset.from_list(rows)
    assert data.column_names == ["a"]
    assert data[0]["a"].get("day", 0) is None or data[1]["a"].get("day") is None


@shows("system-column", "preference-as-sft")
def test_a_system_column_and_a_label_are_not_read(train) -> None:
    odd = {**TALK, "system": "Be kind.", "label": False}
    assert learnt(train([odd])) == learnt(train([TALK]))


@shows("control-tokens", "control-ids")
def test_a_spelt_token_becomes_the_token(tiny_tokenizer) -> None:
    ids = tiny_tokenizer("the</s>box", add_special_tokens=False)["input_ids"]
    assert tiny_tokenizer.eos_token_id in ids


@shows("labels-of-other-tokens", "shifted-labels", "mask-without-labels")
def test_tokenised_rows_are_taken_as_they_are(train) -> None:
    wrong = {"input_ids": [1, 9, 10], "labels": [MASKED, 55, 56]}
    assert learnt(train([wrong]))[1] == [55, 56]
    hidden = {"input_ids": [1, 9, 3], "attention_mask": [1, 1, 0]}
    assert learnt(train([hidden]))[1] == [1, 9, 3]  # the pad as well


@shows("user-in-completion")
def test_a_users_turn_in_a_completion_is_learnt(train, tiny_tokenizer) -> None:
    row = {"prompt": [ASKED], "completion": [ANSWERED, ASKED, ANSWERED]}
    _, supervised = learnt(train([row]))
    assert "where is the ball?" in tiny_tokenizer.decode(supervised)


# --------------------------------------------------------------------------- templates


@shows("template-drops-system", "system-lost")
def test_a_template_drops_the_system_prompt_in_silence(train, retold) -> None:
    drops = retold(
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{{ eos_token }}"
        "{% endfor %}"
    )
    told = {"messages": [{"role": "system", "content": "Be kind."}, *TALK["messages"]]}
    ids = learnt(train([told], tokenizer=drops))[0]
    assert ids == learnt(train([TALK], tokenizer=drops))[0]


@shows("template-edits-answer", "answer-edited")
def test_a_template_trims_answers_in_silence(train, retold) -> None:
    trims = retold("{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    padded = {"messages": [ASKED, {"role": "assistant", "content": " in the box. "}]}
    assert learnt(train([padded], tokenizer=trims)) == learnt(
        train([TALK], tokenizer=trims)
    )


@shows("date-in-template")
def test_a_template_can_write_the_date(retold) -> None:
    import datetime

    dated = retold("{{ strftime_now('%Y') }}")
    text = dated.apply_chat_template([ASKED], tokenize=False)
    assert int(text) >= datetime.date(2025, 1, 1).year


@shows("completion-loss-ignored")
def test_completion_only_loss_is_not_read_for_messages(train) -> None:
    ids, supervised = learnt(train([TALK], completion_only_loss=True))
    assert supervised == ids


@shows("answers-not-marked", "no-generation-mark")
def test_a_template_without_marks_is_refused(train, retold) -> None:
    plain = retold("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}")
    with pytest.raises(ValueError, match="generation"):
        train([TALK], tokenizer=plain, assistant_only_loss=True)


@shows("answer-without-stop", "no-stop-trained")
def test_a_template_without_an_end_trains_none(train, retold, tiny_tokenizer) -> None:
    endless = retold("{% for m in messages %}<|user|>{{ m.content }}{% endfor %}")
    _, supervised = learnt(train([TALK], tokenizer=endless))
    assert tiny_tokenizer.eos_token_id not in supervised


@shows("foreign-collator", "pad-is-end")
def test_the_collator_for_language_models_unmasks_prompts_and_masks_the_end(
    train, tiny_tokenizer
) -> None:
    from transformers import DataCollatorForLanguageModeling

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = train([{"prompt": "the red", "completion": " ball"}], tokenizer=tokenizer)
    row = {"input_ids": trainer.train_dataset[0]["input_ids"]}
    labels = collator([row])["labels"][0].tolist()
    assert labels[:-1] == row["input_ids"][:-1] and labels[-1] == MASKED


@shows("double-bos", "template-and-specials")
def test_rendered_text_gets_a_second_start(train, tiny_tokenizer) -> None:
    text = tiny_tokenizer.apply_chat_template(TALK["messages"], tokenize=False)
    bos = tiny_tokenizer.bos_token_id
    assert learnt(train([{"text": text}]))[0][:2] == [bos, bos]
    assert tiny_tokenizer(text)["input_ids"][:2] == [bos, bos]


@shows("double-end")
def test_an_end_before_a_line_break_gets_a_second_one(train, tiny_tokenizer) -> None:
    ids, _ = learnt(train([{"text": "the box</s>\n"}]))
    assert ids.count(tiny_tokenizer.eos_token_id) == 2


@shows("split-markers")
def test_a_foreign_marker_is_spelt_in_pieces(tiny_tokenizer) -> None:
    assert len(tiny_tokenizer("<|im_start|>", add_special_tokens=False).input_ids) > 4


@shows("border-merges")
def test_a_space_at_the_border_changes_the_tokens(tiny_tokenizer) -> None:
    whole = tiny_tokenizer("the red ball")["input_ids"]
    prompt = tiny_tokenizer("the red ")["input_ids"]
    assert whole[: len(prompt)] != prompt


@shows("cut-answers", "dropped-rows")
def test_what_is_too_long_is_cut_or_dropped_in_silence(train, tiny_tokenizer) -> None:
    rows = [
        {"prompt": "the red ball " * 9, "completion": " in the box"},
        {"prompt": "the red", "completion": " ball" * 20},
        {"prompt": "the red", "completion": " ball"},
    ]
    trainer = train(rows, max_length=12)
    assert len(trainer.train_dataset) == 2
    assert tiny_tokenizer.eos_token_id not in learnt(trainer, 0)[0]
    assert tiny_tokenizer.eos_token_id in learnt(trainer, 1)[0]


@shows("all-rows-dropped")
def test_if_all_rows_are_dropped_the_error_names_no_length(train) -> None:
    with pytest.raises(ValueError, match="num_samples=0"):
        train([{"prompt": "the ball " * 9, "completion": " box"}], max_length=8).train()


# -------------------------------------------------------------- tokens, adapters, bits


@shows("tokens-without-rows", "new-tokens-not-resized")
def test_a_token_without_a_row_is_an_index_error(fresh_model, tiny_tokenizer) -> None:
    import torch

    beyond = torch.tensor([[len(tiny_tokenizer)]])
    with pytest.raises(IndexError):
        fresh_model(input_ids=beyond)


@shows("new-tokens-untrained")
def test_lora_leaves_the_embedding_as_it_is(fresh_model) -> None:
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(fresh_model, LoraConfig(target_modules=["q_proj"]))
    assert not wrapped.get_input_embeddings().weight.requires_grad


@shows("misspelt-target")
def test_one_misspelt_target_is_not_mentioned(fresh_model) -> None:
    from peft import LoraConfig, get_peft_model

    names = ["q_proj", "w_proj"]
    wrapped = get_peft_model(fresh_model, LoraConfig(target_modules=names))
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert trained and all("q_proj" in name for name in trained)


@shows("base-used-twice")
def test_the_base_itself_is_changed(fresh_model) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(fresh_model, LoraConfig(target_modules=["q_proj"]))
    assert any("lora" in name for name, _ in fresh_model.named_modules())


@shows("merge-thrown-away")
def test_a_merge_leaves_the_wrapper_as_it_is(fresh_model) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    wrapped = get_peft_model(fresh_model, LoraConfig(target_modules=["q_proj"]))
    merged = wrapped.merge_and_unload()
    assert isinstance(wrapped, PeftModel) and not isinstance(merged, PeftModel)


@shows("adapter-not-trainable", "adapter-without-base")
def test_a_loaded_adapter_is_frozen_and_fits_any_base(fresh_model, tmp_path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    other = copy.deepcopy(fresh_model)
    get_peft_model(fresh_model, LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    other.model.embed_tokens.weight.data.add_(1.0)  # another base of the same shape
    loaded = PeftModel.from_pretrained(other, tmp_path)
    assert not any(p.requires_grad for p in loaded.parameters())


@shows("slow-lora", "soft-prompt-rate", "prefix-checkpointing", "plain-arguments")
def test_defaults_of_the_trainer(tmp_path) -> None:
    from transformers import TrainingArguments
    from trl import SFTConfig

    ours = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    theirs = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (ours.learning_rate, theirs.learning_rate) == (2e-5, 5e-5)
    assert ours.max_length == 1024
    assert ours.activation_checkpointing or ours.gradient_checkpointing


@shows("gone-setting")
def test_settings_that_are_gone() -> None:
    from trl import SFTConfig

    for name in ("max_seq_length", "evaluation_strategy"):
        with pytest.raises(TypeError, match=name):
            SFTConfig(**{name: 1})


@shows("four-bit-defaults")
def test_defaults_of_four_bits() -> None:
    from transformers import BitsAndBytesConfig

    bits = BitsAndBytesConfig(load_in_4bit=True)
    assert bits.bnb_4bit_quant_type == "fp4"
    assert str(bits.bnb_4bit_compute_dtype) == "torch.float32"


@shows("random-soft-prompt")
def test_a_soft_prompt_starts_far_longer_than_a_token(fresh_model) -> None:
    from peft import PromptTuningConfig, get_peft_model

    words = models.load()[0].get_input_embeddings().weight.detach()
    given = PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=8, prompt_tuning_init_text="the ball"
    )
    assert str(given.prompt_tuning_init).endswith("RANDOM")
    wrapped = get_peft_model(models.load()[0], given)
    prompt = wrapped.prompt_encoder["default"].embedding.weight.detach()
    assert prompt.norm(dim=1).mean() > 3 * words.norm(dim=1).mean()


@shows("soft-prompt-length")
def test_the_text_of_a_soft_prompt_is_repeated() -> None:
    from peft import PromptTuningConfig, get_peft_model

    model, tokenizer = models.load()
    wanted = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=8,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text="the ball",
        tokenizer_name_or_path=str(models.SHIPPED),
    )
    prompt = get_peft_model(model, wanted).prompt_encoder["default"].embedding.weight
    ids = tokenizer("the ball")["input_ids"]
    assert (prompt[len(ids)] == prompt[0]).all()


@shows("half-precision-weights", "dtype-of-checkpoint")
def test_a_checkpoint_in_half_precision_is_loaded_so(fresh_model, tmp_path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    fresh_model.to(torch.bfloat16).save_pretrained(tmp_path)
    weight = AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight
    assert weight.dtype == torch.bfloat16
    moved = weight.detach() - 1e-6 * weight.sign()  # one step of Adam at 1e-6
    assert (moved != weight).float().mean() < 0.1


@shows("template-returns-dict", "no-generation-prompt")
def test_a_rendered_conversation_is_a_dictionary_of_two(tiny_tokenizer) -> None:
    found = tiny_tokenizer.apply_chat_template([ASKED])
    assert len(found) == 2 and set(found) == {"input_ids", "attention_mask"}
    opened = tiny_tokenizer.apply_chat_template([ASKED], add_generation_prompt=True)
    assert len(opened["input_ids"]) == len(found["input_ids"]) + 1


@shows("asked-while-training")
def test_the_model_stays_in_training_mode(train) -> None:
    trainer = train([TALK], max_steps=1, save_strategy="no", logging_strategy="no")
    trainer.train()
    assert trainer.model.training


@shows("right-padding", "generation-padding")
def test_right_padding_changes_the_next_token(tiny_model, tiny_tokenizer) -> None:
    import torch

    ids = tiny_tokenizer("the red ball")["input_ids"]
    pads = [tiny_tokenizer.pad_token_id] * 5
    with torch.no_grad():
        alone = tiny_model(input_ids=torch.tensor([ids])).logits[0, -1]
        padded = tiny_model(input_ids=torch.tensor([ids + pads])).logits[0, -1]
    assert not torch.allclose(alone, padded, atol=1e-2)


def test_twenty_and_more_rows_of_the_catalogue_are_shown() -> None:
    assert len({checks.RULES[rule].pitfall for rule in SHOWN} - {0}) >= 20
    assert Path(models.SHIPPED).is_dir()
