"""What a notebook shows: tokens with their loss mask, answers, records, figures.

Everything here can be read without colour: markers, line styles, frames and bold type
carry the meaning too, and each figure has its content in words as `alt`. HTML is
escaped and needs no script. Figures are made without pyplot: nothing global changes,
and as the last expression of a cell a figure appears once.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from helpers.encoding import MASKED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from pandas import DataFrame

_ANSWER_COLUMNS = ("prompt", "before", "after", "reference")

# Okabe and Ito's palette without its yellow, dark to light, so that lines differ in
# grey too. Source: Wong 2011, "Color blindness", Nature Methods 8:441.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "+++")

_BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")  # SentencePiece's byte fallback

_PAGE = "background:#fff;color:#000;padding:.4em"
_TRAINED = "font-weight:bold;border:1px solid #000;background:#dceaf7"
_CONTEXT = "border:1px dotted #999;color:#555"
_WRONG = "font-weight:bold;border:3px double #000;background:#f7dcdc"
_CELL = (
    "border:1px solid #999;padding:.3em .6em;text-align:left;vertical-align:top;"
    "white-space:pre-wrap"
)


@dataclass(frozen=True, repr=False)
class Shown:
    """Something with two faces: HTML for a notebook, plain text for a terminal."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Return the plain text, for terminals and for `print`."""
        return self.text


def token_view(
    ids: Sequence[int], labels: Sequence[int], tokenizer: Any, *, limit: int = 512
) -> Shown:
    """Show one encoded row token by token, with what the loss is computed on.

    Trained tokens stand bold in a solid frame (in plain text: between ⟦ and ⟧), the
    context pale in a dotted one. A label that is neither ignored nor its own token,
    as after a second shift, is marked ≠. Spaces appear as ·, line ends as ↵, tabs as
    ⇥, other invisible characters and parts of a character as escapes.

    Args:
        ids: Token ids, shape (sequence,).
        labels: Labels before the model's shift, shape (sequence,): the token's own
            id, or -100 where the loss ignores it.
        tokenizer: The tokenizer that made the ids (transformers).
        limit: Number of tokens to show; how many are left out is said.

    Returns:
        An object that a notebook shows as HTML and a terminal as text.

    Raises:
        ValueError: If the lengths differ, there is no token, or an id is not in the
            tokenizer's vocabulary; or if the limit is below 1.
    """
    ids, labels = [int(i) for i in ids], [int(label) for label in labels]
    _check_some(ids, "ids")
    if len(ids) != len(labels):
        raise ValueError(
            f"found {len(ids)} ids but {len(labels)} labels; pass both of one row"
        )
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1 token")
    pieces = _pieces(ids, tokenizer)[:limit]
    marks = [_mark(i, label) for i, label in zip(ids, labels, strict=True)]
    note = _mask_note(marks, shown=len(pieces))
    return Shown(
        _tokens_html(ids, pieces, marks, note),
        f"{_tokens_text(pieces, marks)}\n{note} Trained text stands in ⟦ ⟧.",
    )


def answers_table(
    rows: Sequence[Mapping[str, str]],
    *,
    columns: Sequence[str] = _ANSWER_COLUMNS,
    width: int = 80,
) -> Shown:
    """Show answers side by side: prompt, before, after, reference.

    Args:
        rows: One mapping per row with a string for each column; other keys are left
            out.
        columns: Which keys to show, in order.
        width: Longest text in characters; the rest is cut and ends in "…".

    Returns:
        An object that a notebook shows as an HTML table and a terminal as text.

    Raises:
        ValueError: If there are no rows or columns, the width is below 1, or a row
            lacks a column or has something other than a string in it.

    >>> row = {"prompt": "2 + 2?", "before": "cat", "after": "4", "reference": "4"}
    >>> print(answers_table([row]))
    prompt | before | after | reference
    -------+--------+-------+----------
    2 + 2? | cat    | 4     | 4
    """
    _check_some(rows, "rows")
    _check_some(columns, "columns")
    if width < 1:
        raise ValueError(f"width is {width}; it must be at least 1 character")
    full = [
        [_text_at(row, number, column) for column in columns]
        for number, row in enumerate(rows)
    ]
    short = [[_shorten(text, width) for text in cells] for cells in full]
    return Shown(
        _table_html(columns, short, full),
        _table_text(
            columns, [[_visible(text, space=" ") for text in c] for c in short]
        ),
    )


def records_table(
    records: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str],
    *,
    percent: bool = True,
    digits: int = 1,
) -> DataFrame:
    """Make a table of result records, the interval written beside its value.

    Args:
        records: Results, each with at least the fields that `columns` names. Where
            `value` is among them, `low` and `high` are read too, if there.
        columns: Fields in order, or a mapping from field to heading.
        percent: Whether value, low and high are proportions to be shown in percent.
        digits: Decimals of value, low and high.

    Returns:
        A table with one row per record, in their order.

    Raises:
        ValueError: If there are no records or columns, or a record lacks a field.

    >>> record = {"technique": "LoRA", "value": 0.873, "low": 0.851, "high": 0.892}
    >>> records_table([record], ["technique", "value"]).loc[0, "value"]
    '87.3 [85.1, 89.2]'
    """
    _check_some(records, "records")
    _check_some(columns, "columns")
    import pandas as pd

    headings = (
        dict(columns) if isinstance(columns, Mapping) else {c: c for c in columns}
    )

    def cell(record: Mapping[str, Any], number: int, field: str) -> Any:
        if field not in record:
            raise ValueError(
                f"records[{number}] has no field {field!r}, only {sorted(record)}; "
                "correct the columns or the record"
            )
        if field != "value":
            return record[field]
        return interval_text(
            record["value"],
            record.get("low"),
            record.get("high"),
            percent=percent,
            digits=digits,
        )

    cells = [
        [cell(record, number, field) for field in headings]
        for number, record in enumerate(records)
    ]
    return pd.DataFrame(cells, columns=list(headings.values()))


def interval_text(
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    percent: bool = True,
    digits: int = 1,
) -> str:
    """Write a value with its interval, such as 87.3 [85.1, 89.2].

    Args:
        value: The estimate; a proportion where `percent` is set.
        low: Lower bound in the same unit, or None for a value without interval.
        high: Upper bound likewise.
        percent: Whether to multiply by 100.
        digits: Decimals.

    Raises:
        ValueError: If only one bound is given.

    >>> interval_text(0.873, 0.851, 0.892)
    '87.3 [85.1, 89.2]'
    """
    if (low is None) != (high is None):
        raise ValueError(
            f"found low {low} and high {high}; give both bounds or neither"
        )
    factor = 100 if percent else 1
    text = f"{value * factor:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{low * factor:.{digits}f}, {high * factor:.{digits}f}]"


def style() -> dict[str, Any]:
    """Give the look of all figures, as settings for matplotlib.

    Lines differ in colour, line style and marker at once; the first 28 are distinct
    in black and white. For figures of your own:

        with plt.rc_context(style()):
            ...
    """
    from cycler import cycler

    count = math.lcm(len(_LINES), len(_MARKERS))
    return {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.prop_cycle": cycler(
            color=_cycled(_COLOURS, count),
            linestyle=_cycled(_LINES, count),
            marker=_cycled(_MARKERS, count),
        ),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "font.size": 10,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "legend.handlelength": 3.5,  # long enough to tell dashes from dots
        "lines.linewidth": 1.6,
        "lines.markersize": 6,
    }


def learning_curve(
    histories: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss",
    title: str = "",
    baselines: Mapping[str, float] | None = None,
    scale: Literal["linear", "log"] = "linear",
) -> Figure:
    """Draw how a quantity moves while models train.

    Args:
        histories: For each name its points (x, y), in order. Points whose y is not
            finite leave a gap, and the legend counts them.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
        title: A heading, best the finding in words.
        baselines: Named values of y to draw as level lines, such as chance.
        scale: Scale of y.

    Returns:
        A figure; `figure.alt` says in words what it shows.

    Raises:
        ValueError: If there is no history, or one has no point with a finite y.
    """
    _check_some(histories, "histories")
    names = {
        name: _name_with_gaps(name, history) for name, history in histories.items()
    }
    baselines = baselines or {}

    def draw(axes: Axes) -> None:
        for number, (name, history) in enumerate(histories.items()):
            x, y = zip(*history, strict=True)
            # Shifted and thinned, so that markers neither crowd nor hide each other.
            every = max(1, len(x) // 10)
            start = number * every // len(histories)
            axes.plot(x, y, markevery=(start, every), label=_plain(names[name]))
        _draw_baselines(axes.axhline, baselines)
        axes.set(xlabel=_plain(x_label), ylabel=_plain(y_label), yscale=scale)
        axes.figure.legend(loc="outside lower center", ncols=2)

    described = [
        f"{names[name]}: {_ends(history)}" for name, history in histories.items()
    ] + [f"{name}: {level:.4g} throughout" for name, level in baselines.items()]
    return _figure(
        draw,
        size=(6.4, 3.2 + 0.12 * (len(histories) + len(baselines))),
        title=title,
        alt=f"{y_label} by {x_label}. {'; '.join(described)}.",
    )


def interval_plot(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    x_label: str = "",
    title: str = "",
    baselines: Mapping[str, float] | None = None,
    percent: bool = True,
    digits: int = 1,
) -> Figure:
    """Draw values with their intervals, one below the other, numbers at the side.

    Args:
        rows: For each line (label, value, low, high), from top to bottom.
        x_label: What the value is, such as "accuracy in %".
        title: A heading, best the finding in words.
        baselines: Named values to draw as upright lines, such as the majority.
        percent: Whether all values are proportions to be shown in percent.
        digits: Decimals of the numbers at the side.

    Returns:
        A figure; `figure.alt` says in words what it shows.

    Raises:
        ValueError: If there are no rows, or a row's numbers are not finite with
            low ≤ value ≤ high.
    """
    _check_some(rows, "rows")
    for number, (label, value, low, high) in enumerate(rows):
        # A comparison with nan is false as well.
        if not -math.inf < low <= value <= high < math.inf:
            raise ValueError(
                f"rows[{number}] ({label!r}) has value {value}, low {low} and high "
                f"{high}; they must be finite with low ≤ value ≤ high"
            )
    baselines = baselines or {}
    factor = 100 if percent else 1
    numbers = [interval_text(*row[1:], percent=percent, digits=digits) for row in rows]

    def draw(axes: Axes) -> None:
        heights = range(len(rows))
        axes.errorbar(
            [value * factor for _, value, _, _ in rows],
            heights,
            xerr=[
                [(value - low) * factor for _, value, low, _ in rows],
                [(high - value) * factor for _, value, _, high in rows],
            ],
            fmt="o",
            color="black",
            capsize=4,
        )
        _draw_baselines(
            axes.axvline, {name: level * factor for name, level in baselines.items()}
        )
        axes.set_yticks(heights, [_plain(row[0]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(_plain(x_label))
        axes.grid(visible=False, axis="y")
        side = axes.secondary_yaxis("right")
        side.set_yticks(heights, numbers)
        side.tick_params(length=0)
        side.spines["right"].set_visible(False)
        if baselines:
            axes.figure.legend(loc="outside lower center", ncols=len(baselines))

    described = [
        f"{row[0]}: {text}" for row, text in zip(rows, numbers, strict=True)
    ] + [f"{name}: {level * factor:.{digits}f}" for name, level in baselines.items()]
    return _figure(
        draw,
        size=(6.4, 1.3 + 0.34 * len(rows) + (0.3 if baselines else 0)),
        title=title,
        alt=f"{x_label or 'value'} with interval. {'; '.join(described)}.",
    )


def stacked_bars(
    rows: Mapping[str, Mapping[str, float]],
    *,
    x_label: str = "",
    title: str = "",
    digits: int = 1,
) -> Figure:
    """Draw what sums are made of: a bar for each, its parts one after the other.

    Args:
        rows: For each bar its parts by name, none negative, from top to bottom. Parts
            that are 0 everywhere are left out.
        x_label: What the sums are, with their unit.
        title: A heading, best the finding in words.
        digits: Decimals of the sum at the end of a bar.

    Returns:
        A figure; `figure.alt` says in words what it shows.

    Raises:
        ValueError: If there is no bar, or a part is negative or not finite.
    """
    _check_some(rows, "rows")
    for label, parts in rows.items():
        for name, size in parts.items():
            if not 0 <= size < math.inf:  # a comparison with nan is false as well
                raise ValueError(
                    f"the part {name!r} of {label!r} is {size}; give a finite number "
                    "from 0"
                )
    named = dict.fromkeys(name for parts in rows.values() for name in parts)
    names = [n for n in named if any(parts.get(n) for parts in rows.values())]
    sums = [sum(parts.values()) for parts in rows.values()]

    def draw(axes: Axes) -> None:
        heights = range(len(rows))
        ends = [0.0] * len(rows)
        for number, name in enumerate(names):
            sizes = [parts.get(name, 0) for parts in rows.values()]
            axes.barh(
                heights,
                sizes,
                left=ends,
                height=0.6,
                color="white" if number % 2 else "#d9d9d9",
                edgecolor=_COLOURS[number % len(_COLOURS)],
                hatch=_HATCHES[number % len(_HATCHES)],
                label=_plain(name),
            )
            ends = [end + size for end, size in zip(ends, sizes, strict=True)]
        for height, total in zip(heights, sums, strict=True):
            axes.text(total, height, f" {total:.{digits}f}", va="center")
        axes.set_yticks(heights, [_plain(label) for label in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, max(sums) * 1.12 or 1)
        axes.set_xlabel(_plain(x_label))
        axes.grid(visible=False, axis="y")
        if names:
            axes.figure.legend(loc="outside lower center", ncols=4)

    described = [
        f"{label}: {total:.{digits}f}"
        + "".join(f", {n} {parts[n]:.{digits}f}" for n in names if n in parts)
        for (label, parts), total in zip(rows.items(), sums, strict=True)
    ]
    return _figure(
        draw,
        size=(6.4, 1.7 + 0.45 * len(rows)),
        title=title,
        alt=f"{x_label or 'sum'} by part. {'; '.join(described)}.",
    )


def box_rows(
    rows: Mapping[str, Mapping[str, Sequence[tuple[str, str]]]],
    *,
    title: str = "",
) -> Figure:
    """Draw for each row groups of labelled boxes: what is read, what is trained.

    Args:
        rows: For each row its groups by name, and in each group the boxes from left
            to right, each with its label and its kind. Boxes of one kind look alike;
            the legend names the kinds in the order of their first use.
        title: A heading, best the finding in words.

    Returns:
        A figure; `figure.alt` says in words what it shows.

    Raises:
        ValueError: If there is no row or no box, or rows have different groups.
    """
    _check_some(rows, "rows")
    groups = list(next(iter(rows.values())))
    _check_some(groups, "groups")
    for name, row in rows.items():
        if list(row) != groups:
            raise ValueError(
                f"the row {name!r} has groups {list(row)}; all must have {groups}"
            )
    kinds = list(
        dict.fromkeys(
            kind for row in rows.values() for boxes in row.values() for _, kind in boxes
        )
    )
    _check_some(kinds, "boxes")
    places = _places(rows, groups)

    def draw(axes: Axes) -> None:
        for height, row in enumerate(rows.values()):
            for (start, _), boxes in zip(places, row.values(), strict=True):
                _draw_boxes(axes, boxes, start, height, kinds)
        for (start, _), group in zip(places, groups, strict=True):
            axes.text(start, -0.75, _plain(group), weight="bold", fontsize=8)
        axes.set_yticks(range(len(rows)), [_plain(name) for name in rows])
        axes.set(xlim=(0, places[-1][1]), ylim=(len(rows) - 0.5, -1.1), xticks=[])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.figure.legend(
            handles=[_box(kind, kinds, (0, 0), 1) for kind in kinds],
            loc="outside lower center",
            ncols=len(kinds),
        )

    described = [
        f"{name}: "
        + ", ".join(
            f"{group} " + " + ".join(f"{label} ({kind})" for label, kind in boxes)
            for group, boxes in row.items()
        )
        for name, row in rows.items()
    ]
    return _figure(
        draw,
        size=(9.5, 1.2 + 0.36 * len(rows)),
        title=title,
        alt=f"{'; '.join(described)}.",
    )


def trade_off(
    points: Mapping[str, tuple[float, float, float, float]],
    *,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    scale: Literal["linear", "log"] = "log",
    baselines: Mapping[str, float] | None = None,
) -> Figure:
    """Draw what is gained against what it costs, and which points nothing beats.

    A point is on the front if no other costs at most as much and gains more.

    Args:
        points: For each name its cost, its gain, and the gain's bounds (x, y, low,
            high).
        x_label: What the cost is, with its unit.
        y_label: What the gain is, with its unit.
        title: A heading, best the finding in words.
        scale: Scale of the cost; on a log scale a cost of 0 is drawn at the left edge.
        baselines: Named gains to draw as level lines, such as the majority.

    Returns:
        A figure; `figure.alt` says in words what it shows, the front first.

    Raises:
        ValueError: If there is no point, or one's numbers are not finite with a cost
            from 0 and low ≤ gain ≤ high.
    """
    _check_some(points, "points")
    for name, (x, y, low, high) in points.items():
        # A comparison with nan is false as well.
        if not (0 <= x < math.inf and -math.inf < low <= y <= high < math.inf):
            raise ValueError(
                f"the point {name!r} has cost {x}, gain {y}, low {low}, high {high}; "
                "they must be finite, the cost from 0, with low ≤ gain ≤ high"
            )
    front = pareto({name: point[:2] for name, point in points.items()})
    costs = [point[0] for point in points.values() if point[0] > 0]
    least = min(costs, default=1) / 10 if scale == "log" else 0

    def draw(axes: Axes) -> None:
        for name, (x, y, low, high) in points.items():
            axes.errorbar(
                max(x, least),
                y,
                yerr=[[y - low], [high - y]],
                fmt="s" if name in front else "o",
                color="#0072B2" if name in front else "#777777",
                markersize=7 if name in front else 5,
                capsize=3,
                linestyle="",
            )
        _label_points(axes, {n: (max(p[0], least), p[1]) for n, p in points.items()})
        steps = sorted((max(points[name][0], least), points[name][1]) for name in front)
        axes.plot(*zip(*steps, strict=True), "--", color="#0072B2", marker="")
        _draw_baselines(axes.axhline, baselines or {})
        axes.set(xlabel=_plain(x_label), ylabel=_plain(y_label), xscale=scale)
        axes.margins(x=0.18)
        if baselines:
            axes.figure.legend(loc="outside lower center", ncols=len(baselines))

    described = [
        f"{name}{' (on the front)' if name in front else ''}: {y:.4g} for {x:,.4g}"
        for name, (x, y, _, _) in sorted(
            points.items(), key=lambda item: item[0] not in front
        )
    ] + [f"{name}: {level:.4g} throughout" for name, level in (baselines or {}).items()]
    return _figure(
        draw,
        size=(7.2, 4.4),
        title=title,
        alt=f"{y_label or 'gain'} by {x_label or 'cost'}. {'; '.join(described)}.",
    )


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Name the points (cost, gain) that no other point beats, cheapest first.

    One point beats another that costs as much or more and gains as much or less,
    unless they are equal.

    >>> pareto({"a": (1, 0.5), "b": (2, 0.4), "c": (3, 0.9)})
    ['a', 'c']
    """

    def beaten(name: str) -> bool:
        cost, gain = points[name]
        return any(
            (x <= cost and y >= gain) and (x, y) != (cost, gain)
            for x, y in points.values()
        )

    return sorted((name for name in points if not beaten(name)), key=points.get)


@cache
def _figure_class() -> type[Figure]:
    """Make the class here, since matplotlib must not load with this module."""
    from matplotlib.figure import Figure

    class DescribedFigure(Figure):
        """A figure that shows itself once in a notebook, with its text beside it."""

        alt = ""

        def __repr__(self) -> str:
            return self.alt

        def _ipython_display_(self) -> None:
            # Not `_repr_png_`: after an import of pyplot, IPython's own formatter
            # would go before it and drop the alternative text.
            from io import BytesIO

            from IPython.display import display

            png = BytesIO()
            self.savefig(png, format="png")
            display(
                {"image/png": png.getvalue(), "text/plain": self.alt},
                metadata={"image/png": {"alt": self.alt}},
                raw=True,
            )

    return DescribedFigure


def _figure(
    draw: Callable[[Axes], None], *, size: tuple[float, float], title: str, alt: str
) -> Figure:
    from matplotlib import rc_context

    with rc_context(style()):
        figure = _figure_class()(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(_plain(title))
        draw(axes)
    figure.alt = f"{title}. {alt}" if title else alt
    return figure


def _draw_baselines(
    line: Callable[..., Line2D], baselines: Mapping[str, float]
) -> None:
    for number, (name, level) in enumerate(baselines.items()):
        line(
            level,
            color="#555555",
            linestyle=(0, (1 + 3 * number, 2)),  # dashes grow, so that each is distinct
            marker="",
            label=_plain(name),
        )


def _places(
    rows: Mapping[str, Mapping[str, Sequence[tuple[str, str]]]], groups: Sequence[str]
) -> list[tuple[float, float]]:
    """Give each group its start and end, wide enough for its widest row."""
    places, start = [], 0.0
    for group in groups:
        width = max(
            sum(_box_width(label) for label, _ in row[group]) for row in rows.values()
        )
        places.append((start, start + max(width, _box_width(group))))
        start = places[-1][1] + 4
    return places


def _box_width(label: str) -> float:
    return len(label) + 2


def _box(kind: str, kinds: Sequence[str], corner: tuple[float, float], width: float):
    """Make a box that its kind's hatch and shade tell from the others."""
    from matplotlib.patches import Rectangle

    number = kinds.index(kind)
    return Rectangle(
        corner,
        width,
        0.7,
        facecolor=("white", "#cfe3f3", "#f6d9c4", "#dddddd")[number % 4],
        edgecolor="black",
        hatch=("", "///", "...", "xxx")[number % 4] if number else "",
        alpha=0.9,
        label=_plain(kind),
    )


def _draw_boxes(
    axes: Axes,
    boxes: Sequence[tuple[str, str]],
    start: float,
    height: float,
    kinds: Sequence[str],
) -> None:
    for label, kind in boxes:
        width = _box_width(label)
        axes.add_patch(_box(kind, kinds, (start, height - 0.35), width))
        axes.text(
            start + width / 2,
            height,
            _plain(label),
            ha="center",
            va="center",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
        start += width


def _label_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points, above and below in turn, so that few overlap."""
    for number, name in enumerate(sorted(points, key=points.get)):
        axes.annotate(
            _plain(name),
            points[name],
            xytext=(6, 6 if number % 2 else -11),
            textcoords="offset points",
            fontsize=7.5,
        )


def _cycled(values: Sequence[Any], count: int) -> list[Any]:
    return [values[index % len(values)] for index in range(count)]


def _plain(text: str) -> str:
    """Keep matplotlib from reading $ as mathematics and a leading _ as "hide me"."""
    text = text.replace("$", r"\$")
    return f"\u200a{text}" if text.startswith("_") else text


def _finite(history: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in history if math.isfinite(y)]


def _name_with_gaps(name: str, history: Sequence[tuple[float, float]]) -> str:
    missing = len(history) - len(_finite(history))
    if missing == len(history):
        raise ValueError(
            f"history {name!r} has {len(history)} points and none with a finite value; "
            "leave it out or look at the run"
        )
    return f"{name} ({missing} of {len(history)} not finite)" if missing else name


def _ends(history: Sequence[tuple[float, float]]) -> str:
    points = _finite(history)
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    return f"{first_y:.4g} at {first_x:g}, {last_y:.4g} at {last_x:g}"


def _pieces(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Give each id's text as it is to be seen."""
    special = set(tokenizer.all_special_tokens)
    vocabulary = tokenizer.get_vocab()
    # A byte-level vocabulary spells a space Ġ. SentencePiece's may hold that letter
    # too, but only it has ▁.
    byte_level = "Ġ" in vocabulary and "▁" not in vocabulary
    pieces = []
    for position, token in enumerate(ids):
        # tokenizers overflows on negative ids instead of finding nothing.
        name = tokenizer.convert_ids_to_tokens(token) if token >= 0 else None
        if name is None:
            raise ValueError(
                f"ids[{position}] is {token}, which is not in the tokenizer's "
                f"vocabulary of {len(tokenizer)}; use the tokenizer that made the ids"
            )
        pieces.append(name if name in special else _visible(_decoded(name, byte_level)))
    return pieces


def _decoded(name: str, byte_level: bool) -> str:
    """Turn a vocabulary entry into text; parts of a character become escapes."""
    if byte_level:
        byte_of = _byte_of_character()
        if not all(character in byte_of for character in name):
            return name  # a token added later is spelt as itself
        return bytes(map(byte_of.get, name)).decode("utf-8", "backslashreplace")
    if _BYTE_TOKEN.fullmatch(name):
        return bytes.fromhex(name[3:5]).decode("utf-8", "backslashreplace")
    return name.replace("▁", " ")


@cache
def _byte_of_character() -> dict[str, int]:
    """Map the 256 characters by which byte-level BPE spells bytes.

    Printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order.
    Source: bytes_to_unicode in https://github.com/openai/gpt-2, src/encoder.py
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(others)
    }


def _visible(text: str, *, space: str = "·") -> str:
    """Make each character seen that would be blank, missing or reorder others."""
    return "".join(_visible_character(character, space) for character in text)


def _visible_character(character: str, space: str) -> str:
    named = {" ": space, "\n": "↵", "\t": "⇥"}
    if character in named:
        return named[character]
    # C: controls, formats such as direction marks, surrogates. Z: other blanks.
    if unicodedata.category(character)[0] in "CZ":
        return character.encode("unicode_escape").decode()
    return character


def _mark(token: int, label: int) -> str:
    if label == MASKED:
        return "context"
    return "trained" if label == token else "wrong"


def _mask_note(marks: Sequence[str], *, shown: int) -> str:
    counts = {mark: marks.count(mark) for mark in ("trained", "context", "wrong")}
    note = (
        f"{len(marks)} tokens: {counts['trained']} trained, {counts['context']} context"
    )
    if counts["wrong"]:
        note += f", {counts['wrong']} with another token's label (≠)"
    if shown < len(marks):
        note += f"; the first {shown} are shown"
    return f"{note}."


def _tokens_text(pieces: Sequence[str], marks: Sequence[str]) -> str:
    dressed = {"trained": "⟦{}⟧", "context": "{}", "wrong": "≠⟨{}⟩"}
    runs = groupby(zip(pieces, marks, strict=False), key=itemgetter(1))
    text = "".join(
        dressed[mark].format("".join(piece for piece, _ in run)) for mark, run in runs
    )
    return text.replace("↵", "↵\n")


def _tokens_html(
    ids: Sequence[int], pieces: Sequence[str], marks: Sequence[str], note: str
) -> str:
    tokens = "".join(
        _token_html(piece, mark, f"position {position}, id {token}, {mark}")
        + ("<br>" if "↵" in piece else "<wbr>")
        for position, (token, piece, mark) in enumerate(
            zip(ids, pieces, marks, strict=False)  # pieces may end sooner
        )
    )
    legend = " ".join(_token_html(mark, mark, "") for mark in dict.fromkeys(marks))
    return (
        f'<div style="{_PAGE}"><div style="font-family:monospace;line-height:2">'
        f"{tokens}</div><div>{escape(note)} {legend}</div></div>"
    )


def _token_html(piece: str, mark: str, title: str) -> str:
    # Bold by its tag as well: GitHub's notebook view drops every style.
    look, tag, sign = {
        "trained": (_TRAINED, "b", ""),
        "context": (_CONTEXT, "span", ""),
        "wrong": (_WRONG, "b", "≠"),
    }[mark]
    told = f' title="{escape(title)}"' if title else ""
    return f'<{tag} style="{look}"{told}>{sign}{escape(piece)}</{tag}>'


def _text_at(row: Mapping[str, str], number: int, column: str) -> str:
    if column not in row:
        raise ValueError(
            f"rows[{number}] has no {column!r}, only {sorted(row)}; "
            "add it or leave the column out"
        )
    if not isinstance(row[column], str):
        raise ValueError(
            f"rows[{number}][{column!r}] is {row[column]!r}; give a string"
        )
    return row[column]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def _table_html(
    columns: Sequence[str],
    short: Sequence[Sequence[str]],
    full: Sequence[Sequence[str]],
) -> str:
    head = "".join(
        f'<th scope="col" style="{_CELL}">{escape(column)}</th>' for column in columns
    )
    body = "".join(
        f"<tr>{''.join(map(_cell_html, *cells))}</tr>"
        for cells in zip(short, full, strict=True)
    )
    return (
        f'<table style="{_PAGE};border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell_html(short: str, full: str) -> str:
    title = f' title="{escape(full)}"' if short != full else ""
    return f'<td dir="auto" style="{_CELL}"{title}>{escape(short)}</td>'


def _table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Iterable[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return " | ".join(padded).rstrip()

    rule = "-+-".join("-" * width for width in widths)
    return "\n".join([line(columns), rule, *map(line, rows)])


def _check_some(values: Sequence[Any] | Mapping[str, Any], name: str) -> None:
    if len(values) == 0:
        raise ValueError(f"{name} is empty; give at least one")
