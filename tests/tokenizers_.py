"""Small real tokenizers, one of each family the service meets, built without a download. No test lives here."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ("anna", "bob", "met", "lives", "in", "works", "for", "the", "city", "york", "new", "bank", "of")
CHINESE = "北京上海中国人大学我是在他们"
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


def bert_tokenizer(words: Iterable[str] = WORDS, *, lowercase: bool = True) -> Tokenizer:
    """WordPiece as BERT's: `words` whole, other ASCII words letter by letter, the characters of CHINESE one by one."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _word_piece(specials, words, lowercase=lowercase)
    tokenizer.post_processor = _template(tokenizer.get_vocab())
    tokenizer.add_special_tokens(specials)
    return tokenizer


def mpnet_tokenizer(words: Iterable[str] = WORDS) -> Tokenizer:
    """WordPiece as MPNet's: BERT's vocabulary, whose special pieces are plain ones, among other special pieces."""
    tokenizer = _word_piece(["<s>", "<pad>", "</s>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<mask>"], words)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])
    return tokenizer


def _word_piece(specials: Sequence[str], words: Iterable[str], *, lowercase: bool = True) -> Tokenizer:
    letters = _CHARACTERS if lowercase else _CHARACTERS + string.ascii_uppercase
    vocabulary = _numbered([*specials, *letters, *(f"##{letter}" for letter in letters), *words, *CHINESE])
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1000))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_level_tokenizer() -> Tokenizer:
    """Byte-level BPE as RoBERTa's: any byte is a piece, so a character outside ASCII may be several pieces."""
    merges = [("a", "n"), ("n", "a"), ("an", "na"), ("Ġ", "m"), ("e", "t"), ("Ġm", "et"), ("Ġ", "Ġ")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = _numbered(["<s>", "<pad>", "</s>", "<unk>", *alphabet, *(left + right for left, right in merges)])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        sep=("</s>", vocabulary["</s>"]),
        cls_token=("<s>", vocabulary["<s>"]),
        trim_offsets=True,
        add_prefix_space=False,
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return tokenizer


def metaspace_tokenizer() -> Tokenizer:
    """Unigram over words split at blanks, as ALBERT's: compatibility forms decomposed, accents stripped, lower case."""
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    scored = [(piece, 0.0) for piece in specials] + [("▁", -2.0)]
    scored += [(f"▁{word}", -4.0) for word in WORDS] + [(character, -6.0) for character in _CHARACTERS + CHINESE]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s"), " "),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = _template({"[CLS]": 2, "[SEP]": 3})
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _template(vocabulary: dict[str, int]) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
