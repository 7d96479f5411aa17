"""Overrides have one spelling: the same changes are the same column."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from converters.metadata import BackboneMetadata, Origin
from evaluators.protocols import CATALOGUE
from transfer.cells import cell_id

KNN = CATALOGUE["knn-dino@1"]


def test_spelling_and_order_do_not_matter() -> None:
    one = KNN.overridden(("k=[1, 20]", "temperature=0.1"))
    other = KNN.overridden(("temperature=1e-1", "k=[1,20]"))
    assert one == other
    assert one.overrides == ("k=[1, 20]", "temperature=0.1")
    assert one.modified


def test_what_changes_nothing_is_no_override() -> None:
    assert KNN.overridden(("temperature=0.07",)) == KNN
    assert not KNN.overridden(("temperature=0.07",)).modified


def test_what_changes_no_number_is_no_override() -> None:
    changed = KNN.overridden(("workers=0", "search_memory=1000000000"))
    assert not changed.modified
    assert changed.adjustments == ("search_memory=1000000000", "workers=0")
    assert "adjustments" not in changed.model_dump()
    metadata = BackboneMetadata(arch="resnet18", fingerprint="f", origin=Origin(file="f", sha256="", family="random"))
    assert len({cell_id(metadata, protocol, "d", 0, None) for protocol in (KNN, changed)}) == 1
    assert cell_id(metadata, KNN.overridden(("k=[20]",)), "d", 0, None) != cell_id(metadata, KNN, "d", 0, None)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.floats(1e-3, 1e3))
def test_applying_the_overrides_again_gives_the_same_protocol(k: list[int], temperature: float) -> None:
    changed = KNN.overridden(
        (f"k={yaml.safe_dump(k, default_flow_style=True).strip()}", f"temperature={temperature!r}")
    )
    assert KNN.overridden(changed.overrides) == changed
