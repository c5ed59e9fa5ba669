"""Draws the README's picture and its tables from the records.

    python benchmarks/figures.py            # after `make bench` or a new record

The README's tables stand between markers that name their record; what is drawn or
written there comes from the record alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import fine_tuning  # noqa: E402
import gpu  # noqa: E402
from records import file_hash, table  # noqa: E402

from helpers import models, views  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PROSE = "perplexity of prose"


def rows_of(name: str) -> list[dict]:
    """Returns a record's rows."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]


def base_table() -> str:
    """Returns what the shipped base can do, in percent with intervals."""
    return table(
        ["probe", "right, %", "95% interval"],
        [
            [
                row["metric"].replace("_", " "),
                f"{100 * row['value']:.1f}",
                f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            ]
            for row in rows_of("base")
        ],
    )


def notebooks_table() -> str:
    """Returns the table of notebooks with their measured time and memory."""
    return table(
        ["notebook", "what it shows", "seconds", "peak MB", "result"],
        [
            [
                f"[{row['notebook'].removesuffix('.ipynb')}](notebooks/{row['notebook']})",
                row["question"].replace("|", "\\|"),
                f"{row['seconds']:.0f}",
                f"{row['peak_megabytes']:.0f}",
                row["result"],
            ]
            for row in rows_of("notebooks")
        ],
    )


def speed_table() -> str:
    """Returns each pair: what was done, how fast, how much longer a peer takes."""
    rows = []
    pairs = ["encoding", "training", "reading", "answers", "scoring", "imports"]
    for pair in [*pairs, "formats"]:
        for row in rows_of(f"speed_{pair}"):
            low, high = row["times_ours_low"], row["times_ours_high"]
            rows.append(
                [
                    row["what"].rstrip("."),
                    f"{row['value']:,.1f} {row['metric']}",
                    f"{row['times_ours']:.2f} ({low:.2f} to {high:.2f})",
                    loss_of(row),
                    f"{row['peak_megabytes']:,.0f}",
                ]
            )
    return table(
        ["what", "speed", "time, ours = 1", "loss after", "peak MB"],
        rows,
    )


def loss_of(row: dict) -> str:
    """Returns a side's loss and what it has more than ours, or nothing."""
    if "loss_above" not in row:
        return f"{row['loss']:.3f}" if "loss" in row else ""
    keys = ("loss_above", "loss_above_low", "loss_above_high")
    return "{:.3f}; above ours by {:.3f} ({:.3f} to {:.3f})".format(
        row["loss"], *(row[key] for key in keys)
    )


def share(row: dict) -> str:
    """Returns a row's value and interval in percent."""
    parts = (f"{100 * row[key]:.0f}" for key in ("value", "low", "high"))
    return "{} ({} to {})".format(*parts)


def fine_tuning_table() -> str:
    """Returns accuracy by rung and number of rows, means over five seeds."""
    rows = [row for row in rows_of("fine_tuning") if row["metric"] == "accuracy"]
    sizes = sorted({row["rows"] for row in rows})
    found = {(row["technique"], row["split"], row["rows"]): row for row in rows}
    names = list(dict.fromkeys(row["technique"] for row in rows))
    return table(
        ["what moves, and test", *(f"{size:,} rows" for size in sizes)],
        [
            [f"{name}, {split}"] + [share(found[name, split, size]) for size in sizes]
            for split in fine_tuning.TESTS
            for name in names
        ],
    )


def techniques_table() -> str:
    """Returns accuracy, price and what was forgotten by technique, the best first."""
    rows = rows_of("techniques")
    found = {(row["technique"], row["split"], row["metric"]): row for row in rows}
    names = dict.fromkeys(r["technique"] for r in rows if r["metric"] == "accuracy")
    best = sorted(names, key=lambda name: -found[name, "test", "accuracy"]["value"])
    made = []
    for name in best:
        test = found[name, "test", "accuracy"]
        prose = (name, "kept", PROSE)
        others = [(name, split, "accuracy") for split in ("unseen", "written")]
        made.append(
            [
                name,
                share(test),
                *(share(found[one]) if one in found else "–" for one in others),
                f"{test['trainable_parameters']:,}" if "rows" in test else "–",
                f"{test['train_seconds']:.0f}" if "train_seconds" in test else "–",
                f"{test['tokens_a_question']:.0f}" if "rows" in test else "–",
                f"{found[prose]['value']:,.1f}" if prose in found else "–",
            ]
        )
    header = "technique|test|unseen|written|trained parameters|seconds of training"
    header += "|tokens a question|perplexity of prose afterwards"
    return table(header.split("|"), made)


def against_table() -> str:
    """Returns exact match of fine-tuning and instruction tuning on the same number."""
    rows = [row for row in rows_of("techniques") if row["metric"] == "exact match"]
    if not rows:
        return "Not measured yet: `make bench-techniques` goes on where it stopped."
    found = {(row["technique"], row["split"]): row for row in rows}
    arms = list(dict.fromkeys(row["technique"] for row in rows))
    return table(
        ["asked", *arms],
        [
            [split] + [share(found[arm, split]) for arm in arms]
            for split in dict.fromkeys(row["split"] for row in rows)
        ],
    )


def soft_prompts_table() -> str:
    """Returns accuracy by technique and task, means over five seeds."""
    rows = [row for row in rows_of("soft_prompts") if row["varied"] == "technique"]
    found = {(row["technique"], row["task"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["technique"] for row in rows))
    trained = {r["technique"]: r.get("trainable_parameters") for r in rows}
    return table(
        ["what is trained", "trained parameters", *tasks],
        [
            [name, f"{trained[name]:,}" if trained[name] else "–"]
            + [share(found[name, task]) for task in tasks]
            for name in names
        ],
    )


def qlora_table() -> str:
    """Returns exact match by base and adapter, and the paired differences."""
    rows = rows_of("qlora")
    found = {(row["technique"], row["split"]): row for row in rows}
    names = list(dict.fromkeys(row["technique"] for row in rows))
    tests = list(dict.fromkeys(row["split"] for row in rows))
    size = {r["technique"]: r.get("weight_bytes") for r in rows}
    return table(
        ["trained", "weights, MB", *(test.replace("_", " ") for test in tests)],
        [
            [name, f"{size[name] / 1e6:.1f}" if size[name] else "–"]
            + [share(found[name, test]) for test in tests]
            for name in names
        ],
    )


def adaptive_table() -> str:
    """Returns bits per byte and entity F1 by what was read, means over five seeds."""
    rows = rows_of("adaptive")
    texts = [row for row in rows if row["metric"] == "bits per byte"]
    splits = list(dict.fromkeys(row["split"] for row in texts))
    tags = [row for row in rows if row["metric"] == "entity F1"]
    sizes = sorted({row["labelled_rows"] for row in tags})
    bits = {(row["technique"], row["split"]): row["value"] for row in texts}
    f1 = {(row["technique"], row["labelled_rows"]): row for row in tags}
    return table(
        ["what was read"]
        + [f"{split.split('/')[0]}, bits a byte" for split in splits]
        + [f"entities, F1, {size} rows" for size in sizes],
        [
            [name]
            + [f"{bits[name, s]:.2f}" if (name, s) in bits else "–" for s in splits]
            + [share(f1[name, size]) for size in sizes]
            for name in dict.fromkeys(row["technique"] for row in tags)
        ],
    )


def instruction_tuning_table() -> str:
    """Returns exact match by variant and test, means over seeds, and baselines."""
    rows = rows_of("instruction_tuning")
    tests = list(dict.fromkeys(row["split"] for row in rows))
    names = list(dict.fromkeys(row["technique"] for row in rows))
    found = {(r["technique"], r["split"], r["metric"]): r for r in rows}
    trained = {row["technique"]: row.get("trainable_parameters") for row in rows}
    return table(
        ["variant", "trained parameters", *(test.replace("_", " ") for test in tests)],
        [
            [name, f"{trained[name]:,}" if trained[name] else "–"]
            + [share(found[name, test, "exact match"]) for test in tests]
            for name in names
        ],
    )


def flan_table() -> str:
    """Returns exact match by number of tasks in training, means over five seeds."""
    rows = rows_of("flan")
    sizes = sorted({row["tasks"] for row in rows})
    found = {(row["split"], row["tasks"]): row for row in rows}
    return table(
        ["asked", *(f"{size} tasks" for size in sizes)],
        [
            [name]
            + [share(found[name, s]) if (name, s) in found else "–" for s in sizes]
            for name in dict.fromkeys(row["split"] for row in rows)
        ],
    )


def gpu_table() -> str:
    """Returns the runs on one GPU: speed, losses, and peaks beside their plans."""
    record = json.loads((RESULTS / "gpu.json").read_text(encoding="utf-8"))
    pairs = {pair["what"]: pair for pair in record["pairs"]}
    header = "model, rows a step|settings|checkpointing|tokens a second"
    header += "|times the defaults|losses apart by at most|peak, GiB"
    header += "|planned before, % off|planned now, % off"
    rows = [
        gpu_row(row, pairs.get(row["what"]), record["versions"]["torch"])
        for row in record["rows"]
        if row["outcome"] == "measured"
    ]
    return table(header.split("|"), rows)


def gpu_row(row: dict, pair: dict | None, torch_version: str) -> list[str]:
    """Returns a row of the table of runs on a GPU."""
    case, peak = row["case"], gpu.own_peak(row)
    names = {"full": "full tuning", "lora": "LoRA", "qlora": "QLoRA"}
    many = f"{case['batch']} × " + ("up to " if case["rows"] == "mixed" else "")
    apart, fell = (
        (pair["largest_loss_difference"], pair["loss_fell_by"]) if pair else (0, 0)
    )
    now = gpu.planned_now(row, torch_version) / peak - 1
    return [
        f"{case['billions']}B {names[case['technique']]}, {many}{case['length']:,}",
        settings_told(case),
        "yes" if row["checkpointing"] else "no",
        f"{row['value']:,.0f}",
        f"{pair['speed_up']:.2f}" if pair else "–",
        f"{apart:.4f} of {fell:.2f}" if pair else "–",
        f"{peak / 2**30:.2f}",
        f"{100 * row['prediction_error']:+.1f}",
        f"{round(100 * now, 1) + 0.0:+.1f}",  # no "-0.0"
    ]


def settings_told(case: dict) -> str:
    """Returns the settings of a case on a GPU, with what else sets it apart."""
    parts = [case["settings"]]
    if case["settings"] == "bare" and case["loss"] != "chunked":
        parts.append(f"{case['loss']} loss")
    if case["optimizer"] != "adamw":
        parts.append("8-bit AdamW")
    if case["upcast"]:
        parts.append("embedding and head in float32")
    return ", ".join(parts)


TABLES = {
    "base": base_table,
    "notebooks": notebooks_table,
    "techniques": techniques_table,
    "against": against_table,
    "adaptive": adaptive_table,
    "fine_tuning": fine_tuning_table,
    "instruction_tuning": instruction_tuning_table,
    "flan": flan_table,
    "qlora": qlora_table,
    "soft_prompts": soft_prompts_table,
    "speed": speed_table,
    "gpu": gpu_table,
}


def age(name: str) -> str:
    """Returns a line if a table's record is of another base than the one that ships."""
    path = RESULTS / f"{'techniques' if name == 'against' else name}.json"
    known = json.loads(path.read_text()).get("model_sha256") if path.exists() else None
    if known in (None, file_hash(models.SHIPPED / "model.safetensors")):
        return ""
    return f"\nMeasured on an earlier base ({known[:8]}), not on the one that ships.\n"


def filled(readme: str) -> str:
    """Returns the README's text with each marked table made anew."""
    for name, make in TABLES.items():
        opening, closing = f"<!-- from {name} -->\n", "<!-- /from -->"
        before, _, rest = readme.partition(opening)
        after = rest.partition(closing)[2]
        readme = before + opening + make() + "\n" + age(name) + closing + after
    return readme


def picture() -> None:
    """Draws the base's probes over its pre-training: where reading appears."""
    record = json.loads((RESULTS / "base.json").read_text(encoding="utf-8"))
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in record["log"]:
        for name in (
            "copy",
            "where",
            "first",
            "remarks_unseen",
            "meant_unseen",
            "tone",
        ):
            if name in point["probes"]:
                spot = (point["tokens"] / 1e6, 100 * point["probes"][name])
                lines.setdefault(name.replace("_", " "), []).append(spot)
    figure = views.learning_curve(
        lines,
        x_label="tokens of pre-training (millions)",
        y_label="right answers (%)",
        title="The shipped base learns to read",
    )
    figure.savefig(RESULTS / "base.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    picture()
