"""Loading, saving, measuring; and every pair that does not belong together."""

from __future__ import annotations

import copy
import errno
import json
import shutil
import sys

import pytest
import torch
from transformers.utils import logging

from helpers import models
from helpers.models import (
    ModelError,
    count_parameters,
    fingerprint,
    footprint,
    load,
    require_chat_template,
    save,
    set_pad,
    stamp_adapter,
)

# PEFT 0.21 asks transformers 5 for a property by its former name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)


@pytest.fixture(scope="module")
def folder(tiny_model, tiny_tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    save(copy.deepcopy(tiny_model), tiny_tokenizer, path)
    return path


@pytest.fixture
def broken(folder, tmp_path):
    """A copy of the saved model that a test may damage."""
    return shutil.copytree(folder, tmp_path / "broken")


def lora(model, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options
    )
    adapted = get_peft_model(model, settings)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    return adapted


def soft_prompt(model, tokens=4):
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    return get_peft_model(
        model, PromptTuningConfig(num_virtual_tokens=tokens, task_type="CAUSAL_LM")
    )


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[1, 10, 20, 30]])).logits


def change(path, **values):
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, **values}))


# ------------------------------------------------------------------------ loading


def test_load_gives_back_what_was_saved(folder, tiny_model, tiny_tokenizer):
    model, tokenizer = load(folder, device="cpu")
    assert torch.equal(logits(model), logits(tiny_model))
    assert not model.training
    assert model.dtype is torch.float32
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.get_vocab() == tiny_tokenizer.get_vocab()
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_load_takes_a_text_a_dtype_and_a_device(folder, monkeypatch):
    model, _ = load(str(folder), dtype="bfloat16", device=torch.device("cpu"))
    assert model.dtype is torch.bfloat16
    assert model.device.type == "cpu"
    moved = []
    for there, expected in ((True, "cuda"), (False, "cpu")):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda there=there: there)
            patch.setattr(
                torch.nn.Module, "to", lambda self, device: moved.append(device) or self
            )
            load(folder)
        assert moved.pop() == expected


def test_load_hides_progress_bars_and_shows_them_again(folder, capfd):
    was = logging.is_progress_bar_enabled()
    try:
        for shown in (True, False):
            change_bars = (
                logging.enable_progress_bar if shown else logging.disable_progress_bar
            )
            change_bars()
            load(folder)
            assert logging.is_progress_bar_enabled() is shown
    finally:
        (logging.enable_progress_bar if was else logging.disable_progress_bar)()
    assert "%" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", r"has no weights \(\*.safetensors\)"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_missing_part_is_named(part, message, broken):
    (broken / part).unlink()
    with pytest.raises(ModelError, match=message):
        load(broken)


@pytest.mark.parametrize("name", ["missing", "./missing", "a/b/c", "~/missing"])
def test_missing_folder(name, tmp_path):
    given = tmp_path / name if name == "missing" else name
    with pytest.raises(ModelError, match="does not exist; give an existing folder"):
        load(given)


def test_unknown_hub_id_is_one_sentence():
    with pytest.raises(ModelError, match=r"^The model nobody/nothing could not be"):
        load("nobody/nothing")


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_part_is_one_sentence(part, broken):
    (broken / part).write_text("{")
    with pytest.raises(ModelError, match="could not be loaded") as caught:
        load(broken)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_weights_of_another_size_are_refused(broken):
    change(broken / "config.json", intermediate_size=96)
    with pytest.raises(ModelError, match="could not be loaded"):
        load(broken)


def test_missing_weights_are_not_filled_with_random_ones(broken):
    change(broken / "config.json", num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"lack 9 tensors.*layers\.2\."):
        load(broken)


def test_unknown_dtype():
    with pytest.raises(ModelError, match="dtype is 'int4'; use one of"):
        load(dtype="int4")


def test_tokenizer_with_more_entries_than_the_model(
    tiny_model, tiny_tokenizer, tmp_path
):
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens(["<new>"])
    save(copy.deepcopy(tiny_model), larger, tmp_path / "model")
    with pytest.raises(ModelError, match=r"token id 400.*resize_token_embeddings\(401"):
        load(tmp_path / "model")


def test_require_chat_template(tiny_tokenizer):
    require_chat_template(tiny_tokenizer)
    bare = copy.deepcopy(tiny_tokenizer)
    bare.chat_template = None
    with pytest.raises(ModelError, match="this model has no chat template"):
        require_chat_template(bare)


def test_set_pad(tiny_tokenizer, foreign_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    assert (set_pad(tokenizer), tokenizer.pad_token) == ("pad", "<pad>")
    tokenizer.pad_token = None
    assert (set_pad(tokenizer), tokenizer.pad_token) == ("unk", "<unk>")
    foreign = copy.deepcopy(foreign_tokenizer)
    assert (set_pad(foreign), foreign.pad_token) == ("eos", "<|eot|>")
    foreign.pad_token = foreign.eos_token = None
    with pytest.raises(ModelError, match="no padding, unknown or end token"):
        set_pad(foreign)


# ----------------------------------------------------------------------- adapters


@pytest.mark.parametrize("make", [lora, soft_prompt])
def test_adapter_goes_round(make, folder, fresh_model, tiny_tokenizer, tmp_path):
    adapted = make(fresh_model).eval()
    save(adapted, tiny_tokenizer, tmp_path / "adapter")
    again, tokenizer = load(folder, adapter=tmp_path / "adapter", device="cpu")
    assert torch.equal(logits(again), logits(adapted))
    assert not torch.equal(logits(again)[:, -4:], logits(load(folder, device="cpu")[0]))
    assert not again.training
    assert tokenizer.padding_side == "left"
    stamp = json.loads((tmp_path / "adapter" / models.STAMP).read_text())
    assert stamp == {"sha256": fingerprint(load(folder)[0])}


def test_adapter_brings_its_tokenizer(folder, fresh_model, tiny_tokenizer, tmp_path):
    changed = copy.deepcopy(tiny_tokenizer)
    changed.chat_template = "{{ 'other' }}"
    save(lora(fresh_model), changed, tmp_path / "with")
    assert load(folder, adapter=tmp_path / "with")[1].chat_template == "{{ 'other' }}"
    shutil.copytree(
        tmp_path / "with", tmp_path / "without", ignore=shutil.ignore_patterns("tok*")
    )
    _, tokenizer = load(folder, adapter=str(tmp_path / "without"))
    assert tokenizer.chat_template == tiny_tokenizer.chat_template


def test_adapter_with_new_tokens_on_a_base_without_them(
    folder, fresh_model, tiny_tokenizer, tmp_path
):
    larger = copy.deepcopy(tiny_tokenizer)
    larger.add_tokens(["<new>"])
    save(lora(fresh_model), larger, tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"adapter has the token id 400"):
        load(folder, adapter=tmp_path / "adapter")


def test_adapter_of_another_base_is_refused(
    folder, fresh_model, tiny_tokenizer, tmp_path
):
    with torch.no_grad():
        fresh_model.model.norm.weight[0] += 0.5
    save(lora(fresh_model), tiny_tokenizer, tmp_path / "adapter")
    with pytest.raises(ModelError, match="was trained on other weights"):
        load(folder, adapter=tmp_path / "adapter")
    # Stamped again, it passes: the refusal was the stamp's.
    stamp_adapter(tmp_path / "adapter", fingerprint(load(folder)[0]))
    load(folder, adapter=tmp_path / "adapter")


def test_adapter_without_stamp_is_loaded(folder, fresh_model, tmp_path):
    lora(fresh_model).save_pretrained(tmp_path / "adapter")
    model, _ = load(folder, adapter=tmp_path / "adapter")
    assert model.peft_config


def test_damaged_stamp_is_one_sentence(folder, fresh_model, tmp_path):
    lora(fresh_model).save_pretrained(tmp_path / "adapter")
    for text in ("{", "{}", "[]"):
        (tmp_path / "adapter" / models.STAMP).write_text(text)
        with pytest.raises(ModelError, match="adapter .* could not be loaded"):
            load(folder, adapter=tmp_path / "adapter")


@pytest.mark.parametrize("part", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapter_folder_without_a_part(part, folder, fresh_model, tmp_path):
    lora(fresh_model).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / part).unlink()
    with pytest.raises(ModelError, match=f"has no {part}"):
        load(folder, adapter=tmp_path / "adapter")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (soft_prompt, "made for a hidden size of 32, but .* has 64"),
        (lora, "could not be loaded .*size mismatch"),
    ],
)
def test_adapter_of_another_width(make, message, folder, tiny_tokenizer, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    narrow = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    make(narrow).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=message):
        load(folder, adapter=tmp_path / "adapter")


def test_adapter_with_another_vocabulary(folder, fresh_model, tmp_path):
    fresh_model.resize_token_embeddings(410)
    adapted = lora(
        fresh_model, modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="could not be loaded .*size mismatch"):
        load(folder, adapter=tmp_path / "adapter")


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_adapter_whose_keys_match_nothing(folder, fresh_model, tmp_path):
    from safetensors.torch import load_file, save_file

    lora(fresh_model).save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed = {
        k.replace("layers.1", "blocks.1"): v for k, v in load_file(weights).items()
    }
    save_file(renamed, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"differ in 8 tensors.*blocks\.1"):
        load(folder, adapter=tmp_path / "adapter")


# -------------------------------------------------------------------- fingerprint


def test_fingerprint_is_that_of_the_base(fresh_model):
    base = fingerprint(fresh_model)
    assert len(base) == 64
    assert base == fingerprint(copy.deepcopy(fresh_model).to(torch.bfloat16))
    assert base == fingerprint(soft_prompt(copy.deepcopy(fresh_model)))
    adapted = lora(copy.deepcopy(fresh_model))
    assert base == fingerprint(adapted)
    assert base != fingerprint(adapted.merge_and_unload())
    with torch.no_grad():
        fresh_model.lm_head.weight[-1, -1] += 0.01
    assert base != fingerprint(fresh_model)


@pytest.mark.parametrize(
    ("which", "options"),
    [
        (
            "tiny_model",
            {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        ),
        ("foreign_model", {"modules_to_save": ["embed_tokens", "lm_head"]}),
        ("foreign_model", {"trainable_token_indices": [5, 6]}),
        ("tiny_model", {"trainable_token_indices": [5, 6]}),
        ("tiny_model", {"use_dora": True}),
    ],
)
def test_fingerprint_with_trained_embeddings(which, options, request):
    model = copy.deepcopy(request.getfixturevalue(which))
    base = fingerprint(model)
    assert base == fingerprint(lora(model, **options))


# ------------------------------------------------------------------------- saving


@pytest.mark.parametrize("broken_part", ["model", "tokenizer"])
def test_full_disk_leaves_the_earlier_model(
    broken_part, fresh_model, tiny_tokenizer, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    save(fresh_model, tiny_tokenizer, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(target, *_, **__):
        target.mkdir(parents=True, exist_ok=True)
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    part = fresh_model if broken_part == "model" else copy.deepcopy(tiny_tokenizer)
    monkeypatch.setattr(part, "save_pretrained", full, raising=False)
    tokenizer = part if broken_part == "tokenizer" else tiny_tokenizer
    with torch.no_grad():
        fresh_model.lm_head.weight.zero_()
    with pytest.raises(ModelError, match=r"not saved.*No space left.*unchanged") as it:
        save(fresh_model, tokenizer, folder)
    assert "\n" not in str(it.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_full_disk_inside_safetensors(
    fresh_model, tiny_tokenizer, tmp_path, monkeypatch
):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left")

    monkeypatch.setattr(fresh_model, "save_pretrained", full)
    with pytest.raises(ModelError, match="No space left"):
        save(fresh_model, tiny_tokenizer, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("earlier", [True, False])
def test_failing_rename_puts_the_earlier_model_back(
    earlier, fresh_model, tiny_tokenizer, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    if earlier:
        save(fresh_model, tiny_tokenizer, folder)
    rename = type(folder).rename

    def refuse(path, target):
        if path.name == "new":
            raise PermissionError(errno.EACCES, "denied")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", refuse)
    with pytest.raises(ModelError, match="denied"):
        save(fresh_model, tiny_tokenizer, folder)
    assert (folder / "model.safetensors").exists() is earlier
    assert list(tmp_path.iterdir()) == ([folder] if earlier else [])


def test_save_replaces_a_saved_model_whole(
    fresh_model, tiny_tokenizer, foreign_model, foreign_tokenizer, tmp_path
):
    folder = tmp_path / "deep" / "model"
    save(fresh_model, tiny_tokenizer, folder)
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    save(foreign_model, foreign_tokenizer, folder)
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    model, _ = load(folder, device="cpu")
    assert torch.equal(logits(model), logits(foreign_model))


def test_save_deletes_nothing_but_a_saved_model(fresh_model, tiny_tokenizer, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    save(fresh_model, tiny_tokenizer, notes)  # an empty folder may be filled
    (notes / "thesis.docx").write_text("x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_text("[]")
    (tmp_path / "file").write_text("x")
    for name, named in (("notes", "thesis"), ("data", "train.json"), ("file", "file")):
        with pytest.raises(ModelError, match=f"something else .*{named}"):
            save(fresh_model, tiny_tokenizer, tmp_path / name)
    assert (notes / "thesis.docx").read_text() == "x"
    with pytest.raises(ModelError, match="something else"):
        save(fresh_model, tiny_tokenizer, tmp_path)


# ---------------------------------------------------------------------- measuring


def test_counts_and_bytes(tiny_model, foreign_model, fresh_model):
    for model in (tiny_model, foreign_model):
        size = sum(weight.numel() for weight in model.parameters())
        rotary = sum(b.numel() * b.element_size() for b in set(model.buffers()))
        assert count_parameters(model) == {"total": size, "trainable": size}
        assert 4 * size <= footprint(model) <= 4 * size + rotary
    assert tiny_model.lm_head.weight is tiny_model.model.embed_tokens.weight
    before = count_parameters(fresh_model)["total"]
    # Two layers, two projections of 64 -> 64 and 64 -> 32, rank 2.
    added = 2 * (2 * (64 + 64) + 2 * (64 + 32))
    assert count_parameters(lora(fresh_model)) == {
        "total": before + added,
        "trainable": added,
    }


def test_shared_storage_counts_once():
    weight = torch.zeros(10, 4)
    shared = torch.nn.ParameterList([weight, weight[:5], torch.zeros(3)])
    assert footprint(shared) == 4 * (40 + 3)


def test_four_bit_weights_count_as_stored():
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(
        128, 64, bias=False, quant_type="nf4", compress_statistics=True
    ).to("cpu")
    assert count_parameters(layer)["total"] == 128 * 64
    packed, blocks = 128 * 64 // 2, 128 * 64 // 64
    # One byte a block and the nested constants and code books.
    assert packed + blocks < footprint(layer) < packed + blocks + 2048


@pytest.mark.skipif(not models.SHIPPED.is_dir(), reason="the base is not built yet")
def test_shipped_base_loads():
    model, tokenizer = load(device="cpu")
    require_chat_template(tokenizer)
    assert set_pad(tokenizer) == "pad"
    assert count_parameters(model)["total"] < 7_000_000


# -------------------------------------------------------------------- in four bits


@pytest.fixture(scope="module")
def four(folder):
    return load(folder, quantization="nf4", device="cpu")[0]


def test_four_bits_are_smaller_and_have_the_fingerprint_of_the_files(
    folder, four, tiny_model
):
    assert four.is_loaded_in_4bit
    assert footprint(four) < footprint(tiny_model)
    assert count_parameters(four)["total"] == count_parameters(tiny_model)["total"]
    assert fingerprint(four) == fingerprint(tiny_model)
    config = four.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == (
        "nf4",
        True,
    )
    assert config.bnb_4bit_compute_dtype is torch.float32


def test_four_bits_of_files_in_shards_and_of_the_cache(
    folder, tiny_model, tiny_tokenizer, tmp_path, monkeypatch
):
    import huggingface_hub

    copy.deepcopy(tiny_model).save_pretrained(tmp_path, max_shard_size="60KB")
    tiny_tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded, _ = load(tmp_path, quantization="nf4", device="cpu")
    assert fingerprint(sharded) == fingerprint(tiny_model)
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **how: asked.append((name, how["local_files_only"])) or folder,
    )
    sharded.quantized_from = ("owner/name", sharded.quantized_from[1])
    assert fingerprint(sharded) == fingerprint(tiny_model)
    assert asked == [("owner/name", True)]


def test_four_bits_train_after_an_evaluation_as_before_it(folder) -> None:
    """Where a CPU multiplies bfloat16, bitsandbytes would let no gradient through."""
    model, _ = load(folder, quantization="nf4", device="cpu")
    ids = torch.tensor([[1, 5, 9, 7]])
    weights = models.fingerprint(model)

    def trained() -> tuple[torch.Tensor, torch.Tensor]:
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model.train()(inputs_embeds=embeds).logits
        logits.logsumexp(-1).sum().backward()
        return logits.detach(), embeds.grad

    logits, gradient = trained()
    with torch.no_grad():
        evaluated = model.eval()(input_ids=ids).logits
    assert torch.allclose(evaluated, logits, atol=1e-5)
    for after, before in zip(trained(), (logits, gradient), strict=True):
        assert torch.allclose(after, before, atol=1e-5)
    assert models.fingerprint(model) == weights


def test_four_bit_weights_that_changed_have_a_fingerprint_of_their_own(
    folder, tiny_model
):
    changed, _ = load(folder, quantization="nf4", device="cpu")
    state = changed.model.layers[0].mlp.up_proj.weight.quant_state
    state.state2.absmax *= 2  # the same codes, other scales
    assert fingerprint(changed) != fingerprint(tiny_model)
    again, _ = load(folder, quantization="nf4", device="cpu")
    again.model.norm.weight.data += 1
    assert fingerprint(again) not in (fingerprint(tiny_model), fingerprint(changed))


def test_an_adapter_fits_the_base_in_four_bits_and_in_sixteen(
    folder, tiny_model, tiny_tokenizer, tmp_path
):
    model = lora(load(folder, quantization="nf4", device="cpu")[0])
    assert fingerprint(model) == fingerprint(tiny_model)
    save(model, tiny_tokenizer, tmp_path / "adapter")
    same, _ = load(
        folder, adapter=tmp_path / "adapter", quantization="nf4", device="cpu"
    )
    assert torch.equal(logits(same), logits(model))
    other, _ = load(
        folder, adapter=tmp_path / "adapter", dtype="bfloat16", device="cpu"
    )
    assert (logits(other) - logits(model)).abs().max() > 0
    different = copy.deepcopy(tiny_model)
    different.model.norm.weight.data += 1
    save(different, tiny_tokenizer, tmp_path / "different")
    with pytest.raises(ModelError, match="trained on other weights"):
        load(
            tmp_path / "different",
            adapter=tmp_path / "adapter",
            quantization="nf4",
            device="cpu",
        )


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
def test_once_merged_into_four_bits_the_base_is_another(folder, tiny_model):
    merged = lora(load(folder, quantization="nf4", device="cpu")[0]).merge_and_unload()
    assert fingerprint(merged) != fingerprint(tiny_model)


def test_unknown_quantization_is_refused(folder):
    with pytest.raises(ModelError, match="quantization is 'int3'; use one of nf4"):
        load(folder, quantization="int3")


def test_without_bitsandbytes_it_says_what_still_works(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="cannot be imported .* still work"):
        load(folder, quantization="nf4", device="cpu")
    model, _ = load(folder, device="cpu")
    assert model.dtype is torch.float32


def test_without_a_kernel_it_names_the_device(folder, monkeypatch):
    from bitsandbytes import functional

    def no_kernel(*_, **__):
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(functional, "quantize_4bit", no_kernel)
    with pytest.raises(ModelError, match="no kernel for four bits on cpu .no such"):
        load(folder, quantization="nf4", device="cpu")


def test_rows_that_the_kernel_puts_back_wrongly_are_refused(folder, monkeypatch):
    from bitsandbytes import functional

    right = functional.dequantize_4bit

    def shifted(packed, state):  # each block gets its neighbour's scale
        state.absmax = state.absmax.roll(1)
        return right(packed, state)

    load(folder, quantization="nf4", device="cpu")
    monkeypatch.setattr(functional, "dequantize_4bit", shifted)
    with pytest.raises(ModelError, match="64 inputs, and on cpu bitsandbytes puts"):
        load(folder, quantization="nf4", device="cpu")


@pytest.mark.parametrize(
    ("gpu", "capable", "expected"),
    [
        (True, True, "bf16"),
        (True, False, "fp16"),
        (False, True, "bf16"),
        (False, False, None),
    ],
)
def test_half_precision_is_named_only_where_it_is_native(
    monkeypatch, gpu, capable, expected
):
    import torch

    def supported(including_emulation=True):
        return capable or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": capable})
    assert models.half_precision() == expected


def test_a_processor_tells_whether_it_has_matrices_of_bfloat16():
    import torch

    assert "architecture" in torch.cpu.get_capabilities()
    assert models.half_precision() in ("bf16", "fp16", None)
