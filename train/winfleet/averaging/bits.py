"""Numbers in few bits, as they are sent: blocks that share a scale.

All is done in parts of some hundred thousand numbers, which stay in a processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 1024  # numbers that share one scale
PART: Final = 256 * BLOCK  # numbers that are worked on at a time
LEAST_SCALE: Final = 1e-30  # of a block of zeros
LARGEST_HALF: Final = 65504.0
SCALE_BYTES: Final = 4


def size_of(numbers: int, bits: int) -> int:
    """Bytes of so many numbers, a multiple of BLOCK, as encode() makes them."""
    return numbers * bits // 8 + (numbers // BLOCK * SCALE_BYTES if bits < 16 else 0)


def encode(numbers: Tensor, bits: int) -> Tensor:
    """Numbers of fp32 (n,), n a multiple of BLOCK, as bytes (size_of(n, bits),).

    With 8 and 4 bits each block's largest number becomes 127 or 7. What is not finite makes its whole block NaN, as a sum with
    it would.
    """
    out = torch.empty(size_of(len(numbers), bits), dtype=torch.uint8)
    for part, data in _parts(numbers, out, bits):
        if bits == 32:
            data.copy_(part.view(torch.uint8))
        elif bits == 16:
            data.copy_(part.clamp(-LARGEST_HALF, LARGEST_HALF).half().view(torch.uint8))
        else:
            _encode_part(part, data, bits)
    return out


def decode(data: Tensor, bits: int, out: Tensor, *, add: bool = False) -> None:
    """What encode() was given, to within half a scale, into `out` of fp32 (n,), or `add` on top of it.

    One multiplication a number, so that every processor comes to the same bits.
    """
    for part, coded in _parts(out, data, bits):
        if bits == 32:
            found = coded.view(torch.float32)
        elif bits == 16:
            found = coded.view(torch.float16).float()
        else:
            found = _decode_part(coded, bits, len(part))
        if add:
            part.add_(found)
        else:
            part.copy_(found)


def _parts(numbers: Tensor, data: Tensor, bits: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = size_of(PART, bits)
    for index, begin in enumerate(range(0, len(numbers), PART)):
        yield numbers[begin : begin + PART], data[index * size : (index + 1) * size]


def _encode_part(part: Tensor, data: Tensor, bits: int) -> None:
    blocks = part.view(-1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True).div_(2 ** (bits - 1) - 1).clamp_(min=LEAST_SCALE)
    whole = blocks.div(scale).round_().to(torch.int8).view(-1)
    if bits == 4:
        whole = (whole[0::2] & 15) | (whole[1::2] << 4)
    data[: len(whole)].copy_(whole.view(torch.uint8))
    data[len(whole) :].copy_(scale.view(-1).view(torch.uint8))


def _decode_part(data: Tensor, bits: int, n: int) -> Tensor:
    cut = n * bits // 8
    whole, scale = data[:cut].view(torch.int8), data[cut:].clone().view(torch.float32)
    if bits == 4:
        whole = torch.stack([(whole << 4) >> 4, whole >> 4], -1)
    return (whole.reshape(-1, BLOCK).float() * scale.unsqueeze(-1)).view(-1)
