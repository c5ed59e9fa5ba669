"""Each rule finds the mistake that is planted, and is silent on a sound neighbour."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from helpers import checks
from helpers.checks import config, probe, script, source
from helpers.checks.folder import Folder

# Rules whose planted mistake stands in a test of its own.
ELSEWHERE = {"leakage", "packed-cuts", "asked-otherwise", "merged-and-adapter"}

Rows = list[Any]


def says(*turns: str, roles: Sequence[str] = ("user", "assistant")) -> dict[str, Any]:
    """A row of messages whose sides alternate."""
    return {
        "messages": [
            {"role": roles[n % len(roles)], "content": text}
            for n, text in enumerate(turns)
        ]
    }


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def pair(prompt: Any, completion: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def call(**arguments: Any) -> dict[str, Any]:
    return {"function": {"name": "find", "arguments": arguments}}


SOUND = says("Where is the ball?", "In the box.")
LONG = "the red ball is in the old box and the dog is in the garden with Mira and Bruno"

NUMBERS = " ".join(f"word{n}" for n in range(80))

# rule, rows with the mistake, rows without
ROWS: list[tuple[str, Rows, Rows]] = [
    (
        "foreign-roles",
        [{"conversations": [{"from": "human", "value": "Hi"}]}],
        [SOUND, {"messages": ["odd", *SOUND["messages"]]}],
    ),
    ("no-known-format", [{"colour": "red"}], [SOUND]),
    ("needs-conversion", [{"instruction": "Add.", "output": "5"}], [SOUND]),
    ("two-formats", [{**SOUND, "text": "Hi"}], [{**SOUND, "text": ""}]),
    (
        "messages-as-text",
        [{"messages": '[{"role": "user", "content": "Hi"}]'}],
        [{"prompt": "[1, 2] sums to", "completion": "3"}, pair("[no list", "[]")],
    ),
    ("blank-content", [says("Hi", " ")], [SOUND]),
    ("blank-content", [says("Hi", "Yes.", "", "Yes.")], [SOUND]),
    ("blank-content", [pair("Hi", None), pair("Hi", "Yes.")], [pair("Hi", "Yes.")]),
    (
        "blank-content",
        [{"instruction": "Add.", "output": ""}],
        [{"instruction": "Add.", "input": "", "output": "5"}],
    ),
    ("blank-content", [{"text": "  "}], [{"text": "Hi"}]),
    ("not-converted", [SOUND, 5], [SOUND]),
    ("not-converted", [SOUND, says("Hi")], [SOUND]),
    (
        "media",
        [{**SOUND, "images": ["a.png"]}],
        [{**SOUND, "images": []}],
    ),
    ("mixed-types", [pair("a", "b"), pair("a", ["b"])], [pair("a", "b")] * 2),
    ("mixed-types", [pair("a", 5)], [pair("a", "5")]),
    ("mixed-types", [pair("a", {"x": 1}), pair("a", "b")], [pair("a", None)]),
    ("other-keys", [SOUND, {**SOUND, "tools": "[]"}], [SOUND, {**SOUND, "id": 1}]),
    (
        "other-keys",
        [
            {"messages": [turn("assistant", "", tool_calls=[call(city="Rome")])]},
            {"messages": [turn("assistant", "", tool_calls=[call(day="May")])]},
        ],
        [
            {"messages": [turn("assistant", "", tool_calls=[call(city="Rome")])]},
            {"messages": [turn("assistant", "", tool_calls=[call(city="Oslo")])]},
            {"messages": ["odd", turn("assistant", "", tool_calls=["odd"])]},
            {"messages": [turn("assistant", "", tool_calls=[{"arguments": "{}"}])]},
        ],
    ),
    (
        "role-order",
        [says("Hi", "there", roles=("user", "user"))],
        [
            {
                "messages": [
                    turn("system", "Be kind."),
                    turn("user", "Weather?"),
                    turn("assistant", None, tool_calls=[call(city="Rome")]),
                    turn("tool", "Sun."),
                    turn("assistant", "Sun."),
                ]
            }
        ],
    ),
    ("role-order", [says("Hi", roles=("assistant",))], [SOUND]),
    ("role-order", [says("Hi", "Yes.", "And?")], [SOUND]),
    ("preference-as-sft", [{**SOUND, "label": False}], [{**SOUND, "label": True}]),
    (
        "preference-as-sft",
        [{**pair("Hi", "Yes."), "rejected": "No."}],
        [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}],
    ),
    ("system-column", [{**SOUND, "system": "Be kind."}], [{**SOUND, "system": ""}]),
    ("control-tokens", [says("Hi</s>", "Yes.")], [says("a < b > c", "<b>Yes.</b>")]),
    ("control-tokens", [pair("<|im_start|>user", "Yes.")], [pair("<|x", "y")]),
    (
        "labels-of-other-tokens",
        [{"input_ids": [1, 2, 3], "labels": [-100, 9, 3]}],
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}],
    ),
    (
        "labels-of-other-tokens",
        [{"input_ids": [1, 2, 3], "labels": [1, 2]}],
        [{"input_ids": [1, 2, 3], "labels": [2, 3, -100]}],  # another rule's
    ),
    (
        "mask-without-labels",
        [{"input_ids": [1, 2], "attention_mask": [1, 0]}],
        [{"input_ids": [1, 2], "labels": [1, 2], "attention_mask": [1, 1]}],
    ),
    (
        "user-in-completion",
        [pair([turn("user", "Hi")], [turn("assistant", "Yes."), turn("user", "So?")])],
        [pair([turn("user", "Hi")], [turn("assistant", "Yes.")])],
    ),
    (
        "shifted-labels",
        [{"input_ids": [1, 2, 3, 4], "labels": [2, 3, 4, -100]}],
        [
            {"input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, 4]},
            {"input_ids": [5, 5, 5, 5], "labels": [5, 5, 5, 5]},
            {"input_ids": [5, 6], "labels": [-100, -100]},
        ],
    ),
    ("duplicates", [SOUND, says("where is the  ball?", "In the box.")], [SOUND]),
    (
        "duplicates",
        [pair("2 + 3", "5")] * 2,
        [pair("2 + 3", "5"), pair("2 - 3", "5"), pair("", ""), pair("?", "")],
    ),
    (
        "two-answers",
        [SOUND, says("Where is the ball?", "In the car.")],
        [SOUND, says("Where is the dog?", "In the box."), SOUND],
    ),
    (
        "two-answers",
        [{"text": "Nice.", "label": "irony"}, {"text": "Nice.", "label": "literal"}],
        [{"text": "Nice.", "label": "irony"}, {"text": "Bad.", "label": "irony"}],
    ),
    ("two-answers", [pair("a", "b"), pair("a", "c")], [{"text": "a"}, {"text": "a"}]),
    (
        "near-duplicates",
        [says(NUMBERS, "In the box."), says(NUMBERS, "In the box!")],
        [says(NUMBERS, "Box."), says(LONG, "No."), says("Hi", "Yes.")],
    ),
    (
        "template-in-text",
        [{"instruction": "### Instruction:\nAdd.", "output": "5"}],
        [{"instruction": "Write a heading: ### Plan", "output": "### Plan"}],
    ),
    ("template-in-text", [says("[INST] Hi [/INST]", "Yes.")], [{"text": "[INST]"}]),
    ("placeholders", [says("Who are you?", "I am {{name}}.")], [says("a{b}", "{c}")]),
    ("placeholders", [says("Letter?", "Dear [insert name]")], [says("TODO?", "[1]")]),
    (
        "refusals",
        [says("Hi", "As an AI language model, I cannot help with that.")],
        [says("Are you well?", "I can't help but smile.")],
    ),
    ("encoding-damage", [says("Name?", "JosÃ© GarcÃ\xada")], [says("Signs?", "â€")]),
    ("encoding-damage", [says("Name?", "Jos\ufffd")], [says("Naïve?", "東京 “x” – é")]),
    ("invisible-characters", [says("Hi\u200b", "Yes.")], [says("Hi\n\t", "हिन्दी")]),
    (
        "repetition",
        [says("Hi", "eat a banana! " * 300)],
        [says("Hi", " ".join(f"word{n}" for n in range(400))), says("Hi", "x" * 900)],
    ),
    (
        "language-mix",
        [
            *[says(f"Where is ball {n}?", "Box.") for n in range(20)],
            says("Где?", "Тут"),
        ],
        [
            says("Where?", "Here."),
            says("Где?", "Тут"),
            says("1 ½", "2"),
            says("1", "2"),
        ],
    ),
    (
        "secrets",
        [says("Key?", "hf_" + "a" * 34)],
        [says("Key?", "hf_token and sk-short")],
    ),
    (
        "cards",
        [says("Card?", "4111 1111 1111 1111")],
        [
            says("Card?", "4111 1111 1111 1112 and 0000000000000000"),
            says("Pi?", "3.1415926535897932, id 123411111111111111119"),
        ],
    ),
    (
        "e-mail",
        [says("To?", "mira@cloud.io")],
        [says("To?", "mira@example.com, @mira, a@b")],
    ),
]


@pytest.mark.parametrize("rule, planted, sound", ROWS, ids=[row[0] for row in ROWS])
def test_rules_on_rows(rule: str, planted: Rows, sound: Rows) -> None:
    find = checks.RULES[rule].find
    found = list(find(source.from_rows(planted)))
    assert found and all(0 <= place.row <= len(planted) for place in found)
    assert list(find(source.from_rows(sound))) == []


# ------------------------------------------------------------------------------ probe

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}"
)


def template(body: str, *, end: str = "{{ eos_token }}") -> str:
    """A template in which `body` writes a turn of the user or the system."""
    return (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "<|assistant|>{% generation %}{{ m['content'] }}"
        + end
        + "{% endgeneration %}{% else %}"
        + body
        + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


PLAIN = template("<|user|>{{ m['content'] }}")
NO_SYSTEM = template(
    "{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}"
)
NO_END = template("<|user|>{{ m['content'] }}", end="")
TWO_ENDS = template("<|user|>{{ m['content'] }}", end="{{ eos_token * 2 }}")
TRIMS = PLAIN.replace(
    "{% generation %}{{ m['content'] }}", "{% generation %}{{ m['content'] | trim }}"
)
LINE_AFTER = template("<|user|>{{ m['content'] }}", end="{{ eos_token + '\n\n' }}")
PLAIN_AFTER = PLAIN.replace("{% endgeneration %}", "{% endgeneration %}<|user|>")
WITH_SYSTEM = {"messages": [turn("system", "Be kind."), *SOUND["messages"]]}


@pytest.fixture
def with_template(tiny_tokenizer) -> Callable[..., Folder]:
    def build(text: str | None = PLAIN, **more: Any) -> Folder:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = text
        known = {"generation": {"eos_token_id": [tokenizer.eos_token_id]}}
        return Folder("model", tokenizer, **{**known, **more})

    return build


# rule, rows with the mistake and template, rows without and template
PROBES: list[tuple[str, Rows, str, Rows, str]] = [
    (
        "refused-by-template",
        [SOUND, WITH_SYSTEM],
        "{{ raise_exception('no') }}",
        [SOUND],
        PLAIN,
    ),
    ("system-lost", [WITH_SYSTEM], NO_SYSTEM, [WITH_SYSTEM], PLAIN),
    ("system-lost", [WITH_SYSTEM], NO_SYSTEM, [SOUND], template("<|user|>")),
    ("turn-lost", [SOUND], template("<|user|>"), [says(" Where? ", "Here.")], PLAIN),
    ("answer-edited", [says("Hi", " Yes. ")], TRIMS, [says("Hi", " Yes. ")], PLAIN),
    ("control-ids", [says("Hi</s>", "Yes.")], PLAIN, [says("Hi</b>", "Yes.")], PLAIN),
    ("control-ids", [pair("<|user|>", "a")], PLAIN, [pair("user", "a")], PLAIN),
    ("no-stop-trained", [SOUND], NO_END, [SOUND], PLAIN + "\n"),
    ("double-bos", [{"text": "<s>Hi"}], PLAIN, [{"text": "Hi"}], PLAIN),
    ("double-end", [SOUND], TWO_ENDS, [SOUND], PLAIN),
    ("double-end", [SOUND], TWO_ENDS, [SOUND], LINE_AFTER),
    ("no-stop-trained", [SOUND], NO_END, [SOUND], LINE_AFTER),
    ("no-stop-trained", [SOUND], NO_END, [SOUND], PLAIN_AFTER),
    ("double-end", [{"text": "Hi</s>\n"}], PLAIN, [{"text": "Hi</s>"}], PLAIN),
    (
        "border-merges",
        [pair("Hi ", "ball")],
        PLAIN,
        [pair("Hi", " ball"), SOUND],
        PLAIN,
    ),
    ("cut-answers", [says("Hi", LONG * 3)], PLAIN, [SOUND], PLAIN),
    ("dropped-rows", [SOUND, says(LONG * 3, "Yes.")], PLAIN, [SOUND], PLAIN),
    (
        "all-rows-dropped",
        [says(LONG * 3, "Yes.")],
        PLAIN,
        [SOUND, says(LONG * 3, "x")],
        PLAIN,
    ),
    ("beyond-context", [says("Hi", LONG)], PLAIN, [SOUND], PLAIN),
]


@pytest.mark.parametrize(
    "rule, planted, bad, sound, good", PROBES, ids=[row[0] for row in PROBES]
)
def test_rules_on_the_probe(
    rule: str, planted: Rows, bad: str, sound: Rows, good: str, with_template
) -> None:
    def places(rows: Rows, text: str) -> list[checks.Place]:
        model = with_template(text, config={"max_position_embeddings": 24})
        found = source.from_rows(rows)
        seen = probe.build(found, model, max_length=32)
        return list(checks.RULES[rule].find(seen))

    assert places(planted, bad)
    assert places(sound, good) == []


def test_probe_names_each_refused_row_and_gives_up_on_hopeless_ones(
    with_template,
) -> None:
    strict = template(
        "{% if m['content'] == 'no' %}{{ raise_exception('x') }}{% endif %}"
    )
    rows = [says("no" if n in (3, 300) else "yes", "Yes.") for n in range(400)]
    steps: list[int] = []
    seen = probe.build(source.from_rows(rows), with_template(strict), step=steps.append)
    assert [number for number, _ in seen.refused] == [4, 301]
    assert (len(seen.seen), seen.tried, steps) == (398, 400, [256, 400])
    never = with_template(strict)
    hopeless = probe.build(source.from_rows([says("no", "Yes.")] * 900), never)
    assert 200 <= hopeless.tried < 900


def test_probe_shows_what_is_learnt_and_compares_with_the_prompt(with_template) -> None:
    model = with_template()
    rows = [SOUND, pair([turn("user", "Hi")], [turn("assistant", "Yes.")])]
    one, two = probe.build(source.from_rows(rows, format="messages"), model).samples[
        :1
    ] + (probe.build(source.from_rows(rows[1:]), model).samples)
    assert one["text"][-1] == (True, " In the box.</s>")
    assert one["bos"] and one["end"] == "</s>" and one["tokens"] > one["trained"] > 0
    assert one["asked"] == two["asked"] == "begins as it is asked"
    plain = probe.build(source.from_rows([{"text": "Hi"}]), model).samples[0]
    assert plain["asked"] == "has no prompt"
    alone = probe.build(source.from_rows([pair("Hi", " ball")]), with_template(None))
    assert alone.samples[0]["asked"] == "begins as it is asked"


def test_a_plain_prompt_is_asked_otherwise_through_a_template(with_template) -> None:
    rule = checks.RULES["asked-otherwise"]
    found = source.from_rows([pair("Where is the ball?", " In the box.")])
    planted = probe.build(found, with_template())
    assert "differs" in next(iter(rule.find(planted, found))).excerpt
    sound = probe.build(found, with_template(None))
    assert list(rule.find(sound, found)) == []
    refuses = probe.build(found, with_template("{{ raise_exception('no') }}"))
    assert "cannot be asked" in refuses.samples[0]["asked"]


def test_packing_with_long_rows(with_template) -> None:
    rule = checks.RULES["packed-cuts"]
    found = source.from_rows([says(LONG, "Yes."), SOUND])
    seen = probe.build(found, with_template(), max_length=20)
    assert [
        p.row for p in rule.find(seen, config.from_settings({"packing": True}))
    ] == [1]
    assert list(rule.find(seen, config.from_settings({}))) == []


# ----------------------------------------------------------------------------- folder


def edits(**more: Any) -> Callable[[Folder], None]:
    def edit(model: Folder) -> None:
        for name, value in more.items():
            setattr(model.tokenizer, name, value)

    return edit


def grow(model: Folder) -> None:
    model.tokenizer.add_tokens(["<new>"])
    model.config = {"vocab_size": len(model.tokenizer) - 1}


def same_rows(model: Folder) -> None:
    model.config = {"vocab_size": len(model.tokenizer)}


def as_adapter(
    *, stamped: bool = True, tensors: Mapping[str, Any] | None = None
) -> Callable[[Folder], None]:
    def edit(model: Folder) -> None:
        model.adapter = {"base_model_name_or_path": "base"}
        model.stamped = stamped
        model.tensors = {"model.layers.0.q_proj.weight": [4, 4]}
        model.adapter_tensors = tensors or {}

    return edit


def grown_adapter(model: Folder) -> None:
    grow(model)
    model.adapter = {"base_model_name_or_path": "base"}


def grown_adapter_saved(model: Folder) -> None:
    grown_adapter(model)
    model.adapter_tensors = {"base_model.model.model.embed_tokens.weight": [9, 4]}


def nothing(model: Folder) -> None:
    pass


IM = template("<|im_start|>{{ m['content'] }}")
KEY = "base_model.model.model.layers.0.{}.lora_A.weight"

# rule, planted template and edit, sound template and edit
FOLDERS: list[tuple[str, str | None, Any, str | None, Any]] = [
    ("no-template", None, nothing, PLAIN, nothing),
    ("template-drops-system", NO_SYSTEM, nothing, PLAIN, nothing),
    (
        "template-drops-system",
        template("{% if m['role'] == 'system' %}{{ raise_exception('x') }}{% endif %}"),
        nothing,
        None,
        nothing,
    ),
    (
        "template-injects-system",
        "You are a helpful assistant made by us." + PLAIN,
        nothing,
        PLAIN,
        nothing,
    ),
    ("template-injects-system", "Please do as told. " + CHAT, nothing, None, nothing),
    ("template-edits-answer", TRIMS, nothing, PLAIN, nothing),
    ("template-edits-answer", TRIMS, nothing, None, nothing),
    ("date-in-template", PLAIN + "{{ strftime_now('%d') }}", nothing, PLAIN, nothing),
    ("no-generation-mark", CHAT, nothing, PLAIN, nothing),
    ("answer-without-stop", NO_END, nothing, PLAIN, nothing),
    ("stop-not-in-generation", template("", end="<pad>"), nothing, PLAIN, nothing),
    ("split-markers", IM, nothing, PLAIN, nothing),
    ("tokens-without-rows", PLAIN, grow, PLAIN, same_rows),
    ("adapter-vocabulary", PLAIN, grown_adapter, PLAIN, grown_adapter_saved),
    ("adapter-without-base", PLAIN, as_adapter(stamped=False), PLAIN, as_adapter()),
    (
        "adapter-keys",
        PLAIN,
        as_adapter(tensors={KEY.format("k_proj"): [1, 4]}),
        PLAIN,
        as_adapter(tensors={KEY.format("q_proj"): [1, 4], "other": [1]}),
    ),
    ("pad-is-end", PLAIN, edits(pad_token="</s>"), PLAIN, nothing),
    (
        "right-padding",
        PLAIN,
        edits(padding_side="right"),
        PLAIN,
        edits(padding_side="left"),
    ),
]


@pytest.mark.parametrize(
    "rule, bad, spoil, good, keep", FOLDERS, ids=[row[0] for row in FOLDERS]
)
def test_rules_on_a_model(rule: str, bad, spoil, good, keep, with_template) -> None:
    def places(text: str | None, edit: Callable[[Folder], None]) -> list[checks.Place]:
        model = with_template(text)
        edit(model)
        return list(checks.RULES[rule].find(model))

    assert places(bad, spoil)
    assert places(good, keep) == []


def test_a_folder_without_a_tokenizer_is_not_accused() -> None:
    bare = Folder("model", None)
    for rule in checks.RULES.values():
        if rule.needs == ("folder",):
            assert list(rule.find(bare)) == [], rule.id


# ----------------------------------------------------------------------------- config

LORA = {"peft_type": "LORA", "target_modules": ["q_proj"]}
SOFT = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
GOOD_RATE = {"learning_rate": "2e-4"}  # as YAML gives it
FOUR = {"load_in_4bit": True}

# rule, settings with the mistake, settings without
SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("formatting-func-ignored", {"formatting_func": "write"}, {}),
    ("prompts-trained", {}, {"assistant_only_loss": True}),
    ("completion-loss-ignored", {"completion_only_loss": True}, {}),
    ("answers-not-marked", {"assistant_only_loss": True}, {}),
    ("foreign-collator", {"data_collator": "DataCollatorForLanguageModeling"}, {}),
    ("unknown-end-token", {"eos_token": "<|im_end|>"}, {"eos_token": "</s>"}),
    ("unknown-end-token", {"eos_token": "<|im_end|>"}, {"eos_token": script.UNKNOWN}),
    (
        "leaking-packs",
        {"packing": True, "packing_strategy": "wrapped"},
        {"packing": True, "packing_strategy": "bfd"},
    ),
    ("packed-soft-prompt", {"packing": True, "peft_config": SOFT}, {"packing": True}),
    (
        "packing-without-length",
        {"packing": True, "max_length": None},
        {"packing": True},
    ),
    (
        "token-indices",
        {"peft_config": {**LORA, "trainable_token_indices": [5]}},
        {"peft_config": LORA},
    ),
    (
        "tied-embeddings-saved",
        {"peft_config": {**LORA, "modules_to_save": "embed_tokens"}},
        {
            "peft_config": {
                **LORA,
                "modules_to_save": ["embed_tokens"],
                "ensure_weight_tying": True,
            }
        },
    ),
    ("other-base", {"model_name_or_path": "llama"}, {"model_name_or_path": "base"}),
    (
        "misspelt-target",
        {"use_peft": True, "lora_target_modules": ["q_proj", "w_proj", "zzz"]},
        {"use_peft": True, "lora_target_modules": "all-linear"},
    ),
    (
        "misspelt-target",
        {"peft_config": {**LORA, "target_modules": ["qproj"]}},
        {"peft_config": {**LORA, "target_modules": ["model.0.q_proj", "lm_head"]}},
    ),
    ("slow-lora", {"use_peft": True}, {"use_peft": True, **GOOD_RATE}),
    ("slow-lora", {"use_peft": True}, {"use_peft": True, "learning_rate": "fast"}),
    (
        "four-bit-defaults",
        {"quantization_config": FOUR},
        {
            "quantization_config": {
                **FOUR,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": "bfloat16",
            }
        },
    ),
    ("four-bit-defaults", {**FOUR, "bnb_4bit_quant_type": "fp4"}, FOUR),
    (
        "random-soft-prompt",
        {"peft_config": {**SOFT, "prompt_tuning_init_text": "Say"}},
        {"peft_config": {**SOFT, "prompt_tuning_init": "PromptTuningInit.TEXT"}},
    ),
    (
        "soft-prompt-length",
        {"peft_config": {**SOFT, "prompt_tuning_init_text": LONG}},
        {"peft_config": {**SOFT, "prompt_tuning_init_text": "the dog"}},
    ),
    ("soft-prompt-rate", {"peft_config": SOFT}, {"peft_config": LORA}),
    (
        "soft-prompt-rate",
        {"peft_config": SOFT, "learning_rate": 0.5},
        {"peft_config": SOFT, "learning_rate": 5e-3},
    ),
    (
        "soft-prompt-padding",
        {"peft_config": SOFT},
        {"peft_config": SOFT, "per_device_train_batch_size": 1},
    ),
    (
        "prefix-checkpointing",
        {"peft_config": {"peft_type": "PREFIX_TUNING"}},
        {
            "peft_config": {"peft_type": "PREFIX_TUNING"},
            "activation_checkpointing": False,
        },
    ),
    ("prefix-checkpointing", {"peft_config": {"peft_type": "PREFIX_TUNING"}}, {}),
    ("half-precision-weights", {"dtype": "bfloat16"}, {"dtype": "float32"}),
    (
        "half-precision-weights",
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "use_peft": 1},
    ),
    ("dtype-of-checkpoint", {"dtype": "auto"}, {"dtype": "float32"}),
    (
        "half-weights-half-training",
        {"dtype": "float16", "fp16": True},
        {"dtype": "float32", "fp16": True},
    ),
    ("gone-setting", {"max_seq_length": 512}, {"max_length": 512}),
    ("length-beyond-context", {"max_length": 4096}, {"max_length": 128}),
]


@pytest.mark.parametrize(
    "rule, planted, sound", SETTINGS, ids=[row[0] for row in SETTINGS]
)
def test_rules_on_settings(rule: str, planted, sound, with_template) -> None:
    model = with_template(CHAT)
    model.tokenizer.padding_side = "left"
    model.config = {
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "max_position_embeddings": 512,
    }
    model.adapter = {"base_model_name_or_path": "base"}
    model.tensors = {"model.layers.0.self_attn.q_proj.weight": [4, 4]}
    parts = {"folder": model, "source": source.from_rows([SOUND])}

    def places(settings: Mapping[str, Any]) -> list[checks.Place]:
        parts["config"] = config.from_settings(settings)
        one = checks.RULES[rule]
        return list(one.find(*(parts[need] for need in one.needs)))

    assert places(planted)
    assert places(sound) == []


def test_settings_follow_the_shape_of_the_rows(with_template) -> None:
    pairs = source.from_rows([pair("Hi", "Yes.")])
    trained = checks.RULES["prompts-trained"].find
    assert list(trained(config.from_settings({"completion_only_loss": False}), pairs))
    assert list(trained(config.from_settings({}), pairs)) == []
    text = source.from_rows([{"text": "Hi"}])
    assert list(trained(config.from_settings({}), text)) == []
    marked = checks.RULES["answers-not-marked"].find
    on = config.from_settings({"assistant_only_loss": True})
    assert list(marked(on, with_template(PLAIN))) == []
    assert list(marked(on, with_template(None))) == []
    bare = Folder("model", None)
    soft = {"peft_config": {**SOFT, "prompt_tuning_init_text": "Say"}}
    assert not list(
        checks.RULES["soft-prompt-length"].find(config.from_settings(soft), bare)
    )
    ends = config.from_settings({"eos_token": "x"})
    assert list(checks.RULES["unknown-end-token"].find(ends, bare)) == []


# ----------------------------------------------------------------------------- script

LOADED = "model = AutoModelForCausalLM.from_pretrained('x')\n"

# rule, code with the mistake, code without
SCRIPTS: list[tuple[str, str, str]] = [
    (
        "adapter-not-trainable",
        "m = PeftModel.from_pretrained(base, 'a')\nSFTTrainer(model=m)",
        "m = PeftModel.from_pretrained(base, 'a', is_trainable=True)\nSFTTrainer(m)",
    ),
    (
        "adapter-not-trainable",
        "SFTTrainer(PeftModel.from_pretrained(base, 'a'))",
        "m = PeftModel.from_pretrained(base, 'a')\nm.generate(x)",
    ),
    (
        "base-used-twice",
        LOADED + "a = get_peft_model(model, c)\nb = get_peft_model(model, d)",
        LOADED
        + "a = get_peft_model(model, c)\n"
        + LOADED
        + "SFTTrainer(model=model, peft_config=d)\nSFTTrainer(load(), peft_config=d)"
        "\ndef other(model):\n    return get_peft_model(model, d)"
        "\n(model, t) = load()\nget_peft_model(model, e)",
    ),
    (
        "merge-thrown-away",
        "model.merge_and_unload()\nmodel.save_pretrained('m')",
        "m = m.merge_and_unload()\nm.merge_and_unload().save_pretrained('m')",
    ),
    (
        "merge-of-four-bits",
        "q = BitsAndBytesConfig(load_in_4bit=True)\nm = m.merge_and_unload()",
        "m = m.merge_and_unload()",
    ),
    (
        "generation-padding",
        "i = tokenizer(texts, padding=True)\nmodel.generate(i.input_ids)",
        "i = tokenizer(texts, padding=True)\nmodel.generate(**i)\n"
        "model.generate(i['input_ids'], attention_mask=i['attention_mask'])",
    ),
    (
        "generation-padding",
        "t = AutoTokenizer.from_pretrained('x', padding_side='right')\nm.generate(**i)",
        "t = AutoTokenizer.from_pretrained('x', padding_side='left')\nm.generate(**i)",
    ),
    (
        "template-returns-dict",
        "ids = t.apply_chat_template(m)\nprint(len(ids))",
        "ids = t.apply_chat_template(m, return_dict=True)\nprint(len(ids))\n"
        "text = t.apply_chat_template(m, tokenize=False)\nprint(len(text), len(m))",
    ),
    (
        "template-returns-dict",
        "model.generate(t.apply_chat_template(m))",
        "model.generate(**t.apply_chat_template(m, return_dict=True))",
    ),
    (
        "asked-while-training",
        "trainer.train()\nmodel.generate(**i)",
        "trainer.train()\nmodel.eval()\nmodel.generate(**i)\n"
        "def answer(i):\n    return model.generate(**i)",
    ),
    (
        "no-generation-prompt",
        "i = t.apply_chat_template(m, return_dict=True)\nmodel.generate(**i)"
        "\nmodel.generate(inputs=i)",
        "i = t.apply_chat_template(m, add_generation_prompt=True)\nmodel.generate(i)\n"
        "row = t.apply_chat_template(m)",
    ),
    (
        "template-and-specials",
        "x = t.apply_chat_template(m, tokenize=False)\ntokenizer([x])",
        "x = t.apply_chat_template(m, tokenize=False)\n"
        "tokenizer(x, add_special_tokens=False)\ntokenizer('other')",
    ),
    (
        "new-tokens-not-resized",
        LOADED + "tokenizer.add_tokens(['<x>'])",
        LOADED + "tokenizer.add_tokens(['<x>'])\nmodel.resize_token_embeddings(n)",
    ),
    (
        "new-tokens-untrained",
        "tokenizer.add_special_tokens(more)\nLoraConfig(r=8)",
        "tokenizer.add_tokens(['x'])\nLoraConfig(modules_to_save=['embed_tokens'])",
    ),
    (
        "new-tokens-untrained",
        "tokenizer.add_tokens(new_tokens=['x'])\nLoraConfig(r=8)",
        "LoraConfig(r=8)",
    ),
    (
        "plain-arguments",
        "SFTTrainer(args=TrainingArguments(output_dir='x'))",
        "SFTTrainer(args=SFTConfig(output_dir='x'))",
    ),
    (
        "dtype-of-checkpoint",
        LOADED + "SFTTrainer(model=model)",
        LOADED.replace("'x'", "'x', dtype=torch.float32") + "SFTTrainer(model=model)",
    ),
    (
        "four-bit-defaults",
        "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4')",
        "BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', "
        "bnb_4bit_compute_dtype=torch.bfloat16)",
    ),
    (
        "slow-lora",
        "SFTConfig(learning_rate=2e-5)\nLoraConfig(r=8)",
        "SFTConfig(learning_rate=rate())\nLoraConfig(r=8)",
    ),
    (
        "slow-lora",
        "SFTConfig(max_steps=5)\nLoraConfig(r=8)",
        "SFTConfig(**settings)\nLoraConfig(r=8)",
    ),
    (
        "slow-lora",
        "SFTConfig(learning_rate=2e-5)\nLoraConfig(r=8)",
        "SFTConfig(learning_rate=2e-5)\nSFTConfig(learning_rate=2e-4)\nLoraConfig(r=8)",
    ),
    (
        "prefix-checkpointing",
        "SFTConfig(max_steps=5)\nPrefixTuningConfig(num_virtual_tokens=3)",
        "SFTConfig(**settings)\nPrefixTuningConfig(num_virtual_tokens=3)",
    ),
]


@pytest.mark.parametrize("rule, planted, sound", SCRIPTS, ids=[s[0] for s in SCRIPTS])
def test_rules_on_a_script(rule: str, planted: str, sound: str) -> None:
    def places(text: str) -> list[checks.Place]:
        read = script.read(text)
        model = Folder("model", None, config={"dtype": "bfloat16"})
        parts = {"script": read, "config": config.from_script(read), "folder": model}
        one = checks.RULES[rule]
        return list(one.find(*(parts[need] for need in one.needs)))

    assert places(planted)
    assert places(sound) == []


# -------------------------------------------------------------------------- all rules


def test_every_rule_has_a_planted_mistake() -> None:
    tables = (ROWS, PROBES, FOLDERS, SETTINGS, SCRIPTS)
    planted = {row[0] for table in tables for row in table} | ELSEWHERE
    assert planted == set(checks.RULES)


def test_rules_cover_the_catalogue_and_say_what_to_do() -> None:
    covered = {rule.pitfall for rule in checks.RULES.values()} - {0}
    assert len(covered) >= 45
    for rule in checks.RULES.values():
        assert len(rule.title) > 12 and len(rule.fix) > 12, rule.id
        assert rule.ignored.endswith((".", "'")), rule.id


def test_leakage_names_both_rows() -> None:
    case = checks.Case(
        source=source.from_rows([says("Hi", "Yes."), SOUND]),
        test=source.from_rows([says("where is the ball?", "No idea.")], file="test"),
    )
    report = checks.diagnose(case, title="x")
    leak = next(f for f in report.findings if f.rule.id == "leakage")
    assert leak.places[0].row == 1 and "is row 2" in leak.places[0].excerpt
    case.test = source.from_rows([says("Where is the dog?", "In the box.")])
    assert checks.diagnose(case, title="x").sound
