from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evaluators import shares


@given(n=st.integers(1, 60), unit=st.integers(1, 8), units=st.integers(1, 6), size=st.integers(1, 6))
def test_shares_are_whole_units_that_make_up_the_batches(n: int, unit: int, units: int, size: int) -> None:
    batch = unit * units
    order = list(range(100, 100 + n))
    of = [shares.of_batches(order, batch=batch, unit=unit, rank=rank, size=size) for rank in range(size)]
    steps = -(-n // batch)
    assert all(len(parts) == steps for parts in of)
    for step in range(steps):
        whole = order[step * batch : (step + 1) * batch]
        parts = [each[step] for each in of]
        assert [index for part in parts for index in part] == whole
        counts = [-(-len(part) // unit) for part in parts]
        assert max(counts) - min(counts) <= 1
        # No unit is cut: only the last share can end inside one, where the batch itself ends.
        assert all(len(part) % unit == 0 for part in parts[: max(i for i, p in enumerate(parts) if p)])
        full = [len(shares.of_batches(range(batch), batch=batch, unit=unit, rank=r, size=size)[0]) for r in range(size)]
        assert all(len(part) <= most for part, most in zip(parts, full, strict=True))
