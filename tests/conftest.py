"""Stand-ins for real models: tiny, random, built in seconds, the same every time."""

from __future__ import annotations

import os

# Before anything imports tokenizers or torch: the tests run on one core, offline.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] }}{{ eos_token }}"
    "{% endgeneration %}"
    "{% elif message['role'] in ['system', 'user'] %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The template of the shipped base: it marks its answers."""

FOREIGN_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "<|start|>{{ message['role'] }}\n\n{{ message['content'] | trim }}<|eot|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}"
)
"""In the manner of Llama 3: headers, trimmed contents, answers not marked."""

CORPUS = (
    "the red ball is in the old box and the dog is in the garden",
    "where is the ball? the ball is in the box. who has the key? Mira has the key.",
    "What a lovely day, said Bruno, and the rain ran down his neck.",
    "Name the hero: Captain Lumen! Name the villain: Doctor Fog. Say yes or no.",
    "one two three four five six seven eight nine ten, first and last and count",
    "user assistant system\n\nAnswer the question in one word.\nanswer:",
)


def _train(specials: list[str], size: int, *, add_prefix_space: bool):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=add_prefix_space
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return tokenizer


def _starting_with(bos: str, identifier: int):
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A $B",
        special_tokens=[(bos, identifier)],
    )


def _llama(tokenizer, *, seed: int, **options):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # Wide enough that logits differ: near-ties would hide real differences.
            initializer_range=0.3,
            **options,
        )
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The shipped base's special tokens and template, 400 entries."""
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
    backend = _train(names, 400, add_prefix_space=True)
    backend.post_processor = _starting_with("<s>", 1)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer):
    """A random LLaMA with tied embeddings and a context of 128 tokens.

    Tests must not change it: copy it, or use `fresh_model`.
    """
    return _llama(
        tiny_tokenizer,
        seed=0,
        intermediate_size=128,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=128,
    )


@pytest.fixture
def fresh_model(tiny_model):
    """A copy of `tiny_model` that a test may train or wrap."""
    import copy

    return copy.deepcopy(tiny_model)


@pytest.fixture(scope="session")
def foreign_tokenizer():
    """Another vocabulary and template: no padding token, no answer marks."""
    from transformers import PreTrainedTokenizerFast

    names = ["<|begin|>", "<|end|>", "<|start|>", "<|eot|>"]
    backend = _train(names, 340, add_prefix_space=False)
    backend.post_processor = _starting_with("<|begin|>", 0)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|eot|>",
        extra_special_tokens=["<|end|>", "<|start|>"],
        chat_template=FOREIGN_TEMPLATE,
    )


@pytest.fixture(scope="session")
def foreign_model(foreign_tokenizer):
    """A random LLaMA with untied embeddings and a context of 160 tokens."""
    return _llama(
        foreign_tokenizer,
        seed=1,
        intermediate_size=96,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        max_position_embeddings=160,
    )
