"""Makes the shipped base model: `make base`.

A tokenizer, then pre-training from scratch in stages. Two layers learn exercises in
random tokens: to *copy* a sequence that repeats, by attention alone; to *bind*, that is
to find what goes with what over a gap; and, in a *drill*, both of these and to say a
list backwards. Each step draws other tokens and its softmax runs over these alone, so
that what is learnt holds for any token. Then layers are added whose output is zero, so
that nothing changes at first, and the model *reads* the world's prose, with fewer and
fewer exercises among it. Last it *practises* what reading left weak, on a second text,
and *refines*, on a third, what practice left weak.
Probes are measured while it trains. Killed and started again, it goes on from its last
checkpoint with the identical curve.

    python benchmarks/base.py                    # the shipped base
    python benchmarks/base.py --tiny --out DIR   # half a minute's miniature, for tests

Needs torch, transformers, tokenizers and numpy; takes a GPU if there is one.
"""

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "datasets"), str(ROOT / "benchmarks")]

import make_general  # noqa: E402
import make_irony  # noqa: E402
import records  # noqa: E402
import world  # noqa: E402

from helpers.models import half_precision  # noqa: E402

SHIPPED = ROOT / "helpers" / "tiny_llama"
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"]
BOS, EOS, PAD = 1, 2, 3
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + eos_token }}"
    "{% endgeneration %}"
    "{% elif message['role'] in ['system', 'user'] %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% else %}{{ raise_exception('roles are system, user and assistant, not '"
    " + message['role']) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """All that decides the result; sizes in tokens or rows, rates per step."""

    seed: int = 7
    vocabulary: int = 2048
    width: int = 128
    first_inner: int = 512
    inner: int = 512
    heads: int = 4
    key_heads: int = 4
    first_layers: int = 2
    layers: int = 7
    context: int = 512
    documents: int = 500_000
    practice_documents: int = 300_000
    refine_documents: int = 400_000
    words: int = 300  # tokens that a step of exercises is written with
    fillers: int = 22
    copy_rows: int = 32
    copy_length: int = 64
    copy_steps: int = 1500  # at most; the probe ends the stage
    copy_goal: float = 0.93
    bind_steps: int = 900  # at most
    bind_goal: float = 0.9
    drill_steps: int = 2000
    early_rate: float = 3e-3
    rows: int = 8
    length: int = 256
    read_rows: int = 64
    read_steps: int = 4000
    read_rate: float = 2e-3
    practice_rows: int = 128
    practice_steps: int = 8000
    practice_rate: float = 1.5e-3
    refine_rows: int = 32
    refine_steps: int = 4500
    refine_rate: float = 1e-3
    early_probe_every: int = 50
    probe_every: int = 500
    checkpoint_every: int = 250


TINY = Recipe(
    vocabulary=512,
    width=64,
    first_inner=64,
    inner=128,
    heads=2,
    key_heads=2,
    layers=3,
    documents=2000,
    practice_documents=1000,
    refine_documents=500,
    copy_steps=40,
    copy_length=32,
    bind_steps=40,
    drill_steps=40,
    read_steps=120,
    practice_steps=60,
    refine_steps=40,
    rows=4,
    length=128,
    read_rows=4,
    practice_rows=4,
    refine_rows=4,
    early_probe_every=20,
    probe_every=20,
    checkpoint_every=20,
)


# --- tokenizer and data ---------------------------------------------------------------


def make_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE in which a text starts as if after a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    # "map" is the same token at the start of a line as within one
    tokenizer.normalizer = normalizers.Replace(Regex(r"\n(?=\S)"), "\n ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteLevel(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
            decoders.Replace("\n ", "\n"),
        ]
    )
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=SPECIAL[4:],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def tokenize(documents: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Returns one stream of ids: each document as <s> … </s>."""
    stream: list[int] = []
    for start in range(0, len(documents), 10_000):
        batch = tokenizer(documents[start : start + 10_000])["input_ids"]
        for ids in batch:
            stream.extend(ids)
            stream.append(EOS)
    return np.array(stream, dtype=np.uint16)


def prepare(
    recipe: Recipe, work: Path
) -> tuple[PreTrainedTokenizerFast, dict[str, np.ndarray], dict[str, str]]:
    """Returns tokenizer, and token stream and hash of each text; made once, then kept.

    The texts are named after the stages that read them.
    """
    folder, streams, hashes = work / "tokenizer", {}, {}
    counts = {"read": recipe.documents, "practice": recipe.practice_documents}
    counts |= {"refine": recipe.refine_documents}
    for stage, count in counts.items():
        kept, digest = work / f"{stage}.npy", work / f"{stage}.sha256"
        if not kept.exists():
            made = make_general.documents(count, seed=recipe.seed, part=stage)
            documents = list(made)
            digest.write_text(hashlib.sha256("\0".join(documents).encode()).hexdigest())
            if stage == "read":
                tokenizer = make_tokenizer(documents[:60_000], recipe.vocabulary)
                tokenizer.save_pretrained(folder)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
            part = work / "part.npy"
            np.save(part, tokenize(documents, tokenizer))
            os.replace(part, kept)
        streams[stage], hashes[stage] = np.load(kept), digest.read_text()
    return PreTrainedTokenizerFast.from_pretrained(folder), streams, hashes


@dataclass(frozen=True)
class Exercises:
    """Rows of random tokens from which reading's skills are learnt.

    Attributes:
        stop: the token that ends a sentence.
        fillers: the most frequent other tokens; what stands between two that belong
            together, as "sits in the" does.
        pool: all tokens that a row may be about.
    """

    stop: int
    fillers: np.ndarray
    pool: np.ndarray

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draws the tokens of one step."""
        return rng.choice(self.pool, min(count, len(self.pool)), replace=False)

    def gap(self, rng: np.random.Generator) -> np.ndarray:
        """Draws up to three fillers."""
        return rng.choice(self.fillers, rng.integers(0, 4))

    def copied(
        self, rng: np.random.Generator, length: int, words: np.ndarray
    ) -> np.ndarray:
        """Returns a sequence of 6 to 30 tokens, repeated until the row is full."""
        part = rng.choice(words, rng.integers(6, 31))
        return np.tile(part, math.ceil(length / len(part)))[:length]

    def bound(
        self, rng: np.random.Generator, length: int, words: np.ndarray
    ) -> np.ndarray:
        """Returns pairs of tokens over gaps, told again in other orders.

        Which token goes with which must be found in the row: what "Mira sits in the
        kitchen" asks of a reader.
        """
        row: list[int] = []
        while len(row) < length:
            pairs = rng.choice(words, (rng.integers(3, 7), 2), replace=False)
            for _ in range(rng.integers(3, 6)):
                for one, two in rng.permutation(pairs):
                    row += [one, *self.gap(rng), two, self.stop]
        return np.array(row[:length])

    def turned(
        self, rng: np.random.Generator, length: int, words: np.ndarray
    ) -> np.ndarray:
        """Returns lists of 3 to 8 tokens, each said again from its end to its start."""
        row, between = [], [self.fillers[0]] * rng.integers(0, 2)
        while len(row) < length:
            listed = rng.choice(words, rng.integers(3, 9), replace=False)
            for order in (listed, listed[::-1]):
                for word in order:
                    row += [word, *between]
                row.append(self.stop)
        return np.array(row[:length])

    def any(
        self, rng: np.random.Generator, length: int, words: np.ndarray
    ) -> np.ndarray:
        """Returns a row of one of the three exercises."""
        row = (self.copied, self.turned, self.bound)[rng.choice(3, p=[0.2, 0.4, 0.4])]
        return row(rng, length, words)


def make_exercises(
    tokenizer: PreTrainedTokenizerFast, stream: np.ndarray, recipe: Recipe
) -> Exercises:
    """Returns the exercises over a tokenizer's vocabulary."""
    stop = tokenizer(".", add_special_tokens=False)["input_ids"][-1]
    counts = np.bincount(stream, minlength=recipe.vocabulary)
    counts[[*range(len(SPECIAL)), stop]] = -1
    order = np.argsort(-counts, kind="stable")[: -len(SPECIAL) - 1]
    return Exercises(stop, order[: recipe.fillers], np.sort(order[recipe.fillers :]))


def document_mask(ids: torch.Tensor) -> torch.Tensor:
    """Returns (batch, 1, sequence, sequence): what a token may see."""
    document = (ids == BOS).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same[0]).tril()).unsqueeze(1)


# --- model ----------------------------------------------------------------------------


def new_model(recipe: Recipe, *, layers: int, inner: int) -> LlamaForCausalLM:
    """Returns an untrained LLaMA with tied embeddings."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )


def first_model(recipe: Recipe) -> LlamaForCausalLM:
    """Returns the model of the early stages; its MLPs write nothing at first."""
    model = new_model(recipe, layers=recipe.first_layers, inner=recipe.first_inner)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
    return model


def grow(model: LlamaForCausalLM, recipe: Recipe) -> LlamaForCausalLM:
    """Returns a model with more layers, wider MLPs and, at first, the same output.

    What is new writes nothing, because its output projections are zero.
    """
    grown = new_model(recipe, layers=recipe.layers, inner=recipe.inner)
    known = model.state_dict()
    with torch.no_grad():
        for name, weights in grown.state_dict().items():
            if name.endswith(("down_proj.weight", "o_proj.weight")):
                weights.zero_()
            if name in known:
                weights[tuple(map(slice, known[name].shape))] = known[name]
    return grown


def rate(step: int, steps: int, peak: float, *, warm: int = 100) -> float:
    """Returns the learning rate: linear warm-up, then a cosine down to a tenth."""
    if step < warm:
        return peak * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    return peak * (0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * done)))


# --- probes: what the model can do by continuing prose --------------------------------

PROBED_TASKS = (
    *("where", "who_has", "what_has", "colour", "who_where", "first", "last", "after"),
    *("reverse", "count_items", "count_word", "count_sentences", "more", "fewer"),
    *("same", "pick", "kind_of", "who_said", "to_whom"),
)


def opening(task: str, example: world.Example) -> tuple[str, str]:
    """Returns (how an answer begins, what must be found next).

    Where an answer counts or compares in steps, its first words are given and all steps
    must be found; else all is given but what was asked for.
    """
    form = world.WORDINGS[task]["answer"]
    known = example.slots | {"a": example.answer}
    if form.startswith(("{Counted}", "Word by word: {tallied}")):
        whole = world.fill(form[: form.index("{a}") + 3], known)
        first = form[: form.index("{")].strip() or whole.split(" ")[0]
        return first, whole.removeprefix(first).strip()
    begun = world.fill(form[: form.index("{a}")], known).rstrip()
    article = "a " if example.answer.startswith("a ") else ""  # not: "has got a ..."
    return f"{begun} {article}".rstrip(), example.answer.removeprefix(article)


def cloze(task: str, count: int, *, seed: int) -> list[tuple[str, str]]:
    """Returns rows of one task: prose, and what comes next."""
    rng, rows = Random(f"probe {task} {seed}"), []
    for _ in range(count):
        example = world.draw_together(rng, [task])[1][0]
        question = make_general.ask(rng, task, example)
        text = make_general.frame_list(rng, example.text)
        begun, found = opening(task, example)
        # a token holds the space before its word
        rows.append((f"{text} {question} {begun}".strip(), f" {found}"))
    return rows


def polarity(lexicon: str, split: str, count: int, *, seed: int) -> list[tuple]:
    """Returns (prose, right word, wrong word) for situations or remarks of a split."""
    rng, rows = Random(f"probe {lexicon} {split} {seed}"), []
    found = world.SITUATIONS_OF if lexicon == "SITUATIONS" else world.REMARKS_OF
    pool = [row for (of, _), part in found.items() if of == split for row in part]
    for _ in range(count):
        row, name = world.choose_by_frame(rng, pool), rng.choice(world.NAMES)
        if lexicon == "SITUATIONS":
            told = world.upper_first(row["text"].replace("{name}", name))
            prose, words = f"{told}. {name} was", ("glad", "sad")
            right = row["mood"] == "good"
        else:
            prose, words = f'{name} said: "{row["text"]}" These are', ("kind", "harsh")
            right = row["polarity"] == "kind"
        rows.append((prose, *(words if right else words[::-1])))
    return rows


def tone(count: int) -> list[tuple]:
    """Returns (prose, right label, the wrong labels …) of the tone task's dev rows."""
    labels = make_irony.LABELS
    return [
        (
            f"{row['text']} This is",
            row["label"],
            *(w for w in labels if w != row["label"]),
        )
        for row in make_irony.rows("dev", count)
    ]


def meant(split: str, count: int, *, seed: int) -> list[tuple]:
    """Returns (prose, right ending, wrong ending): was a remark meant as it was said?

    Situations and remarks are of a split of the lexicons.
    """
    rng, rows = Random(f"probe meant {split} {seed}"), []
    for _ in range(count):
        name, speaker = rng.sample(world.NAMES, 2)
        mood, tone = rng.choice(["good", "bad"]), rng.choice(["kind", "harsh"])
        words = world.remark_words(rng, tone, split)["text"]
        said = make_general.say(rng, speaker, words, name)
        prose = f"{world.situation(rng, name, mood, split)} {said} {speaker}"
        endings = [" meant", " did"]
        fits = (mood == "good") == (tone == "kind")
        rows.append((prose, *(endings if fits else endings[::-1])))
    return rows


@torch.no_grad()
def continues(model: LlamaForCausalLM, tokenizer, rows: list[tuple[str, str]]) -> float:
    """Returns the share of rows in which every token to be found is the likeliest.

    Where a step ends, point and colon are both right in the world's prose: not counted.
    """
    stops = tokenizer.convert_tokens_to_ids([":", "."])
    right = 0
    for start in range(0, len(rows), 50):
        heads, words = zip(*rows[start : start + 50], strict=True)
        heads = tokenizer(list(heads))["input_ids"]
        tails = tokenizer(list(words), add_special_tokens=False)["input_ids"]
        size = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), size), PAD)
        for place, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[place, : len(head) + len(tail)] = torch.tensor(head + tail)
        best = model(ids.to(model.device)).logits.argmax(-1).cpu()
        for place, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            said = best[place, len(head) - 1 : len(head) + len(tail) - 1]
            both = zip(said.tolist(), tail, strict=True)
            right += all(one == other or other in stops for one, other in both)
    return right / len(rows)


@torch.no_grad()
def prefers(model: LlamaForCausalLM, tokenizer, rows: list[tuple]) -> float:
    """Returns the share of rows whose right word is likelier than every wrong one.

    Words are compared by the log-likelihood per token.
    """
    scores = []
    for column in range(1, len(rows[0])):
        heads = tokenizer([row[0] for row in rows])["input_ids"]
        words = [row[column] for row in rows]
        tails = tokenizer(words, add_special_tokens=False)["input_ids"]
        scores.append([])
        for start in range(0, len(rows), 50):
            pairs = list(zip(heads, tails, strict=True))[start : start + 50]
            size = max(len(h) + len(t) for h, t in pairs)
            ids = torch.full((len(pairs), size), PAD)
            for row, (head, tail) in enumerate(pairs):
                ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
            logs = model(ids.to(model.device)).logits.float().log_softmax(-1).cpu()
            for row, (head, tail) in enumerate(pairs):
                places = torch.arange(len(head) - 1, len(head) + len(tail) - 1)
                scores[-1].append(logs[row, places, torch.tensor(tail)].mean().item())
    best = np.array(scores).argmax(0)
    return float((best == 0).mean())


@torch.no_grad()
def copies(model: LlamaForCausalLM, exercises: Exercises) -> float:
    """Returns the share of tokens copied right once a sequence has been seen whole."""
    rng = np.random.default_rng(3)
    rows = [exercises.copied(rng, 64, exercises.pool) for _ in range(COPY_ROWS)]
    ids = torch.from_numpy(np.stack(rows)).to(model.device)
    best = model(ids).logits.argmax(-1)
    return (best[:, 30:-1] == ids[:, 31:]).float().mean().item()


@torch.no_grad()
def binds(model: LlamaForCausalLM, exercises: Exercises) -> float:
    """Returns how often an asked token's partner, one of five told, is likeliest."""
    rng, right = np.random.default_rng(3), 0
    for _ in range(BIND_ROWS):
        pairs = rng.choice(exercises.pool, (5, 2), replace=False)
        row: list[int] = []
        for one, two in pairs:
            row += [one, *rng.choice(exercises.fillers, 2), two, exercises.stop]
        asked, answer = pairs[rng.integers(5)]
        row += [asked, *rng.choice(exercises.fillers, 2)]
        logits = model(torch.tensor([row]).to(model.device)).logits[0, -1]
        right += int(logits.argmax()) == int(answer)
    return right / BIND_ROWS


@torch.no_grad()
def turns(model: LlamaForCausalLM, exercises: Exercises) -> float:
    """Returns the share of tokens said right when a list of six is said backwards."""
    rng = np.random.default_rng(3)
    rows = []
    for _ in range(TURN_ROWS):
        listed = rng.choice(exercises.pool, 6, replace=False)
        comma = np.full(6, exercises.fillers[0])
        said = [np.stack([part, comma], 1).ravel() for part in (listed, listed[::-1])]
        rows.append(np.concatenate([said[0], [exercises.stop], said[1]]))
    ids = torch.from_numpy(np.stack(rows)).to(model.device)
    best = model(ids).logits.argmax(-1)
    # the first of the reversed list is at 13; each other one follows a comma
    return (best[:, 14:24:2] == ids[:, 15:25:2]).float().mean().item()


COPY_ROWS, BIND_ROWS, TURN_ROWS = 40, 100, 60
SIZES = {"copy": COPY_ROWS * 33, "bind": BIND_ROWS, "backwards": TURN_ROWS * 5}


def drilled(model: LlamaForCausalLM, exercises: Exercises) -> dict[str, float]:
    """Returns the share of right tokens in each exercise, over all the vocabulary."""
    return {
        "copy": copies(model, exercises),
        "bind": binds(model, exercises),
        "backwards": turns(model, exercises),
    }


def probe(
    model: LlamaForCausalLM,
    recipe: Recipe,
    tokenizer,
    exercises: Exercises,
    count: int,
) -> dict:
    """Returns every probe's share of right answers on text that no document holds."""
    found = drilled(model, exercises)
    for task in PROBED_TASKS:
        found[task] = continues(model, tokenizer, cloze(task, count, seed=recipe.seed))
    for split, name in (("read", "known"), ("unseen", "unseen")):
        for lexicon in ("SITUATIONS", "REMARKS"):
            rows = polarity(lexicon, split, 2 * count, seed=recipe.seed)
            found[f"{lexicon.lower()}_{name}"] = prefers(model, tokenizer, rows)
        rows = meant(split, 2 * count, seed=recipe.seed)
        found[f"meant_{name}"] = prefers(model, tokenizer, rows)
    found["tone"] = prefers(model, tokenizer, tone(3 * count))
    return {name: round(value, 4) for name, value in found.items()}


# --- training -------------------------------------------------------------------------


class Steps:
    """The rows of each step, as a data set: a step's number decides them."""

    def __init__(self, batch: Callable[[int], list[np.ndarray]]) -> None:
        """Takes what makes a step's rows."""
        self.batch = batch

    def __getitem__(self, step: int) -> torch.Tensor:
        """Returns the ids of a step: rows, tokens."""
        return torch.from_numpy(np.stack(self.batch(step)))


def batches(batch: Callable, steps: range, device: str) -> Iterable[torch.Tensor]:
    """Returns the ids of each step; for a GPU, other processes make them ahead."""
    workers = min(12, os.cpu_count() - 2) if device == "cuda" else 0
    return DataLoader(
        Steps(batch),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        multiprocessing_context="fork" if workers else None,  # takes a closure along
    )


class Recorded:
    """A function of some ids, recorded on the GPU at its fourth call, then replayed."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Takes a function whose kernels do not depend on its argument's values."""
        self.function, self.calls, self.graph = function, 0, None

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns what the function returns for `ids`."""
        if self.calls < 3:
            self.calls += 1
            return self.usual(ids)
        if self.graph is None:
            self.ids = ids.cuda()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.value = self.function(self.ids)
        self.ids.copy_(ids)
        self.graph.replay()
        return self.value.clone()

    def usual(self, ids: torch.Tensor) -> torch.Tensor:
        """Calls the function on a stream of its own, as a recording needs it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            value = self.function(ids)
        torch.cuda.current_stream().wait_stream(stream)
        return value


class Run:
    """One pre-training run that can be stopped and taken up again."""

    def __init__(self, recipe: Recipe, work: Path, *, compiled: bool = False) -> None:
        """Prepares the data, and takes up the last checkpoint in `work`.

        `compiled` has steps of reading compiled: a quarter faster on a CPU that has a
        C++ compiler beside it.
        """
        self.read_loss = self.usual_loss
        if compiled:
            self.read_loss = torch.compile(self.usual_loss)
        self.recipe, self.work = recipe, work
        work.mkdir(parents=True, exist_ok=True)
        self.tokenizer, self.streams, self.text_hashes = prepare(recipe, work)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.stage, self.step, self.seconds, self.tokens = "copy", 0, 0.0, 0
        self.machines: dict[str, dict] = {}  # tokens and seconds by hardware
        self.exercises = make_exercises(self.tokenizer, self.streams["read"], recipe)
        self.log: list[dict] = []
        self.losses: list[torch.Tensor] = []  # of the steps since the last line
        self.model = first_model(recipe).to(self.device)
        self.optimizer = self.new_optimizer()
        if (work / "state.pt").exists():
            self.resume()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Returns AdamW; embeddings and norms do not decay.

        Copying is learnt by attention alone: twice as fast, whatever the MLPs' size.
        """
        self.model.requires_grad_(True)
        for layer in self.model.model.layers:
            layer.mlp.requires_grad_(self.stage != "copy")
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        decayed = [p for n, p in trained if "proj" in n]
        others = [p for n, p in trained if "proj" not in n]
        groups = [{"params": decayed, "weight_decay": 0.02}]
        groups += [{"params": others, "weight_decay": 0.0}]
        self.graph = None
        if self.device == "cpu":
            return torch.optim.AdamW(groups, lr=1e-3)
        lr = torch.tensor(1e-3, device=self.device)  # a number would stay as recorded
        return torch.optim.AdamW(groups, lr=lr, fused=True, capturable=True)

    def save(self) -> None:
        """Writes a checkpoint aside and puts it in place whole."""
        state = {
            "recipe": asdict(self.recipe),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "machines": self.machines,
            "log": self.log,
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, self.work / "state.part")
        os.replace(self.work / "state.part", self.work / "state.pt")

    def resume(self) -> None:
        """Takes up the last checkpoint."""
        state = torch.load(self.work / "state.pt", map_location=self.device)
        if state["recipe"] != asdict(self.recipe):
            raise SystemExit(
                f"{self.work} holds a run of another recipe; remove it or name another."
            )
        names = ("stage", "step", "seconds", "tokens", "machines", "log", "losses")
        for name in names:
            setattr(self, name, state[name])
        model = first_model(self.recipe)
        model = model if self.stage in EARLY else grow(model, self.recipe)
        model.load_state_dict(state["model"])
        self.model = model.to(self.device)
        self.optimizer = self.new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])

    def usual_loss(
        self, ids: torch.Tensor, mask: torch.Tensor, within: bool
    ) -> torch.Tensor:
        """Returns the loss in nats per token; `within`: see `train_step`."""
        faster = self.device != "cpu" or half_precision() is not None
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=faster):
            read = self.model.model(ids, attention_mask=mask, use_cache=False)
        hidden = read.last_hidden_state
        weights, labels = self.model.lm_head.weight, ids
        if within:
            tokens, labels = torch.unique(ids, return_inverse=True)
            weights = weights[tokens]
        logits = hidden[:, :-1].float() @ weights.T
        # the first token of the next document does not follow from this one
        labels = labels[:, 1:].masked_fill(ids[:, 1:] == BOS, -100)
        return cross_entropy(logits.flatten(0, 1), labels.flatten())

    def train_step(self, ids: torch.Tensor, *, within: bool) -> torch.Tensor:
        """Takes one optimiser step and returns the loss in nats per token.

        `within` runs the softmax over the batch's own tokens alone: over all of them,
        most of the gradient pushes unused tokens down and copying does not appear.
        """
        ids = ids.to(self.device)
        # which tokens are in use changes the shapes: nothing to compile
        loss_of = self.usual_loss if within else self.read_loss
        loss = loss_of(ids, document_mask(ids), within)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()  # a GPU goes on; only a line of the log waits for it

    def take_step(self, ids: torch.Tensor) -> torch.Tensor:
        """Takes one step of the stage and returns its loss; on a GPU by a recording.

        There, starting one kernel after the other takes longer than what they do. So a
        step of reading is recorded once, after three usual ones, and then replayed.
        """
        if self.stage in EARLY:  # which tokens are in use changes the shapes
            return self.train_step(ids, within=True)
        if self.device == "cpu":
            return self.train_step(ids, within=False)
        if self.graph is None:
            self.graph = Recorded(lambda ids: self.train_step(ids, within=False))
        return self.graph(ids)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of every group."""
        for group in self.optimizer.param_groups:
            if self.device == "cpu":
                group["lr"] = rate
            else:
                group["lr"].fill_(rate)

    def note(self, loss: float, probes: dict) -> None:
        """Logs and shows one line."""
        speed = self.tokens / max(1e-9, self.seconds)
        self.log.append(
            {"stage": self.stage, "step": self.step, "tokens": self.tokens}
            | {"loss": round(loss, 4), "probes": probes}
        )
        told = " ".join(f"{name} {value:.2f}" for name, value in probes.items())
        print(
            f"{self.stage} {self.step:5d}  loss {loss:.3f}  {speed:6.0f} tok/s  {told}",
            flush=True,
        )

    def run_stage(
        self, steps: int, batch, learning_rate, every: int, probes, done
    ) -> None:
        """Trains until `done(probes)` or for `steps`, with probes and checkpoints."""
        began, before = time.perf_counter(), self.tokens
        for ids in batches(batch, range(self.step, steps), self.device):
            self.set_rate(learning_rate(self.step))
            self.losses.append(self.take_step(ids))
            self.step += 1
            self.tokens += ids.numel()
            ends = self.step % every == 0 or self.step == steps
            if ends or self.step % self.recipe.checkpoint_every == 0:
                loss = torch.stack(self.losses).mean().item()  # waits for the GPU
                self.book(time.perf_counter() - began, self.tokens - before)
                found = self.look(loss, probes) if ends else {}
                if self.step % self.recipe.checkpoint_every == 0:
                    self.save()
                if ends and done(found):
                    return
                began, before = time.perf_counter(), self.tokens

    def book(self, seconds: float, tokens: int) -> None:
        """Adds up what training took, in all and on this machine."""
        self.seconds += seconds
        here = {"tokens": 0, "seconds": 0.0}
        here = self.machines.setdefault(records.hardware(), here)
        here["tokens"] += tokens
        here["seconds"] += seconds

    def look(self, loss: float, probes: Callable[[], dict]) -> dict:
        """Probes the model, logs a line and returns what the probes found."""
        self.model.eval()
        found = probes()
        self.model.train()
        self.note(loss, found)
        self.losses = []
        return found

    def early_rate(self, step: int) -> float:
        """Returns the rate of the early stages: warm-up, then constant."""
        return self.recipe.early_rate * min(1.0, (step + 1) / 50)

    def early_stage(self, steps: int, rows: int, length: int, exercise, done) -> None:
        """Two layers learn exercises; each step is written with other tokens."""
        recipe, number = self.recipe, EARLY.index(self.stage)

        def batch(step: int) -> list[np.ndarray]:
            rng = np.random.default_rng([recipe.seed, number, step])
            words = self.exercises.draw(rng, recipe.words)
            return [exercise(rng, length, words) for _ in range(rows)]

        self.run_stage(
            steps,
            batch,
            self.early_rate,
            recipe.early_probe_every,
            lambda: drilled(self.model, self.exercises),
            done,
        )

    def text_stage(
        self, steps: int, count: int, peak: float, every: int, share
    ) -> None:
        """The grown model reads `count` rows of this stage's text at a step.

        `share`, a function of the step, is the share of exercises in them.
        """
        recipe, stream = self.recipe, self.streams[self.stage]
        number = STAGES.index(self.stage)

        def batch(step: int) -> list[np.ndarray]:
            rng = np.random.default_rng([recipe.seed, number, step])
            words = self.exercises.draw(rng, recipe.words)
            rows = []
            for _ in range(count):
                if rng.random() < share(step):
                    rows.append(self.exercises.any(rng, recipe.length, words))
                else:
                    start = rng.integers(0, len(stream) - recipe.length)
                    part = stream[start : start + recipe.length]
                    rows.append(part.astype(np.int64))
            return rows

        self.run_stage(
            steps,
            batch,
            lambda step: rate(step, steps, peak),
            every,
            lambda: probe(self.model, recipe, self.tokenizer, self.exercises, PROBED),
            lambda found: False,
        )

    def next_stage(self, stage: str) -> None:
        """Goes on to a stage with a fresh optimiser."""
        self.stage, self.step = stage, 0
        self.optimizer = self.new_optimizer()
        self.save()

    def all_stages(self) -> None:
        """Runs what is left of the six stages."""
        recipe, exercises = self.recipe, self.exercises
        usual = (recipe.rows, recipe.length)
        if self.stage == "copy":
            self.early_stage(
                recipe.copy_steps,
                recipe.copy_rows,
                recipe.copy_length,
                exercises.copied,
                lambda found: found["copy"] >= recipe.copy_goal,
            )
            self.next_stage("bind")
        if self.stage == "bind":
            # forgets copying for a while; with copies among it, it takes far longer
            self.early_stage(
                recipe.bind_steps,
                *usual,
                exercises.bound,
                lambda found: found["bind"] >= recipe.bind_goal,
            )
            self.next_stage("drill")
        if self.stage == "drill":
            self.early_stage(
                recipe.drill_steps, *usual, exercises.any, lambda found: False
            )
            self.model = grow(self.model, recipe).to(self.device)
            self.next_stage("read")
        if self.stage == "read":
            self.text_stage(
                recipe.read_steps,
                recipe.read_rows,
                recipe.read_rate,
                recipe.probe_every,
                lambda step: max(0.15, 0.6 - step / 3000),
            )
            self.next_stage("practice")
        if self.stage == "practice":
            self.text_stage(
                recipe.practice_steps,
                recipe.practice_rows,
                recipe.practice_rate,
                2 * recipe.probe_every,
                lambda step: 0.1,
            )
            self.next_stage("refine")
        self.text_stage(
            recipe.refine_steps,
            recipe.refine_rows,
            recipe.refine_rate,
            recipe.probe_every,
            lambda step: 0.05,
        )
        self.save()


EARLY = ("copy", "bind", "drill")
STAGES = (*EARLY, "read", "practice", "refine")
PROBED = 50  # rows a probe while it trains

CARD = ROOT / "benchmarks" / "base_card.md"


def told(value: float | None) -> str:
    """Returns a probe's value, or a dash where it was not measured."""
    return "-" if value is None else f"{value:.2f}"


def export(run: Run, out: Path, count: int) -> None:
    """Writes the model, its tokenizer, its card and its record."""
    from helpers import statistics

    out.mkdir(parents=True, exist_ok=True)
    model = run.model.float().cpu()
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(out)
    run.tokenizer.save_pretrained(out)
    recipe = run.recipe
    found = probe(model, replace(recipe, seed=11), run.tokenizer, run.exercises, count)
    sizes = SIZES | {"tone": 3 * count}
    rows = []
    for name, value in found.items():
        twice = name.startswith(("situations", "remarks", "meant"))
        n = sizes.get(name, 2 * count if twice else count)
        low, high = statistics.wilson(round(value * n), n)
        rows.append(
            {"technique": "pre-training", "metric": name, "value": value}
            | {
                "low": round(low, 4),
                "high": round(high, 4),
                "n": n,
                "seeds": [recipe.seed],
            }
        )
    shown = [
        "copy",
        "where",
        "who_has",
        "first",
        "reverse",
        "count_items",
        "situations_unseen",
        "meant_unseen",
        "tone",
    ]
    curve = [
        [line["stage"], f"{line['tokens'] / 1e6:.1f} M", f"{line['loss']:.3f}"]
        + [told(line["probes"].get(name)) for name in shown]
        for line in run.log
        if line["stage"] not in EARLY and line["step"] % 1000 == 0
    ]
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": run.tokens,
        "seconds": run.seconds,
        "machines": run.machines,
        "text_hash": run.text_hashes["read"],
        "practice_hash": run.text_hashes["practice"],
        "refine_hash": run.text_hashes["refine"],
        "count": count,
    }
    cost = "; ".join(
        f"{spent['tokens']:,} tokens in {spent['seconds']:,.0f} s of training on {name}"
        for name, spent in run.machines.items()
    )
    card = CARD.read_text(encoding="utf-8").format(
        **asdict(recipe),
        **facts,
        cost=cost,
        probes=records.table(
            ["probe", "right", "95% interval", "n"],
            [
                [
                    r["metric"],
                    f"{r['value']:.1%}",
                    f"{r['low']:.1%} to {r['high']:.1%}",
                    r["n"],
                ]
                for r in rows
            ],
        ),
        curve=records.table(["stage", "tokens", "loss", *shown], curve),
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    if out == SHIPPED:
        records.write(
            "base",
            rows,
            command="python benchmarks/base.py",
            recipe=asdict(recipe),
            log=run.log,
            model_sha256=records.file_hash(out / "model.safetensors"),
            **facts,
        )


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "base")
    parser.add_argument("--tiny", action="store_true", help="a miniature, for tests")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all")
    parser.add_argument(
        "--compile", action="store_true", help="a quarter faster, needs a C++ compiler"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = TINY if options.tiny else Recipe()
    run = Run(recipe, options.work, compiled=options.compile)
    run.all_stages()
    export(run, options.out, 20 if options.tiny else 300)


if __name__ == "__main__":
    main()
