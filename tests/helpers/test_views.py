"""Views as a reader meets them: in HTML, in a terminal, in black and white."""

from __future__ import annotations

import math
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import nbclient
import nbformat
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from helpers.views import (
    answers_table,
    box_rows,
    interval_plot,
    interval_text,
    learning_curve,
    pareto,
    records_table,
    stacked_bars,
    style,
    token_view,
    trade_off,
)

law = settings(derandomize=True, deadline=None, database=None, max_examples=60)
NASTY = "<script>alert(\"1\")</script> & 'you'\n"


class Page(HTMLParser):
    """What a browser would make of some HTML: tags, texts, attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("br", "wbr"):
            self.open.append(tag)
        self.titles += [value for name, value in attributes if name == "title"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        tag = self.open[-1]
        self.inside[tag] = self.inside.get(tag, "") + data

    @property
    def text(self) -> str:
        return "".join(self.texts)


def rendered(view) -> Page:
    page = Page(view._repr_html_())
    assert page.open == []
    return page


def masked(ids, trained_from):
    return [-100] * trained_from + ids[trained_from:]


# token_view


def test_token_view_tells_trained_tokens_without_colour(tiny_tokenizer):
    ids = tiny_tokenizer("<|user|>where?<|assistant|>box</s>").input_ids
    start = ids.index(tiny_tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
    view = token_view(ids, masked(ids, start), tiny_tokenizer)
    trained = len(ids) - start
    note = f"{len(ids)} tokens: {trained} trained, {start} context."
    assert repr(view) == (
        f"<s><|user|>·where?<|assistant|>⟦·box</s>⟧\n{note} Trained text stands in ⟦ ⟧."
    )
    page = rendered(view)
    assert page.inside["b"] == "·box</s>trained"  # bold, then the legend
    assert page.inside["span"] == "<s><|user|>·where?<|assistant|>context"
    assert note in page.text
    assert page.titles[0] == "position 0, id 1, context"
    assert page.titles[-1] == f"position {len(ids) - 1}, id 2, trained"


def test_token_view_escapes_what_looks_like_html(tiny_tokenizer):
    ids = tiny_tokenizer(NASTY).input_ids
    page = rendered(token_view(ids, ids, tiny_tokenizer))
    assert set(page.tags) == {"div", "b", "br", "wbr"}
    assert page.text.startswith("<s>·<script>alert(\"1\")</script>·&·'you'↵")


def test_token_view_makes_blank_and_reordering_characters_visible(tiny_tokenizer):
    ids = tiny_tokenizer("a\tb\nc\r").input_ids
    text = repr(token_view(ids, ids, tiny_tokenizer))
    assert text.startswith("⟦<s>·a⇥b↵\nc\\r⟧\n")
    assert "<br>" in token_view(ids, ids, tiny_tokenizer)._repr_html_()
    hidden = token_view(range(3), range(3), Vocabulary("\xa0\u202e\u200b"))
    assert repr(hidden).startswith(r"⟦\xa0\u202e\u200b⟧")


def test_token_view_shows_whole_characters_and_the_parts_of_one(tiny_tokenizer):
    tokenizer = tiny_tokenizer
    ids = tokenizer("é").input_ids[-2:]  # two bytes that this vocabulary keeps apart
    assert repr(token_view(ids, ids, tokenizer)).startswith(r"⟦\xc3\xa9⟧")


def test_every_byte_of_a_byte_level_vocabulary_is_read(tiny_tokenizer):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    ids = tiny_tokenizer.convert_tokens_to_ids(letters)
    text = repr(token_view(ids, ids, tiny_tokenizer)).replace("\n", "")
    assert r"\x00" in text
    assert r"\xff" in text
    assert "abc" in text
    assert "Ġ" not in text


def test_token_view_reads_sentencepiece_and_its_bytes():
    tokenizer = sentencepiece_like()
    ids = tokenizer.convert_tokens_to_ids(["<s>", "▁the", "<0x0A>", "<0xE2>", "Ġ"])
    assert repr(token_view(ids, masked(ids, 4), tokenizer)).startswith(
        "<s>·the↵\n\\xe2⟦Ġ⟧\n"
    )


def sentencepiece_like():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "<s>", "▁", "▁the", "<0x0A>", "<0xE2>", "Ġ"]
    backend = Tokenizer(
        models.BPE({name: i for i, name in enumerate(names)}, [], unk_token="<unk>")
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>"
    )


def test_token_view_keeps_the_spelling_of_added_tokens(foreign_tokenizer):
    import copy

    tokenizer = copy.deepcopy(foreign_tokenizer)
    tokenizer.add_tokens(["<a b→c>"])
    ids = [len(tokenizer) - 1]
    assert repr(token_view(ids, ids, tokenizer)).startswith("⟦<a·b→c>⟧\n")


def test_token_view_marks_shifted_labels(tiny_tokenizer):
    ids = tiny_tokenizer("the ball").input_ids
    labels = ids[1:] + [-100]
    view = token_view(ids, labels, tiny_tokenizer)
    assert f"{len(ids) - 1} with another token's label (≠)." in repr(view)
    assert repr(view).startswith("≠⟨<s>")
    assert "≠wrong" in rendered(view).text


def test_token_view_says_what_it_leaves_out(tiny_tokenizer):
    ids = tiny_tokenizer("the ball is in the old box").input_ids
    view = token_view(ids, masked(ids, 2), tiny_tokenizer, limit=3)
    expected = f"{len(ids)} tokens: {len(ids) - 2} trained, 2 context; the first 3 are"
    assert expected in repr(view)
    assert len(rendered(view).titles) == 3


def test_token_view_takes_arrays(tiny_tokenizer):
    ids = np.array([1, 4])
    text = repr(token_view(ids, ids, tiny_tokenizer))
    assert text == repr(token_view([1, 4], [1, 4], tiny_tokenizer))


@pytest.mark.parametrize(
    ("ids", "labels", "limit", "message"),
    [
        ([1, 2], [1], 9, "found 2 ids but 1 labels"),
        ([], [], 9, "ids is empty"),
        ([1, 99_999], [1, 2], 9, r"ids\[1\] is 99999, which is not in .* of 4\d\d;"),
        ([-100], [-100], 9, r"ids\[0\] is -100"),
        ([1], [1], 0, "limit is 0"),
    ],
)
def test_token_view_says_what_it_found(tiny_tokenizer, ids, labels, limit, message):
    with pytest.raises(ValueError, match=message):
        token_view(ids, labels, tiny_tokenizer, limit=limit)


class Vocabulary:
    """A tokenizer whose entries are the characters of any text."""

    all_special_tokens = ()

    def __init__(self, text):
        self.text = text

    def __len__(self):
        return len(self.text)

    def get_vocab(self):
        return {}

    def convert_ids_to_tokens(self, identifier):
        return self.text[identifier]


@law
@given(st.text(min_size=1, max_size=30))
def test_token_view_is_sound_html_for_any_text(text):
    ids = list(range(len(text)))
    page = rendered(token_view(ids, ids, Vocabulary(text)))
    page.text.encode()  # no lone surrogate is left
    assert set(page.tags) <= {"div", "b", "br", "wbr"}
    assert len(page.titles) == len(text)


# answers_table


ROW = {"prompt": "2 + 2?", "before": "cat", "after": "4", "reference": "4", "n": 1}


def test_answers_table_in_a_terminal():
    rows = [ROW, ROW | {"prompt": "a\nb\tc", "before": "", "after": "x" * 9}]
    assert repr(answers_table(rows, width=6)).splitlines() == [
        "prompt | before | after  | reference",
        "-------+--------+--------+----------",
        "2 + 2? | cat    | 4      | 4",
        "a↵b⇥c  |        | xxxxx… | 4",
    ]


def test_answers_table_in_a_notebook():
    page = rendered(answers_table([ROW | {"after": NASTY, "before": '">' * 50}]))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.texts[:5] == ["prompt", "before", "after", "reference", "2 + 2?"]
    assert page.texts[6] == NASTY
    assert page.texts[5] == '">' * 39 + '"…'
    assert page.titles == ['">' * 50]  # what was cut is there to be hovered


def test_answers_table_of_chosen_columns():
    text = repr(answers_table([ROW], columns=["after", "prompt"]))
    assert text.splitlines()[0] == "after | prompt"


@law
@given(st.lists(st.text(max_size=12), min_size=4, max_size=4), st.integers(1, 9))
def test_answers_table_is_sound_for_any_text(texts, width):
    columns = ["prompt", "before", "after", "reference"]
    table = answers_table([dict(zip(columns, texts, strict=True))], width=width)
    page = rendered(table)
    assert page.tags.count("td") == 4
    assert len(repr(table).split("\n")) == 3


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "rows is empty"),
        ([ROW], {"columns": []}, "columns is empty"),
        ([ROW], {"width": 0}, "width is 0"),
        ([ROW, {"prompt": "a"}], {}, r"rows\[1\] has no 'before', only \['prompt'\]"),
        ([ROW | {"after": None}], {}, r"rows\[0\]\['after'\] is None; give a string"),
    ],
)
def test_answers_table_says_what_it_found(rows, options, message):
    with pytest.raises(ValueError, match=message):
        answers_table(rows, **options)


# records_table


RECORDS = [
    {"technique": "LoRA", "value": 0.873, "low": 0.851, "high": 0.892, "n": 1200},
    {"technique": "majority", "value": 1 / 3, "n": 1200},
]


def test_records_table_writes_intervals_beside_values():
    table = records_table(
        RECORDS, {"technique": "method", "value": "accuracy in %", "n": "rows"}
    )
    assert table.columns.tolist() == ["method", "accuracy in %", "rows"]
    assert table.to_numpy().tolist() == [
        ["LoRA", "87.3 [85.1, 89.2]", 1200],
        ["majority", "33.3", 1200],
    ]


def test_records_table_of_values_that_are_no_proportions():
    record = {"value": -0.0504, "low": -0.1, "high": 0.25}
    table = records_table([record], ["value", "low"], percent=False, digits=2)
    assert table.to_numpy().tolist() == [["-0.05 [-0.10, 0.25]", -0.1]]


@pytest.mark.parametrize(
    ("records", "columns", "message"),
    [
        ([], ["value"], "records is empty"),
        (RECORDS, [], "columns is empty"),
        (RECORDS, ["low"], r"records\[1\] has no field 'low', only \['n', 'tech"),
    ],
)
def test_records_table_says_what_it_found(records, columns, message):
    with pytest.raises(ValueError, match=message):
        records_table(records, columns)


def test_an_interval_needs_both_bounds():
    assert interval_text(0.5, digits=0) == "50"
    with pytest.raises(ValueError, match="found low None and high 0.6; give both"):
        interval_text(0.5, None, 0.6)


# figures


HISTORIES = {
    "full": [(0, 2.5), (100, 1.25), (200, 1.0)],
    "LoRA": [(0, 2.5), (100, math.nan), (200, 1.5)],
}
ROWS = [("zero-shot", 0.34, 0.313, 0.367), ("LoRA", 0.873, 0.851, 0.892)]


def drawn(figure) -> np.ndarray:
    """Render as the notebook does, without any warning (pytest makes them errors)."""
    png = BytesIO()
    figure.savefig(png, format="png")
    png.seek(0)
    pixels = imread(png)
    assert pixels.std() > 0.05
    return pixels


def legend_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_learning_curve_draws_its_points_and_says_them_in_words():
    figure = learning_curve(
        HISTORIES,
        x_label="step",
        y_label="loss in nats",
        title="It learns",
        baselines={"uniform": 1.0986},
    )
    axes = figure.axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[0, 2.5], [100, 1.25], [200, 1.0]]
    assert axes.lines[2].get_ydata() == [1.0986, 1.0986]
    assert axes.get_title("left") == "It learns"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss in nats")
    assert legend_of(figure) == ["full", "LoRA (1 of 3 not finite)", "uniform"]
    assert repr(figure) == figure.alt
    assert figure.alt == (
        "It learns. loss in nats by step. full: 2.5 at 0, 1 at 200; "
        "LoRA (1 of 3 not finite): 2.5 at 0, 1.5 at 200; uniform: 1.099 throughout."
    )
    drawn(figure)


def test_learning_curve_on_a_log_scale():
    assert learning_curve(HISTORIES, scale="log").axes[0].get_yscale() == "log"


def test_lines_differ_without_colour():
    many = {f"run {k}": [(0, k), (1, k + 1)] for k in range(28)}
    lines = learning_curve(many).axes[0].lines
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 28


def test_baselines_differ_without_colour():
    levels = [0.2, 0.4, 0.6, 0.8]
    figure = learning_curve(
        {"a": [(0, 0), (1, 1)]}, baselines={f"level {y}": y for y in levels}
    )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    grey = np.asarray(canvas.buffer_rgba()).mean(axis=2)
    heights = [figure.axes[0].transData.transform((0, y))[1] for y in levels]
    dashes = []
    for height in heights:
        dark = grey[len(grey) - round(height)] < 200
        dashes.append(np.count_nonzero(np.diff(dark.astype(int)) == 1))
    assert dashes == sorted(set(dashes), reverse=True)  # ever longer, ever fewer


def test_markers_of_long_curves_neither_crowd_nor_hide_each_other():
    long = {name: [(x, 1.0) for x in range(500)] for name in "ab"}
    first, second = learning_curve(long).axes[0].lines
    assert first.get_markevery() == (0, 50)
    assert second.get_markevery() == (25, 50)


def test_names_are_taken_as_they_are():
    name = "_costs $5$, 100% & <b>"
    figure = learning_curve({name: [(0, 1), (1, 2)]}, title=name, y_label=name)
    figure.axes[0].set_xlim(0, 1)
    drawn(figure)
    assert [text.strip() for text in legend_of(figure)] == [name.replace("$", r"\$")]


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "histories is empty"),
        ({"a": []}, "history 'a' has 0 points and none with a finite value"),
        ({"a": [(0, math.inf)]}, "history 'a' has 1 points and none with a finite"),
    ],
)
def test_learning_curve_says_what_it_found(histories, message):
    with pytest.raises(ValueError, match=message):
        learning_curve(histories)


def test_interval_plot_draws_its_rows_and_says_them_in_words():
    figure = interval_plot(
        ROWS, x_label="accuracy in %", title="Irony", baselines={"majority": 1 / 3}
    )
    axes = figure.axes[0]
    points, (left, right), _ = axes.containers[0]
    assert points.get_xdata().tolist() == pytest.approx([34.0, 87.3])
    assert left.get_xdata().tolist() == pytest.approx([31.3, 85.1])
    assert right.get_xdata().tolist() == pytest.approx([36.7, 89.2])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["zero-shot", "LoRA"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    assert legend_of(figure) == ["majority"]
    assert figure.alt == (
        "Irony. accuracy in % with interval. zero-shot: 34.0 [31.3, 36.7]; "
        "LoRA: 87.3 [85.1, 89.2]; majority: 33.3."
    )
    drawn(figure)
    numbers = [tick.get_text() for tick in axes.child_axes[0].get_yticklabels()]
    assert numbers == ["34.0 [31.3, 36.7]", "87.3 [85.1, 89.2]"]


def test_interval_plot_of_one_value_that_is_no_proportion():
    figure = interval_plot([("LoRA", 0.05, -0.01, 0.11)], percent=False, digits=2)
    assert figure.legends == []
    assert figure.alt == "value with interval. LoRA: 0.05 [-0.01, 0.11]."
    drawn(figure)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty"),
        ([ROWS[0], ("b", 0.5, 0.6, 0.7)], r"rows\[1\] \('b'\) has value 0.5, low 0.6"),
        ([("b", math.nan, 0.1, 0.2)], "they must be finite with low ≤ value ≤ high"),
        ([("b", 0.1, 0.1, math.inf)], "high inf; they must be finite"),
    ],
)
def test_interval_plot_says_what_it_found(rows, message):
    with pytest.raises(ValueError, match=message):
        interval_plot(rows)


PARTS = {
    "full": {"weights": 4.0, "gradients": 4.0, "spare": 0},
    "LoRA_1": {"weights": 2.0, "_adapters$": 0.25},
}


def test_stacked_bars_draw_their_parts_and_say_them_in_words():
    figure = stacked_bars(PARTS, x_label="GiB", title="Memory")
    axes = figure.axes[0]
    weights, gradients, adapters = axes.containers
    assert [bar.get_width() for bar in weights] == [4.0, 2.0]
    assert [bar.get_x() for bar in gradients] == [4.0, 2.0]
    assert [bar.get_width() for bar in adapters] == [0, 0.25]
    assert [bar.get_x() for bar in adapters] == [8.0, 2.0]
    assert [text.get_text() for text in axes.texts] == [" 8.0", " 2.2"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["full", "LoRA_1"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top
    hatches = [bars[0].get_hatch() for bars in axes.containers]
    assert len(set(hatches)) == 3  # distinct in black and white
    assert len(legend_of(figure)) == 3
    assert figure.alt == (
        "Memory. GiB by part. full: 8.0, weights 4.0, gradients 4.0; "
        "LoRA_1: 2.2, weights 2.0, _adapters$ 0.2."
    )
    drawn(figure)


def test_stacked_bars_of_nothing():
    figure = stacked_bars({"empty": {"weights": 0}})
    assert not figure.legends
    assert figure.alt == "sum by part. empty: 0.0."
    drawn(figure)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "rows is empty"),
        ({"a": {"x": -1}}, "the part 'x' of 'a' is -1"),
        ({"a": {"x": math.nan}}, "is nan; give a finite number from 0"),
        ({"a": {"x": math.inf}}, "is inf"),
    ],
)
def test_stacked_bars_say_what_they_found(rows, message):
    with pytest.raises(ValueError, match=message):
        stacked_bars(rows)


TECHNIQUES = {
    "prompt": {"it reads": [("text", "given")], "weights": [("model", "frozen")]},
    "LoRA": {
        "it reads": [("text", "given"), ("$x", "given")],
        "weights": [("model", "frozen"), ("A × B", "trained")],
    },
}


def test_box_rows_draw_a_box_for_each_part_and_a_legend_of_kinds():
    figure = box_rows(TECHNIQUES, title="What is trained")
    axes = figure.axes[0]
    assert len(axes.patches) == 6
    assert [text.get_text() for text in axes.texts] == [
        *("text", "model", "text", r"\$x", "model", "A × B"),
        *("it reads", "weights"),
    ]
    assert legend_of(figure) == ["given", "frozen", "trained"]
    looks = {(p.get_facecolor(), p.get_hatch()) for p in axes.patches}
    assert len(looks) == 3
    starts = [patch.get_x() for patch in axes.patches]
    assert starts[1] == starts[4] > starts[3] + axes.patches[3].get_width()
    assert figure.alt == (
        "What is trained. prompt: it reads text (given), weights model (frozen); "
        "LoRA: it reads text (given) + $x (given), weights model (frozen) + A × B "
        "(trained)."
    )
    drawn(figure)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "rows is empty"),
        ({"a": {}}, "groups is empty"),
        ({"a": {"x": []}}, "boxes is empty"),
        ({"a": {"x": [("b", "c")]}, "d": {"y": []}}, "the row 'd' has groups"),
    ],
)
def test_box_rows_say_what_they_found(rows, message):
    with pytest.raises(ValueError, match=message):
        box_rows(rows)


POINTS = {
    "prompt": (0, 0.4, 0.3, 0.5),
    "LoRA": (100, 0.7, 0.6, 0.8),
    "waste": (200, 0.6, 0.5, 0.7),
    "full": (1000, 0.8, 0.7, 0.9),
}


def test_trade_off_draws_the_front_and_names_it_first():
    figure = trade_off(
        POINTS, x_label="parameters", y_label="accuracy", baselines={"majority": 0.33}
    )
    axes = figure.axes[0]
    (front,) = [line for line in axes.lines if line.get_linestyle() == "--"][:1]
    assert front.get_xydata().tolist() == [[10, 0.4], [100, 0.7], [1000, 0.8]]
    assert axes.get_xscale() == "log"
    assert sorted(text.get_text() for text in axes.texts) == sorted(POINTS)
    assert figure.alt == (
        "accuracy by parameters. prompt (on the front): 0.4 for 0; LoRA (on the "
        "front): 0.7 for 100; full (on the front): 0.8 for 1,000; waste: 0.6 for 200; "
        "majority: 0.33 throughout."
    )
    drawn(figure)


def test_trade_off_on_a_linear_scale_without_any_cost():
    figure = trade_off({"a": (0, 1, 1, 1)}, scale="linear", title="Free")
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[0, 1]]
    assert figure.alt == "Free. gain by cost. a (on the front): 1 for 0."
    assert not figure.legends
    drawn(figure)


@pytest.mark.parametrize(
    "point",
    [(-1, 0, 0, 0), (math.inf, 0, 0, 0), (1, math.nan, 0, 0), (1, 2, 0, 1)],
)
def test_trade_off_says_which_point_is_wrong(point):
    with pytest.raises(ValueError, match="the point 'a' has cost"):
        trade_off({"a": point})
    with pytest.raises(ValueError, match="points is empty"):
        trade_off({})


def test_pareto_keeps_equals_and_drops_what_is_dearer_or_gains_less():
    same = {"a": (1, 1), "b": (1, 1), "dear": (2, 1), "weak": (1, 0.5), "free": (0, 0)}
    assert pareto(same) == ["free", "a", "b"]


def test_style_is_what_matplotlib_takes_and_changes_nothing_by_itself():
    before = dict(matplotlib.rcParams)
    learning_curve(HISTORIES)
    interval_plot(ROWS)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context(style()):
        assert matplotlib.rcParams["axes.grid"] is True


def test_figures_need_no_pyplot_and_the_module_no_matplotlib():
    code = (
        "import sys, helpers.views as v\n"
        "heavy = {'matplotlib', 'pandas', 'numpy', 'torch', 'IPython'}\n"
        "assert not heavy & set(sys.modules)\n"
        "v.learning_curve({'a': [(0, 1)]})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_figure_shows_itself_as_a_picture_with_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr(display, "display", lambda *args, **more: shown.append(args))
    figure = interval_plot(ROWS)
    figure._ipython_display_()
    [(data,)] = shown
    assert data["text/plain"] == figure.alt
    pixels = imread(BytesIO(data["image/png"]))
    assert pixels.shape[1] == pytest.approx(6.4 * style()["figure.dpi"], abs=1)


CELLS = (
    "from helpers.views import answers_table, interval_plot",
    "interval_plot([('a', 0.5, 0.4, 0.6)])",
    "import matplotlib.pyplot as plt",
    "interval_plot([('a', 0.5, 0.4, 0.6)])",
    "answers_table([{'prompt': 'p'}], columns=['prompt'])",
)


@pytest.fixture(scope="module")
def notebook():
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    made = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(made, timeout=60, kernel_name="python3").execute()
    return made


@pytest.mark.parametrize("cell", [1, 3])
def test_a_notebook_shows_a_figure_once_with_its_words(notebook, cell):
    # With and without pyplot: its inline backend brings a formatter of its own.
    [output] = notebook.cells[cell].outputs
    words = "value with interval. a: 50.0 [40.0, 60.0]."
    assert output.data["text/plain"] == words
    assert output.metadata["image/png"]["alt"] == words
    assert output.data["image/png"] == notebook.cells[1].outputs[0].data["image/png"]


def test_a_notebook_shows_a_table_as_html_and_keeps_the_text(notebook):
    [output] = notebook.cells[4].outputs
    assert output.data["text/html"].startswith("<table")
    assert output.data["text/plain"] == "prompt\n------\np"
