"""Every family computes what Transformers computes, layer by layer, and packs sequences besides."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from service.errors import ModelRefused
from service.models.backbones import FAMILIES
from service.models.checkpoint import encoder_weights, load_encoder_weights
from service.models.config import EncoderConfig
from service.models.encoder import Encoder
from service.models.packed import Ragged, pack
from service.models.relative_bias import BUCKETS, Bias, bucket_of
from service.text.types import SequenceInput
from tests.models_ import Field, all_hidden_states, random_sequences, random_transformer

CPU = torch.device("cpu")
SEQUENCES = random_sequences([5, 1, 9, 3])
CASES: list[tuple[str, dict[str, Field]]] = [
    ("bert", {"layer_norm_eps": 1e-2}),
    ("bert", {"hidden_act": "gelu_new"}),
    ("bert", {"hidden_act": "relu", "type_vocab_size": 1}),
    ("roberta", {"pad_token_id": 1, "type_vocab_size": 1}),
    ("electra", {"embedding_size": 24}),
    ("electra", {"embedding_size": 32}),
    ("distilbert", {}),
    ("albert", {"embedding_size": 24, "num_hidden_layers": 3}),
    ("mpnet", {"num_hidden_layers": 3}),
]


def encoder_of(
    family: str, theirs: PreTrainedModel, folder: Path, *, word_shapes: bool = False
) -> tuple[Encoder, EncoderConfig]:
    theirs.save_pretrained(folder)
    config = FAMILIES[family].config(theirs.config.to_dict())
    encoder = Encoder(config, word_shapes=word_shapes).eval()
    load_encoder_weights(encoder, encoder_weights(FAMILIES[family], config, load_file(folder / "model.safetensors")))
    return encoder, config


@torch.inference_mode()
def our_states(encoder: Encoder, config: EncoderConfig) -> list[torch.Tensor]:
    return all_hidden_states(encoder, config.num_layers, pack(SEQUENCES, CPU))


@torch.inference_mode()
def their_states(theirs: PreTrainedModel) -> list[torch.Tensor]:
    """Each sequence run alone, laid end to end layer by layer."""
    runs = [theirs(input_ids=as_batch(sequence), output_hidden_states=True).hidden_states for sequence in SEQUENCES]
    return [torch.cat([state[0] for state in states]) for states in zip(*runs, strict=True)]


def as_batch(sequence: SequenceInput) -> torch.Tensor:
    return torch.from_numpy(sequence.piece_ids)[None]


@pytest.mark.parametrize(("family", "fields"), CASES, ids=str)
def test_packed_hidden_states_of_every_layer_are_those_of_transformers(
    family: str, fields: dict[str, Field], tmp_path: Path
) -> None:
    theirs = random_transformer(family, **fields)
    ours, expected = our_states(*encoder_of(family, theirs, tmp_path)), their_states(theirs)
    assert len(ours) == len(expected) == theirs.config.num_hidden_layers + 1
    for layer, (state, of_transformers) in enumerate(zip(ours, expected, strict=True)):
        assert state.dtype == torch.float32
        assert (state - of_transformers).abs().max() <= 1e-4, f"layer {layer}"
        assert of_transformers.std() > 0.1  # a comparison of constants would prove nothing


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_fresh_word_shape_embedding_changes_nothing(name: str, tmp_path: Path) -> None:
    theirs = random_transformer(name)
    plain = our_states(*encoder_of(name, theirs, tmp_path))
    shaped = our_states(*encoder_of(name, theirs, tmp_path, word_shapes=True))
    assert all(torch.equal(one, other) for one, other in zip(plain, shaped, strict=True))


def test_a_learned_word_shape_embedding_changes_every_layer(tmp_path: Path) -> None:
    theirs = random_transformer("bert")
    encoder, config = encoder_of("bert", theirs, tmp_path, word_shapes=True)
    plain = our_states(encoder, config)
    assert encoder.embeddings.shapes is not None
    torch.nn.init.normal_(encoder.embeddings.shapes.weight, generator=torch.Generator().manual_seed(0))
    assert not any(torch.equal(one, other) for one, other in zip(plain, our_states(encoder, config), strict=True))


def test_albert_with_embeddings_as_wide_as_its_layers_is_refused_since_it_projects_them_even_so(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="embedding_size"):
        encoder_of("albert", random_transformer("albert", embedding_size=32), tmp_path)


@pytest.mark.parametrize("groups", [{"num_hidden_groups": 2}, {"inner_group_num": 2}], ids=str)
def test_albert_with_several_groups_of_layers_is_refused(groups: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="groups of layers"):
        encoder_of("albert", random_transformer("albert", **groups), tmp_path)


def test_distances_fall_into_the_buckets_of_transformers() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    distances = torch.arange(-600, 601)
    assert torch.equal(bucket_of(distances), MPNetEncoder.relative_position_bucket(distances))
    assert len(set(bucket_of(distances).tolist())) == BUCKETS - 1  # "at no distance" is a key before, and not after


def test_the_padded_bias_of_some_rows_is_that_of_all_rows_at_their_places() -> None:
    table = torch.randn(2, 2 * 7 + 1, generator=torch.Generator().manual_seed(0))
    rows = Ragged((8, 5), CPU)
    (whole,) = Bias(table).padded(rows, rows)
    for query, key in product(range(8), repeat=2):
        assert torch.equal(whole[:, query, key], table[:, key - query + 7])
    some = Bias(table, torch.tensor([0, 3, 7, 1, 2])).padded(Ragged((3, 2), CPU), rows)
    assert torch.equal(some[0], whole[:, [0, 3, 7]]) and torch.equal(some[1, :, :2], whole[:, [1, 2]])


def test_mpnet_with_another_number_of_buckets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="relative_attention_num_buckets is 16; expected 32"):
        encoder_of("mpnet", random_transformer("mpnet", relative_attention_num_buckets=16), tmp_path)


def test_an_unknown_activation_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="'silu'"):
        encoder_of("bert", random_transformer("bert", hidden_act="silu"), tmp_path)
