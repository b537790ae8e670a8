"""Numbers in few bits, as they are sent: blocks that share a scale."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 1024  # numbers that share one scale
LEAST_SCALE: Final = 1e-30  # of a block of zeros
LARGEST_HALF: Final = 65504.0


def encode(rows: Tensor, bits: int) -> Tensor:
    """Rows of fp32 (rows, n), n a multiple of BLOCK, as bytes (rows, m).

    With 8 and 4 bits each block's largest number becomes 127 or 7, and m = n * bits / 8 + 4 * n / BLOCK. What is not finite
    makes its whole block NaN, as a sum with it would.
    """
    if bits == 32:
        return rows.contiguous().view(torch.uint8)
    if bits == 16:
        return rows.clamp(-LARGEST_HALF, LARGEST_HALF).half().view(torch.uint8)
    blocks = rows.reshape(len(rows), -1, BLOCK)
    scale = blocks.abs().amax(-1, keepdim=True).div_(2 ** (bits - 1) - 1).clamp_(min=LEAST_SCALE)
    whole = blocks.div(scale).round_().to(torch.int8).view(len(rows), -1)
    if bits == 4:
        whole = (whole[:, 0::2] & 15) | (whole[:, 1::2] << 4)
    return torch.cat([whole.contiguous().view(torch.uint8), scale.view(len(rows), -1).view(torch.uint8)], 1)


def decode(data: Tensor, bits: int, n: int) -> Tensor:
    """What encode() was given, to within half a scale: bytes (rows, m) as fp32 (rows, n).

    One multiplication a number, so that every processor comes to the same bits.
    """
    if bits == 32:
        return data.contiguous().view(torch.float32)
    if bits == 16:
        return data.contiguous().view(torch.float16).float()
    cut = n * bits // 8
    whole, scale = data[:, :cut].contiguous().view(torch.int8), data[:, cut:].contiguous().view(torch.float32)
    if bits == 4:
        whole = torch.stack([(whole << 4) >> 4, whole >> 4], -1)
    return (whole.reshape(len(data), -1, BLOCK).float() * scale.unsqueeze(-1)).view(len(data), n)
