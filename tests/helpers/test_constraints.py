"""Tests of helpers.constraints: both sides of every kind, strict and loose."""

import json
from pathlib import Path

import pytest

from helpers.constraints import KINDS, LANGUAGES, follows, follows_all, language
from helpers.formats import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
CALM = "the weather was calm and the people went home early"

# kind, values, answers that follow, answers that do not
CASES = [
    ("keywords:existence", {"keywords": ["Rain", "c++"]}, ["rain in C++"], ["rain"]),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ["War and warfare"],
        ["war"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "less than"},
        ["war"],
        ["war war"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock"]},
        ["rocket"],
        ["Rock!", "a rock"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "!", "let_frequency": 2, "let_relation": "at least"},
        ["a!!"],
        ["a!"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "E", "let_frequency": 2, "let_relation": "less than"},
        ["e"],
        ["Ee"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das Wetter war ruhig und alle gingen früh nach Hause."],
        [CALM],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ["One. Two!", "One?\n\nTwo"],
        ["Mr. Ray left.", "J. R. Ray", "..."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a", "a *** b *** c", "a *** *** b"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ["a b"],
        ["a b, c"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
        ["a\n\nweekend, b", "a\n\n'Weekend' b"],
        ["weekend\n\na", "a\n\nweekend\n\nc", "a\n\nweekends", "a\n\n\n\nweekend"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
        [],
        ["a"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] and [b]"],
        ["[a]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. more", "p. s. more"],
        ["Bye. PS more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S more", "p. p. s"],
        ["P.S. more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "NB"},
        ["a\nNB: b"],
        ["a"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n- b", "Here:\n  * a\n  * b"],
        ["* a", "- a\n- b\n- c", "**a**\n**b**"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["Well: My answer is maybe."],
        ["My answer is yes", "maybe"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** *b*"],
        ["*a*", "* * * *"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb"],
        ["SECTION 1\na", "Section 1\nSection 2"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": 1}\n```', "```\n[]\n```"],
        ["{a: 1}", 'Here: {"a": 1}', "[" * 100_000],
    ),
    ("detectable_format:title", {}, ["<<a song>>\nla"], ["<a>", "<<>>", "<< >>"]),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb"],
        ["a", "a ****** a", "a ****** b ****** c", "a ******  ****** b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say it.\n"},
        ["say it. It."],
        ["It. Say it."],
    ),
    ("startend:end_checker", {"end_phrase": "Bye."}, ['"So, bye."'], ["Bye. Or so."]),
    ("startend:quotation", {}, [' "a" '], ['"a', "a", '"']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["STOP, I say", "WELL-KNOWN! YES", "I'M"],
        ["STOP it", "Stop It"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "less than"},
        ["calm"],
        ["STOP"],
    ),
    (
        "change_case:english_capital",
        {},
        [CALM.upper()],
        [CALM, "DAS WETTER WAR RUHIG UND ALLE GINGEN NACH HAUSE"],
    ),
    (
        "change_case:english_lowercase",
        {},
        [CALM],
        [CALM.title(), "das wetter war ruhig und alle gingen nach hause"],
    ),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
]


@pytest.mark.parametrize(("kind", "values", "good", "bad"), CASES)
def test_both_sides_of_each_kind(kind, values, good, bad):
    for answer in good:
        assert follows(answer, kind, values), answer
        assert follows(answer, kind, values, loose=True), answer
    for answer in bad:
        assert not follows(answer, kind, values), answer
    assert not follows(" \n", kind, values)
    assert not follows(" \n", kind, values, loose=True)


def test_every_kind_has_a_case_on_both_sides():
    assert {kind for kind, _, good, bad in CASES if good and bad} == set(KINDS)
    assert len(KINDS) == 25


@pytest.mark.parametrize(
    ("answer", "kind", "values"),
    [
        ("Sure, here it is:\nno comma", "punctuation:no_comma", {}),
        ("no comma\nHope, that helps!", "punctuation:no_comma", {}),
        ("Sure, here:\nno comma\nSo, done.", "punctuation:no_comma", {}),
        ('**"a"**', "startend:quotation", {}),
    ],
)
def test_loose_forgives_what_surrounds_an_answer(answer, kind, values):
    assert not follows(answer, kind, values)
    assert follows(answer, kind, values, loose=True)


def test_loose_does_not_forgive_the_answer_itself():
    text = "a\nb, c\nd"
    assert not follows(text, "punctuation:no_comma", loose=True)


def test_faults_are_said():
    with pytest.raises(DataError, match="'a:b' is no known kind: pass one of keywords"):
        follows("x", "a:b")
    with pytest.raises(DataError, match="needs a value for 'num_bullets', and has"):
        follows("x", "detectable_format:number_bullet_lists", {"num_bullets": None})
    with pytest.raises(DataError, match="relation='about' is not known"):
        values = {"num_words": 1, "relation": "about"}
        follows("x", "length_constraints:number_words", values)
    with pytest.raises(DataError, match="1 values for 2 kinds"):
        follows_all("x", ["a", "b"], [{}])


SENTENCES = {
    "fr": "Le temps était calme et tout le monde est rentré tôt à la maison.",
    "es": "El tiempo estaba tranquilo y todos volvieron temprano a casa.",
    "ru": "Погода была тихая, и все рано вернулись домой.",
    "ja": "天気は穏やかで、みんな早く家に帰りました。",
    "ko": "날씨가 좋아서 모두 일찍 집에 돌아갔습니다.",
    "hi": "मौसम शांत था और सब लोग जल्दी घर चले गए।",
    "sw": "Hali ya hewa ilikuwa shwari na watu wote walirudi nyumbani mapema.",
    "th": "อากาศสงบและทุกคนกลับบ้านเร็ว",
    "ta": "வானிலை அமைதியாக இருந்தது, அனைவரும் வீட்டிற்குச் சென்றனர்.",
}


@pytest.mark.parametrize("code", SENTENCES)
def test_languages(code):
    assert code in LANGUAGES
    assert language(SENTENCES[code]) == code


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not here")
def test_every_row_of_the_real_benchmark_can_be_judged():
    lines = (REAL / "ifeval_input_data.jsonl").read_text("utf-8").splitlines()
    seen: set[str] = set()
    for row in map(json.loads, lines):
        kinds, values = row["instruction_id_list"], row["kwargs"]
        for loose in (False, True):
            verdicts = follows_all("My answer is no.", kinds, values, loose=loose)
            assert len(verdicts) == len(kinds)
        seen.update(kinds)
        for given in values:
            assert given.get("language", "en") in LANGUAGES
    assert seen == set(KINDS)
