"""What convert writes of the real files, SFTTrainer takes as it is, by command too."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import formats
from helpers.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
NO_ANSWERS = ("ifeval_", "turns_mt_", "ner_", "chunk_", "lfs_", "SOURCES", "oasst_flat")
CHOICE = {
    "pref_alpaca_rasbt.json": "preference",
    "pref_conversations_dpo_en.json": "preference",
    "pref_kto_en.json": "labelled",
}
EMPTY = "sharegpt_missingturns_axolotl.json"
ANY_ROLE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRAINED = sorted(
    path.name
    for path in (REAL.iterdir() if REAL.is_dir() else ())
    if not path.name.startswith(NO_ANSWERS) and path.name != EMPTY
)


@pytest.fixture
def prepared(fresh_model, tiny_tokenizer, tmp_path):
    """How many rows SFTTrainer has ready to train on, and the first as text."""

    def prepare(path: Path) -> tuple[int, str]:
        from trl import SFTConfig, SFTTrainer

        import datasets

        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = ANY_ROLE
        kind = "parquet" if path.suffix == ".parquet" else "json"
        rows = datasets.load_dataset(
            kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        trainer = SFTTrainer(
            model=fresh_model,
            args=SFTConfig(
                output_dir=str(tmp_path),
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                report_to=[],
                disable_tqdm=True,
                max_length=None,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        ready = trainer.train_dataset
        return len(ready), tokenizer.decode(ready[0]["input_ids"])

    return prepare


@pytest.mark.parametrize("name", TRAINED)
def test_real_files_train_as_they_are(name, prepared, tmp_path):
    source = REAL / name
    target = tmp_path / "out.parquet"  # what Arrow cannot hold would show here
    shape = "text" if name.startswith("text_only") else "messages"
    report = formats.convert_file(source, target, to=shape, format=CHOICE.get(name))
    assert report.written
    count, text = prepared(target)
    assert count == report.written
    first = formats.load(source, to=shape, format=CHOICE.get(name)).rows[0]
    said = first["text"] if shape == "text" else first["messages"][-1]["content"]
    assert said[:20].split()[0] in text


@pytest.mark.parametrize(
    "name",
    [
        "messages_toplevel_system_anthropic.jsonl",
        "sharegpt_tools_glaive.json",
        "mm_llamafactory_images.json",
        "pref_kto_en.json",
        "source_target_legal.csv",
    ],
)
@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_prompt_and_completion_train_too(name, prepared, tmp_path):
    target = tmp_path / "out.jsonl"
    report = formats.convert_file(
        REAL / name, target, to="prompt_completion", format=CHOICE.get(name)
    )
    assert prepared(target)[0] == report.written > 0


# ---------------------------------------------------------------------- the command


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"prompt": "Hi", "completion": "Yo"}, {"prompt": "Hi", "completion": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_convert_writes_and_says_what_it_left_out(source, tmp_path, capsys):
    target, left = tmp_path / "out.jsonl", tmp_path / "left.jsonl"
    command = ["convert", str(source), "--to", "prompt_completion"]
    command += ["--output", str(target), "--report", str(left)]
    assert main(command) == 1
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        "prompt_completion to prompt_completion: 2 rows in, 1 written, 1 left out",
        f"  left out: {source}, row 2, field 'completion': is blank",
        f"  all of them are in {left}",
    ]
    assert json.loads(target.read_text()) == {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Yo"}],
    }
    assert json.loads(left.read_text())["row"] == 2
    source.write_text(source.read_text().splitlines()[0])
    assert main(command) == 0


def test_convert_asks_in_the_words_of_the_command(tmp_path, capsys):
    path = tmp_path / "a.json"
    path.write_text(
        '[{"prompt": "a", "completion": "b", "chosen": "c", "rejected": "d"}]'
    )
    command = ["convert", str(path), "--output", str(tmp_path / "b.jsonl")]
    assert main(command) == 2
    asked = capsys.readouterr().err
    assert asked.endswith("pass --format prompt_completion or --format preference.\n")
    assert "('chosen', 'rejected' in 1 of 1 rows, first in row 1)" in asked
    assert main([*command, "--format", "preference"]) == 2
    assert "pass --to preference to keep" in capsys.readouterr().err
    assert main([*command, "--format", "preference", "--to", "preference"]) == 0
    tagged = tmp_path / "a.conll"
    tagged.write_text("a B-A B-A\n")
    command[1] = str(tagged)
    assert main(command) == 2
    assert "pass --tag-column 2 or --tag-column 3." in capsys.readouterr().err
    assert main([*command, "--tag-column", "2", "--scheme", "IOB2"]) == 0
    tagged.write_text("a B-A\nb A\n")
    assert main(command) == 2
    assert "pass --scheme one of 'IO'" in capsys.readouterr().err


def test_convert_needs_neither_torch_nor_network(source, tmp_path):
    target = tmp_path / "out.jsonl"
    code = (
        "import sys\n"
        "from helpers.__main__ import main\n"
        f"main(['convert', {str(source)!r}, '--output', {str(target)!r}])\n"
        "heavy = 'torch transformers numpy datasets pyarrow pandas'.split()\n"
        "assert not set(heavy) & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
