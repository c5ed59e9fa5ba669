"""Tests of the families with trees, several tasks a row, comparisons and tags."""

import json
from pathlib import Path

import pytest

from helpers.formats import DataError, conll, convert, detect, load, trees

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")


def turns(*pairs: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


def user(text: str) -> list[dict]:
    return turns(("user", text))


def said(text: str) -> list[dict]:
    return turns(("assistant", text))


HI, YO = user("Hi"), said("Yo")
EXCHANGE = HI + YO


def one(row: dict, **options) -> dict:
    conversion = convert([row], **options)
    assert conversion.rejected == []
    (made,) = conversion.rows
    return made


def reason(row: object, **options) -> tuple[str, str]:
    conversion = convert([row], **options)
    assert conversion.rows == []
    (rejection,) = conversion.rejected
    return rejection.field, rejection.reason


# ------------------------------------------------------------------- conversations

EXCHANGES = {"conversation": [{"human": "Hi", "assistant": "Yo"}]}
MOSS = {
    "chat": {
        "turn_1": {"Human": "<|Human|>: Hi<eoh>\n", "MOSS": "<|MOSS|>: Yo<eom>\n"},
        "turn_2": {"Human": "<|Human|>: And?<eoh>\n", "MOSS": "<|MOSS|>: No<eom>\n"},
    },
    "meta_instruction": "Be kind.",
}


@pytest.mark.parametrize(
    ("row", "format", "messages"),
    [
        (EXCHANGES, "exchanges", EXCHANGE),
        ({"conversations": EXCHANGES["conversation"]}, "exchanges", EXCHANGE),
        (
            MOSS,
            "moss",
            turns(
                ("system", "Be kind."), *[(m["role"], m["content"]) for m in EXCHANGE]
            )
            + user("And?")
            + said("No"),
        ),
        ({"id": "1", "data": ["Hi", "Yo"]}, "bare_turns", EXCHANGE),
        ({"conversations": ["Hi", "Yo"], "source": "x"}, "bare_turns", EXCHANGE),
        (
            {"input": ["Hi", "a"], "output": ["Yo", "b"]},
            "parallel_turns",
            EXCHANGE + user("a") + said("b"),
        ),
        (
            {"question": "Hi", "answer": "no", "rationale": "so"},
            "chain_of_thought",
            HI + said("so\n\nno"),
        ),
    ],
)
def test_other_conversations(row, format, messages):
    assert detect([row]) == format
    assert one(row)["messages"] == messages


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        (
            "exchanges",
            {"conversation": ["x"]},
            ("conversation[0]", "is not an object"),
        ),
        (
            "exchanges",
            {"conversation": [{"human": "x"}]},
            ("conversation[0].assistant", "is missing"),
        ),
        ("exchanges", {}, ("conversation", "is missing")),
        ("moss", {"chat": []}, ("chat", "is not an object with turns")),
        (
            "moss",
            {"chat": {"turn_2": {}}},
            ("chat.turn_1", "is missing or is not an object"),
        ),
        (
            "moss",
            {"chat": {"turn_1": {"Human": "<|Human|>: <eoh>"}}},
            ("chat.turn_1.Human", "is blank"),
        ),
        (
            "bare_turns",
            {"data": ["Hi"]},
            ("data", "has no assistant turn, so there is nothing to learn"),
        ),
        ("bare_turns", {"data": ["Hi", 5]}, ("data[1]", "is a number, not text")),
        ("bare_turns", {"data": []}, ("data", "is an empty list, not a list of texts")),
        (
            "parallel_turns",
            {"input": ["a", "b"], "output": ["c"]},
            ("output", "has 1 texts for 2 of input"),
        ),
    ],
)
def test_faults_of_other_conversations(format, row, expected):
    assert reason(row, format=format) == expected


# ------------------------------------------------------------- several tasks a row


def test_self_instruct_gives_a_row_for_each_instance():
    row = {
        "instruction": "Add.",
        "instances": [
            {"input": "2 and 3", "output": "5"},
            {"input": "", "output": ""},
            "x",
            {"input": "", "output": "0"},
        ],
    }
    assert detect([row]) == "self_instruct"
    conversion = convert([row, {"instruction": "x", "instances": []}])
    assert [r["messages"][0]["content"] for r in conversion.rows] == [
        "Add.\n\n2 and 3",
        "Add.",
    ]
    found = [(r.row, r.field, r.reason) for r in conversion.rejected]
    assert found == [
        (1, "instances[1].output", "is blank"),
        (1, "instances[2].output", "is missing"),
        (2, "instances", "is an empty list, not a list of tasks"),
    ]
    assert conversion.total == 5


def test_unnatural_instructions_with_rewordings():
    row = {
        "instruction": "Add.",
        "instances": [
            {
                "instruction_with_input": "Add.\n2 and 3",
                "input": "2 and 3",
                "constraints": "In digits.",
                "output": "5",
            }
        ],
        "reformulations": [
            {
                "instruction": "Sum up {INPUT}.",
                "instruction_with_input": "Sum up 2 and 3.",
                "input": "2 and 3",
                "output": "5",
                "constraints": "None.",
            }
        ],
    }
    conversion = convert([row])
    asked = [r["messages"][0]["content"] for r in conversion.rows]
    assert asked == ["Add.\n2 and 3\n\nIn digits.", "Sum up 2 and 3."]
    assert [r["messages"][1]["content"] for r in conversion.rows] == ["5", "5"]


@pytest.mark.parametrize("definition", ["Do.", ["Do."]])
def test_super_natural_instructions(definition):
    row = {
        "Definition": definition,
        "Instances": [
            {"input": "a", "output": "b"},
            {"input": "c", "output": ["d", "e"]},
            {"input": "f", "output": []},
            5,
        ],
    }
    assert detect([row]) == "super_natural_instructions"
    conversion = convert([row])
    assert [r["messages"] for r in conversion.rows] == [
        user("Do.\n\na") + said("b"),
        user("Do.\n\nc") + said("d"),
    ]
    fields = [(r.field, r.reason) for r in conversion.rejected]
    assert fields == [
        ("Instances[2].output", "is an empty list"),
        ("Instances[3].output", "is missing"),
    ]
    (note,) = conversion.notes
    assert (note.split(":")[0], conversion.notes[note]) == (
        "several answers are given as right",
        1,
    )


# --------------------------------------------------------------------------- trees


def node(role: str, text: str, *replies: dict, **other) -> dict:
    return {"role": role, "text": text, "replies": list(replies), **other}


TREE = {
    "message_tree_id": "1",
    "prompt": node(
        "prompter",
        "Q",
        node("assistant", "second", rank=1),
        node("assistant", "unranked"),
        node(
            "assistant",
            "best",
            node("prompter", "More?", node("assistant", "Sure.", rank=0)),
            node("prompter", "Bye.", rank=0),
            rank=0,
        ),
        node("assistant", "gone", rank=-1, deleted=True),
    ),
}


def texts(row: dict) -> list[str]:
    return [message["content"] for message in row["messages"]]


def test_the_best_path_of_a_tree_and_all_paths():
    assert detect([TREE]) == "oasst_tree"
    assert texts(one(TREE)) == ["Q", "best"]  # what the user said last is cut
    every = convert([TREE], paths="all")
    assert [texts(row) for row in every.rows] == [
        ["Q", "best"],
        ["Q", "best", "More?", "Sure."],
        ["Q", "second"],
        ["Q", "unranked"],
    ]
    with pytest.raises(DataError, match="paths='worst' is not known: pass one of"):
        convert([TREE], paths="worst")


@pytest.mark.parametrize(
    ("root", "field", "said"),
    [
        ("x", "prompt", "is text, not a message with replies"),
        (node("prompter", "Q"), "prompt.replies", "hold no answer"),
        (
            node("prompter", "", node("assistant", "A")),
            "path[0].text",
            "is blank",
        ),
        (
            node("bot", "Q", node("assistant", "A")),
            "path[0].role",
            "is 'bot', an unknown role: known are prompter and assistant",
        ),
    ],
)
def test_faults_of_trees(root, field, said):
    assert reason({"prompt": root}, format="oasst_tree") == (field, said)


def test_trees_without_end_are_cut_short(monkeypatch):
    monkeypatch.setattr(trees, "_MOST_TURNS", 3)
    monkeypatch.setattr(trees, "_MOST_PATHS", 2)
    deep = node("assistant", "6")
    for n in range(5, 0, -1):
        deep = node("prompter" if n % 2 else "assistant", str(n), deep)
    assert texts(one({"prompt": deep})) == ["1", "2", "3", "4"]
    assert len(convert([{"prompt": deep}], paths="all").rows) == 1
    assert reason(TREE, paths="all") == ("prompt", "has over 2 paths")


def message(name: str, parent: str | None, role: str, text: str, **other) -> dict:
    return {
        "message_id": name,
        "parent_id": parent,
        "role": role,
        "text": text,
        **other,
    }


def test_messages_in_rows_of_their_own_form_trees():
    rows = [
        message("b", "a", "assistant", "worse", rank=1),
        message("a", None, "prompter", "Q"),
        message("c", "a", "assistant", "better", rank=0),
        message("d", "a", "assistant", "gone", rank=-1, deleted=True),
        message("e", "lost", "assistant", "orphan"),
        message("f", "e", "prompter", "orphan of an orphan"),
        message("a", None, "prompter", "again"),
        message("g", None, "prompter", "nobody answers"),
        {"text": "x", "message_id": 5},
        7,
    ]
    assert detect(rows) == "oasst_messages"
    conversion = convert(rows)
    assert [texts(row) for row in conversion.rows] == [["Q", "better"]]
    lost = {r.row: r.reason for r in conversion.rejected}
    assert lost == {
        4: "is a deleted message",
        5: "answers a message that is not in the file",
        6: "answers a message that is not in the file",
        7: "repeats a message_id",
        8: "hold no answer",
        9: "has no message_id",
        10: "has no message_id",
    }
    assert list(conversion.notes.values()) == [4]
    assert len(convert(rows, paths="all").rows) == 2
    assert convert(rows[4:5], format="oasst_messages").notes == {}


# --------------------------------------------------------------------- preferences

BETTER, WORSE = "\n\nHuman: Hi\n\nAssistant: Yo", "\n\nHuman: Hi\n\nAssistant: No"
COMPARED = {"prompt": HI, "chosen": YO, "rejected": said("No")}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Yo", "rejected": "No"},
        {"instruction": "Hi", "input": "None", "chosen": "Yo", "rejected": "No"},
        {"question": "Hi", "response_j": "Yo", "response_k": "No"},
        {"prompt": HI, "chosen": YO, "rejected": said("No")},
        {"chosen": EXCHANGE, "rejected": HI + said("No")},
        {"prompt": "Hi", "chosen": EXCHANGE, "rejected": HI + said("No")},
        {"chosen_messages": EXCHANGE, "rejected_messages": HI + said("No")},
        {"chosen": BETTER, "rejected": WORSE},
        {"prompt": "\n\nHuman: Hi\n\nAssistant:", "chosen": "Yo", "rejected": "No"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yo"},
            "rejected": {"from": "gpt", "value": "No"},
        },
        {"prompt": "Hi", "messages": [], "chosen": YO, "rejected": said("No")},
    ],
)
def test_compared_answers(row):
    if "conversations" not in row:
        assert detect([row]) == "preference"
    made = convert([row], format="preference", to="preference")
    assert (made.rows, made.rejected) == ([COMPARED], [])
    learned = convert([row], format="preference", to="messages")
    assert learned.rows == [{"messages": EXCHANGE}]
    pair = convert([row], format="preference", to="prompt_completion")
    assert pair.rows == [{"prompt": HI, "completion": YO}]
    asked = convert([row], format="preference", to="prompt")
    assert asked.rows == [{"prompt": HI}]


def test_input_and_system_of_compared_answers():
    row = {"instruction": "Add.", "input": "2, 3", "chosen": "5", "rejected": "6"}
    made = one({**row, "system": "Be brief."}, to="preference")
    assert made["prompt"] == turns(("system", "Be brief."), ("user", "Add.\n\n2, 3"))


@pytest.mark.parametrize(
    ("row", "field", "said_"),
    [
        (
            {"prompt": "Hi", "chosen": "Yo", "rejected": "Yo"},
            "chosen/rejected",
            "are the same answer, so none is the better one",
        ),
        ({"prompt": "Hi", "chosen": "Yo"}, "rejected", "is missing"),
        ({"prompt": "Hi"}, "chosen", "is missing"),
        ({"prompt": "Hi", "chosen": "Yo", "rejected": ""}, "rejected", "is blank"),
        (
            {"chosen": "Yo", "rejected": "No"},
            "prompt",
            "is missing, and the answers do not begin with it",
        ),
        (
            {"prompt": "Eh", "chosen": EXCHANGE, "rejected": HI + said("No")},
            "chosen",
            "begins with another question than the prompt",
        ),
        (
            {"prompt": "Hi", "chosen": EXCHANGE, "rejected": "No"},
            "chosen",
            "begins with a question that the other has not",
        ),
        (
            {"chosen": HI, "rejected": HI},
            "chosen",
            "has no assistant turn, so there is nothing to learn",
        ),
    ],
)
def test_faults_of_compared_answers(row, field, said_):
    assert reason(row, format="preference", to="preference") == (field, said_)


def test_the_same_answer_twice_can_be_learned():
    row = {"prompt": "Hi", "chosen": "Yo", "rejected": "Yo"}
    assert one(row, to="messages") == {"messages": EXCHANGE}


@pytest.mark.parametrize("column", ["label", "kto_tag"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": EXCHANGE},
        {"prompt": "Hi", "completion": "Yo"},
        {"prompt": HI, "completion": YO},
    ],
)
def test_labelled_answers(row, column):
    good, bad = {**row, column: True}, {**row, column: False}
    made = convert([good, bad], format="labelled", to="preference")
    expected = {"prompt": HI, "completion": YO}
    assert made.rows == [{**expected, "label": True}, {**expected, "label": False}]
    learned = convert([good, bad], format="labelled", to="messages")
    assert learned.rows == [{"messages": EXCHANGE}]
    (left,) = learned.rejected
    assert (left.row, left.field) == (2, "label")
    with pytest.raises(DataError, match="is labelled: pass to='preference' .*"):
        convert([good], format="labelled")


@pytest.mark.parametrize(
    ("row", "field", "said_"),
    [
        ({"messages": EXCHANGE, "label": 1}, "label", "is a number, not true or false"),
        ({"messages": EXCHANGE}, "label", "is null, not true or false"),
        (
            {"messages": EXCHANGE + HI, "label": True},
            "messages",
            "ends without an answer",
        ),
        (
            {"messages": HI, "label": True},
            "messages",
            "has no assistant turn, so there is nothing to learn",
        ),
        ({"messages": YO, "label": True}, "prompt", "is missing, so nothing was asked"),
    ],
)
def test_faults_of_labelled_answers(row, field, said_):
    assert reason(row, format="labelled", to="preference") == (field, said_)


# -------------------------------------------------------------------------- shapes


def test_prompt_and_completion_split_at_the_last_answer():
    row = {"messages": EXCHANGE + user("More") + said("Sure")}
    made = one(row, to="prompt_completion")
    assert made == {"prompt": EXCHANGE + user("More"), "completion": said("Sure")}
    cut = convert([{"messages": EXCHANGE + user("Bye")}], to="prompt_completion")
    assert cut.rows == [{"prompt": HI, "completion": YO}]
    assert list(cut.notes.values()) == [1]
    assert one(row, to="prompt") == {"prompt": EXCHANGE + user("More")}
    begins = "begins with the answer, so nothing was asked"
    for to in ("prompt", "prompt_completion"):
        assert reason({"messages": YO}, to=to) == ("", begins)


def test_shapes_that_cannot_be():
    with pytest.raises(DataError, match="is text, which cannot become messages: pass"):
        convert([{"text": "x"}], to="messages")
    with pytest.raises(DataError, match="to='chatml' is not known: pass one of"):
        convert([{"text": "x"}], to="chatml")
    assert convert([], format="text").rows == []


def test_what_is_asked_for_settles_what_is_ambiguous():
    row = {"prompt": "Hi", "completion": "Yo", "text": "z"}
    assert convert([row], to="text").format == "text"
    assert convert([row], to="messages").format == "prompt_completion"
    with pytest.raises(DataError, match="could be"):
        convert([row], to="tokens")


def test_prompts_with_a_template_of_their_own_are_noted():
    templated = {"prompt": "### Instruction:\nHi", "completion": "Yo"}
    conversion = convert([templated, {"prompt": "a", "completion": "b"}])
    assert texts(conversion.rows[0])[0] == templated["prompt"]
    assert len(conversion.rows) == 2
    (note,) = conversion.notes
    assert note.startswith("prompts carry a template of their own")
    assert conversion.notes[note] == 1


# ----------------------------------------------------------------- media and tools


def test_media_columns_are_kept_and_noted():
    row = {"messages": EXCHANGE, "images": ["a.png"], "videos": []}
    conversion = convert([row, {"messages": EXCHANGE}], keep_meta=True)
    assert conversion.rows[0]["media"] == {"images": ["a.png"]}
    assert "media" not in conversion.rows[1]
    assert conversion.rows[0]["meta"] == {}
    assert list(conversion.notes.values()) == [1]


def test_media_parts_leave_a_placeholder():
    part = {"type": "image_url", "image_url": {"url": "a.png"}}
    content = [part, {"type": "text", "text": "What?"}, {"type": "input_audio"}]
    row = {"messages": [{"role": "user", "content": content}, *YO]}
    made = one(row)
    assert made["messages"] == user("<image>What?<audio>") + YO
    assert made["media"] == {"parts": [part, {"type": "input_audio"}]}


TOOLS = [{"name": "add", "parameters": {"a": 1}}]


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_are_kept_as_json_text(tools):
    row = {"messages": EXCHANGE, "tools": tools}
    for to in ("messages", "prompt_completion", "prompt"):
        assert json.loads(one(row, to=to)["tools"]) == TOOLS
    assert "tools" not in one({"text": "x", "tools": tools})


@pytest.mark.parametrize("tools", ["[]", [], None, " ", "", [[]][:0]])
def test_no_tools(tools):
    assert one({"messages": EXCHANGE, "tools": tools}) == {"messages": EXCHANGE}


@pytest.mark.parametrize(
    ("tools", "said_"),
    [
        ("add", "is text, not a list of tools"),
        ({"a": 1}, "is an object, not a list of tools"),
        ([{1}], "cannot be written as JSON (Object of type set is not JSON"),
    ],
)
def test_faults_of_tools(tools, said_):
    field, found = reason({"messages": EXCHANGE, "tools": tools})
    assert (field, found[: len(said_)]) == ("tools", said_)


# -------------------------------------------------------- tests that have no answer


def test_questions_without_answers_become_prompts():
    ifeval = {"key": 1, "prompt": "Hi", "instruction_id_list": ["a:b"], "kwargs": [{}]}
    assert detect([ifeval]) == "ifeval"
    assert one(ifeval, keep_meta=True) == {
        "prompt": HI,
        "meta": {"key": 1, "instruction_id_list": ["a:b"], "kwargs": [{}]},
    }
    conversion = convert([{"turns": ["Hi", "More"]}, {"turns": ["Hi"]}])
    assert conversion.format == "mt_bench"
    assert conversion.rows == [{"prompt": HI}] * 2
    assert list(conversion.notes.values()) == [1]


def test_answers_to_choose_from_are_no_answers_to_learn():
    row = {"question": "Hi", "choices": ["a", "b"], "answer": 1}
    with pytest.raises(DataError, match="is multiple_choice .* which is not converted"):
        detect([row])
    assert reason(row, format="question_answer")[0] == "answer"


# ---------------------------------------------------------------------------- tags

ENTITIES = {
    "IO": ["I-A", "I-A", "O", "I-B"],
    "IOB1": ["I-A", "B-A", "O", "I-B"],
    "IOB2": ["B-A", "B-A", "O", "B-B"],
    "BIOES": ["S-A", "S-A", "O", "S-B"],
}


@pytest.mark.parametrize("scheme", conll.SCHEMES)
def test_schemes_are_detected_and_said(scheme):
    rows = [{"tokens": list("abcd"), "tags": ENTITIES[scheme]}]
    assert conll.scheme(ENTITIES[scheme]) == scheme
    conversion = convert(rows)
    first = "I-A" if scheme == "IO" else "B-A"  # IO cannot tell neighbours apart
    assert conversion.rows == [
        {"tokens": list("abcd"), "tags": ["B-A", first, "O", "B-B"]}
    ]
    assert conversion.notes == {f"tags in {scheme} became IOB2": 1}
    assert (conversion.format, conversion.to) == ("tags", "tokens")


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        (["B-A", "I-A", "E-A", "B-A", "E-A"], "BIOES", "B-A I-A I-A B-A I-A"),
        (["B-A", "L-A", "I-A", "U-A"], "BIOES", "B-A I-A B-A B-A"),
        (["A", "A", "O", "B"], "IO", "B-A I-A O B-B"),
        (["I-A", "I-B", "B-B"], "IOB1", "B-A B-B B-B"),
        (["I-A", "O", "I-A"], "IO", "B-A O B-A"),
        (["O", "O"], "IO", "O O"),
        (["A-B-C", "New-York"], "IO", "B-B-C B-New-York"),
    ],
)
def test_tags_in_iob2(tags, scheme, expected):
    assert conll.to_iob2(tags, scheme) == expected.split()
    if tags[0] != "A-B-C":
        assert conll.scheme(tags) == scheme


@pytest.mark.parametrize(
    "tags",
    [["I-A", "B-A", "O", "B-B"], ["B-A", "O", "A"], ["S-A", "X-A"]],
)
def test_mixed_schemes_are_asked_about(tags):
    rows = [{"tokens": ["x"] * len(tags), "tags": tags}]
    message = "^the data mixes tag schemes .* pass scheme= one of"
    with pytest.raises(DataError, match=message):
        convert(rows)
    assert convert(rows, scheme="IOB2").rejected == []
    with pytest.raises(DataError, match="scheme='X' is not known"):
        convert(rows, scheme="X")


def test_faults_of_tagged_rows():
    good = {"tokens": ["a"], "tags": ["B-A"]}
    rows = [good, {"tokens": ["a"]}, {"tokens": ["a"], "tags": []}, 5]
    rows += [{"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": ["a"], "tags": [1]}]
    conversion = convert(rows)
    assert conversion.rows == [good]
    assert [(r.row, r.field, r.reason) for r in conversion.rejected] == [
        (2, "tags", "is missing"),
        (3, "tags", "is an empty list, not a list of texts"),
        (4, "", "is a number, not an object"),
        (5, "tags", "are 1 for 2 tokens"),
        (6, "tags[0]", "is a number, not text"),
    ]


CONLL = "-DOCSTART- -X- O\n\na DT B-A\nb NN I-A\n\r\nc NN O\n \n\nd NN B-A\n"


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.bio"])
@pytest.mark.parametrize("gap", [" ", "\t"])
def test_tagged_files(tmp_path, name, gap):
    path = tmp_path / name
    path.write_bytes(CONLL.replace(" ", gap).encode())
    conversion = load(path)
    assert conversion.rows == [
        {"tokens": ["a", "b"], "tags": ["B-A", "I-A"]},
        {"tokens": ["c"], "tags": ["O"]},
        {"tokens": ["d"], "tags": ["B-A"]},
    ]
    assert conversion.rejected == []


def test_uneven_sentences_name_the_line(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a O\nb\n\nc\n\nd O\n")
    conversion = load(path)
    assert conversion.rows == [{"tokens": ["d"], "tags": ["O"]}]
    assert [r.reason for r in conversion.rejected] == [
        "has 1 column in line 2 where 2 columns should be",
        "has 1 column in line 4 where a token and its tag should be (line 4)",
    ]


def test_which_column_holds_the_tags(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a B-A I-A\nb I-A I-A\n")
    with pytest.raises(DataError, match=r"pass tag_column=2 or tag_column=3\.$"):
        load(path)
    assert load(path, tag_column=2).rows[0]["tags"] == ["B-A", "I-A"]
    assert load(path, tag_column=3).notes == {"tags in IO became IOB2": 1}
    with pytest.raises(DataError, match="has no column 4 of tags: pass one of"):
        load(path, tag_column=4)
    path.write_text("a B-NP B-PER\nb I-NP O\n")
    assert load(path).rows[0]["tags"] == ["B-PER", "O"]
    path.write_text("a PER\nb O\n")  # no prefixes: no column looks like tags
    assert load(path).rows[0]["tags"] == ["B-PER", "O"]


def test_a_sentence_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(conll, "_MOST_TOKENS", 3)
    path = tmp_path / "a.conll"
    path.write_text("a O\n" * 4)
    with pytest.raises(DataError, match="over 3 lines from line 1 on without a blank"):
        load(path)


def test_other_text_is_not_taken_for_tagged():
    assert not conll.looks_tagged("a b\nc d e\n")
    assert not conll.looks_tagged("one\ntwo\n")
    assert not conll.looks_tagged("a b\nc d\n")


# ---------------------------------------------------------------------- real files


@real
@pytest.mark.parametrize(
    ("name", "options", "format", "rows", "rejected"),
    [
        ("self_instruct_seed_tasks.jsonl", {}, "self_instruct", 175, 0),
        ("super_ni_task1319.json", {}, "super_natural_instructions", 101, 0),
        ("flan_cot_strategyqa.tsv", {}, "chain_of_thought", 300, 0),
        ("oasst_tree_en.jsonl", {}, "oasst_tree", 25, 0),
        ("turns_mt_bench.jsonl", {}, "mt_bench", 80, 0),
        ("ifeval_input_data.jsonl", {}, "ifeval", 541, 0),
        ("ner_wikigold_io.conll", {}, "tags", 1287, 0),
        ("chunk_seqeval_ground_truth.txt", {"tag_column": 3}, "tags", 40, 0),
        ("pref_alpaca_rasbt.json", {"to": "preference"}, "preference", 298, 2),
        ("pref_alpaca_rasbt.json", {"format": "alpaca"}, "alpaca", 300, 0),
        ("pref_conversations_dpo_en.json", {"to": "preference"}, "preference", 60, 0),
        ("pref_kto_en.json", {"to": "preference"}, "labelled", 90, 0),
    ],
)
def test_real_files(name, options, format, rows, rejected):
    conversion = load(REAL / name, **options)
    assert conversion.format == format
    assert (len(conversion.rows), len(conversion.rejected)) == (rows, rejected)


@real
def test_contents_of_real_files():
    asked = load(REAL / "flan_cot_strategyqa.tsv").rows[0]["messages"]
    assert asked[0]["content"].endswith("Genghis Khan than Julius Caesar?")
    assert asked[1]["content"].endswith("\n\nyes")
    every = load(REAL / "oasst_tree_en.jsonl", paths="all")
    assert len(every.rows) > 100
    assert all(row["messages"][-1]["role"] == "assistant" for row in every.rows)
    wikigold = load(REAL / "ner_wikigold_io.conll")
    assert wikigold.notes == {"tags in IO became IOB2": 1287}
    chunks = load(REAL / "chunk_seqeval_ground_truth.txt", tag_column=3)
    begun = sum(tag[0] == "B" for row in chunks.rows for tag in row["tags"])
    assert begun == 8 + 6 + 262 + 90 + 6 + 87  # the B- of the file: it is IOB2
    assert chunks.notes == {"tags in IOB2 became IOB2": 40}
    compared = json.loads((REAL / "pref_alpaca_rasbt.json").read_text("utf-8"))
    assert sum(row["chosen"] == row["rejected"] for row in compared) == 2
    tools = load(REAL / "sharegpt_tools_glaive.json").rows
    assert sum("tools" in row for row in tools) == 59
    images = load(REAL / "mm_llamafactory_images.json").rows
    assert all(row["media"]["images"] for row in images)
