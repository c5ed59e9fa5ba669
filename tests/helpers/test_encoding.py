"""encode against SFTTrainer itself, and everything that must be refused."""

from __future__ import annotations

import copy
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.encoding import (
    MASKED,
    Encoded,
    arrange,
    class_ids,
    encode,
    encode_prompts,
    mix,
    render,
    to_blocks,
    to_dataset,
)
from helpers.formats import DataError

CHATML = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{%- if m['role'] == 'assistant' %}{%- generation %}"
    "{{ m['content'] + '<|im_end|>' }}{%- endgeneration %}{{ '\\n' }}"
    "{%- else %}{{ m['content'] + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}"
    "{% endif %}"
    "{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{% for m in messages %}"
    "{% set content = '<|im_start|>' + m['role'] + '<|im_mid|>\\n\\n'"
    " + m['content'] | trim + '<|im_end|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant<|im_mid|>\\n\\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token "
    "+ '\\n' }}{% if loop.last and add_generation_prompt %}"
    "{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "tiny": None,
    "chatml": CHATML,
    "llama2": LLAMA_2,
    "llama3": LLAMA_3,
    "zephyr": ZEPHYR,
}
MARKED = ("tiny", "chatml")
UNMARKED = ("llama2", "llama3", "zephyr")

QUESTION = {"role": "user", "content": "Where is the ball?"}
ANSWER = {"role": "assistant", "content": "in the old box"}
SYSTEM = {"role": "system", "content": "Answer in one word."}
CHATS = [
    [QUESTION, ANSWER],
    [SYSTEM, QUESTION, {"role": "assistant", "content": "yes"}],
    [{"role": "user", "content": "say ж 😀"}, {"role": "assistant", "content": "ж😀"}],
    [
        SYSTEM,
        QUESTION,
        ANSWER,
        {"role": "user", "content": "Who has the key?"},
        {"role": "assistant", "content": "Mira has the key,\nand the dog too"},
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "one two three"},
    ],
    [QUESTION, {"role": "assistant", "content": "no"}],
]
TEXTS = [
    {"text": "the red ball"},
    {"text": "the dog is in the garden</s>"},
    {"text": "Mira has"},
]
PAIRS = [
    {"prompt": "Where is the ball?", "completion": " in the box"},
    {"prompt": "the red", "completion": "dish ball"},
    {"prompt": "count: ", "completion": "one two</s>"},
]


@pytest.fixture(scope="module")
def tokenizers(tiny_tokenizer):
    """One tokenizer for each template."""
    made = {}
    for name, template in TEMPLATES.items():
        tokenizer = copy.deepcopy(tiny_tokenizer)
        if template is not None:
            tokenizer.add_special_tokens(
                {
                    "extra_special_tokens": [
                        "<|im_start|>",
                        "<|im_mid|>",
                        "<|im_end|>",
                    ]
                }
            )
            tokenizer.chat_template = template
        made[name] = tokenizer
    return made


@pytest.fixture
def trainer_rows(fresh_model, tmp_path):
    """What SFTTrainer hands to the model: unpadded (ids, labels) of each row."""

    def prepare(rows, tokenizer, **options):
        from trl import SFTConfig, SFTTrainer

        from datasets import Dataset

        fresh_model.resize_token_embeddings(len(tokenizer))
        trainer = SFTTrainer(
            model=fresh_model,
            args=SFTConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to=[],
                disable_tqdm=True,
                **options,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=copy.deepcopy(tokenizer),
        )
        batch = trainer.data_collator(list(trainer.train_dataset))
        return [
            (ids[seen].tolist(), labels[seen].tolist())
            for ids, labels, seen in zip(
                batch["input_ids"],
                batch["labels"],
                batch["attention_mask"].bool(),
                strict=True,
            )
        ]

    return prepare


def pairs_of(encoded: Encoded) -> list[tuple[list[int], list[int]]]:
    dropped = set(encoded.empty)
    rows = zip(encoded.input_ids, encoded.labels, strict=True)
    return [row for index, row in enumerate(rows) if index not in dropped]


def learnt(encoded: Encoded, tokenizer, index: int = 0) -> str:
    return tokenizer.decode([i for i in encoded.labels[index] if i != MASKED])


def split(messages):
    return {"prompt": messages[:-1], "completion": messages[-1:]}


# ------------------------------------------------------- the same as SFTTrainer


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("max_length", [None, 24])
def test_messages_equal_assistant_only_loss(name, max_length, tokenizers, trainer_rows):
    rows = [{"messages": chat} for chat in CHATS]
    encoded = encode(rows, tokenizers[name], max_length=max_length)
    expected = trainer_rows(
        rows, tokenizers[name], assistant_only_loss=True, max_length=max_length
    )
    assert pairs_of(encoded) == expected
    assert any(MASKED in labels for _, labels in expected)


@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("max_length", [None, 34])
def test_prompt_and_completion_equal_completion_only_loss(
    name, max_length, tokenizers, trainer_rows
):
    rows = [split(chat) for chat in CHATS]
    encoded = encode(rows, tokenizers[name], max_length=max_length)
    expected = trainer_rows(
        rows, tokenizers[name], completion_only_loss=True, max_length=max_length
    )
    assert pairs_of(encoded) == expected
    assert all(MASKED in labels for _, labels in expected)


@pytest.mark.parametrize("name", UNMARKED)
def test_messages_without_marks_equal_prompt_and_completion(name, tokenizers):
    tokenizer = tokenizers[name]
    chats = [chat for chat in CHATS if len(chat) < 4]
    single = encode([{"messages": chat} for chat in chats], tokenizer)
    assert single == encode([split(chat) for chat in chats], tokenizer)


@pytest.mark.parametrize("name", UNMARKED)
def test_every_turn_without_marks_equals_its_own_prompt_and_completion(
    name, tokenizers
):
    tokenizer = tokenizers[name]
    chat = CHATS[3]
    whole = encode([{"messages": chat}], tokenizer)
    ids, labels = whole.input_ids[0], whole.labels[0]
    expected = [MASKED] * len(ids)
    for end in (3, 5, 7):
        turn = encode([split(chat[:end])], tokenizer)
        assert ids[: len(turn.input_ids[0])] == turn.input_ids[0]
        for place, label in enumerate(turn.labels[0]):
            if label != MASKED:
                expected[place] = label
    assert labels == expected
    shown = learnt(whole, tokenizer)
    for message in chat:
        answered = message["role"] == "assistant"
        assert (message["content"] in shown) == answered


def test_marked_and_unmarked_template_agree(tokenizers):
    marked = tokenizers["tiny"]
    unmarked = copy.deepcopy(marked)
    unmarked.chat_template = marked.chat_template.replace(
        "{% generation %}", ""
    ).replace("{% endgeneration %}", "")
    rows = [{"messages": chat} for chat in CHATS]
    assert encode(rows, marked) == encode(rows, unmarked)


@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["text", "pairs"])
@pytest.mark.parametrize("max_length", [None, 7])
def test_plain_rows_equal_trainer(rows, max_length, tokenizers, trainer_rows):
    encoded = encode(rows, tokenizers["tiny"], max_length=max_length)
    expected = trainer_rows(rows, tokenizers["tiny"], max_length=max_length)
    assert pairs_of(encoded) == expected
    if max_length is None:
        assert all(ids[0] == 1 and ids[-1] == 2 for ids, _ in expected)


@pytest.mark.parametrize(
    "rows",
    [
        [{"messages": chat} for chat in CHATS],
        [split(chat) for chat in CHATS],
        PAIRS,
    ],
    ids=["messages", "split", "pairs"],
)
def test_loss_on_all_equals_trainer_without_masks(rows, tokenizers, trainer_rows):
    encoded = encode(rows, tokenizers["tiny"], loss_on="all")
    assert encoded.input_ids == encoded.labels
    assert pairs_of(encoded) == trainer_rows(
        rows, tokenizers["tiny"], completion_only_loss=False
    )


def test_dataset_goes_through_the_trainer_unchanged(tokenizers, trainer_rows):
    rows = [{"messages": chat} for chat in CHATS]
    encoded = encode(rows, tokenizers["tiny"], max_length=24)
    prepared = to_dataset(encoded)
    assert prepared.column_names == ["input_ids", "labels"]
    again = trainer_rows(prepared.to_list(), tokenizers["tiny"], max_length=24)
    assert again == pairs_of(encoded)


CONTENT = st.text(st.sampled_from("ab é😀\n.ж<>"), min_size=1, max_size=8).filter(
    str.strip
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(CONTENT, min_size=1, max_size=3), st.sampled_from(MARKED))
def test_any_conversation_equals_the_tokenizer_s_own_mask(tokenizers, contents, name):
    tokenizer = tokenizers[name]
    messages = []
    for content in contents:
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": content})
    own = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True)
    encoded = encode([{"messages": messages}], tokenizer)
    assert encoded.input_ids[0] == own["input_ids"]
    assert [int(i != MASKED) for i in encoded.labels[0]] == own["assistant_masks"]


def test_rows_of_all_shapes_at_once_keep_their_order(tokenizers):
    tokenizer = tokenizers["tiny"]
    rows = [TEXTS[0], {"messages": CHATS[3]}, PAIRS[0], split(CHATS[1]), TEXTS[2]]
    mixed = encode(rows, tokenizer)
    for index, row in enumerate(rows):
        alone = encode([row], tokenizer)
        assert mixed.input_ids[index] == alone.input_ids[0]
        assert mixed.labels[index] == alone.labels[0]
    assert encode([], tokenizer) == Encoded([], [], [], [])


def test_tools_reach_the_template_as_list_or_json(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["tiny"])
    tokenizer.chat_template = (
        "{{ 'tools ' if tools is not none }}{{ mood }}" + tokenizer.chat_template
    )
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]}
    row = {"messages": [QUESTION, ANSWER], "tools": [{"name": "look"}]}
    texts = [
        tokenizer.decode(ids)
        for ids in encode(
            [
                row,
                {**row, "tools": '[{"name": "look"}]'},
                {**row, "tools": []},
                {**row, "tools": None, "chat_template_kwargs": {"mood": "calm"}},
                {"messages": [QUESTION, called, ANSWER]},
            ],
            tokenizer,
        ).input_ids
    ]
    assert texts[0] == texts[1]
    assert texts[0].strip().startswith("tools")
    assert texts[2] == texts[0]  # as SFTTrainer does: an empty list is not None
    assert texts[3].strip().startswith("calm")
    assert "None" not in texts[4]


# ------------------------------------------- better than the tokenizer's own mask


@pytest.fixture
def trimming(tiny_tokenizer):
    """Offsets without white space, as in Llama 3; answers end on a line break."""
    from tokenizers import pre_tokenizers, processors

    tokenizer = copy.deepcopy(tiny_tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    return tokenizer


def chat(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def test_answer_with_white_space_at_its_edges_is_learnt_whole(trimming):
    messages = chat("where", " box ", "who", " dog ")
    own = trimming.apply_chat_template(messages, return_assistant_tokens_mask=True)
    assert sum(own["assistant_masks"]) == 0  # what transformers would learn: nothing
    encoded = encode([{"messages": messages}], trimming)
    assert learnt(encoded, trimming) == " box  dog "


def test_answer_that_ends_on_white_space_does_not_take_the_next_turn(trimming):
    messages = chat("where", "box ", "who", "dog")
    own = trimming.apply_chat_template(messages, return_assistant_tokens_mask=True)
    supervised = [
        i for i, m in zip(own["input_ids"], own["assistant_masks"], strict=True) if m
    ]
    assert "who" in trimming.decode(supervised)  # transformers learns the question
    encoded = encode([{"messages": messages}], trimming)
    assert learnt(encoded, trimming) == "box dog"


def test_answer_that_ends_on_a_character_of_several_tokens(trimming):
    encoded = encode([{"messages": chat("say", "😀", "say", "ok")}], trimming)
    assert learnt(encoded, trimming) == "😀ok"


# ----------------------------------------------------------------- what was cut


def test_cut_and_unfinished_name_the_rows(tokenizers):
    tokenizer = tokenizers["tiny"]
    row = {"messages": CHATS[0]}
    ids = encode([row], tokenizer).input_ids[0]
    end = len(ids)
    short = {"messages": [QUESTION, {"role": "assistant", "content": "no"}]}

    whole = encode([row], tokenizer, max_length=end)
    assert (whole.cut, whole.unfinished, whole.empty) == ([], [], [])

    no_end = encode([short, row], tokenizer, max_length=end - 1)
    assert (no_end.cut, no_end.unfinished, no_end.empty) == ([1], [1], [])
    assert no_end.input_ids[1] == ids[:-1]

    prompt_only = encode([row, short], tokenizer, max_length=5)
    assert prompt_only.cut == prompt_only.unfinished == prompt_only.empty == [0, 1]
    assert [len(labels) for labels in prompt_only.labels] == [5, 5]


def test_row_cut_behind_its_end_token_is_not_unfinished(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["chatml"])
    tokenizer.chat_template = CHATML.replace(
        "+ '<|im_end|>' }}{%- endgeneration %}{{ '\\n' }}",
        "+ '<|im_end|>\\n' }}{%- endgeneration %}",
    )
    row = {"messages": CHATS[0]}
    ids = encode([row], tokenizer).input_ids[0]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    last = len(ids) - ids[::-1].index(end)
    kept = encode([row], tokenizer, max_length=last)
    lost = encode([row], tokenizer, max_length=last - 1)
    assert (kept.cut, kept.unfinished) == ([0], [])
    assert (lost.cut, lost.unfinished) == ([0], [0])


def test_row_cut_after_its_last_answer_loses_nothing(tokenizers):
    row = {"messages": [*CHATS[0], {"role": "user", "content": "thanks a lot"}]}
    tokenizer = tokenizers["tiny"]
    whole = encode([row], tokenizer)
    assert "thanks" not in learnt(whole, tokenizer)
    shorter = encode([row], tokenizer, max_length=len(whole.input_ids[0]) - 1)
    assert (shorter.cut, shorter.unfinished) == ([], [])


def test_dataset_leaves_out_empty_rows_and_refuses_to_be_empty(tokenizers):
    rows = [{"messages": CHATS[0]}, TEXTS[0]]
    encoded = encode(rows, tokenizers["tiny"], max_length=4)
    assert encoded.empty == [0]
    assert to_dataset(encoded)["input_ids"] == [encoded.input_ids[1]]
    with pytest.raises(DataError, match="None of the 1 rows .* raise max_length"):
        to_dataset(encode(rows[:1], tokenizers["tiny"], max_length=4))


# --------------------------------------------------------------- what is refused

BAD_ROWS = {
    "no shape": ({"instruction": "x"}, "neither messages nor .* instruction"),
    "no completion": ({"prompt": "x"}, "neither messages nor"),
    "nothing": ({}, r"its fields: none"),
    "two shapes": ({"text": "x", "prompt": "x"}, "both prompt and text"),
    "no mapping": ("x", "of type str, not a mapping"),
    "text no text": ({"text": 3}, "field text, is of type int"),
    "prompt mixed": ({"prompt": "x", "completion": [ANSWER]}, "field completion, is"),
    "completion number": ({"prompt": "x", "completion": 3}, "completion, is of type"),
    "mixed the other way": ({"prompt": [QUESTION], "completion": "x"}, "field prompt"),
    "messages no list": ({"messages": "x"}, "field messages, is not a list"),
    "messages empty": ({"messages": []}, "at least one message"),
    "message no mapping": ({"messages": ["x"]}, "message 1 is of type str"),
    "role": (
        {"messages": [QUESTION, {"role": "gpt", "content": "x"}]},
        "message 2 has the role 'gpt'",
    ),
    "from and value": ({"messages": [{"from": "human", "value": "x"}]}, "role None"),
    "content None": (
        {"messages": [QUESTION, {"role": "assistant", "content": None}]},
        "message 2 has a content of type NoneType",
    ),
    "content parts": (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}, ANSWER]},
        "content of type list",
    ),
    "no answer": ({"messages": [QUESTION]}, "no assistant message"),
    "user in completion": (
        {"prompt": [QUESTION], "completion": [QUESTION, ANSWER]},
        "completion, message 1 has the role 'user'",
    ),
    "template": (
        {"messages": [QUESTION, {"role": "tool", "content": "x"}, ANSWER]},
        r"refused by the chat template \(unknown role tool\)",
    ),
    "tools": ({"messages": [QUESTION, ANSWER], "tools": "{"}, "tools, is no valid"),
}


@pytest.mark.parametrize(("row", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_row_is_named(row, message, tokenizers):
    with pytest.raises(DataError, match=rf"^row 2 \(index 1\).*{message}") as caught:
        encode([{"messages": CHATS[0]}, row], tokenizers["tiny"])
    assert "\n" not in str(caught.value)


def test_roles_that_do_not_alternate_are_named(tokenizers):
    row = {"messages": [QUESTION, QUESTION, ANSWER]}
    with pytest.raises(DataError, match=r"row 1 \(index 0\).*must alternate"):
        encode([row], tokenizers["llama2"])


def test_template_without_marks_that_changes_earlier_turns(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["zephyr"])
    # As Qwen 3 does with its thoughts: only the last answer is shown whole.
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{{ m.content if loop.last or m.role != 'assistant' else '...' }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>"
        "{% endif %}"
    )
    with pytest.raises(DataError, match=r"row 1 \(index 0\).* message 3 .*split"):
        encode([{"messages": CHATS[3]}], tokenizer)
    # One answer, then a question: the same trap with a single answer.
    followed = {"messages": [QUESTION, ANSWER, QUESTION]}
    with pytest.raises(DataError, match="message 2 .*split"):
        encode([followed], tokenizer)
    assert "old box" in learnt(encode([{"messages": CHATS[0]}], tokenizer), tokenizer)


def test_question_after_the_only_answer_is_not_learnt(tokenizers):
    row = {"messages": [QUESTION, ANSWER, {"role": "user", "content": "thanks"}]}
    tokenizer = tokenizers["llama3"]
    encoded = encode([row], tokenizer)
    assert learnt(encoded, tokenizer) == "in the old box<|im_end|>"


def test_prompt_that_is_no_prefix_starts_where_they_part(tokenizers, trainer_rows):
    tokenizer = copy.deepcopy(tokenizers["zephyr"])
    # As Qwen 3 without thinking: the opening has an empty thought, training has not.
    tokenizer.chat_template = ZEPHYR.replace(
        "'<|assistant|>\\n'", "'<|assistant|>\\n<think></think>'"
    )
    rows = [split(CHATS[0])]
    assert pairs_of(encode(rows, tokenizer)) == trainer_rows(rows, tokenizer)


def test_conversation_that_is_shorter_than_its_prompt(tokenizers):
    tokenizer = copy.deepcopy(tokenizers["tiny"])
    tokenizer.chat_template = (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(DataError, match=r"row 1 \(index 0\) has no token to learn"):
        encode([split(CHATS[0])], tokenizer)


def test_answer_first_needs_marks(tokenizers):
    row = {"messages": [ANSWER, QUESTION, ANSWER]}
    assert learnt(encode([row], tokenizers["chatml"]), tokenizers["chatml"])
    with pytest.raises(DataError, match="starts with an answer"):
        encode([row], tokenizers["zephyr"])


def test_tokenizers_that_cannot_serve(tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.chat_template = None
    with pytest.raises(DataError, match="has no chat template"):
        encode([{"messages": CHATS[0]}], bare)
    bare.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        encode([TEXTS[0]], bare)

    class Slow:
        is_fast = False

    for use in (encode, encode_prompts):
        with pytest.raises(DataError, match="^Slow cannot tell"):
            use([TEXTS[0]], Slow())


@pytest.mark.parametrize("options", [{"loss_on": "answer"}, {"max_length": 0}])
def test_unknown_options(options, tiny_tokenizer):
    with pytest.raises(ValueError, match=next(iter(options))):
        encode(TEXTS, tiny_tokenizer, **options)


# -------------------------------------------------------------- render, prompts


def test_render(tiny_tokenizer):
    assert render([SYSTEM, QUESTION, ANSWER], tiny_tokenizer) == (
        "<s><|system|>Answer in one word.<|user|>Where is the ball?"
        "<|assistant|>in the old box</s>"
    )
    opened = render([QUESTION], tiny_tokenizer, add_generation_prompt=True)
    assert opened == "<s><|user|>Where is the ball?<|assistant|>"
    with pytest.raises(DataError, match="the conversation, field messages"):
        render([], tiny_tokenizer)


@pytest.mark.parametrize("which", ["tiny_tokenizer", "foreign_tokenizer"])
def test_prompts_have_one_bos_and_no_end(which, request):
    tokenizer = request.getfixturevalue(which)
    bos = tokenizer.bos_token
    ids = encode_prompts(
        ["the ball", bos + "the ball", [QUESTION], bos + "a" + tokenizer.eos_token],
        tokenizer,
    )
    assert ids[0] == tokenizer("the ball").input_ids
    assert [row.count(tokenizer.bos_token_id) for row in ids] == [1, 1, 1, 1]
    assert [row[-1] == tokenizer.eos_token_id for row in ids] == [False] * 3 + [True]


def test_prompt_of_messages_is_the_trained_prefix(tokenizers):
    for name, tokenizer in tokenizers.items():
        if name == "llama2":  # its answer starts inside a merged token
            continue
        (prompt,) = encode_prompts([CHATS[1][:-1]], tokenizer)
        encoded = encode([{"messages": CHATS[1]}], tokenizer)
        first = next(i for i, x in enumerate(encoded.labels[0]) if x != MASKED)
        assert encoded.input_ids[0][:first] == prompt


def test_closing_token_of_the_tokenizer_is_removed_from_prompts(tiny_tokenizer):
    from tokenizers import processors

    closing = copy.deepcopy(tiny_tokenizer)
    closing.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert encode_prompts(["the ball"], closing) == encode_prompts(
        ["the ball"], tiny_tokenizer
    )


def test_answers_are_tokenised_with_their_prompts(tokenizers):
    plain = tokenizers["tiny"]
    ids = encode_prompts(["the red ", [QUESTION]], plain, answers=["ball", "box"])
    assert ids[0] == plain("the red ball").input_ids
    assert plain.decode(ids[1]).endswith("<|assistant|> box")
    llama2 = tokenizers["llama2"]
    (ids,) = encode_prompts([[QUESTION]], llama2, answers=["box"])
    assert llama2.decode(ids).endswith("[/INST] box")
    odd = copy.deepcopy(plain)
    odd.chat_template = odd.chat_template.replace(
        "<|assistant|>{% gen", "<|assistant|>my {% gen"
    )
    (ids,) = encode_prompts([[QUESTION]], odd, answers=["box"])
    assert odd.decode(ids).endswith("<|assistant|> box")
    odd.chat_template = odd.chat_template.replace("%}<|assistant|>{% e", "%}now{% e")
    (ids,) = encode_prompts([[QUESTION]], odd, answers=["box"])
    assert odd.decode(ids).endswith("nowbox")


def test_bad_prompts_are_named(tokenizers):
    tokenizer = tokenizers["tiny"]
    with pytest.raises(DataError, match=r"prompt 2 \(index 1\), field messages"):
        encode_prompts(["x", [{"role": "human", "content": "x"}]], tokenizer)
    bare = copy.deepcopy(tokenizer)
    from tokenizers import processors

    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(DataError, match=r"prompt 2 \(index 1\) is empty"):
        encode_prompts(["x", ""], bare)
    bare.bos_token = bare.eos_token = None
    assert encode_prompts(["x"], bare) == [bare("x").input_ids]


def padding(lengths: list[int], batch_size: int) -> int:
    """Tokens of padding when consecutive rows share a batch."""
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


@given(
    lengths=st.lists(st.integers(1, 60), max_size=90),
    batch_size=st.integers(1, 9),
    window=st.integers(1, 6),
)
def test_arranged_rows_are_the_same_rows(lengths, batch_size, window):
    ids = [[row] * length for row, length in enumerate(lengths)]
    labels = [[-row] * length for row, length in enumerate(lengths)]
    marked = [row for row in range(len(ids)) if row % 3 == 0]
    found = arrange(Encoded(ids, labels, marked, marked[:2]), batch_size, window=window)
    assert sorted(found.input_ids) == ids
    assert [[-token for token in row] for row in found.input_ids] == found.labels
    assert sorted(found.input_ids[place][0] for place in found.cut) == marked
    assert {found.input_ids[place][0] for place in found.unfinished} == set(marked[:2])


def test_arranging_saves_padding_and_keeps_batches_mixed():
    lengths = [1 + (7 * row) % 50 for row in range(640)]
    rows = [[0] * length for length in lengths]
    encoded = Encoded(rows, rows, [], [])
    plain = padding(lengths, 16)
    some = padding([len(row) for row in arrange(encoded, 16).input_ids], 16)
    all_ = arrange(encoded, 16, window=40)
    assert padding([len(row) for row in all_.input_ids], 16) < some < 0.5 * plain
    again = [arrange(encoded, 16, seed=seed).input_ids for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    # the last, short batch stays the last
    short = [
        len(row) for row in arrange(Encoded(rows[:33], rows[:33], [], []), 16).labels
    ]
    assert max(short[:16]) <= min(short[16:32]) or max(short[16:32]) <= min(short[:16])


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 2, "window": 0}])
def test_a_batch_has_rows(wrong):
    with pytest.raises(ValueError, match="must be 1 or more"):
        arrange(Encoded([[1]], [[1]], [], []), **wrong)


# ----------------------------------------------------------------------- class labels


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1))
def test_class_ids_lead_back_to_the_labels(labels):
    ids, names = class_ids(labels)
    assert [names[number] for number in ids] == labels
    assert names == sorted(set(labels))
    assert class_ids(labels, names=names[::-1])[0] == [
        len(names) - 1 - number for number in ids
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "There are no labels"),
        (["irony", " "], "row 2 (index 1) has the label ' '"),
        (["irony", None], "row 2 (index 1) has the label None"),
        (["irony", "joke"], "'joke', which training never saw (it saw irony, literal)"),
    ],
)
def test_bad_labels_are_named_in_one_sentence(labels, message):
    with pytest.raises(DataError) as caught:
        class_ids(labels, names=["irony", "literal"])
    assert message in str(caught.value)
    assert str(caught.value).count("\n") == 0


def corpus(word: int, rows: int, length: int) -> Encoded:
    ids = [[word] * length for _ in range(rows)]
    return Encoded(ids, [list(row) for row in ids], [], [])


def test_mixing_fills_the_budget_by_shares_and_repeats():
    parts = [(corpus(1, 100, 7), 0.8), (corpus(2, 100, 5), 0.2)]
    mixed = mix(parts, 200, seed=3)
    counts = [sum(len(r) for r in mixed.input_ids if r[0] == word) for word in (1, 2)]
    assert counts == [161, 40]  # the last row is whole
    assert mixed.labels == mixed.input_ids
    assert mix(parts, 200, seed=3).input_ids == mixed.input_ids
    assert mix(parts, 200, seed=4).input_ids != mixed.input_ids


def test_a_part_without_a_share_gives_nothing():
    mixed = mix([(corpus(1, 9, 7), 1.0), (corpus(2, 1, 5), 0.0)], 20)
    assert {row[0] for row in mixed.input_ids} == {1}


def test_a_text_of_one_line_is_too_short_for_its_share():
    with pytest.raises(DataError, match="Text 2 is 1 rows of 5 tokens, fewer than its"):
        mix([(corpus(1, 9, 7), 0.5), (corpus(2, 1, 5), 0.5)], 20)


@pytest.mark.parametrize(
    ("shares", "tokens", "complaint"),
    [
        ([], 5, "the shares are"),
        ([0.5, 0.6], 5, "the shares are"),
        ([1.5, -0.5], 5, "the shares are"),
        ([1.0], 0, "tokens is 0"),
    ],
)
def test_shares_that_are_none_are_refused(shares, tokens, complaint):
    with pytest.raises(ValueError, match=complaint):
        mix([(corpus(1, 9, 7), share) for share in shares], tokens)


def test_blocks_hold_every_token_once_and_in_order(tiny_tokenizer) -> None:
    texts = ["the red ball", "where is the ball?", "one two three"]
    blocks = to_blocks(texts, tiny_tokenizer, length=4)
    stream = [id_ for block in blocks for id_ in block]
    wanted = []
    for text in texts:
        ids = tiny_tokenizer(text, add_special_tokens=False)["input_ids"]
        wanted += [tiny_tokenizer.bos_token_id, *ids, tiny_tokenizer.eos_token_id]
    assert {len(block) for block in blocks} == {4}
    assert stream == wanted[: len(stream)]
    assert 0 <= len(wanted) - len(stream) < 4


def test_blocks_without_special_tokens_hold_the_words_alone(tiny_tokenizer) -> None:
    bare = copy.deepcopy(tiny_tokenizer)
    bare.bos_token = bare.eos_token = None
    ids = bare("the red ball", add_special_tokens=False)["input_ids"]
    assert to_blocks(["the red ball"], bare, length=len(ids)) == [ids]


@pytest.mark.parametrize(
    ("texts", "length", "error", "said"),
    [
        (["the ball"], 64, DataError, "1 text with"),
        (["the ball", "the box"], 64, DataError, "2 texts with"),
        ([], 64, DataError, "0 texts with 0 tokens"),
        (["the ball", ""], 4, DataError, "text 2 (index 1) is empty"),
        (["the ball"], 1, ValueError, "length is 1"),
    ],
)
def test_blocks_refuse_what_cannot_be_cut(
    tiny_tokenizer, texts, length, error, said
) -> None:
    with pytest.raises(error, match=re.escape(said)):
        to_blocks(texts, tiny_tokenizer, length=length)
