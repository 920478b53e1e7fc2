"""A recipe holds every choice that a training run makes; it is read from a small TOML file."""

from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from service.data.corpora import Corpus
from service.errors import BadInput
from service.models.config import EndPiece, ExitForm, Hash
from service.text.words import TableUnit

ExitWeights = Literal["linear", "sqrt", "uniform"]
T = TypeVar("T")
HashOrNone = Hash | Literal["none"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Holds the share of texts, in [0, 1], that each change is made to in training; see `augment`.

    joined           joined with others, up to 128 words, and read as one sentence
    items            beside each text, with this probability, a list or a form made of names
    names            names in place of others of the same label
    titles           titles (Dr., Judge) before persons, many of whom lose their first name
    initials         first names cut to their initials
    punctuation      marks outside of names left out
    lower, upper     the whole text in lower case, in capitals
    title_case       Every Word With A Capital
    typos            a twentieth of the letters' neighbours swapped, dropped or doubled
    markup           names between asterisks, quotes, tags and the like
    symbols          symbols and emoji beside names
    """

    joined: float = 0.0
    items: float = 0.0
    names: float = 0.0
    titles: float = 0.0
    initials: float = 0.0
    punctuation: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    title_case: float = 0.0
    typos: float = 0.0
    markup: float = 0.0
    symbols: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether texts stay as they are."""
        return not any(asdict(self).values())


_RANGES: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("warmup", "hidden_dropout", "attention_dropout", "exit_dropout", "piece_masking", "average_decay"), 0, 0.9999),
    (tuple(f"augmentation.{f.name}" for f in fields(Augmentation)), 0, 1),
    (("case_noise",), 0, 0.5),  # as much again is shown in capitals
    (("distillation", "weight_decay", "encoder_rate", "exit_rate", "distance_weight", "flood"), 0, math.inf),
    (("width_buckets", "exit_reach", "overlap_pieces", "joined_words", "dev_texts", "layers", "seed"), 0, math.inf),
    (("epochs", "early_stopping_patience", "batch_pieces", "exit_rank", "buckets"), 1, math.inf),
    (("window_pieces",), 3, math.inf),
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Holds the choices of one training run. Rates are per step, shares in [0, 1], files relative to the data folder.

    train, dev, test  the files of the one corpus, with the model's labels; without `corpora`
    corpora           several corpora instead, each with its own labels
    augmentation      how texts are changed, anew in every epoch
    encoder_name      for the card: what the encoder is
    data_notice       for the card: what the data's licence allows
    exit_weights      "linear": exit m weighs m (Eq. 5 of VEE-BERT); "sqrt": the root of m; "uniform": all the same
    distillation      weight of the cross-entropy of every exit with the last exit's or the teachers' distribution
    case_noise        share of training sequences shown in lower case, and again as many in capitals (word shapes only)
    piece_masking     share of pieces replaced by the tokenizer's mask piece
    frozen_pieces     keep the word-piece embeddings as pretrained, so that those of names never shown stay comparable
    layers            keep so many of the encoder's layers, evenly, the last one among them (0: all)
    average_decay     decay of the moving average of the weights, which is evaluated and saved (0: no average)
    rate_decay        factor on the encoder's rate per layer from the top down (1: one rate)
    joined_words      also show texts that are joined from neighbours, of up to so many words (0: do not)
    flood             the loss is kept from falling below this (flooding, Ishida et al. 2020; 0: it is not)
    halting           show words that halt after sampled layers (the second stage of TOKEE)
    hash, buckets     let words halt after the layer that a hash of so many buckets says (HashEE); "none": do not
    dev_texts         judge an epoch by at most so many dev texts of each corpus (0: all)
    distance_weight   weight of the distance-aware loss of DE3-BERT, which needs prototypes (0: without both)
    """

    name: str
    version: str
    nested: bool
    encoder_name: str
    data_notice: str
    train: str = ""
    dev: str = ""
    test: str = ""
    corpora: tuple[Corpus, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)
    language: str = "en"
    table_unit: TableUnit = "words"
    window_pieces: int = 256
    overlap_pieces: int = 64
    word_shapes: bool = True
    exit_form: ExitForm = "contextual"
    exit_rank: int = 64
    exit_reach: int = 2
    end_piece: EndPiece = "last"
    width_buckets: int = 16
    exit_weights: ExitWeights = "linear"
    distillation: float = 0.5
    epochs: int = 25
    early_stopping_patience: int = 8
    batch_pieces: int = 1024
    encoder_rate: float = 1e-4
    exit_rate: float = 1e-3
    rate_decay: float = 1.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_norm: float = 1.0
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    exit_dropout: float = 0.2
    case_noise: float = 0.0
    piece_masking: float = 0.0
    frozen_pieces: bool = False
    layers: int = 0
    average_decay: float = 0.999
    joined_words: int = 0
    flood: float = 0.0
    halting: bool = False
    hash: HashOrNone = "none"
    buckets: int = 3
    distance_weight: float = 0.0
    dev_texts: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise BadInput for a value that cannot be trained with; its message names the field."""
        for names, lowest, highest in _RANGES:
            for name in names:
                if not lowest <= (given := attrgetter(name)(self)) <= highest:
                    raise BadInput(f"recipe field {name} is {given}; expected a value from {lowest} to {highest}")
        if not self.overlap_pieces < self.window_pieces - 2:
            raise BadInput(
                f"overlap_pieces {self.overlap_pieces} must be smaller than the window of {self.window_pieces}"
            )
        if bool(self.corpora) == bool(self.train or self.dev or self.test):
            raise BadInput("a recipe needs either train, dev and test, or corpora")
        if not all(corpus.train and corpus.dev and corpus.test for corpus in self.sources):
            raise BadInput("a recipe needs the files train, dev and test, of every corpus")
        if len({corpus.name for corpus in self.sources}) < len(self.sources):
            raise BadInput("every corpus of a recipe needs a name of its own")
        if any(not 0 < corpus.weight <= 100 for corpus in self.corpora):
            raise BadInput("the weight of a corpus must be above 0 and at most 100")
        if (self.halting or self.hash != "none") and not (self.augmentation.is_none and self.has_one_corpus):
            raise BadInput("a recipe with halting or a hash needs one corpus of weight 1, and no augmentation")
        if self.hash != "none" and (self.halting or self.distance_weight):
            raise BadInput('a recipe with a hash has one exit: halting and distance_weight need hash = "none"')
        if self.distance_weight and self.exit_form == "full":
            raise BadInput("distance_weight needs exits that project words; exit_form full has none")

    @property
    def sources(self) -> tuple[Corpus, ...]:
        """The corpora; the only one if the recipe names its files alone."""
        return self.corpora or (Corpus(self.train, self.dev, self.test, self.name),)

    @property
    def has_one_corpus(self) -> bool:
        """Whether every epoch shows every text of one corpus."""
        return len(self.sources) == 1 and self.sources[0].weight == 1

    def to_json(self) -> dict[str, Any]:
        """Return all fields as plain JSON types."""
        return asdict(self)


def find_recipe(given: Path) -> Path:
    """Return the file of a shipped recipe if `given` is its name; otherwise `given` is a path itself."""
    shipped = Path(__file__).parent / "recipes" / f"{given}.toml"
    return shipped if shipped.is_file() else given


def read_recipe(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """Read a TOML file, whose values `overrides` replace; it may extend another recipe, `extends = "NAME"`.

    Raises BadInput for a field that is missing, unknown, of the wrong type or outside its range.
    """
    try:
        values = _merge(_values(path), overrides or {})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path} is no recipe: {error}") from error
    try:
        corpora = tuple(_made(Corpus, table) for table in _tables(values.pop("corpora", [])))
        augmentation = _made(Augmentation, values.pop("augmentation", {}))
        return _made(Recipe, values, corpora=corpora, augmentation=augmentation)
    except (BadInput, TypeError) as error:
        raise BadInput(f"{path}: {error}") from error


def _values(path: Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the values of a file; where it extends a recipe they replace that one's, and its corpora come on top."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    if (base := values.pop("extends", None)) is None:
        return values
    beside = path.parent / f"{base}.toml"
    found = beside if beside.is_file() else find_recipe(Path(str(base)))
    if found in (path, *extended):
        raise BadInput(f"{path} extends itself by way of {found}")
    below = _values(found, (*extended, path))
    corpora = [*_tables(below.get("corpora", [])), *_tables(values.get("corpora", []))]
    return _merge(below, values) | ({"corpora": corpora} if corpora else {})


def _merge(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with those of `overrides` in their place, table by table."""
    merged = dict(values)
    for name, value in overrides.items():
        inner = merged.get(name)
        merged[name] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise BadInput(f"corpora = {value!r}, expected tables [[corpora]]")
    return value


def _made(kind: type[T], values: Any, **parts: Any) -> T:
    """Make a `kind` of the values of a TOML table; raises BadInput for a field that is unknown or of a wrong type."""
    known = {f.name: str(f.type) for f in fields(kind) if f.name not in parts}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise BadInput(f"{values!r} is no table of {sorted(known)}")
    if unknown := sorted(values.keys() - known.keys()):
        raise BadInput(f"unknown fields {unknown}; known are {sorted(known)}")
    if wrong := [name for name, value in values.items() if not _fits(known[name], value)]:
        raise BadInput("; ".join(f"{name} = {values[name]!r}, expected {known[name]}" for name in wrong))
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}, **parts)


_CHOICES: dict[str, tuple[object, ...]] = {
    "ExitWeights": get_args(ExitWeights),
    "ExitForm": get_args(ExitForm),
    "EndPiece": get_args(EndPiece),
    "TableUnit": get_args(TableUnit),
    "HashOrNone": (*get_args(Hash), "none"),
}
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _fits(annotation: str, value: object) -> bool:
    if annotation in _CHOICES:
        return value in _CHOICES[annotation]
    if annotation == "tuple[str, ...]":
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if annotation == "Mapping[str, str]":
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    return isinstance(value, _TYPES[annotation]) and (annotation == "bool" or not isinstance(value, bool))
