"""Notebooks on another model: other vocabulary, other template, untied, random."""

from __future__ import annotations

import copy

import pytest

OF_05 = {
    "else 2e-5  #": "else 2e-3  #",  # larger steps
    "tests = {split: read(split) ": "tests = {split: read(split)[:80] ",
}
LARGER_LORA_STEPS = {"else 2e-4  #": "else 5e-3  #"}  # of notebook 06
"""Random weights learn next to nothing in few steps at a real model's rate, and fill
all the tokens that an answer may have."""


@pytest.mark.parametrize("marks", [False, True])
def test_notebook_05_runs_on_a_stand_in(
    run_notebook, save_stand_in, foreign_model, foreign_tokenizer, marks
) -> None:
    tokenizer = copy.deepcopy(foreign_tokenizer)
    if marks:
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{{ message['content'] | trim }}<|eot|>",
            "{% if message['role'] == 'assistant' %}{% generation %}"
            "{{ message['content'] }}<|eot|>{% endgeneration %}{% else %}"
            "{{ message['content'] }}<|eot|>{% endif %}",
        )
        assert "{% generation %}" in tokenizer.chat_template
    folder = save_stand_in(foreign_model, tokenizer)
    said = run_notebook("05", fewer=OF_05, MODEL=folder, ROWS="640")
    assert "ends by itself" in said


def test_notebook_03_runs_on_a_stand_in(run_notebook, stand_in) -> None:
    fewer = {'tagged("test")': 'tagged("dev")[:40]'}
    said = run_notebook("03", fewer=fewer, MODEL=stand_in, ROWS="320")
    assert "loss by hand" in said
    assert "the same by hand and by helper" in said


def test_notebook_06_runs_on_a_stand_in(
    run_notebook, save_stand_in, foreign_model, foreign_tokenizer
) -> None:
    import torch

    config = copy.deepcopy(foreign_model.config)
    config.intermediate_size = 128  # rows of whole blocks of 64
    torch.manual_seed(0)
    folder = save_stand_in(type(foreign_model)(config), foreign_tokenizer)
    said = run_notebook("06", fewer=LARGER_LORA_STEPS, MODEL=folder, ROWS="160")
    assert "as trained" in said
    assert "refused:" in said
