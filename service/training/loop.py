"""The training loop, top to bottom: data, model, optimiser, epochs, the best weights into a model folder."""

from __future__ import annotations

import json
import logging
import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from service.assets import hashed_layers
from service.data.gold import gold_spans, label_names
from service.data.readers import Example, join, read_examples
from service.errors import BadInput
from service.evaluation.evaluate import Evaluation, encode_examples, evaluate
from service.evaluation.run_policy import evaluate_policy
from service.executors.eager import EagerExecutor
from service.exits.policies.tokee import Tokee
from service.models.batches import length_buckets
from service.models.checkpoint import load_checkpoint, load_encoder_weights
from service.models.config import EncoderConfig, ExitConfig, Hash, ModelConfig
from service.models.multi_exit import DropoutRates, MultiExitModel
from service.models.packed import Packed, pack
from service.models.store import CHECKSUMS, TOKENIZER, load_model, save_model
from service.spans.table import cell_index, num_cells
from service.spans.types import IntArray, Span
from service.text.encoder import TextConfig, TextEncoder
from service.text.types import SequenceInput
from service.text.words import WORD_SHAPES
from service.training.card import model_card
from service.training.hashing import count_tags, make_piece_layers
from service.training.objective import Objective
from service.training.plot import plot_history
from service.training.recipe import Recipe

log = logging.getLogger(__name__)

HALTING_SETTINGS = ((0.05, 3), (0.3, 3))  # (tau, window) under which a model with halting words is judged
_LETTER_SHAPES = ("initial", "capital", "caps", "mixed", "lower")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequence:
    """A sequence and the labels of its span table's cells that are entities."""

    input: SequenceInput
    gold: tuple[Span, ...]


def train(
    recipe: Recipe,
    *,
    encoder: Path,
    data: Path,
    output: Path,
    device: torch.device,
    command: str,
    max_sentences: int | None = None,
) -> Path:
    """Train `recipe` on the data folder `data`; -> the finished model's folder.

    `encoder`: where it starts, the folder of a Transformers checkpoint or of a model of this service. `output` collects
    history.jsonl, f1_per_exit.png, a checkpoint to resume from, and model/. Run again with the same output, it goes on
    after the last finished epoch and ends with the very weights of an uninterrupted run (on as many threads); with
    another recipe it is refused. `max_sentences` cuts the training set, for trying things out.
    """
    output.mkdir(parents=True, exist_ok=True)
    sources = {"encoder": str(encoder.resolve()), "data": str(data.resolve()), "max_sentences": max_sentences}
    _claim_output(output, {"recipe": recipe.to_json(), **sources})
    start = _Start.read(encoder)
    train_examples = read_examples(data / recipe.train)[:max_sentences]
    dev_examples = read_examples(data / recipe.dev)[:max_sentences]
    labels = label_names([example.entities for example in train_examples])
    config = _model_config(recipe, start, labels)
    text_encoder = TextEncoder(start.tokenizer, config.text, labels, recipe.nested)
    sequences, lost = training_sequences(text_encoder, train_examples, labels)
    if recipe.joined_words:
        joined = join_examples(train_examples, recipe.joined_words, recipe.seed)
        sequences += training_sequences(text_encoder, joined, labels, split=False)[0]
    log.info("%d texts, %d sequences, %d gold entities lost by splitting", len(train_examples), len(sequences), lost)

    torch.manual_seed(recipe.seed)
    rates = DropoutRates(recipe.hidden_dropout, recipe.attention_dropout, recipe.exit_dropout)
    model = MultiExitModel(config, rates)
    start.put_into(model)
    model.encoder.embeddings.pieces.requires_grad_(not recipe.frozen_pieces)
    model.to(device)
    if config.hash is not None:
        model.get_buffer("piece_layers").copy_(_hash_pieces(config.hash, model, sequences, recipe.seed))
    average = MultiExitModel(config).to(device).eval()
    average.load_state_dict(model.state_dict())
    objective = Objective(recipe, start.model, model, [sequence.input for sequence in sequences], device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, recipe), fused=True)
    steps_per_epoch = len(_epoch_batches(sequences, recipe, epoch=1))
    schedule = _LinearSchedule(optimizer, recipe, steps_per_epoch)
    noise = _InputNoise(recipe, start.tokenizer, device)

    hashed = hashed_layers(model).of if config.hash is not None else None

    state = _TrainingState.resume(output, model, average, optimizer)
    while state.epoch < recipe.epochs and state.epochs_without_gain < recipe.early_stopping_patience:
        epoch = state.epoch + 1
        torch.manual_seed(recipe.seed * 1_000 + epoch)  # an epoch depends on its number alone: resuming changes nothing
        model.train()
        objective.seed(f"{recipe.seed} {epoch}")
        exit_losses = torch.zeros(config.num_exits, device=device)
        batches = _epoch_batches(sequences, recipe, epoch)
        progress = tqdm(batches, desc=f"epoch {epoch}/{recipe.epochs}", mininterval=5.0, unit="batch")
        for step, batch in enumerate(progress):
            schedule.set_rates((epoch - 1) * steps_per_epoch + step)
            packed = pack([sequences[index].input for index in batch], device)
            gold = gold_cells([sequences[index] for index in batch]).to(device)
            loss, losses = objective(batch, noise(packed), gold)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
            optimizer.step()
            _update_average(average, model, recipe.average_decay, (epoch - 1) * steps_per_epoch + step)
            exit_losses += losses
            if step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", dev_f1=state.latest_f1)  # waits for the device
        if config.prototypes:
            average.get_buffer("prototypes").copy_(model.get_buffer("prototypes"))
        dev = evaluate(EagerExecutor(average, device), text_encoder, dev_examples, word_layers=hashed)
        score = math.fsum(dev.f1) if config.num_exits > 1 else dev.f1[-1]  # of one exit, only the end counts
        if config.halting:
            score = _halting_f1(average, device, text_encoder, dev_examples, recipe)
        state.record(epoch, dev, [value / len(batches) for value in exit_losses.tolist()], average, score)
        log.info("epoch %d, dev F1 per exit: %s", epoch, " ".join(f"{100 * f1:.2f}" for f1 in dev.f1))
        state.save(output, model, average, optimizer)
        plot_history(state.history, output / "f1_per_exit.png")

    average.load_state_dict(state.best_weights)
    test_examples = read_examples(data / recipe.test)[:max_sentences]
    test = evaluate(EagerExecutor(average, device), text_encoder, test_examples, word_layers=hashed)
    log.info("best epoch %d, test F1 per exit: %s", state.best_epoch, " ".join(f"{100 * f1:.2f}" for f1 in test.f1))
    card = model_card(recipe, config, command, state.best_epoch, state.best_dev_f1, test)
    folder = output / "model"
    save_model(folder, average, start.tokenizer, card)
    (output / "test.json").write_text(json.dumps(test.to_json(), indent=2) + "\n", encoding="utf-8")
    return folder


def _claim_output(output: Path, run: dict[str, Any]) -> None:
    """Note what run `output` belongs to; refuse it if that is another one."""
    path = output / "run.json"
    wanted = json.dumps(run, indent=2) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != wanted:
        raise BadInput(
            f"{output} holds a run of another recipe, encoder or data ({path}); "
            "resume with the same ones, or give another --output"
        )
    partial = path.with_suffix(".partial")
    partial.write_text(wanted, encoding="utf-8")
    os.replace(partial, path)


@dataclass(frozen=True, slots=True, eq=False)
class _Start:
    """Where a run starts: an encoder's shape and weights, or a model of which everything is kept that fits."""

    encoder: EncoderConfig
    tokenizer: Tokenizer
    weights: Mapping[str, Tensor]
    model: MultiExitModel | None = None

    @classmethod
    def read(cls, folder: Path) -> _Start:
        if (folder / CHECKSUMS).is_file():
            stored = load_model(folder)
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            return cls(stored.config.encoder, tokenizer, {}, stored.model)
        checkpoint = load_checkpoint(folder)
        return cls(checkpoint.config, checkpoint.tokenizer, checkpoint.weights)

    def put_into(self, model: MultiExitModel) -> None:
        """The weights. Raises BadInput where the model has other exits than the one that it starts from."""
        if self.model is None:
            load_encoder_weights(model.encoder, self.weights)
            return
        theirs, ours = self.model.config, model.config
        parts = [
            ("labels", theirs.labels, ours.labels),
            ("exits", theirs.exits, ours.exits),
            ("text", theirs.text, ours.text),
        ]
        for name, given, wanted in [*parts, ("word_shapes", theirs.word_shapes, ours.word_shapes)]:
            if given != wanted:
                raise BadInput(f"the recipe asks for {name} {wanted}, the model to start from has {given}")
        model.encoder.load_state_dict(self.model.encoder.state_dict())
        exits = list(self.model.exits)[-ours.num_exits :]  # the one exit of a model with a hash goes on from the last
        for own, other in zip(model.exits, exits, strict=True):
            own.load_state_dict(other.state_dict())


def _model_config(recipe: Recipe, start: _Start, labels: tuple[str, ...]) -> ModelConfig:
    reach = recipe.exit_reach if recipe.exit_form == "contextual" else 0
    longest = start.encoder.max_positions - start.encoder.position_offset
    if recipe.window_pieces > longest:
        raise BadInput(f"window_pieces {recipe.window_pieces} is more than the encoder's {longest} positions")
    return ModelConfig(
        name=recipe.name,
        version=recipe.version,
        labels=labels,
        nested=recipe.nested,
        encoder=start.encoder,
        exits=ExitConfig(recipe.exit_form, recipe.exit_rank, recipe.end_piece, reach, recipe.width_buckets),
        text=TextConfig(recipe.language, recipe.table_unit, recipe.window_pieces, recipe.overlap_pieces),
        word_shapes=recipe.word_shapes,
        halting=recipe.halting,
        hash=None if recipe.hash == "none" else recipe.hash,
        buckets=recipe.buckets if recipe.hash != "none" else 0,
        prototypes=recipe.distance_weight > 0,
    )


def join_examples(examples: Sequence[Example], most_words: int, seed: int) -> list[Example]:
    """Neighbouring texts joined to some of up to `most_words` words, counted by blanks; how long each gets is drawn."""
    draw = random.Random(seed)
    joined: list[Example] = []
    part: list[Example] = []
    words, wanted = 0, draw.randint(2, most_words)
    for example in examples:
        count = len(example.text.split())
        if part and words + count > wanted:
            joined.append(join(part))
            part, words, wanted = [], 0, draw.randint(2, most_words)
        part.append(example)
        words += count
    return [*joined, join(part)]


def _hash_pieces(hash_: Hash, model: MultiExitModel, sequences: list[TrainingSequence], seed: int) -> Tensor:
    """(vocabulary,) what the model is to know of its pieces."""
    config = model.config
    tags = count_tags(
        [sequence.input for sequence in sequences],
        [_word_labels(sequence) for sequence in sequences],
        config.encoder.vocab_size,
        config.num_labels,
    )
    embeddings = model.encoder.embeddings.pieces.weight.detach().double().cpu().numpy()
    layers = make_piece_layers(hash_, tags, embeddings, num_layers=config.num_layers, buckets=config.buckets, seed=seed)
    return torch.from_numpy(layers)


def _halting_f1(
    model: MultiExitModel, device: torch.device, text_encoder: TextEncoder, dev: list[Example], recipe: Recipe
) -> float:
    """Mean dev F1 with halted words, of texts as they are and joined."""
    executor = EagerExecutor(model, device)
    sets = [dev, join_examples(dev, recipe.joined_words, recipe.seed)] if recipe.joined_words else [dev]
    found = [
        evaluate_policy(executor, text_encoder, examples, Tokee(tau, window), split=examples is dev).micro.f1
        for examples in sets
        for tau, window in HALTING_SETTINGS
    ]
    return math.fsum(found) / len(found)


def _word_labels(sequence: TrainingSequence) -> IntArray:
    """(words,) the label of the shortest entity that each word is in, 0 for none."""
    labels = np.zeros(sequence.input.num_words, dtype=np.int64)
    for span in sorted(sequence.gold, key=lambda span: span.start - span.end):
        labels[span.start : span.end] = span.label
    return labels


def training_sequences(
    text_encoder: TextEncoder, examples: list[Example], labels: tuple[str, ...], *, split: bool = True
) -> tuple[list[TrainingSequence], int]:
    """Examples on the text path that requests go; -> sequences with gold, and how many entities that path loses."""
    label_ids = {label: index for index, label in enumerate(labels, 1)}
    sequences: list[TrainingSequence] = []
    lost = 0
    for example, encoded in zip(examples, encode_examples(text_encoder, examples, split=split), strict=True):
        spans, missed = gold_spans(encoded, example.entities, label_ids)
        lost += len(missed)
        sequences += [TrainingSequence(seq, tuple(gold)) for seq, gold in zip(encoded.sequences, spans, strict=True)]
    return sequences, lost


def gold_cells(sequences: list[TrainingSequence]) -> Tensor:
    """(cells,) the gold label of every valid cell of the packed table."""
    counts = [num_cells(sequence.input.num_words) for sequence in sequences]
    cells = torch.zeros(sum(counts), dtype=torch.long)
    offset = 0
    for sequence, count in zip(sequences, counts, strict=True):
        for span in sequence.gold:
            cells[offset + cell_index(sequence.input.num_words, span.start, span.end - 1)] = span.label
        offset += count
    return cells


def _epoch_batches(sequences: list[TrainingSequence], recipe: Recipe, epoch: int) -> list[list[int]]:
    """Batches of like length in random order; who shares a batch with whom changes from epoch to epoch."""
    shuffle = random.Random(f"{recipe.seed} {epoch}")
    order = list(range(len(sequences)))
    shuffle.shuffle(order)
    batches = length_buckets([sequences[index].input for index in order], recipe.batch_pieces)
    shuffle.shuffle(batches)
    return [[order[index] for index in batch] for batch in batches]


def _parameter_groups(model: MultiExitModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Encoder and exits at their own rates, word shapes like exits; biases and LayerNorms without weight decay."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    depth = model.config.num_layers
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("exits.") or ".shapes." in name:
            rate = recipe.exit_rate
        else:
            layer = int(name.split(".")[2]) + 1 if name.startswith("encoder.layers.") else 0
            rate = recipe.encoder_rate * recipe.rate_decay ** (depth - layer)
        decay = recipe.weight_decay if parameter.dim() > 1 and not name.endswith("bias") else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


class _LinearSchedule:
    """Rates rise linearly over the warm-up and fall linearly to zero at the last epoch's end."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        self._optimizer = optimizer
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._total = recipe.epochs * steps_per_epoch * 1.05  # the longest batches vary a little from epoch to epoch
        self._warmup = max(1.0, recipe.warmup * self._total)

    def set_rates(self, step: int) -> None:
        factor = min((step + 1) / self._warmup, max(0.0, (self._total - step) / (self._total - self._warmup)))
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor


def _update_average(average: MultiExitModel, model: MultiExitModel, decay: float, step: int) -> None:
    """Move the averaged weights towards the current ones; the decay grows from 0 so that the start is forgotten."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


class _InputNoise:
    """Case noise and piece masking: a copy of the packed input that is harder to read."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self._case_noise, self._piece_masking = recipe.case_noise, recipe.piece_masking
        self._mask_id = tokenizer.token_to_id("[MASK]") or tokenizer.token_to_id("<mask>") or 0
        lower, caps = torch.arange(len(WORD_SHAPES)), torch.arange(len(WORD_SHAPES))
        for shape in _LETTER_SHAPES:
            lower[WORD_SHAPES.index(shape)] = WORD_SHAPES.index("lower")
            caps[WORD_SHAPES.index(shape)] = WORD_SHAPES.index("caps")
        self._lower, self._caps = lower.to(device), caps.to(device)

    def __call__(self, packed: Packed) -> Packed:
        if not self._case_noise and not self._piece_masking:
            return packed
        shapes, pieces = packed.shape_ids, packed.piece_ids
        if self._case_noise:
            lengths = torch.tensor(packed.pieces.lengths, device=shapes.device)
            draw = torch.rand(len(lengths), device=shapes.device).repeat_interleave(lengths)
            shapes = torch.where(draw < self._case_noise, self._lower[shapes], shapes)
            shapes = torch.where(draw > 1 - self._case_noise, self._caps[shapes], shapes)
        if self._piece_masking:
            hidden = torch.rand(len(pieces), device=pieces.device) < self._piece_masking
            is_last = packed.positions.roll(-1) == 0  # the next piece begins another sequence
            pieces = torch.where(hidden & (packed.positions > 0) & ~is_last, self._mask_id, pieces)
        return replace(packed, shape_ids=shapes, piece_ids=pieces)


class _TrainingState:
    """Where a run stands: what a checkpoint holds besides the weights and the optimiser."""

    def __init__(self) -> None:
        self.epoch = 0
        self.best_epoch = 0
        self.best_dev_f1: list[float] = []
        self.best_score = 0.0  # mean dev F1 over all exits: every exit is for sale; or what a recipe is for
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []

    @property
    def latest_f1(self) -> str:
        """Dev F1 x 100 of every exit after the last finished epoch."""
        return " ".join(f"{100 * f1:.1f}" for f1 in self.history[-1]["dev_f1_per_exit"]) if self.history else "-"

    @property
    def epochs_without_gain(self) -> int:
        return self.epoch - self.best_epoch

    def record(self, epoch: int, dev: Evaluation, losses: list[float], average: MultiExitModel, score: float) -> None:
        """The best epoch is the one with the highest score."""
        self.epoch = epoch
        if not self.best_epoch or score > self.best_score:
            self.best_epoch, self.best_dev_f1, self.best_score = epoch, dev.f1, score
            self.best_weights = {name: tensor.cpu().clone() for name, tensor in average.state_dict().items()}
        row = {"epoch": epoch, "loss_per_exit": losses, "dev_f1_per_exit": dev.f1, "score": score}
        self.history.append(row)

    def save(
        self, output: Path, model: MultiExitModel, average: MultiExitModel, optimizer: torch.optim.Optimizer
    ) -> None:
        """Write history, then checkpoint, each atomically: killed in between, the epoch is run and written again."""
        checkpoint = {
            "state": {name: value for name, value in vars(self).items()},
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        lines = "".join(json.dumps(row) + "\n" for row in self.history)
        (output / "history.partial").write_text(lines, encoding="utf-8")
        os.replace(output / "history.partial", output / "history.jsonl")
        torch.save(checkpoint, output / "checkpoint.partial")
        os.replace(output / "checkpoint.partial", output / "checkpoint.pt")

    @classmethod
    def resume(
        cls, output: Path, model: MultiExitModel, average: MultiExitModel, optimizer: torch.optim.Optimizer
    ) -> _TrainingState:
        """Load the checkpoint if there is one, else begin."""
        state = cls()
        path = output / "checkpoint.pt"
        if path.is_file():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            vars(state).update(checkpoint["state"])
            model.load_state_dict(checkpoint["model"])
            average.load_state_dict(checkpoint["average"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            log.info("resuming after epoch %d", state.epoch)
        return state
