"""What the doctor reads and shows: files, folders, settings; terminal, JSON, HTML."""

from __future__ import annotations

import gzip
import html
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from helpers import checks, models
from helpers.__main__ import main
from helpers.checks import config, core, folder, privacy, quality, script, show, source
from helpers.formats import DataError

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(__file__).resolve().parents[3] / "shared"
SOUND = {"prompt": "Where is the ball?", "completion": " In the box."}
EVIL = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file with markup, a key, a steering character and half a surrogate pair."""
    rows = [
        {"prompt": "[red]Who?[/red] \x1b[31m{{name}}", "completion": EVIL},
        {"prompt": "The key: hf_" + "a" * 34, "completion": "\ud800 {{name}}"},
        {"prompt": "a</s>", "completion": " "},
        *[{"prompt": f"Say {n}.", "completion": "mira@cloud.io"} for n in range(9)],
    ]
    return write(tmp_path / "bad.jsonl", rows)


# ------------------------------------------------------------------------------- views


def test_json_and_terminal_tell_the_same_and_no_secret(bad: Path, capsys) -> None:
    assert main(["check", str(bad), "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert main(["check", str(bad)]) == 1
    shown = capsys.readouterr().out
    for finding in record["findings"]:
        assert f"[{finding['id']}]" in shown
        assert finding["fix"] and finding["ignored"] and finding["places"]
    assert record["counts"]["error"] == 3 and not record["sound"]
    for text in (shown, json.dumps(record)):
        assert "\x1b" not in text and "mira@cloud.io" not in text
        assert "a" * 34 not in text
    assert record["figures"]["rows"] == 12 and "(9 places)" in shown


class Elements(HTMLParser):
    """Collects the elements and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


def test_html_is_one_escaped_page(bad: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "report.html"
    assert main(
        ["check", str(bad), "--model", str(models.SHIPPED), "--html", str(page)]
    )
    capsys.readouterr()
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text and html.escape("<script>document") in text
    seen = Elements()
    seen.feed(text)
    assert seen.tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "p")
    } | {
        *(
            "h2",
            "strong",
            "table",
            "caption",
            "tr",
            "td",
            "span",
            "pre",
            "b",
            "section",
        ),
        *("code", "ul", "li"),
    }
    assert seen.attributes <= {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "class",
        "style",
    }
    assert "a" * 34 not in text and "as the trainer sees it" in text


def test_colours_and_bars_on_a_terminal(bad: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=80)
    show.to_terminal(checks.check(bad), console)
    assert "\x1b[1;31m" in out.getvalue() and "█" in out.getvalue()
    assert "\\x1b" in out.getvalue()  # the row's own one steers nothing


def test_progress_on_a_terminal_and_nowhere_else(monkeypatch, capsys) -> None:
    with show.progress() as step:
        step("reading")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show.progress() as step:
        step("encoding")
    assert "encoding" in capsys.readouterr().err
    with show.progress(hidden=True) as step:
        step("x")
    assert capsys.readouterr().err == ""


def test_a_sound_file_is_called_sound(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "good.jsonl", [SOUND])
    assert main(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "Sound: " in out and "1 rows" in out


def test_samples_show_what_is_learnt(tmp_path: Path, capsys) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Who has it?"},
            {"role": "assistant", "content": "Mira."},
        ]
    }
    path = write(tmp_path / "chat.jsonl", [row])
    assert main(["check", str(path), "--model", str(models.SHIPPED)]) == 0
    out = capsys.readouterr().out
    told = "starts with BOS, ends with </s>, begins as it is asked"
    assert told in " ".join(out.split())
    page = show.as_html(checks.check(path, model=models.SHIPPED))
    assert "<b>Mira.&lt;/s&gt;</b>" in page


# ---------------------------------------------------------------------------- commands


def test_what_cannot_be_read_ends_with_2(tmp_path: Path, capsys) -> None:
    empty = write(tmp_path / "empty.jsonl", [])
    good = write(tmp_path / "good.jsonl", [SOUND])
    none = tmp_path / "none.json"
    none.write_text("[]", encoding="utf-8")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [", encoding="utf-8")
    for arguments in (
        [str(tmp_path / "none.jsonl")],
        [str(empty)],
        [str(none)],
        [],
        [str(good), "--config", str(broken)],
        [str(good), "--model", str(tmp_path / "no-such-model")],
        [str(good), "--skip", "no-such-rule"],
    ):
        assert main(["check", *arguments]) == 2, arguments
        told = capsys.readouterr()
        assert told.out == "" and len(told.err.strip().splitlines()) >= 1


def test_skip_and_test_file_and_script(tmp_path: Path, capsys) -> None:
    path = write(tmp_path / "a.jsonl", [SOUND, SOUND])
    assert main(["check", str(path)]) == 1
    assert main(["check", str(path), "--skip", "duplicates"]) == 0
    code = tmp_path / "train.py"
    code.write_text("model.merge_and_unload()\n", encoding="utf-8")
    assert main(["check", "--config", str(code)]) == 1
    assert "merge-thrown-away" in capsys.readouterr().out
    test = write(tmp_path / "test.jsonl", [SOUND])
    skip = ["--skip", "duplicates"]
    assert main(["check", str(path), "--test", str(test), *skip]) == 1
    assert "leakage" in capsys.readouterr().out


def test_a_file_is_checked_without_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "good.jsonl", [SOUND])
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, trl=None); "
        "from helpers.__main__ import main; "
        f"sys.exit(main(['check', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------- files


def test_rows_keep_their_numbers(tmp_path: Path) -> None:
    lines = [json.dumps(SOUND), "{broken", json.dumps({**SOUND, "completion": ""})]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    report = checks.check(path)
    rows = {f.rule.id: [p.row for p in f.places] for f in report.findings}
    assert rows["not-converted"] == [2] and rows["blank-content"] == [3]


def test_labels_tags_and_preferences_are_no_unknown_format() -> None:
    for row in (
        {"text": "Nice.", "label": "irony"},
        {"tokens": ["Mira"], "tags": ["O"]},
        {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."},
    ):
        assert checks.check_rows([row]).sound, row


def test_records_that_hold_several_rows_keep_their_number() -> None:
    tasks = [{"input": f"{n}", "output": f"{n}"} for n in (1, 2)]
    rows = [
        {"id": "a", "instruction": "Copy.", "instances": tasks},
        {"id": "b", "instruction": "Copy.", "instances": tasks[:1]},
    ]
    found = source.from_rows(rows)
    assert [row.number for row in found.ready] == [1, 1, 2]
    assert found.is_sft and found.pairs[1][2] == "2"


def test_a_folder_of_files_is_numbered_through(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [SOUND, SOUND])
    write(tmp_path / "b.jsonl", [{**SOUND, "completion": ""}])
    assert [row.number for row in source.read(tmp_path).rows] == [1, 2, 3]


def test_messages_that_go_through_many_records() -> None:
    rows = [
        {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi"},
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "Yes."},
    ]
    found = source.from_rows([{**row, "rank": 0} for row in rows])
    assert found.family == "oasst_messages" and len(found.ready) == 1


def test_texts_of_nested_rows() -> None:
    row = {"a": {"role": "x y", "b": ["one two", 3]}, "tags": ["B", "O"], "n": 1.5}
    found = source.from_rows([row])
    assert [(prose.field, prose.text) for prose in found.texts] == [
        ("a.b[0]", "one two")
    ]
    assert found.pairs == [(1, "one two", "one two")]
    assert source.from_rows([]).shape == ""
    odd = {"prompt": "a", "completion": ["x"]}
    assert source.shape_of(odd) == ""
    talk = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    both = source.from_rows([dict(zip(("prompt", "completion"), talk, strict=True))])
    assert both.pairs == [(1, "a", "b")] and both.shape == "prompt_completion_messages"


def test_secrets_are_hidden_wherever_text_is_shown() -> None:
    key = "sk-" + "b" * 24
    assert key not in core.excerpt(f"the key is {key}.")
    text = "x " * 30 + key + " y" * 30
    assert "bbbb" not in core.around(text, 80, 82)
    assert privacy.hide("card 4111111111111111") == "card 411" + "•" * 13
    assert core.around("abc", 0, 1) == "abc"
    assert core.joined(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_histogram_ends_with_its_last_filled_bin() -> None:
    assert quality.histogram([]) == []
    assert quality.histogram([5000])[-1] == ("over 4096", 1)


KEYS = (
    *("messages", "conversations", "prompt", "completion", "text", "input_ids"),
    *("labels", "attention_mask", "system", "chosen", "rejected", "label", "tools"),
    *("role", "content", "from", "value", "tool_calls", "function", "arguments"),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-200, 9),
    st.floats(),
    st.text(max_size=9),
    st.sampled_from(["user", "assistant", "gpt", "[{", '[{"role": 1}]']),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4) | JSON))
@example([{"labels": None, "attention_mask": True, "input_ids": []}])
@example([{"messages": [{"tool_calls": 1.0}]}])
@example([{"messages": [{"tool_calls": [{"function": "f"}]}]}])
@settings(max_examples=60, deadline=None)
def test_any_json_is_checked_and_never_a_crash(rows: list) -> None:
    report = checks.check_rows(rows)
    assert report.checked > 20 and show.as_json(report) and show.as_html(report)
    show.to_terminal(report, Console(file=io.StringIO()))


def test_deep_nesting_is_no_crash() -> None:
    deep: list = ["the end"]
    for _ in range(20_000):
        deep = [deep]
    for row in (
        {"text": deep},
        {"messages": deep},
        {"prompt": "a", "completion": deep},
    ):
        assert checks.check_rows([row]).count("error") >= 1


# ----------------------------------------------------------------------------- folders


def test_the_shipped_model_is_sound() -> None:
    found = folder.load(models.SHIPPED)
    assert found.rows == len(found.tokenizer) and found.tied
    assert {"q_proj", "down_proj"} <= found.modules
    report = checks.check(model=models.SHIPPED)
    assert report.sound and report.checked > 10


def small(path: Path, **files: str) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch) -> None:
    for name, files, told in (
        ("a", {}, "neither config.json nor a tokenizer"),
        ("b", {"config__json": "{"}, "cannot be read"),
        ("c", {"config__json": "[]"}, "holds no object"),
        ("d", {"config__json": "{}", "tokenizer__json": "{}"}, "cannot be loaded"),
        ("e", {"config__json": "{}", "model__safetensors": "x"}, "no readable header"),
    ):
        with pytest.raises(DataError, match=told):
            folder.load(small(tmp_path / name, **files))


def test_a_model_on_the_hub_is_fetched_without_weights(monkeypatch) -> None:
    asked = {}

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(models.SHIPPED)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert folder.load("someone/model").name == "someone/model"
    assert not any("safetensors" in one for one in asked["someone/model"])


def test_an_adapter_is_held_against_its_base(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    told = {"base_model_name_or_path": str(models.SHIPPED), "peft_type": "LORA"}
    path = small(tmp_path / "a", adapter_config__json=json.dumps(told))
    key = "base_model.model.model.layers.0.self_attn.{}.lora_A.weight"
    save_file(
        {key.format("q_proj"): np.zeros((1, 4))}, path / "adapter_model.safetensors"
    )
    ids = {f.rule.id for f in checks.check(model=path).findings}
    assert "adapter-without-base" in ids and "adapter-keys" not in ids
    save_file(
        {key.format("qproj"): np.zeros((1, 4))}, path / "adapter_model.safetensors"
    )
    save_file({"x": np.zeros(1)}, path / "model.safetensors")
    ids = {f.rule.id for f in checks.check(model=path).findings}
    assert {"adapter-keys", "merged-and-adapter"} <= ids


def test_templates_by_name_and_models_without_a_weight_file() -> None:
    found = folder.load(models.SHIPPED)
    text = found.template
    found.tokenizer.chat_template = {"tool": "x", "default": text}
    named = folder.Folder("m", found.tokenizer, config={"vocab_size": 7})
    assert named.template == text and named.rows == 7 and named.stops == set()
    shapes = {"lm_head.weight": [8, 4], "model.embed_tokens.weight": [9, 4]}
    assert folder.Folder("m", None, tensors=shapes).rows == 9
    assert folder.Folder("m", None, generation={"eos_token_id": 2}).stops == {2}


# ---------------------------------------------------------------------- settings, code


def test_settings_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "use_peft: true\nlora_r: 8\nlearning_rate: 2e-5\nload_in_4bit: true"
    )
    found = config.load(path)
    assert found.peft == {"peft_type": "LORA", "r": 8} and found.rate == 2e-5
    assert found.command and found.max_length == 1024
    assert config.from_settings({"max_length": None}).max_length is None
    path.write_text("just words")
    with pytest.raises(DataError, match="holds no settings"):
        config.load(path)


def test_scripts_and_notebooks(tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "!ls\n", "f(a=1)"]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    assert script.load(path).calls[0].settings == {"a": 1}
    for text in ("def", "{"):
        broken = tmp_path / ("b.ipynb" if text == "{" else "b.py")
        broken.write_text(text)
        with pytest.raises(DataError, match="as a Python script"):
            script.load(broken)


# --------------------------------------------------------------------- no false alarm


def datasets() -> list[Path]:
    folders = ("comics", "recipes", "entities", "general", "instructions", "irony")
    found = [
        p for f in folders for p in sorted((ROOT / "datasets" / f).glob("*.jsonl"))
    ]
    # The large training files are of the same grammar, and take a while.
    return [path for path in found if path.stat().st_size < 200_000]


@pytest.mark.parametrize("path", datasets(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_false_alarm_on_the_projects_own_rows(path: Path) -> None:
    report = checks.check(path, model=models.SHIPPED)
    found = {finding.rule.id: finding for finding in report.findings}
    lines = path.read_text(encoding="utf-8").splitlines()
    if twins := len(lines) - len(
        set(lines)
    ):  # a short text drawn twice is a true alarm
        assert found.pop("duplicates").count == twins
    serious = [f.rule.id for f in found.values() if f.rule.severity != "note"]
    assert not serious, serious


def test_no_false_alarm_on_the_projects_own_code() -> None:
    found = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "benchmarks").glob("*.py")]
    # notebook 02 shows this mistake on purpose, before it shows what to do instead
    shown = {"02_adaptive_tuning.ipynb": {"new-tokens-untrained"}}
    for path in found:
        report = checks.check(config=path)
        errors = {f.rule.id for f in report.findings if f.rule.severity == "error"}
        assert errors == shown.get(path.name, set()), (path.name, report.findings)


def sound_rows(path: Path) -> list:
    """The rows of a real file that are sound: converted, filled, once, in order."""
    found = source.read(path)
    left_out = {number for number, *_ in (*found.broken, *found.rejected)}
    return [row.value for row in found.rows if row.number not in left_out]


REAL = sorted((SHARED / "data").glob("*")) if SHARED.is_dir() else []


@pytest.mark.skipif(not REAL, reason="the real files are not here")
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_no_error_on_sound_rows_of_real_files(path: Path) -> None:
    try:
        rows = sound_rows(path)
        report = checks.check_rows(rows)
    except DataError:
        return  # no rows at all
    wrong = {f.rule.id for f in report.findings if f.rule.severity == "error"}
    assert wrong <= {"no-known-format"}, report.findings
