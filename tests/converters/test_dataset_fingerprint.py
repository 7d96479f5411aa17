from __future__ import annotations

import pytest

from converters.dataset_fingerprint import is_image


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cat.jpg", True),
        ("CAT.JPEG", True),
        ("a.b.webp", True),
        ("._cat.jpg", False),
        (".jpg", False),
        ("cat", False),
        ("cat.jpg.txt", False),
        ("Thumbs.db", False),
    ],
)
def test_which_files_are_images(name: str, counts: bool) -> None:
    assert is_image(name) is counts
