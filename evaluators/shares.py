"""Which images of every batch belong to which process of a group."""

from __future__ import annotations

from collections.abc import Sequence


def of_batches(order: Sequence[int], *, batch: int, unit: int, rank: int, size: int) -> list[list[int]]:
    """One process's images of every global batch, in their order; a share may be empty.

    All shares of a batch, in the order of ranks, are the batch. Shares are whole units, and as even as units allow; no
    share is larger than the same process's share of a full batch.

    Args:
        order: the images of a pass.
        batch: of the global batch; the last one may be smaller.
        unit: images that stay together, from the start of each batch; it divides `batch`.
        rank: which process.
        size: how many processes.
    """
    assert batch % unit == 0, f"{unit} does not divide {batch}"
    shares = []
    for start in range(0, len(order), batch):
        whole = order[start : start + batch]
        units = -(-len(whole) // unit)
        # The first ranks have one unit more: with a smaller batch no rank then has more than before.
        each, more = divmod(units, size)
        first = rank * each + min(rank, more)
        mine = each + (rank < more)
        shares.append(list(whole[first * unit : (first + mine) * unit]))
    return shares
