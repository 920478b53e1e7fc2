"""Attention over packed rows with a bias by distance, on a GPU, written in Triton. `triton_attention` launches it.

No tile depends on the rows or sequences of a step, and a query's keys are added up in their order, so a sequence has
the same bits in every batch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["positions", "query_starts", "key_starts"])
def attend(
    query,  # (active rows, heads, WIDTH) bfloat16, heads side by side
    key,  # (rows, heads, WIDTH) bfloat16, the same
    value,  # the same
    by_distance,  # (heads, 2 * farthest + 1) float32: what is added to a score, see `relative_bias.Bias`
    positions,  # (active rows,) int64 where each query lies in its sequence; read where SOME_HALTED
    query_starts,  # (sequences + 1,) int32
    key_starts,  # (sequences + 1,) int32
    result,  # (active rows, heads, WIDTH) bfloat16, contiguous
    query_stride,  # numbers from a row to the next
    key_stride,  # the same of `key` and of `value`
    farthest,
    scale,  # of the product of a query and a key
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,  # WIDTH, or the next power of 2
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    SOME_HALTED: tl.constexpr,
):
    """Let some queries of one sequence, in one head, attend to all keys of the sequence."""
    sequence, head = tl.program_id(0), tl.program_id(1)
    first_query = tl.load(query_starts + sequence)
    num_queries = tl.load(query_starts + sequence + 1) - first_query
    first_key = tl.load(key_starts + sequence)
    num_keys = tl.load(key_starts + sequence + 1) - first_key
    row = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    column = tl.arange(0, BLOCK)
    is_query, is_column = row < num_queries, column < WIDTH
    if tl.program_id(2) * QUERIES < num_queries:
        of_query = (first_query + row).to(tl.int64)
        place = row
        if SOME_HALTED:
            place = tl.load(positions + of_query, mask=is_query, other=0).to(tl.int32)
        of_head = head * WIDTH + column
        at_query = query + of_query[:, None] * query_stride + of_head[None, :]
        queries = tl.load(at_query, mask=is_query[:, None] & is_column[None, :], other=0.0)
        table = by_distance + head * (2 * farthest + 1) + farthest
        highest = tl.full((QUERIES,), float("-inf"), tl.float32)
        total = tl.zeros((QUERIES,), tl.float32)
        context = tl.zeros((QUERIES, BLOCK), tl.float32)
        for begin in range(0, num_keys, KEYS):
            other = begin + tl.arange(0, KEYS)
            is_key = other < num_keys
            at_key = (first_key + other).to(tl.int64)[:, None] * key_stride + of_head[None, :]
            is_there = is_key[:, None] & is_column[None, :]
            keys = tl.load(key + at_key, mask=is_there, other=0.0)
            is_pair = is_query[:, None] & is_key[None, :]
            bias = tl.load(table + (other[None, :] - place[:, None]), mask=is_pair, other=0.0)
            scores = tl.dot(queries, tl.trans(keys)) * scale + bias
            scores = tl.where(is_key[None, :], scores, float("-inf"))
            now_highest = tl.maximum(highest, tl.max(scores, axis=1))
            shares = tl.exp(scores - now_highest[:, None])
            shrink = tl.exp(highest - now_highest)
            values = tl.load(value + at_key, mask=is_there, other=0.0)
            context = context * shrink[:, None] + tl.dot(shares.to(tl.bfloat16), values)
            total = total * shrink + tl.sum(shares, axis=1)
            highest = now_highest
        at_result = result + (of_query[:, None] * tl.num_programs(1) + head) * WIDTH + column[None, :]
        found = (context / total[:, None]).to(tl.bfloat16)
        tl.store(at_result, found, mask=is_query[:, None] & is_column[None, :])
