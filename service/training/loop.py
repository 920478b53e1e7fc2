"""Trains a model: reads data, makes the model, runs epochs and saves the best weights. Each step has its own file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from service.data.gold import label_names
from service.errors import BadInput
from service.models.multi_exit import DropoutRates, MultiExitModel
from service.models.packed import pack
from service.models.store import save_model
from service.text.encoder import TextEncoder
from service.training.batches import allowed_labels, epoch_batches
from service.training.card import model_card
from service.training.judge import Judge
from service.training.noise import InputNoise
from service.training.optimisation import Optimisation
from service.training.piece_layers import learn_piece_layers
from service.training.plot import plot_history
from service.training.recipe import Recipe
from service.training.start import Start, model_config
from service.training.state import TrainingState, claim_output
from service.training.teachers import Teachers
from service.training.texts import TrainingTexts
from service.training.training_loss import TrainingLoss

log = logging.getLogger(__name__)

PART_STEPS = 50  # after so many steps of an epoch a run can be saved, and go on
SAVE_EVERY_S = 300.0  # within an epoch
HARDLY_ANYTHING = 0.1  # an F1 below which a model is not worth having, and its training needs a word


def train(
    recipe: Recipe,
    *,
    encoder: Path,
    data: Path,
    output: Path,
    device: torch.device,
    command: str,
    max_sentences: int | None = None,
    teachers: Sequence[Path] = (),
) -> Path:
    """Train a model and return its folder.

    recipe         all choices of the run
    encoder        the folder of what training starts from: a Transformers checkpoint or a model of this service
    data           the folder of the recipe's data files
    output         receives history.jsonl, f1_per_exit.png, a checkpoint to resume from, and model/
    device         where the model is trained
    command        the command line, for the model's card
    max_sentences  the most texts to read from each data file, for trying things out; None: all
    teachers       folders of finished models whose last exits all exits are distilled from, and of token classifiers
                   of Transformers; none: from the last exit

    A run with the output of an earlier one goes on where that was saved last, after an epoch or within one, and ends
    with the same weights as an uninterrupted run (on as many threads). Raises BadInput if the earlier one had another
    recipe, encoder or data, and for teachers that see other cells or labels, or where words halt.
    """
    start = Start.read(encoder, recipe.layers)
    corpora, dev, tests = (
        {corpus.name: corpus.read(data / file(corpus))[:max_sentences] for corpus in recipe.sources}
        for file in (attrgetter("train"), attrgetter("dev"), attrgetter("test"))
    )
    labels = label_names([example.entities for corpus in corpora.values() for example in corpus])
    config = model_config(recipe, start.encoder, labels)
    text_encoder = TextEncoder(start.tokenizer, config.text, labels, recipe.nested)
    texts = TrainingTexts(recipe, text_encoder, list(corpora.values()), labels)
    sequences = texts.epoch(1)
    log.info(
        "%d texts; first epoch: %d sequences, %d pieces, %d gold entities lost by splitting",
        sum(map(len, corpora.values())),
        len(sequences),
        sum(sequence.input.num_pieces for sequence in sequences),
        texts.lost,
    )

    torch.manual_seed(recipe.seed)
    model = MultiExitModel(config, DropoutRates(recipe.hidden_dropout, recipe.attention_dropout, recipe.exit_dropout))
    start.put_into(model)
    model.encoder.embeddings.pieces.requires_grad_(not recipe.frozen_pieces)
    model.to(device)
    if config.hash is not None:
        learn_piece_layers(model, sequences, recipe.seed)
    training_loss = TrainingLoss(recipe, start.model, model, [sequence.input for sequence in sequences], device)
    optimisation = Optimisation(model, recipe, steps_per_epoch=len(epoch_batches(sequences, recipe, epoch=1)))
    noise = InputNoise(recipe, start.tokenizer, device)
    judge = Judge(recipe, text_encoder, dev, device)
    if teachers and (recipe.halting or recipe.hash != "none"):
        raise BadInput("teachers see all words to the end: a recipe with halting or a hash takes none")
    taught = Teachers.read(teachers, config, device) if teachers else None

    sources: dict[str, Any] = {"encoder": str(encoder.resolve()), "data": str(data.resolve())}
    sources["max_sentences"] = max_sentences
    if teachers:
        sources["teachers"] = [str(folder.resolve()) for folder in teachers]
    claim_output(output, {"recipe": recipe.to_json(), **sources})  # a start that fails claims nothing
    state, saved = TrainingState.resume(output, optimisation), time.monotonic()
    while state.epoch < recipe.epochs and state.epochs_without_gain < recipe.early_stopping_patience:
        epoch = state.epoch + 1
        model.train()
        exit_losses = torch.tensor(state.exit_losses or [0.0] * config.num_exits, device=device)
        sequences = texts.epoch(epoch)
        batches = epoch_batches(sequences, recipe, epoch)
        progress = tqdm(
            batches[state.step :],
            f"epoch {epoch}/{recipe.epochs}",
            total=len(batches),
            initial=state.step,
            mininterval=5.0,
            unit="batch",
        )
        for step, batch in enumerate(progress, state.step):
            if step % PART_STEPS == 0:
                if step > state.step and time.monotonic() > saved + SAVE_EVERY_S:
                    state.step, state.exit_losses = step, exit_losses.tolist()
                    state.save(output, optimisation)
                    saved = time.monotonic()
                # a part depends on its number alone: resuming changes nothing
                torch.manual_seed((recipe.seed * 1_000 + epoch) * 1_000 + step // PART_STEPS)
                training_loss.seed(f"{recipe.seed} {epoch} {step // PART_STEPS}")
            shown = [sequences[index] for index in batch]
            clean = pack([sequence.input for sequence in shown], device)
            allowed = allowed_labels(shown, config.num_labels).to(device)
            loss, losses = training_loss(batch, noise(clean), allowed, taught(clean) if taught else None)
            optimisation.step(loss)
            exit_losses += losses
            if step % 50 == 0:
                progress.set_postfix(loss=f"{loss.item():.3f}", dev_f1=state.latest_f1)  # waits for the device
        verdict = judge.judge_epoch(optimisation.averaged)
        state.record([value / len(batches) for value in exit_losses.tolist()], verdict, optimisation.averaged)
        log.info("epoch %d, dev F1 per exit: %s", epoch, " ".join(f"{100 * f1:.2f}" for f1 in verdict.f1))
        state.save(output, optimisation)
        saved = time.monotonic()
        plot_history(state.history, output / "f1_per_exit.png")

    best = optimisation.averaged
    best.load_state_dict(state.best_weights)
    scores = {name: judge.evaluate(best, examples) for name, examples in tests.items()}
    for name, of_corpus in scores.items():
        f1 = " ".join(f"{100 * of_exit:.2f}" for of_exit in of_corpus.f1)
        log.info("best epoch %d, test F1 per exit on %s: %s", state.best_epoch, name, f1)
    if max(max(of_corpus.f1) for of_corpus in scores.values()) < HARDLY_ANYTHING:
        steps = state.epoch * len(epoch_batches(sequences, recipe, epoch=1))
        log.warning("hardly anything was learned in %d steps: try more epochs, less batch_pieces or more data", steps)
    card = model_card(recipe, config, command, state.best_epoch, state.best_dev_f1, scores)
    save_model(output / "model", best, start.tokenizer, card)
    found = {name: of_corpus.to_json() for name, of_corpus in scores.items()}
    document = found if len(found) > 1 else next(iter(found.values()))
    (output / "test.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return output / "model"
