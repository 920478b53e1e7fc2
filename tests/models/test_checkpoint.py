"""A checkpoint folder is read whole, under old and new names, or refused with the name of what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.errors import ModelRefused
from service.models.checkpoint import Checkpoint, load_checkpoint, load_encoder_weights
from service.models.encoder import Encoder
from service.models.packed import pack
from tests.models_ import all_hidden_states, random_sequences, random_transformer, save_bert_checkpoint, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bert_checkpoint(tmp_path / "encoder", num_hidden_layers=2)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(dict(change(weights)), folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def load(folder: Path) -> Encoder:
    checkpoint = load_checkpoint(folder)
    encoder = Encoder(checkpoint.config, word_shapes=True).eval()
    load_encoder_weights(encoder, checkpoint.weights)
    return encoder


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    names = one.weights.keys()
    return names == other.weights.keys() and all(torch.equal(one.weights[name], other.weights[name]) for name in names)


def test_a_whole_folder_gives_config_weights_and_tokenizer(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert (checkpoint.config.family, checkpoint.config.hidden_size, checkpoint.config.num_layers) == ("bert", 32, 2)
    assert all(tensor.dtype == torch.float32 for tensor in checkpoint.weights.values())
    for text in ("Anna's dog, in ROME.", "", "visited [SEP] déjà"):
        assert checkpoint.tokenizer.encode(text).ids == tiny_tokenizer().encode(text).ids


def test_a_loaded_folder_computes_what_transformers_computes(folder: Path) -> None:
    theirs = random_transformer("bert", vocab_size=tiny_tokenizer().get_vocab_size())
    (sequence,) = random_sequences([7])
    with torch.inference_mode():
        ours = all_hidden_states(load(folder), 2, pack([sequence], torch.device("cpu")))[-1]
        expected = theirs(input_ids=torch.from_numpy(sequence.piece_ids)[None]).last_hidden_state[0]
    assert (ours - expected).abs().max() <= 1e-4


def test_the_prefix_of_a_task_head_and_the_head_itself_are_passed_over(folder: Path) -> None:
    plain = load_checkpoint(folder)
    head = {"classifier.weight": torch.ones(3, 32), "cls.predictions.transform.LayerNorm.gamma": torch.ones(32)}
    rewrite(folder, lambda weights: {f"bert.{name}": tensor for name, tensor in weights.items()} | head)
    assert same_weights(plain, load_checkpoint(folder))


def test_a_token_classifier_saved_by_transformers_loads(folder: Path) -> None:
    from transformers import BertForTokenClassification

    theirs = random_transformer("bert", vocab_size=tiny_tokenizer().get_vocab_size())
    classifier = BertForTokenClassification(theirs.config)
    classifier.bert.load_state_dict(theirs.state_dict(), strict=False)
    plain = load_checkpoint(folder)
    classifier.save_pretrained(folder)
    assert same_weights(plain, load_checkpoint(folder))


def test_old_names_of_layer_norms_load(folder: Path) -> None:
    plain = load_checkpoint(folder)

    def old_name(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    rewrite(folder, lambda weights: {old_name(name): tensor for name, tensor in weights.items()})
    assert same_weights(plain, load_checkpoint(folder))


def test_half_precision_weights_are_read_as_float32(folder: Path) -> None:
    rewrite(folder, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    assert all(tensor.dtype == torch.float32 for tensor in load_checkpoint(folder).weights.values())


def drop(folder: Path, name: str) -> None:
    rewrite(folder, lambda weights: {key: tensor for key, tensor in weights.items() if key != name})


def test_every_single_weight_is_needed(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    for name in (name for name in whole if not name.startswith("pooler.")):
        save_file({key: tensor for key, tensor in whole.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(ModelRefused, match="the checkpoint lacks"):
            load(folder)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("embeddings.word_embeddings.weight", "embeddings.word_embeddings"),
        ("embeddings.LayerNorm.bias", "embeddings.norm.bias"),
        ("encoder.layer.0.output.LayerNorm.weight", "layers.0.output_norm.weight"),
        ("encoder.layer.1.attention.self.key.bias", "layers.1.attention.key_value.bias"),
        ("encoder.layer.1.attention.self.value.bias", "layers.1.attention.key_value.bias"),
    ],
)
def test_a_missing_weight_is_refused_by_name(folder: Path, name: str, said: str) -> None:
    drop(folder, name)
    with pytest.raises(ModelRefused, match=re.escape(said)):
        load(folder)


def test_a_missing_layer_is_refused_by_name(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelRefused, match=r"lacks encoder\.layer\.2"):
        load_checkpoint(folder)


@pytest.mark.parametrize("family", ["gpt2", "no-such-family"])
def test_an_unknown_family_is_refused_by_name(folder: Path, family: str) -> None:
    edit_config(folder, model_type=family)
    with pytest.raises(ModelRefused, match=family):
        load_checkpoint(folder)


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelRefused, match=r"config\.json"):
        load_checkpoint(folder)


def test_a_damaged_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "be')
    with pytest.raises(ModelRefused, match=r"config\.json"):
        load_checkpoint(folder)


def test_a_folder_with_only_pickled_weights_is_refused_without_reading_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nabort\n(tR.")  # unpickled, it would end this process
    with pytest.raises(ModelRefused, match=r"no model\.safetensors; a pickled pytorch_model\.bin is not read"):
        load_checkpoint(folder)


def test_damaged_weights_are_refused_by_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelRefused, match=r"model\.safetensors"):
        load_checkpoint(folder)


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelRefused, match="tokenizer"):
        load_checkpoint(folder)


def test_weights_of_another_shape_than_the_config_says_are_refused_by_name(folder: Path) -> None:
    edit_config(folder, intermediate_size=64)
    with pytest.raises(ModelRefused, match=r"layers\.0\.up\.weight"):
        load(folder)
