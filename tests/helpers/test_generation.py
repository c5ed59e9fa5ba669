"""Batches must equal one by one, on two models that share nothing."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from helpers.formats import DataError
from helpers.generation import Answer, answer, score_labels, sequence_loss

# PEFT 0.21 asks transformers 5 for a property by its former name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)

MODELS = ("tiny", "foreign")
USER = {"role": "user", "content": "where is the ball?"}
LONG = {"role": "user", "content": "Mira has the key and the dog is in the old garden"}
PROMPTS = [
    "the red ball",
    [USER],
    "one",
    [{"role": "system", "content": "Answer in one word."}, LONG],
    "Name the hero: Captain Lumen! Name the villain:",
    [USER, {"role": "assistant", "content": "in the box"}, LONG],
]


@pytest.fixture(params=MODELS)
def pair(request):
    """A model and its tokenizer; the model must not be changed."""
    return (
        request.getfixturevalue(f"{request.param}_model"),
        request.getfixturevalue(f"{request.param}_tokenizer"),
    )


@pytest.fixture
def tuned(fresh_model, tiny_tokenizer):
    """A model with a soft prompt of four tokens."""
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    settings = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    return get_peft_model(fresh_model, settings), tiny_tokenizer


def by_hand(model, ids, start):
    """Log-probability of ids[start:], with nothing but a forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -len(ids) :]
    logs = logits.log_softmax(-1)
    return [float(logs[i - 1, ids[i]]) for i in range(start, len(ids))]


def greedy(model, tokenizer, ids, steps):
    """The likeliest tokens, one forward pass each, until an end token."""
    ids, new = list(ids), []
    for _ in range(steps):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits
        new.append(int(logits[0, -1].argmax()))
        ids.append(new[-1])
        if new[-1] == tokenizer.eos_token_id:
            break
    return new


def ending(model, token):
    """Make the model's generation stop at a token that it does write."""
    ended = copy.deepcopy(model)
    ended.generation_config.eos_token_id = [token, 2]
    return ended


# ------------------------------------------------------------------------ answer


@pytest.mark.parametrize("temperature", [0.0])
def test_batched_equals_one_by_one_and_by_hand(pair, temperature):
    model, tokenizer = pair
    together = answer(model, tokenizer, PROMPTS, max_new_tokens=10, batch_size=4)
    alone = [
        answer(model, tokenizer, [prompt], max_new_tokens=10)[0] for prompt in PROMPTS
    ]
    assert together == alone
    assert len({one.text for one in together}) > 3
    for prompt, one in zip(PROMPTS, together, strict=True):
        if isinstance(prompt, str):
            ids = tokenizer(prompt).input_ids
        else:
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
            ids = ids["input_ids"]
        new = greedy(model, tokenizer, ids, 10)
        text = tokenizer.decode(new, skip_special_tokens=True)
        text = text if isinstance(prompt, str) else text.strip()
        assert one == Answer(text, len(new), new[-1] == tokenizer.eos_token_id)


def test_answers_stop_at_every_end_token(pair):
    model, tokenizer = pair
    free = answer(model, tokenizer, PROMPTS, max_new_tokens=12)
    ids = tokenizer(PROMPTS[0]).input_ids
    stop = greedy(model, tokenizer, ids, 12)[3]
    stopped = answer(ending(model, stop), tokenizer, PROMPTS, max_new_tokens=12)
    assert stopped[0].ended
    assert stopped[0].tokens <= 4
    assert free[0].tokens == 12 and not free[0].ended
    single = copy.deepcopy(model)
    single.generation_config.eos_token_id = stop
    assert answer(single, tokenizer, PROMPTS[:1], max_new_tokens=12) == stopped[:1]
    # The tokenizer's end token counts too, whatever the model says.
    single.generation_config.eos_token_id = None
    named = copy.deepcopy(tokenizer)
    named.eos_token = named.convert_ids_to_tokens(stop)
    assert answer(single, named, PROMPTS[:1], max_new_tokens=12)[0].ended


def test_settings_of_the_model_do_not_change_the_answers(pair):
    model, tokenizer = pair
    altered = copy.deepcopy(model)
    altered.generation_config.update(
        do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=5.0
    )
    expected = answer(model, tokenizer, PROMPTS, max_new_tokens=6)
    assert answer(altered, tokenizer, PROMPTS, max_new_tokens=6) == expected


def test_sampling_repeats_with_its_seed_and_leaves_the_generator_alone(pair):
    model, tokenizer = pair

    def draw(seed, temperature=1.5):
        return answer(
            model,
            tokenizer,
            PROMPTS,
            max_new_tokens=8,
            temperature=temperature,
            seed=seed,
        )

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert draw(1) == draw(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert draw(1) != draw(2)
    cold = draw(3, temperature=1e-4)
    assert cold == answer(model, tokenizer, PROMPTS, max_new_tokens=8)


def test_modes_of_all_parts_are_restored(fresh_model, tiny_tokenizer):
    fresh_model.train()
    fresh_model.model.norm.eval()
    answer(fresh_model, tiny_tokenizer, ["one"], max_new_tokens=1)
    assert fresh_model.training
    assert fresh_model.model.layers[0].training
    assert not fresh_model.model.norm.training
    with pytest.raises(RuntimeError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh_model, "generate", lambda **_: 1 / 0)
        try:
            answer(fresh_model, tiny_tokenizer, ["one"])
        except ZeroDivisionError:
            raise RuntimeError from None
    assert fresh_model.training


def test_dropout_is_off(fresh_model, tiny_tokenizer):
    fresh_model.train()
    for layer in fresh_model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    first = score_labels(fresh_model, tiny_tokenizer, ["the"], [" ball"])
    second = score_labels(fresh_model, tiny_tokenizer, ["the"], [" ball"])
    assert first["sum"] == second["sum"]


def test_progress_and_no_prompts(pair):
    model, tokenizer = pair
    seen = []
    answer(
        model,
        tokenizer,
        PROMPTS,
        max_new_tokens=1,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 6), (6, 6)]
    assert answer(model, tokenizer, []) == []


def test_prompt_at_the_edge_of_the_context(tiny_model, tiny_tokenizer):
    fits = "one " * 300
    ids = tiny_tokenizer(fits).input_ids[:126]
    text = tiny_tokenizer.decode(ids[1:]).strip()
    assert len(tiny_tokenizer(text).input_ids) == 126
    free = copy.deepcopy(tiny_model)
    free.generation_config.eos_token_id = None
    prompts = [text, "the red ball"]
    together = answer(free, tiny_tokenizer, prompts, max_new_tokens=8)
    assert together[0].tokens <= 2
    assert together[1].tokens == 8
    assert together == [
        answer(free, tiny_tokenizer, [one], max_new_tokens=8)[0] for one in prompts
    ]
    with pytest.raises(
        DataError,
        match=r"prompt 2 \(index 1\) is 303 tokens long.*reads at most 128; shorten",
    ):
        answer(tiny_model, tiny_tokenizer, ["one", fits])


def test_model_without_a_stated_context(fresh_model, tiny_tokenizer):
    expected = answer(fresh_model, tiny_tokenizer, ["one"], max_new_tokens=4)
    del fresh_model.config.max_position_embeddings
    assert answer(fresh_model, tiny_tokenizer, ["one"], max_new_tokens=4) == expected


def test_tokenizer_without_padding_or_end(fresh_model, tiny_tokenizer):
    expected = answer(fresh_model, tiny_tokenizer, PROMPTS, max_new_tokens=5)
    bare = copy.deepcopy(tiny_tokenizer)
    bare.pad_token = None
    assert answer(fresh_model, bare, PROMPTS, max_new_tokens=5) == expected
    bare.eos_token = None
    fresh_model.generation_config.eos_token_id = None
    texts = [prompt for prompt in PROMPTS if isinstance(prompt, str)]
    unending = answer(fresh_model, bare, texts, max_new_tokens=5)
    assert [(one.tokens, one.ended) for one in unending] == [(5, False)] * 3


def test_soft_prompt_batched_equals_one_by_one(tuned):
    model, tokenizer = tuned
    together = answer(model, tokenizer, PROMPTS, max_new_tokens=6)
    alone = [
        answer(model, tokenizer, [prompt], max_new_tokens=6)[0] for prompt in PROMPTS
    ]
    assert together == alone
    new = greedy(model, tokenizer, tokenizer(PROMPTS[0]).input_ids, 6)
    assert together[0].text == tokenizer.decode(new, skip_special_tokens=True)
    with model.disable_adapter():
        assert answer(model.base_model, tokenizer, PROMPTS, max_new_tokens=6) != alone
    # Its four positions are part of the context of 128.
    text = "one " * 124
    with pytest.raises(DataError, match="reads at most 124"):
        answer(model, tokenizer, [text])


def test_model_after_training_answers_and_scores(fresh_model, tiny_tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    from datasets import Dataset
    from helpers.encoding import encode, to_dataset

    chat = [USER, {"role": "assistant", "content": "in the box"}]
    rows = to_dataset(encode([{"messages": chat}] * 8, tiny_tokenizer))
    assert isinstance(rows, Dataset)
    trainer = SFTTrainer(
        model=fresh_model,
        args=SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
            learning_rate=5e-3,
            max_steps=25,
        ),
        train_dataset=rows,
        processing_class=copy.deepcopy(tiny_tokenizer),
    )
    trainer.train()
    assert answer(fresh_model, tiny_tokenizer, [[USER]]) == [
        Answer("in the box", 4, True)
    ]
    scores = score_labels(
        fresh_model, tiny_tokenizer, [[USER]], ["in the box", "in the garden"]
    )
    assert scores["sum"].argmax() == 0
    assert scores["sum"][0, 0] > -1


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"batch_size": 0}, {"temperature": -1.0}],
)
def test_unusable_options(options, tiny_model, tiny_tokenizer):
    with pytest.raises(ValueError, match=next(iter(options))):
        answer(tiny_model, tiny_tokenizer, ["one"], **options)


# ------------------------------------------------------------------ score_labels

LABELS = [" yes", " no", " the old box", " key and dog"]


def test_scores_equal_one_by_one_and_by_hand(pair):
    model, tokenizer = pair
    scores = score_labels(model, tokenizer, PROMPTS, LABELS, batch_size=5)
    assert scores["sum"].shape == scores["mean"].shape == (6, 4)
    for i, prompt in enumerate(PROMPTS):
        for j, label in enumerate(LABELS):
            alone = score_labels(model, tokenizer, [prompt], [label])
            for key in ("sum", "mean"):
                assert abs(alone[key][0, 0] - scores[key][i, j]) < 1e-4
    ids = tokenizer(PROMPTS[0] + LABELS[2]).input_ids
    logs = by_hand(model, ids, len(tokenizer(PROMPTS[0]).input_ids))
    assert scores["sum"][0, 2] == pytest.approx(sum(logs), abs=1e-4)
    assert scores["mean"][0, 2] == pytest.approx(np.mean(logs), abs=1e-4)


def test_scores_after_messages_use_the_template(pair):
    model, tokenizer = pair
    chat = [USER, {"role": "assistant", "content": "the old box"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    text = text.removesuffix(tokenizer.eos_token)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    opened = tokenizer.apply_chat_template([USER], add_generation_prompt=True)
    expected = sum(by_hand(model, ids, len(opened["input_ids"])))
    scores = score_labels(model, tokenizer, [[USER]], ["the old box"])
    assert scores["sum"][0, 0] == pytest.approx(expected, abs=1e-4)


def test_labels_stay_comparable_where_one_merges_with_the_prompt(
    foreign_model, foreign_tokenizer
):
    """After "the " the label "ball" makes the token " ball"; "zz" does not merge."""
    prompt = "the "
    opened = foreign_tokenizer(prompt).input_ids
    merged = foreign_tokenizer(prompt + "ball").input_ids
    apart = foreign_tokenizer(prompt + "7z").input_ids
    assert merged[: len(opened)] != opened
    assert apart[: len(opened)] == opened
    scores = score_labels(foreign_model, foreign_tokenizer, [prompt], ["ball", "7z"])
    start = len(opened) - 1  # both from the token before the space
    assert scores["sum"][0] == pytest.approx(
        [
            sum(by_hand(foreign_model, merged, start)),
            sum(by_hand(foreign_model, apart, start)),
        ],
        abs=1e-4,
    )


def test_single_token_labels_share_one_pass(tiny_model, tiny_tokenizer):
    shared = copy.deepcopy(tiny_model)
    sizes = []
    shared.register_forward_hook(
        lambda _, __, kwargs, ___: sizes.append(kwargs["input_ids"].shape),
        with_kwargs=True,
    )
    labels = [" ball", " box", " dog"]
    scores = score_labels(shared, tiny_tokenizer, ["the red"], labels)
    assert [shape[0] for shape in sizes] == [1]
    alone = [
        score_labels(tiny_model, tiny_tokenizer, ["the red"], [one])["sum"][0, 0]
        for one in labels
    ]
    assert scores["sum"][0] == pytest.approx(alone, abs=1e-4)


def test_scores_with_a_soft_prompt(tuned):
    model, tokenizer = tuned
    together = score_labels(model, tokenizer, PROMPTS, LABELS)["sum"]
    for i, prompt in enumerate(PROMPTS):
        alone = score_labels(model, tokenizer, [prompt], LABELS)["sum"]
        assert together[i] == pytest.approx(alone[0], abs=1e-4)
    ids = tokenizer(PROMPTS[0] + LABELS[0]).input_ids
    logs = by_hand(model, ids, len(tokenizer(PROMPTS[0]).input_ids))
    assert together[0, 0] == pytest.approx(sum(logs), abs=1e-4)


def widths(model):
    """Record the shape of every batch of ids that a copy of the model is given."""
    watched, shapes = copy.deepcopy(model), []
    watched.register_forward_hook(
        lambda _, __, kwargs, ___: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    return watched, shapes


SHARED = "Mira has the key. The dog is in the garden. "


def test_a_reused_prefix_gives_the_same_scores_for_less_reading(pair):
    model, tokenizer = pair
    prompts = [SHARED + ending for ending in ("the red", "one", "who has the old")]
    whole = score_labels(model, tokenizer, prompts, LABELS)
    watched, shapes = widths(model)
    reused = score_labels(
        watched, tokenizer, prompts, LABELS, batch_size=5, reuse_prefix=True
    )
    for key in ("sum", "mean"):
        assert reused[key] == pytest.approx(whole[key], abs=1e-4)
    prefix, *rest = shapes
    assert prefix[0] == 1 and prefix[1] >= 10
    assert sum(rows for rows, _ in rest) <= len(prompts) * len(LABELS)
    closed = [tokenizer(p + label).input_ids for p in prompts for label in LABELS]
    assert max(width for _, width in rest) == max(map(len, closed)) - 1 - prefix[1]


def test_a_reused_prefix_leaves_the_last_token_to_be_run(tiny_model, tiny_tokenizer):
    """Prompts that are all the same share everything, but not their last token."""
    watched, shapes = widths(tiny_model)
    labels = [" the old box", " key and dog"]
    prompts = [SHARED.strip()] * 2
    reused = score_labels(watched, tiny_tokenizer, prompts, labels, reuse_prefix=True)
    whole = score_labels(tiny_model, tiny_tokenizer, prompts, labels)
    assert reused["sum"] == pytest.approx(whole["sum"], abs=1e-4)
    size = len(tiny_tokenizer(SHARED.strip()).input_ids)
    assert shapes[0] == (1, size - 1)


def test_nothing_is_reused_where_nothing_is_shared(tiny_model, tiny_tokenizer, tuned):
    watched, shapes = widths(tiny_model)
    score_labels(watched, tiny_tokenizer, ["the red"], [" box"], reuse_prefix=True)
    assert len(shapes) == 1
    bare = copy.deepcopy(tiny_tokenizer)
    bare.add_bos_token = False
    from tokenizers import processors

    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    pairs = ["the red ball", "one red ball"]
    reused = score_labels(tiny_model, bare, pairs, LABELS, reuse_prefix=True)
    assert (reused["sum"] == score_labels(tiny_model, bare, pairs, LABELS)["sum"]).all()
    model, tokenizer = tuned  # PEFT puts a soft prompt before every batch itself
    prompts = [SHARED + "one", SHARED + "two"]
    reused = score_labels(model, tokenizer, prompts, LABELS, reuse_prefix=True)
    whole = score_labels(model, tokenizer, prompts, LABELS)
    assert reused["sum"] == pytest.approx(whole["sum"], abs=1e-4)


def test_a_reused_prefix_counts_for_the_context(tiny_model, tiny_tokenizer):
    prompts = ["one " * 150 + last for last in ("two", "three")]
    with pytest.raises(DataError, match=r"prompt 1 \(index 0\) is \d+ tokens long"):
        score_labels(tiny_model, tiny_tokenizer, prompts, [" yes"], reuse_prefix=True)


def test_labels_and_prompts_that_cannot_be_scored(tiny_model, tiny_tokenizer):
    with pytest.raises(DataError, match=r"Label 2 \(index 1\) is empty"):
        score_labels(tiny_model, tiny_tokenizer, ["one"], [" yes", " "])
    with pytest.raises(DataError, match="no labels"):
        score_labels(tiny_model, tiny_tokenizer, ["one"], [])
    with pytest.raises(
        DataError, match=r"prompt 1 \(index 0\) is \d+ tokens long with its longest"
    ):
        score_labels(tiny_model, tiny_tokenizer, ["one " * 150], [" yes"])
    empty = score_labels(tiny_model, tiny_tokenizer, [], [" yes", " no"])
    assert empty["sum"].shape == (0, 2)
    from tokenizers import processors

    bare = copy.deepcopy(tiny_tokenizer)
    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    with pytest.raises(DataError, match="merges with a label into the first token"):
        score_labels(tiny_model, bare, ["bal"], ["l"])


def test_the_longest_label_may_end_on_the_last_position(tiny_model, tiny_tokenizer):
    text = "one " * 125
    size = len(tiny_tokenizer(text + "two").input_ids)
    text += "one " * (129 - size)
    text = text.rstrip()
    assert len(tiny_tokenizer(text + " two").input_ids) == 129  # reads 128 of them
    scores = score_labels(tiny_model, tiny_tokenizer, [text], [" two"])
    assert np.isfinite(scores["sum"]).all()
    with pytest.raises(DataError, match="is 129 tokens long"):
        score_labels(tiny_model, tiny_tokenizer, [text + " one"], [" two"])


# ----------------------------------------------------------------- sequence_loss

TEXTS = ["the red ball", "Mira has the key, é 😀", "one two three four five six seven"]


def test_loss_equals_by_hand(pair):
    model, tokenizer = pair
    ids = [
        [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
        for text in TEXTS
    ]
    logs = [log for row in ids for log in by_hand(model, row, 1)]
    loss = sequence_loss(model, tokenizer, TEXTS, batch_size=2)
    assert loss["tokens"] == len(logs) == sum(map(len, ids)) - 3
    assert loss["nats"] == pytest.approx(-sum(logs), abs=1e-3)
    assert loss["bytes"] == sum(len(text.encode()) for text in TEXTS)
    # Tokens weigh the same, texts do not.
    parts = [sequence_loss(model, tokenizer, [text]) for text in TEXTS]
    assert loss["nats"] == pytest.approx(sum(p["nats"] for p in parts), abs=1e-3)


def test_long_text_is_split_into_windows(tiny_model, tiny_tokenizer):
    text = TEXTS[2] * 3
    ids = tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert len(ids) > 16
    loss = sequence_loss(tiny_model, tiny_tokenizer, [text], max_length=9)
    expected = [
        log
        for place in range(0, len(ids), 8)
        for log in by_hand(tiny_model, [1, *ids[place : place + 8]], 1)
    ]
    assert loss["tokens"] == len(ids)
    assert loss["nats"] == pytest.approx(-sum(expected), abs=1e-3)
    # A window is never longer than the model's context of 128.
    long = "one " * 300
    capped = sequence_loss(tiny_model, tiny_tokenizer, [long])
    assert capped == sequence_loss(tiny_model, tiny_tokenizer, [long], max_length=128)
    assert capped["tokens"] > 300


def test_uniform_model_has_the_loss_of_its_vocabulary(fresh_model, tiny_tokenizer):
    with torch.no_grad():
        fresh_model.lm_head.weight.zero_()
    loss = sequence_loss(fresh_model, tiny_tokenizer, TEXTS)
    assert loss["nats"] / loss["tokens"] == pytest.approx(math.log(400), abs=1e-5)


def test_tokenizer_without_bos(fresh_model, tiny_tokenizer):
    bare = copy.deepcopy(tiny_tokenizer)
    bare.bos_token = None
    loss = sequence_loss(fresh_model, bare, TEXTS[:1])
    ids = [2, *bare(TEXTS[0], add_special_tokens=False).input_ids]
    assert loss["nats"] == pytest.approx(-sum(by_hand(fresh_model, ids, 1)), abs=1e-3)
    bare.eos_token = None
    with pytest.raises(DataError, match="no BOS or EOS"):
        sequence_loss(fresh_model, bare, TEXTS)


def test_texts_that_cannot_be_measured(tiny_model, tiny_tokenizer):
    with pytest.raises(DataError, match="no texts"):
        sequence_loss(tiny_model, tiny_tokenizer, [])
    with pytest.raises(DataError, match=r"text 2 \(index 1\) is empty"):
        sequence_loss(tiny_model, tiny_tokenizer, ["one", ""])
    with pytest.raises(ValueError, match="max_length"):
        sequence_loss(tiny_model, tiny_tokenizer, ["one"], max_length=1)
