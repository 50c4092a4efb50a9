"""Memory for new weights: tensors as torch.empty_like makes them."""

import copy
import gc

import pytest
import torch

from fxprune.large_pages import LargePages


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_tensors_are_like_the_given_one(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    weight = torch.randn(64, 64, 7, 7, dtype=dtype).to(memory_format=memory_format)
    made = LargePages().empty_like(weight)
    usual = torch.empty_like(weight)
    assert (made.shape, made.stride(), made.dtype) == (usual.shape, usual.stride(), usual.dtype)
    assert made.untyped_storage().nbytes() == usual.untyped_storage().nbytes()  # what torch.save writes
    assert made.data_ptr() % 64 == 0


def test_tensors_of_a_block_share_nothing() -> None:
    memory = LargePages()
    weights = [torch.randn(rows, 1000) for rows in (17, 99, 1, 12000, 18)]  # one smaller, one larger than a block
    made = [memory.empty_like(weight).copy_(weight) for weight in weights]
    assert all(torch.equal(a, b) for a, b in zip(made, weights, strict=True))
    assert len({one.untyped_storage().data_ptr() for one in made}) == len(made)
    assert made[1].data_ptr() - made[0].data_ptr() == 17 * 4000 + 32  # one block, in steps of 64 bytes


def test_a_tensor_keeps_its_block() -> None:
    memory = LargePages()
    made = memory.empty_like(torch.empty(100, 1000)).fill_(3.0)
    twin = copy.deepcopy(made)
    del memory
    gc.collect()
    torch.empty(10_000_000).fill_(5.0)  # would lie where the block was
    assert torch.equal(made, twin)
