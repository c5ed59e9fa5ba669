"""Makes the shipped base model: `make base`.

A tokenizer, then two stages of pre-training from scratch. *Copy*: two layers learn to
repeat random sequences, until the probe says so. *Read*: layers are added whose output
is zero, so that nothing changes at first, and the model reads the world's prose, with
some repeated sequences among it. Probes are measured while it trains. Killed and started
again, it goes on from its last checkpoint with the identical curve.

    python benchmarks/base.py                    # the shipped base, about an hour
    python benchmarks/base.py --tiny --out DIR   # a minute's miniature, for the tests

Needs torch, transformers, tokenizers and numpy; takes a GPU if there is one.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "datasets"))

import make_general  # noqa: E402
import make_irony  # noqa: E402
import world  # noqa: E402

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
    width: int = 192
    inner: int = 512
    heads: int = 6
    key_heads: int = 3
    layers: int = 4
    context: int = 512
    documents: int = 500_000
    copy_rows: int = 32
    copy_length: int = 64
    copy_rate: float = 2e-3
    copy_steps: int = 3000  # at most; the probe ends the stage
    copy_goal: float = 0.93
    rows: int = 16
    length: int = 256
    repeated: float = 0.15  # share of rows that repeat a random sequence
    read_steps: int = 6000
    read_rate: float = 2e-3
    probe_every: int = 250
    checkpoint_every: int = 250


TINY = Recipe(
    vocabulary=512,
    width=96,
    inner=128,
    heads=3,
    key_heads=3,
    layers=3,
    documents=2000,
    copy_steps=60,
    copy_length=32,
    read_steps=60,
    rows=4,
    length=128,
    probe_every=20,
    checkpoint_every=20,
)


# --- tokenizer and data ---------------------------------------------------------------


def make_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE in which a text starts as if after a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
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


def prepare(recipe: Recipe, work: Path) -> tuple[PreTrainedTokenizerFast, np.ndarray, str]:
    """Returns tokenizer, token stream and the text's hash; made once, then kept."""
    folder, kept = work / "tokenizer", work / "tokens.npy"
    if not kept.exists():
        documents = list(make_general.documents(recipe.documents, seed=recipe.seed))
        digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
        tokenizer = make_tokenizer(documents[:60_000], recipe.vocabulary)
        tokenizer.save_pretrained(folder)
        (work / "text.sha256").write_text(digest)
        part = work / "tokens.part.npy"
        np.save(part, tokenize(documents, tokenizer))
        os.replace(part, kept)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer, np.load(kept), (work / "text.sha256").read_text()


def repeated_row(rng: np.random.Generator, length: int, low: int, high: int) -> np.ndarray:
    """Returns a random sequence of 6 to 30 tokens, repeated until the row is full."""
    part = rng.integers(low, high, rng.integers(6, 31))
    return np.tile(part, math.ceil(length / len(part)))[:length]


def copy_batch(recipe: Recipe, step: int) -> torch.Tensor:
    """Returns random sequences, repeated: (rows, length)."""
    rng = np.random.default_rng([recipe.seed, 1, step])
    rows = [
        repeated_row(rng, recipe.copy_length, len(SPECIAL), recipe.vocabulary)
        for _ in range(recipe.copy_rows)
    ]
    return torch.from_numpy(np.stack(rows))


def read_batch(recipe: Recipe, stream: np.ndarray, step: int) -> torch.Tensor:
    """Returns the step's rows of prose, some of them repeated sequences instead."""
    rng = np.random.default_rng([recipe.seed, 2, step])
    rows = []
    for row in range(recipe.rows):
        start = (step * recipe.rows + row) * recipe.length % (len(stream) - recipe.length)
        if rng.random() < recipe.repeated:
            rows.append(
                repeated_row(rng, recipe.length, len(SPECIAL), recipe.vocabulary)
            )
        else:
            rows.append(stream[start : start + recipe.length].astype(np.int64))
    return torch.from_numpy(np.stack(rows))


def document_mask(ids: torch.Tensor) -> torch.Tensor:
    """Returns (batch, 1, sequence, sequence): what each token may see of its document."""
    document = (ids == BOS).cumsum(1)
    same = document[:, :, None] == document[:, None, :]
    return (same & torch.ones_like(same[0]).tril()).unsqueeze(1)


# --- model ----------------------------------------------------------------------------


def new_model(recipe: Recipe, *, layers: int) -> LlamaForCausalLM:
    """Returns an untrained LLaMA with tied embeddings and grouped-query attention."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.width,
            intermediate_size=recipe.inner,
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


def wire_induction(model: LlamaForCausalLM) -> None:
    """Gives the first two layers an induction circuit to start from.

    Left to chance, copying from context did not appear in 1,500 steps of eight trials. So
    the start is written by hand, and trained on like all the rest: in layer 0 one head
    looks at the token before and notes it in a subspace of its own; in layer 1 one head
    looks for the place whose note is the present token, and says the token found there.
    Source: Olsson et al. 2022, "In-context Learning and Induction Heads".
    """
    config = model.config
    size, width = config.hidden_size // config.num_attention_heads, config.hidden_size
    bases = torch.linalg.qr(torch.randn(width, width))[0].split(size)
    seen, noted, said = bases[:3]
    shared = torch.randn(width)
    shared /= shared.norm()
    half, fast = size // 2, 5  # the fast rotations alone tell neighbours apart
    turn = 10_000 ** (-torch.arange(fast) * 2 / size)
    key, query = torch.zeros(size), torch.zeros(size)
    key[:fast] = 6.5
    query[:fast], query[half : half + fast] = 6.5 * turn.cos(), -6.5 * turn.sin()
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    with torch.no_grad():
        embedded = model.model.embed_tokens.weight
        length = embedded.norm(dim=1).mean()
        embedded += shared * length  # what all tokens have in common: "a token is here"
        toward = shared / (0.7 * width**0.5)
        first.q_proj.weight[:size] = torch.outer(query, toward)
        first.k_proj.weight[:size] = torch.outer(key, toward)
        scale = 3 * embedded.norm(dim=1).mean() / width**0.5
        first.v_proj.weight[:size], first.o_proj.weight[:, :size] = seen, noted.T * scale
        second.q_proj.weight[:size] = seen * 1.5
        second.k_proj.weight[:size] = noted * 1.5
        second.v_proj.weight[:size], second.o_proj.weight[:, :size] = said, said.T * scale


def grow(model: LlamaForCausalLM, recipe: Recipe) -> LlamaForCausalLM:
    """Returns a model with more layers and, at first, the same output.

    The new layers write nothing, because their output projections are zero.
    """
    grown = new_model(recipe, layers=recipe.layers)
    grown.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for layer in grown.model.layers[len(model.model.layers) :]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return grown


def rate(step: int, steps: int, peak: float, *, warm: int = 100) -> float:
    """Returns the learning rate: linear warm-up, then a cosine down to a tenth."""
    if step < warm:
        return peak * (step + 1) / warm
    done = min(1.0, (step - warm) / max(1, steps - warm))
    return peak * (0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * done)))


# --- probes: what the model can do by continuing prose ----------------------------------

REPLY = {  # task: the reply's wording, which ends in what must be found
    "where": "{name} is {a}",
    "who_has": "The owner is {a}",
    "what_has": "{name} has {a}",
    "colour": "The {object} is {a}",
    "who_where": "It is {a}",
    "first": "The first is {a}",
    "last": "The last is {a}",
    "after": "The next is {a}",
    "reverse": "Backwards it is {a}",
    "count_items": "The number is {a}",
    "count_word": "The number is {a}",
    "count_sentences": "The number is {a}",
    "more": "The greater number is with {a}",
    "fewer": "The smaller number is with {a}",
    "same": "{A}",
    "pick": "It is {a}",
    "kind_of": "The kind is {a}",
    "who_said": "The speaker was {a}",
    "to_whom": "The words were for {a}",
}


def cloze(task: str, count: int, *, seed: int) -> list[tuple[str, str]]:
    """Returns (prose up to the answer, answer) pairs of one task."""
    rng, pairs = Random(f"probe {task} {seed}"), []
    for _ in range(count):
        example = world.draw_together(rng, [task])[1][0]
        question = make_general.ask(rng, task, example)
        reply = world.fill(REPLY[task], example.slots | {"a": example.answer})
        told, answer = reply[: -len(example.answer)], reply[-len(example.answer) :]
        text = make_general.frame_list(rng, example.text)
        pairs.append((f"{text} {question} {told}".strip(), answer))
    return pairs


def polarity(lexicon: str, split: str, count: int, *, seed: int) -> list[tuple]:
    """Returns (prose, right word, wrong word) for situations or remarks of a split."""
    rng, rows = Random(f"probe {lexicon} {split} {seed}"), []
    pool = world.select(getattr(world, lexicon), split=split)
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
        (f"{row['text']} This is", row["label"], *(w for w in labels if w != row["label"]))
        for row in make_irony.rows("dev", count)
    ]


@torch.no_grad()
def continues(model: LlamaForCausalLM, tokenizer, pairs: list[tuple[str, str]]) -> float:
    """Returns the share of answers whose every token is the likeliest one."""
    right = 0
    for start in range(0, len(pairs), 50):
        batch = pairs[start : start + 50]
        heads = tokenizer([prose for prose, _ in batch])["input_ids"]
        tails = tokenizer([a for _, a in batch], add_special_tokens=False)["input_ids"]
        size = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(batch), size), PAD)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
        best = model(ids.to(model.device)).logits.argmax(-1).cpu()
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            said = best[row, len(head) - 1 : len(head) + len(tail) - 1]
            right += said.tolist() == tail
    return right / len(pairs)


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
def copies(model: LlamaForCausalLM, recipe: Recipe) -> float:
    """Returns the share of tokens copied right once a sequence has been seen whole."""
    rng = np.random.default_rng([recipe.seed, 3])
    rows = np.stack([repeated_row(rng, 64, len(SPECIAL), recipe.vocabulary) for _ in range(40)])
    ids = torch.from_numpy(rows).to(model.device)
    best = model(ids).logits.argmax(-1)
    return (best[:, 30:-1] == ids[:, 31:]).float().mean().item()


def probe(model: LlamaForCausalLM, recipe: Recipe, tokenizer, count: int) -> dict:
    """Returns every probe's share of right answers on text that no document holds."""
    model.eval()
    found = {"copy": copies(model, recipe)}
    for task in REPLY:
        found[task] = continues(model, tokenizer, cloze(task, count, seed=recipe.seed))
    for lexicon in ("SITUATIONS", "REMARKS"):
        for split in ("train", "test"):
            rows = polarity(lexicon, split, 2 * count, seed=recipe.seed)
            name = f"{lexicon.lower()}_{'known' if split == 'train' else 'unseen'}"
            found[name] = prefers(model, tokenizer, rows)
    found["tone"] = prefers(model, tokenizer, tone(3 * count))
    model.train()
    return {name: round(value, 4) for name, value in found.items()}


# --- training -------------------------------------------------------------------------


class Run:
    """One pre-training run that can be stopped and taken up again."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.recipe, self.work = recipe, work
        work.mkdir(parents=True, exist_ok=True)
        self.tokenizer, self.stream, self.text_hash = prepare(recipe, work)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.stage, self.step, self.seconds, self.tokens = "copy", 0, 0.0, 0
        self.log: list[dict] = []
        self.model = new_model(recipe, layers=2)
        wire_induction(self.model)
        self.model.to(self.device)
        self.optimizer = self.new_optimizer()
        if (work / "state.pt").exists():
            self.resume()

    def new_optimizer(self) -> torch.optim.Optimizer:
        """Returns AdamW; embeddings and norms do not decay."""
        decayed = [p for n, p in self.model.named_parameters() if "proj" in n]
        others = [p for n, p in self.model.named_parameters() if "proj" not in n]
        groups = [{"params": decayed, "weight_decay": 0.05}]
        groups += [{"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))

    def save(self) -> None:
        """Writes a checkpoint aside and puts it in place whole."""
        state = {
            "recipe": asdict(self.recipe),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "log": self.log,
            "layers": len(self.model.model.layers),
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
        for name in ("stage", "step", "seconds", "tokens", "log"):
            setattr(self, name, state[name])
        self.model = new_model(self.recipe, layers=state["layers"]).to(self.device)
        self.model.load_state_dict(state["model"])
        self.optimizer = self.new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])

    def train_step(self, ids: torch.Tensor, mask: torch.Tensor | None) -> float:
        """Takes one optimiser step and returns the loss in nats per token."""
        ids = ids.to(self.device)
        mask = mask if mask is None else mask.to(self.device)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            logits = self.model(ids, attention_mask=mask).logits
        # the first token of the next document does not follow from this one
        labels = ids[:, 1:].masked_fill(ids[:, 1:] == BOS, -100)
        loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

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

    def run_stage(self, steps: int, peak: float, batch, probes, done) -> None:
        """Trains until `done(probes)` or for `steps`, with probes and checkpoints."""
        losses: list[float] = []
        while self.step < steps:
            began = time.perf_counter()
            for group in self.optimizer.param_groups:
                group["lr"] = rate(self.step, steps, peak)
            ids, mask = batch(self.step)
            losses.append(self.train_step(ids, mask))
            self.step += 1
            self.tokens += ids.numel()
            self.seconds += time.perf_counter() - began
            if self.step % self.recipe.probe_every == 0 or self.step == steps:
                found = probes()
                self.note(sum(losses) / len(losses), found)
                losses = []
                if done(found):
                    return
            if self.step % self.recipe.checkpoint_every == 0:
                self.save()

    def copy_stage(self) -> None:
        recipe = self.recipe
        self.run_stage(
            recipe.copy_steps,
            recipe.copy_rate,
            lambda step: (copy_batch(recipe, step), None),
            lambda: {"copy": copies(self.model, recipe)},
            lambda found: found["copy"] >= recipe.copy_goal,
        )

    def read_stage(self) -> None:
        recipe = self.recipe

        def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            ids = read_batch(recipe, self.stream, step)
            return ids, document_mask(ids)

        self.run_stage(
            recipe.read_steps,
            recipe.read_rate,
            batch,
            lambda: probe(self.model, recipe, self.tokenizer, 50),
            lambda found: False,
        )

    def all_stages(self) -> None:
        """Runs what is left of both stages."""
        if self.stage == "copy":
            self.copy_stage()
            self.model = grow(self.model, self.recipe).to(self.device)
            self.optimizer = self.new_optimizer()
            self.stage, self.step = "read", 0
            self.save()
        self.read_stage()
        self.save()


def export(run: Run, out: Path) -> None:
    """Writes model, tokenizer and record."""
    out.mkdir(parents=True, exist_ok=True)
    run.model.save_pretrained(out)
    run.tokenizer.save_pretrained(out)


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "helpers" / "tiny_llama")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "base")
    parser.add_argument("--tiny", action="store_true", help="a miniature, for tests")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = TINY if options.tiny else Recipe()
    run = Run(replace(recipe), options.work)
    run.all_stages()
    export(run, options.out)


if __name__ == "__main__":
    main()
