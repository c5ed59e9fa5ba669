"""Tests of helpers.formats: containers, recognisers, converters, writing."""

import csv
import errno
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import formats
from helpers.formats import (
    Conversion,
    DataError,
    Rejection,
    convert,
    detect,
    families,
    load,
    writing,
)
from helpers.formats import turns as turns_module

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def turns(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


def reasons(conversion: Conversion) -> list[tuple[int, str, str]]:
    return [(r.row, r.field, r.reason) for r in conversion.rejected]


def only_message(row: dict, **options) -> list[dict]:
    conversion = convert([row], **options)
    assert conversion.rejected == []
    return conversion.rows[0]["messages"]


def only_rejection(row: object, **options) -> tuple[str, str]:
    conversion = convert([row], **options)
    assert conversion.rows == []
    (rejection,) = conversion.rejected
    return rejection.field, rejection.reason


@pytest.fixture
def write(tmp_path):
    def to_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return to_file


# ------------------------------------------------------------------------ families

ALPACA = {"instruction": "Add.", "input": "2 and 3", "output": "5"}
DOLLY = {"instruction": "Who?", "context": "Ann.", "response": "A", "category": "qa"}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
}
MESSAGES = {"messages": turns(("user", "Hi"), ("assistant", "Yo"))}
EXCHANGE = turns(("user", "Hi"), ("assistant", "Yo"))


@pytest.mark.parametrize(
    ("row", "format", "messages"),
    [
        (ALPACA, "alpaca", turns(("user", "Add.\n\n2 and 3"), ("assistant", "5"))),
        ({"instruction": "Hi", "response": "Yo"}, "alpaca", EXCHANGE),
        ({"instruction": "Hi", "input": None, "response": "Yo"}, "alpaca", EXCHANGE),
        (DOLLY, "dolly", turns(("user", "Who?\n\nAnn."), ("assistant", "A"))),
        (
            {"instruction": "Hi", "context": "", "response": "Yo"},
            "dolly",
            EXCHANGE,
        ),
        (SHAREGPT, "sharegpt", EXCHANGE),
        ({"messages": SHAREGPT["conversations"]}, "sharegpt", EXCHANGE),
        (MESSAGES, "messages", EXCHANGE),
        ({"conversations": MESSAGES["messages"]}, "messages", EXCHANGE),
        ({"messages": json.dumps(MESSAGES["messages"])}, "messages", EXCHANGE),
        ({"prompt": "Hi", "completion": "Yo"}, "prompt_completion", EXCHANGE),
        ({"prompt": "Hi", "response": "Yo"}, "prompt_completion", EXCHANGE),
        ({"prompt": "Hi", "answer": "Yo"}, "prompt_completion", EXCHANGE),
        ({"input": "Hi", "output": "Yo"}, "prompt_completion", EXCHANGE),
        ({"source": "Hi", "target": "Yo"}, "prompt_completion", EXCHANGE),
        ({"question": "Hi", "answer": "Yo"}, "question_answer", EXCHANGE),
        (
            {"prompt": EXCHANGE[:1], "completion": EXCHANGE[1:]},
            "prompt_completion",
            EXCHANGE,
        ),
        ({"prompt": EXCHANGE[:1], "completion": "Yo"}, "prompt_completion", EXCHANGE),
        ({"prompt": "Hi", "completion": EXCHANGE[1:]}, "prompt_completion", EXCHANGE),
    ],
)
def test_each_family_is_detected_and_converted(row, format, messages):
    assert detect([row]) == format
    assert convert([row]) == Conversion([{"messages": messages}], [], format)
    assert convert([row], format=format).rows == [{"messages": messages}]


def test_text_stays_text():
    assert convert([{"text": " a\n"}]) == Conversion(
        [{"text": " a\n"}], [], "text", "text"
    )


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            " ",
            None,
            float("nan"),
            "<noinput>",
            "<No Input>",
            "no_input",
            "No input.",
        ),
        *(
            "noinput",
            "No input required.",
            "[No input is needed]",
            "N/A",
            "n / a",
            "N.A.",
        ),
        *("None", "none.", "<none>", "null", "nan", "Not applicable"),
    ],
)
@pytest.mark.parametrize("column", ["input", "context"])
def test_spellings_of_no_input_add_nothing(value, column):
    row = {"instruction": "Hi", column: value, "response": "Yo"}
    assert only_message(row) == EXCHANGE


@pytest.mark.parametrize(
    "value",
    ["Na", "No", "?", "→", "😀", "[]", "no inputs were harmed", "none of it", "0"],
)
def test_input_that_looks_like_none_but_is_content_is_kept(value):
    row = {"instruction": "Which?", "input": value, "output": "Yo"}
    assert only_message(row)[0]["content"] == f"Which?\n\n{value}"


def test_output_and_response():
    both = {"instruction": "Hi", "output": "Yo", "response": "Yo"}
    assert only_message(both) == EXCHANGE
    assert only_message({**both, "output": " "}) == EXCHANGE
    assert only_message({**both, "response": None}) == EXCHANGE
    field, reason = only_rejection({**both, "response": "No"})
    assert field == "output/response"
    assert reason == "differ: drop one of these columns"


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": " Hi\n", "input": " x ", "output": "\tYo "},
        {"prompt": " Hi\n\n x ", "completion": "\tYo "},
        {"messages": turns(("user", " Hi\n\n x "), ("assistant", "\tYo "))},
    ],
)
def test_white_space_at_the_edges_is_kept(row):
    user, assistant = only_message(row)
    assert user["content"].startswith(" Hi\n")
    assert user["content"].endswith(" x ")
    assert assistant["content"] == "\tYo "


def test_sharegpt_roles_are_mapped():
    names = {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "function_call": "assistant",
        "tool": "tool",
        "observation": "tool",
    }
    row = {"conversations": [{"from": name, "value": "x"} for name in names]}
    assert [m["role"] for m in only_message(row)] == list(names.values())


@pytest.mark.parametrize(
    ("key", "value", "column"),
    [("from", "value", "conversations"), ("role", "content", "messages")],
)
def test_faults_in_turns_name_the_turn(key, value, column):
    good = [{key: "user", value: "Hi"}, {key: "assistant", value: "Yo"}]
    rows = [
        {column: good},
        {column: [*good, {key: "bard", value: "x"}]},
        {column: [*good, {key: None, value: "x"}]},
        {column: [{value: "x"}, *good]},
        {column: [good[0], {key: "assistant"}]},
        {column: [good[0], {key: "assistant", value: None}]},
        {column: [good[0], {key: "assistant", value: " \n"}]},
        {column: [good[0], {key: "assistant", value: 5}]},
        {column: [*good, "x"]},
        {column: good[:1]},
        {column: []},
        {column: None},
        {column: "Hi"},
        {column: "[broken"},
        {column: {"a": 1}},
        {},
    ]
    conversion = convert(rows, file="f.json")
    assert conversion.rows == [{"messages": EXCHANGE}]
    known = "known are " + ", ".join(turns_module.ROLES)
    assert reasons(conversion) == [
        (2, f"{column}[2].{key}", f"is the unknown role 'bard': {known}"),
        (3, f"{column}[2].{key}", "is null"),
        (4, f"{column}[0].{key}", "is missing"),
        (5, f"{column}[1].{value}", "is missing"),
        (6, f"{column}[1].{value}", "is null"),
        (7, f"{column}[1].{value}", "is blank"),
        (8, f"{column}[1].{value}", "is a number, not text"),
        (9, f"{column}[2]", "is text, not an object"),
        (10, column, "has no assistant turn, so there is nothing to learn"),
        (11, column, "is an empty list, not a list of turns"),
        (12, column, "is null, not a list of turns"),
        (13, column, "is text, not a list of turns"),
        (14, column, "is text, not a list of turns"),
        (15, column, "is an object, not a list of turns"),
        (16, column, "is missing"),
    ]


def test_turns_under_both_columns():
    both = {"messages": EXCHANGE, "conversations": EXCHANGE}
    assert only_message(both) == EXCHANGE
    other = {**both, "conversations": EXCHANGE[:1]}
    assert only_rejection(other)[0] == "messages/conversations"


@pytest.mark.parametrize("row", [{"messages": []}, {"conversations": []}])
def test_empty_lists_alone_are_rejected_rows(row):
    assert only_rejection(row)[0] == next(iter(row))


def test_text_parts_are_joined():
    parts = [{"type": "text", "text": "Y"}, {"type": "text", "value": "o"}]
    row = {"messages": [EXCHANGE[0], {"role": "assistant", "content": parts}]}
    assert only_message(row) == EXCHANGE


@pytest.mark.parametrize(
    ("part", "label", "reason"),
    [
        ({"type": "gif"}, "[0]", "is neither a text part nor one of media"),
        ({"type": ["text"]}, "[0]", "is neither a text part nor one of media"),
        ("Yo", "[0]", "is neither a text part nor one of media"),
        ({"type": "text"}, "[0].text", "is not text"),
        ({"type": "text", "value": 5}, "[0].value", "is not text"),
        ({"type": "text", "text": " "}, "", "is blank"),
    ],
)
def test_other_parts_are_rejected(part, label, reason):
    row = {"messages": [EXCHANGE[0], {"role": "assistant", "content": [part]}]}
    assert only_rejection(row) == (f"messages[1].content{label}", reason)


def test_tool_calls_may_stand_without_content():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    row = {"messages": [EXCHANGE[0], call, {"role": "tool", "content": "5"}]}
    assert only_message(row) == [
        EXCHANGE[0],
        {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]},
        {"role": "tool", "content": "5"},
    ]
    said = {"messages": [EXCHANGE[0], {**call, "content": "Yo"}]}
    assert only_message(said)[1]["content"] == "Yo"
    for calls in ([], None, "[]"):
        none = {"messages": [EXCHANGE[0], {**call, "tool_calls": calls}]}
        assert only_rejection(none) == ("messages[1].content", "is null")
    user = {"messages": [{**call, "role": "user"}, EXCHANGE[1]]}
    assert only_rejection(user) == ("messages[0].content", "is null")


def test_weights_of_answers_are_not_lost_in_silence():
    def weighted(user, assistant):
        answer = {**EXCHANGE[1], "weight": assistant}
        return {"messages": [{**EXCHANGE[0], "loss_weight": user}, answer]}

    assert only_message(weighted(0.0, 1.0)) == EXCHANGE
    assert only_message(weighted(0.0, None)) == EXCHANGE
    field, reason = only_rejection(weighted(1, 0))
    assert field == "messages[1].weight"
    assert reason.startswith("is not 1")


@pytest.mark.parametrize(
    "row", [ALPACA, SHAREGPT, MESSAGES, {"prompt": "Hi", "completion": "Yo"}]
)
def test_top_level_system_comes_first(row):
    messages = only_message({**row, "system": " Be kind."})
    assert messages[0] == {"role": "system", "content": " Be kind."}
    assert messages[1:] == only_message(row)
    for blank in (None, "", "\n"):
        assert only_message({**row, "system": blank}) == only_message(row)
    assert only_rejection({**row, "system": 5}) == ("system", "is a number, not text")


def test_system_twice():
    row = {"messages": [*turns(("system", "Be kind.")), *EXCHANGE]}
    assert only_message({**row, "system": "Be kind."}) == row["messages"]
    field, reason = only_rejection({**row, "system": "Be brief."})
    assert (field, reason.split(":")[0]) == ("system", "differs from the system turn")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"instruction": "Hi", "output": None}, "output", "is null"),
        ({"instruction": "Hi", "output": float("nan")}, "output", "is null"),
        ({"instruction": "Hi", "response": ""}, "response", "is blank"),
        ({"instruction": "Hi", "output": ["Yo"]}, "output", "is a list, not text"),
        ({"instruction": " ", "output": "Yo"}, "instruction", "is blank"),
        (
            {"instruction": "Hi", "input": 5, "output": "Yo"},
            "input",
            "is a number, not text",
        ),
        ({**DOLLY, "response": " "}, "response", "is blank"),
        ({"prompt": "Hi", "completion": None}, "completion", "is null"),
        ({"prompt": "Hi", "completion": 5}, "completion", "is a number, not text"),
        (
            {"prompt": "Hi", "completion": True},
            "completion",
            "is true or false, not text",
        ),
        ({"prompt": "", "completion": "Yo"}, "prompt", "is blank"),
        (
            {"prompt": [], "completion": "Yo"},
            "prompt",
            "is an empty list, not a list of turns",
        ),
        (
            {"prompt": EXCHANGE[:1], "completion": EXCHANGE[:1]},
            "completion",
            "has no assistant turn, so there is nothing to learn",
        ),
        (
            {"prompt": "Hi", "completion": "Yo", "answer": "No"},
            "completion/answer",
            "differ: drop one of these columns",
        ),
        (
            {"prompt": "Hi", "completion": "Yo", "source": "a", "target": "b"},
            "prompt/source",
            "are all prompts: keep one pair",
        ),
        ({"question": "Hi", "answer": {}}, "answer", "is an object, not text"),
        ({"text": " "}, "text", "is blank"),
        ({"text": {1}}, "text", "is a set, not text"),
        ({"text": "a\ud800"}, "text", "holds half a surrogate pair at character 1"),
    ],
)
def test_rejected_rows_name_field_and_reason(row, field, reason):
    assert only_rejection(row) == (field, reason)


@pytest.mark.parametrize(
    ("format", "row", "field"),
    [
        ("alpaca", {"instruction": "Hi"}, "output"),
        ("alpaca", {"output": "Yo"}, "instruction"),
        ("prompt_completion", {"prompt": "Hi"}, "completion"),
        ("prompt_completion", {"source": "Hi"}, "target"),
        ("prompt_completion", {"completion": "Yo"}, "prompt"),
        ("question_answer", {"question": "Hi"}, "answer"),
        ("sharegpt", {"text": "Hi"}, "conversations"),
        ("messages", {"text": "Hi"}, "messages"),
        ("text", MESSAGES, "text"),
        ("sharegpt", {"conversations": MESSAGES["messages"]}, "conversations[0].from"),
    ],
)
def test_a_named_format_reports_rows_that_lack_its_columns(format, row, field):
    assert only_rejection(row, format=format) == (field, "is missing")


def test_rows_that_are_no_objects_are_reported():
    rows = [None, "x", 5, [], True, {"text": "a"}]
    conversion = convert(rows, file="f.json")
    assert conversion.rows == [{"text": "a"}]
    assert [str(rejection) for rejection in conversion.rejected] == [
        "f.json, row 1: is null, not an object",
        "f.json, row 2: is text, not an object",
        "f.json, row 3: is a number, not an object",
        "f.json, row 4: is an empty list, not an object",
        "f.json, row 5: is true or false, not an object",
    ]


def test_meta_is_kept_only_when_asked():
    row = {**DOLLY, "id": 7}
    assert "meta" not in convert([row]).rows[0]
    kept = convert([row], keep_meta=True).rows[0]
    assert kept["meta"] == {"category": "qa", "id": 7}
    assert convert([MESSAGES], keep_meta=True).rows[0]["meta"] == {}


def test_input_rows_are_not_changed():
    row = json.loads(json.dumps(MESSAGES))
    convert([{**row, "system": "Be kind."}], keep_meta=True)
    assert row == MESSAGES


def test_values_nested_too_deeply_are_rejected():
    def deep():
        value = []
        for _ in range(100_000):
            value = [value]
        return value

    row = {"instruction": "Hi", "output": deep(), "response": deep()}
    assert only_rejection(row) == ("", "is nested too deeply")
    nested = {"messages": "[" * 100_000}
    assert only_rejection(nested, format="messages")[0] == "messages"


# ----------------------------------------------------------------------- detection


def test_detection_looks_at_all_rows():
    rows = [{"instruction": "Hi", "response": "Yo"}, DOLLY]
    assert detect(rows) == "dolly"
    assert len(convert(rows).rows) == 2


@pytest.mark.parametrize(
    ("row", "candidates"),
    [
        ({**ALPACA, "text": "x"}, ["alpaca", "text"]),
        ({**ALPACA, "context": "x"}, ["alpaca", "dolly"]),
        (
            {"prompt": "x", "completion": "y", "text": "z"},
            ["prompt_completion", "text"],
        ),
        ({**MESSAGES, **SHAREGPT}, ["sharegpt", "messages"]),
        (
            {"prompt": "x", "question": "y", "answer": "z"},
            ["prompt_completion", "question_answer"],
        ),
        (
            {"instruction": "x", "prompt": "y", "response": "z"},
            ["alpaca", "prompt_completion"],
        ),
    ],
)
def test_ambiguous_rows_list_candidates_and_ask(row, candidates):
    with pytest.raises(DataError) as error:
        detect([row], name="f.json")
    message = str(error.value)
    assert message.startswith(f"f.json could be {candidates[0]} (")
    assert f" or {candidates[1]} (" in message
    advice = " or ".join(f"format={name!r}" for name in candidates)
    assert message.endswith(f": pass {advice}.")
    for name in candidates:
        assert convert([row], format=name).format == name


def test_evidence_counts_rows():
    rows = [MESSAGES, MESSAGES, {"text": "x"}]
    with pytest.raises(DataError) as error:
        convert(rows, file="f.json")
    assert str(error.value) == (
        "f.json could be messages ('messages' in 2 of 3 rows, first in row 1) or text "
        "('text' in 1 of 3 rows, first in row 3): pass format='messages' or "
        "format='text'."
    )
    assert reasons(convert(rows, format="messages")) == [(3, "messages", "is missing")]


@pytest.mark.parametrize(
    ("row", "format", "other"),
    [
        ({**ALPACA, "chosen": "a", "rejected": "b"}, "alpaca", "preference"),
        ({**MESSAGES, "label": True}, "messages", "labelled"),
    ],
)
def test_preferences_are_not_taken_for_supervised_rows(row, format, other):
    with pytest.raises(DataError) as error:
        detect([row])
    assert f" or {other} (" in str(error.value)
    assert str(error.value).endswith(f"pass format='{format}' or format='{other}'.")
    assert convert([row], format=format).format == format
    # What is asked for can settle it.
    assert convert([row], to="preference").format == other


def test_preferences_alone_ask_what_to_make_of_them():
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    assert detect([row]) == "preference"
    for format in (None, "preference"):
        with pytest.raises(
            DataError, match="data is preference: pass to='preference' .*"
        ):
            convert([row], format=format)


def test_columns_without_values_speak_for_nothing():
    empty = {"chosen": None, "rejected": "", "text": float("nan"), "conversations": []}
    assert detect([{**ALPACA, **empty, "conversations": None}]) == "alpaca"
    assert detect([{**MESSAGES, **empty}]) == "messages"


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1},
        {"prompt": "no answer"},
        {"instruction": "x", "instances": []},
        {"conversations": [5, 6]},
        {"text": "spam", "label": 1},
        {"chosen": "a"},
        {f"column {n}": "x" for n in range(30)},
    ],
)
def test_unknown_formats_list_columns_and_formats(row):
    with pytest.raises(DataError) as error:
        detect([row], name="f.csv")
    message = str(error.value)
    assert message.startswith("f.csv fits no known format with the columns ")
    assert repr(next(iter(row))) in message
    assert "format= one of 'alpaca', 'dolly', 'sharegpt', 'messages'" in message
    assert ("and 20 more" in message) == (len(row) == 30)


@pytest.mark.parametrize(
    ("rows", "found"),
    [([], "and is empty"), ([None], "row 1 is null"), ([{}], "row 1 is an object")],
)
def test_nothing_to_detect(rows, found):
    with pytest.raises(DataError, match=found):
        detect(rows)


def test_unknown_format_name():
    with pytest.raises(
        DataError, match="format='alpacca' is not known: pass one of 'a"
    ):
        convert([ALPACA], format="alpacca")


# ---------------------------------------------------------------------- containers

ROWS = [
    {"prompt": "a\u2028b", "completion": " é"},
    {"prompt": "c", "completion": "d\n"},
]
WANTED = [
    {"messages": turns(("user", row["prompt"]), ("assistant", row["completion"]))}
    for row in ROWS
]
ARRAY = json.dumps(ROWS, ensure_ascii=False)
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,completion\r\na\u2028b, é\r\n"c","d\n"\r\n'
TSV = CSV.replace(",", "\t")


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", ARRAY),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", LINES),
        ("a.jsonl", LINES),
        ("a.JSONL", LINES.replace("\n{", "\r\n\n  {")),
        ("a.ndjson", ARRAY),
        ("data", "\n" + LINES),
        ("a.csv", CSV),
        ("a.CSV", CSV.replace("\r\n", "\n")),
        ("a.csv", CSV.replace("prompt,", " prompt , ") + "\r\n\r\n"),
        ("a.tsv", TSV),
    ],
)
def test_containers(write, name, content, mark, packed):
    path = write(name + packed, mark + content)
    assert load(path) == Conversion(WANTED, [], "prompt_completion")
    assert load(str(path), format="prompt_completion").rows == WANTED


def test_gzip_is_told_by_content(write):
    packed = write("a.jsonl.gz", LINES).read_bytes()
    assert load(write("b.jsonl", packed)).rows == WANTED
    path = write("c.jsonl.gz", "")
    path.write_text(LINES, encoding="utf-8")
    assert load(path).rows == WANTED


@pytest.mark.parametrize("indent", [None, 2])
def test_single_object(write, indent):
    path = write("a.json", json.dumps(MESSAGES, indent=indent))
    assert load(path).rows == [MESSAGES]


def test_load_keeps_meta(write):
    path = write("a.csv", "id,text\n7,x\n")
    assert load(path, keep_meta=True).rows == [{"text": "x", "meta": {"id": "7"}}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            '{"text": "cut o',
            "is not JSON (Unterminated string starting at at column 10)",
        ),
        ('{"text": 1,}', "is not JSON ("),
        ('{"text": ' + "9" * 5000 + "}", "is not JSON (a number with too many digits)"),
        ('{"text": ' + "[" * 100_000, "is not JSON (nested too deeply)"),
        ("[", "is not JSON (Expecting value at column 2)"),
        ("oops", "is not JSON (Expecting value at column 1)"),
        ("5", "is a number, not an object"),
        ('{"text": "a"} {"text": "b"}', "is not JSON (Extra data at column 15)"),
    ],
)
def test_a_broken_line_is_one_reported_row(write, name, place, broken, reason):
    lines = ['{"text": "x"}'] * 3
    lines.insert(place, broken)
    path = write(name, "\n" + "\n".join(lines))
    conversion = load(path)
    assert conversion.rows == [{"text": "x"}] * 3
    (rejection,) = conversion.rejected
    assert (rejection.file, rejection.row, rejection.field) == (
        str(path),
        place + 1,
        "",
    )
    assert rejection.reason.startswith(reason)
    assert rejection.reason.endswith(f"(line {place + 2})")


def test_first_of_two_lines_broken(write):
    path = write("a.json", '{"text": "cut o\n{"text": "x"}\n')
    assert [r.row for r in load(path).rejected] == [1]


def test_reports_keep_row_and_line_apart(write):
    path = write("a.jsonl", '{"text": "x"}\n\n\n{"text": ""}\n')
    assert load(path).rejected == [Rejection(str(path), 2, "text", "is blank (line 4)")]
    path = write("a.jsonl", '{"text": "x"}\n{"text": ""}\n')
    assert load(path).rejected == [Rejection(str(path), 2, "text", "is blank")]


def test_broken_table_rows_are_reported(write):
    path = write(
        "a.csv",
        'id,text\n1,"two\nlines"\n2,a,b\n3\n\n4,"x"y\n5,\n6,last\n',
    )
    conversion = load(path)
    assert conversion.rows == [{"text": "two\nlines"}, {"text": "last"}]
    fields = "fields where the header has 2: quote fields that hold the separator"
    assert reasons(conversion) == [
        (2, "", f"has 3 {fields} (line 4)"),
        (3, "", f"has 1 {fields} (line 5)"),
        (4, "", "is not valid CSV (',' expected after '\"') (line 7)"),
        (5, "text", "is blank (line 8)"),
    ]


def test_large_table_fields_and_the_csv_limit(write):
    limit = csv.field_size_limit()
    long = "x" * (limit + 1)
    assert load(write("a.csv", f"text\n{long}\n")).rows == [{"text": long}]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "is empty"),
        ("a.csv", b"\xef\xbb\xbf \r\n", "is empty"),
        ("a.jsonl.gz", b"", "is empty"),
        ("a.json", b"[]", "holds no rows"),
        ("a.csv", b"prompt,completion\n", "holds no rows"),
        ("a.json", b'[{"text": "\xe9"}]', r"not UTF-8 \(byte 0xe9 at byte offset 11\)"),
        ("a.json", b'\xef\xbb\xbf["\xff"]', "byte 0xff at byte offset 5"),
        ("a.csv", "text\nx\n".encode("utf-16"), r"looks like UTF-16 at byte offset 0"),
        ("a.pkl", b"\x80\x04}\x94.", r"is not UTF-8 \(byte 0x80"),
        (
            "a.json",
            b'[{"text": "a"},\n{"text": "b"}',
            r"half-written .* line 2, column 14\)",
        ),
        ("a.json", b'[\n{"text": "a"}', "half-written JSON"),
        ("a.jsonl", b'[{"text": "a"}, {"te', "half-written JSON"),
        ("a.json", b'{\n "text": "a', "half-written JSON"),
        ("a.json", b'[\n{"text": "a"}\n]\nmore', "more text after its end in line 4"),
        ("a.json", b"[" * 100_000, r"JSON \(nested too deeply at line 1"),
        ("a.json", b'"text"', "holds only text"),
        ("a.json", b"5", "holds only a number"),
        ("a.txt", b"Once upon a time", "neither JSON nor JSON Lines: name it .csv"),
        ("a.txt", b"010 I-MISC\nis so\n", "is neither JSON nor JSON Lines"),
        ("a.jsonl", b"no\njson\n", "no row that is an object .*: row 1 is not JSON"),
        ("a.csv", b"text,text\na,b\n", r"in line 1 \(the column 'text' comes twice\)"),
        ("a.csv", b'"text"x,b\na,b\n', r"header in line 1 \(is not valid CSV"),
        ("a.csv", b'text\na\n"b\nc\n', "a quote in the row that starts in line 3 "),
        ("a.csv", b"a;b\n1;2\n", "fits no known format with the columns 'a;b'"),
        ("a.bin", b"\x1f\x8b\x08broken", "is a broken gzip file"),
        (
            "a.json",
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xff\xff\xff",
            "is a broken gzip file",
        ),
    ],
)
def test_files_that_cannot_be_read(write, name, content, message):
    path = write(name, content)
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    assert str(error.value).count(". ") == 0


def test_broken_gzip_that_ends_early(write):
    path = write("a.jsonl.gz", LINES)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match="is a broken gzip file"):
        load(path)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.gz"])
def test_git_lfs_pointer(tmp_path, name):
    path = tmp_path / name
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    with pytest.raises(DataError, match=r"is a Git LFS pointer .*`git lfs pull`"):
        load(path)


def test_missing_file_folder_and_unreadable_name(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no.json does not exist"):
        load(tmp_path / "no.json")
    with pytest.raises(DataError, match="is a folder without data files"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"'a\\x00b' cannot be read \(.*null"):
        load("a\0b")

    def refuse(self, *_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        load(tmp_path / "no.json")


# ------------------------------------------------------------------------- writing


def files(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir()}


def test_write_then_load(tmp_path):
    path = tmp_path / "a.jsonl"
    formats.write_jsonl(ROWS, path)
    assert path.read_bytes() == LINES.encode()
    assert load(path).rows == WANTED
    formats.write_jsonl(iter(WANTED), str(path))
    assert load(path).rows == WANTED
    assert list(files(tmp_path)) == ["a.jsonl"]


def test_write_replaces_what_a_link_points_to(tmp_path):
    path, link = tmp_path / "a.jsonl", tmp_path / "link.jsonl"
    path.write_text("old")
    link.symlink_to(path)
    formats.write_jsonl([1], link)
    assert link.is_symlink()
    assert path.read_text() == "1\n"


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("original", ["old\n", None])
@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_failed_write_leaves_everything_as_it_was(
    tmp_path, monkeypatch, step, original
):
    path = tmp_path / "a.jsonl"
    if original:
        path.write_text(original)
    before = files(tmp_path)
    if step == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
    elif step == "write":
        real = Path.open

        def full(self, *args, **options):
            handle = real(self, *args, **options)
            handle.write("half a li")
            handle.flush()
            monkeypatch.setattr(writing, "_ENCODE", no_space)
            return handle

        monkeypatch.setattr(Path, "open", full)
    else:
        monkeypatch.setattr(Path, step, lambda *_, **__: no_space())
    with pytest.raises(DataError) as error:
        formats.write_jsonl(ROWS, path)
    monkeypatch.undo()
    assert str(error.value) == (
        f"{path} could not be written (No space left on device): nothing there was "
        f"changed, so make room or choose another folder and write again."
    )
    assert files(tmp_path) == before


def test_interrupted_write_leaves_everything_as_it_was(tmp_path):
    def rows():
        yield {"text": "new"}
        raise KeyboardInterrupt

    (tmp_path / "a.jsonl").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        formats.write_jsonl(rows(), tmp_path / "a.jsonl")
    assert files(tmp_path) == {"a.jsonl": "old"}


def test_rows_that_json_cannot_hold(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    for bad in ({"a": float("nan")}, {"a": {1}}, {"a": "\ud800"}, deep):
        (tmp_path / "a.jsonl").write_text("old")
        with pytest.raises(DataError, match="row 2 cannot be written as JSON"):
            formats.write_jsonl([{}, bad], tmp_path / "a.jsonl")
        assert files(tmp_path) == {"a.jsonl": "old"}


def test_targets_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match="could not be written"):
        formats.write_jsonl([], tmp_path / "none" / "a.jsonl")
    with pytest.raises(DataError, match="could not be written"):
        formats.write_jsonl([], tmp_path)
    with pytest.raises(DataError, match="choose a name without .gz"):
        formats.write_jsonl([], tmp_path / "a.jsonl.gz")
    assert files(tmp_path) == {}


# ---------------------------------------------------------------------- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool"]) | JSON,
        "content": st.text(max_size=4) | JSON,
        "from": st.sampled_from(["human", "gpt", "system"]) | JSON,
        "value": st.text(max_size=4) | JSON,
        "tool_calls": JSON,
        "weight": JSON,
    },
)
COLUMNS = sorted(set().union(*(f.columns for f in formats.FAMILIES.values())))
VALUE = st.text(max_size=6) | st.lists(TURN | JSON, max_size=3) | JSON
LIKELY = st.dictionaries(
    st.sampled_from([*COLUMNS, "images", "id"]), VALUE, min_size=1, max_size=4
)
FORMAT = st.sampled_from([None, *families.convertible()])
steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def check(conversion: Conversion, rows: list) -> None:
    assert len(conversion.rows) + len(conversion.rejected) == len(rows)
    numbers = [rejection.row for rejection in conversion.rejected]
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= set(range(1, len(rows) + 1))
    assert all(rejection.reason for rejection in conversion.rejected)
    for row in conversion.rows:
        if conversion.format == "text":
            assert row["text"].strip()
            continue
        assert any(m["role"] == "assistant" for m in row["messages"])
        for message in row["messages"]:
            assert message["role"] in {"system", "user", "assistant", "tool"}
            assert message["content"].strip() or message["tool_calls"]


@steady
@given(st.lists(LIKELY | JSON, max_size=4), FORMAT, st.booleans())
def test_any_rows_convert_or_are_reported(rows, format, keep_meta):
    to = "preference" if format in {"preference", "labelled"} else None
    try:
        conversion = convert(rows, format=format, to=to, keep_meta=keep_meta)
    except DataError:
        assert format in {None, "tags"}  # tags may be of no scheme
        return
    check(conversion, rows)


@steady
@given(rows=st.lists(LIKELY | JSON, min_size=1, max_size=4), lines=st.booleans())
def test_files_give_what_rows_in_memory_give(tmp_path_factory, rows, lines):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    dumped = [json.dumps(row) for row in rows]
    path.write_text("\n".join(dumped) if lines else f"[{', '.join(dumped)}]")
    try:
        expected = convert(rows, file=str(path))
    except DataError:
        with pytest.raises(DataError):
            load(path)
        return
    found = load(path)
    check(found, rows)
    assert repr(found) == repr(expected)  # repr: NaN in a call differs from itself


@steady
@given(st.binary(max_size=60), st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv"]))
def test_any_bytes_convert_or_raise_data_error(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data)
    try:
        conversion = load(path, format="text")
    except DataError:
        return
    assert conversion.rows or conversion.rejected


def cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@steady
@given(st.lists(st.text().filter(str.strip), min_size=1, max_size=5))
def test_quoted_cells_survive(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("cells") / "a.csv"
    content = "text\r\n" + "".join(cell(text) + "\r\n" for text in texts)
    path.write_bytes(content.encode())
    assert load(path).rows == [{"text": text} for text in texts]


# ---------------------------------------------------------------------- real files


def count(path: Path) -> int:
    """Count the rows by another way than the module's."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        pandas = pytest.importorskip("pandas")
        return len(pandas.read_csv(path))
    if text.lstrip().startswith("["):
        return len(json.loads(text))
    whole = text.startswith("{\n")
    return 1 if whole else sum(bool(line) for line in text.split("\n"))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    ("name", "format", "rows", "rejected"),
    [
        ("alpaca_rasbt.json", "alpaca", 300, 0),
        ("alpaca_zh_jsonl_named_json.json", "alpaca", 150, 0),
        ("alpaca_identity_placeholders.json", "alpaca", 91, 0),
        ("instruction_input_response_gpteacher_roleplay.json", "alpaca", 150, 0),
        ("dolly_litgpt.json", "dolly", 12, 0),
        ("p3_ropes.jsonl", "prompt_completion", 200, 0),
        ("prompt_completion_wwdc25.jsonl", "prompt_completion", 300, 0),
        ("source_target_legal.csv", "prompt_completion", 150, 0),
        ("question_answer_gsm8k.jsonl", "question_answer", 300, 0),
        ("sharegpt_fastchat_dummy.json", "sharegpt", 500, 0),
        ("sharegpt_single_object_axolotl.json", "sharegpt", 1, 0),
        ("sharegpt_missingturns_axolotl.json", "sharegpt", 0, 1),
        ("sharegpt_tools_glaive.json", "sharegpt", 100, 0),
        ("mm_llava_qwen_images.json", "sharegpt", 3, 0),
        ("messages_openai_toy.jsonl", "messages", 5, 0),
        ("messages_toplevel_system_anthropic.jsonl", "messages", 150, 0),
        ("messages_typed_parts_lossweight.jsonl", "messages", 100, 0),
        ("mm_llamafactory_images.json", "messages", 6, 0),
        ("text_only_c4.jsonl", "text", 80, 0),
    ],
)
def test_real_files_convert(name, format, rows, rejected):
    conversion = load(REAL / name)
    assert conversion.format == format
    assert (len(conversion.rows), len(conversion.rejected)) == (rows, rejected)
    assert rows + rejected == count(REAL / name)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_real_contents():
    edges = load(REAL / "p3_ropes.jsonl").rows
    prompts = [row["messages"][0]["content"] for row in edges]
    assert all(prompt != prompt.strip() for prompt in prompts)
    system = load(REAL / "messages_toplevel_system_anthropic.jsonl").rows
    assert {row["messages"][0]["content"] for row in system} == {"JSON Mode: Enabled"}
    tools = load(REAL / "sharegpt_tools_glaive.json").rows
    roles = [m["role"] for row in tools for m in row["messages"]]
    assert [roles.count(r) for r in ("user", "assistant", "tool")] == [272, 345, 73]
    (empty,) = load(REAL / "sharegpt_missingturns_axolotl.json").rejected
    assert (empty.field, empty.reason) == ("conversations[1].value", "is blank")
    rows = load(REAL / "source_target_legal.csv").rows
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(REAL / "source_target_legal.csv", keep_default_na=False)
    assert [r["messages"][1]["content"] for r in rows] == list(table["target"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfs_pointer.jsonl.gz.txt", "git lfs pull"),
        (
            "pref_alpaca_rasbt.json",
            "alpaca .* or preference .*'rejected' in 300 of 300",
        ),
        ("pref_conversations_dpo_en.json", "sharegpt .* or preference"),
        ("pref_kto_en.json", "messages .* or labelled"),
    ],
)
def test_real_files_that_need_a_decision(name, message):
    with pytest.raises(DataError, match=message):
        load(REAL / name)


# -------------------------------------------------------------------------- import


def test_import_is_light():
    code = (
        "import time; start = time.perf_counter()\n"
        "import helpers, helpers.formats\n"
        "print(time.perf_counter() - start)\n"
        "import sys; print(*sys.modules)\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True
        ).stdout.decode()
        for _ in range(3)
    ]
    seconds, modules = zip(*(run.splitlines() for run in runs), strict=True)
    # The best of three: other work on the machine must not fail the test.
    assert min(float(value) for value in seconds) < 0.3
    heavy = {"torch", "transformers", "pandas", "numpy", "datasets", "scipy"}
    assert not heavy & set(modules[0].split())
