from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from reports.collate import collate
from reports.html import flat, page, words
from reports.write import read_table
from tests.reports.made import record
from tests.reports.run import LOST, PIPE, SCRIPT, make_run

VOID = {"meta", "br", "link", "img", "input", "hr"}
LOADS = {"src", "srcset", "data", "poster", "background", "action", "formaction", "manifest", "ping", "xlink:href"}


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and collects what the page holds."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def shown(self) -> str:
        """All text but style and script."""
        return "\n".join(text for tag, texts in self.texts.items() if tag not in ("style", "script") for text in texts)


@pytest.fixture
def text(tmp_path: Path) -> str:
    return page(read_table(make_run(tmp_path / "run")))


def test_the_page_is_well_formed_and_ids_are_unique(text: str) -> None:
    found = Page(text)
    assert text.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for attributes in found.all("dialog")} <= set(ids)


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    found = Page(text)
    for tag, attributes in found.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "audio", "video"}
        assert not LOADS & set(attributes), tag
    # The one kind of link goes to the files beside the page.
    assert {attributes["href"] for attributes in found.all("a")} == {"table.csv", "records.csv", "table.md"}
    (style,) = [one for one in found.texts["style"] if "--paper" in one]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"fetch|XMLHttp|import\(|https?:", "".join(found.texts["script"]))


def test_names_from_files_are_text(text: str) -> None:
    found = Page(text)
    assert len(found.all("script")) == 1
    assert SCRIPT not in text
    assert "alert" not in "".join(found.texts["script"])
    for name in (SCRIPT, PIPE, LOST):
        assert name in found.shown
    assert "SyncBN became BN: <no> GPU" in found.shown


def test_a_hostile_name_cannot_leave_an_attribute() -> None:
    title = "\"><img src=x onerror=alert(1)> 'x"
    found = Page(page(collate([record('"><img src=x>', title=title)])))
    assert found.all("img") == []
    assert f"{title} (%) ↑" in {attributes.get("data-column") for attributes in found.all("td")}


def test_every_cell_opens_its_proof_by_a_button(text: str) -> None:
    found = Page(text)
    opened = [attributes["data-opens"] for attributes in found.all("button") if "data-opens" in attributes]
    dialogs = [attributes["id"] for attributes in found.all("dialog")]
    # Each of the 12 cells has a number or a failure.
    assert (
        sorted(opened) == sorted(dialogs) == sorted(f"cell-{row}-{column}" for row in range(3) for column in range(4))
    )


def test_a_cell_without_anything_is_no_button() -> None:
    found = Page(page(collate([record("a"), record("b", "linear-m@1")])))
    assert len(found.all("dialog")) == 2
    assert "missing" in found.shown


def test_the_proof_is_complete() -> None:
    made = record(notes=("SyncBN became BN",), overrides=("k=[5]",), settings={"k": [5], "deep": {"er": True}})
    found = Page(page(collate([made])))
    provenance = made.provenance
    for expected in (
        made.backbone.fingerprint,
        made.dataset.fingerprint,
        made.receipt.framework,
        "preprocess.channel_order",
        "0.485, 0.456, 0.406",
        made.protocol.citation,
        made.protocol.definition,
        "deep.er",
        provenance.command,
        provenance.device,
        provenance.started,
        provenance.commit,
        "12.5 s",
        "version.torch",
        "2.8.0",
        "SyncBN became BN",
        "k=[5]",
        "modified",
        made.cell_id,
        "Proof, pretrain seed 0, trial seed 0",
    ):
        assert expected in found.shown


def test_secondary_metrics_are_in_the_details_only(text: str) -> None:
    table_part, details = text.split("</main>")
    assert "AP75" not in table_part
    assert Page(details.split("</body>")[0]).texts["th"].count("AP75") == 11  # one in each cell that has records


def test_sample_data_is_labelled_in_head_columns_and_details(tmp_path: Path, text: str) -> None:
    found = Page(text)
    badges = [attributes for attributes in found.all("span") if attributes.get("class") == "badge sample"]
    assert len(badges) == 1 + 4 + 12
    assert "All numbers were made on small generated sample data." in found.shown
    real = Page(page(read_table(make_run(tmp_path / "real", sample=False))))
    assert not [attributes for attributes in real.all("span") if attributes.get("class") == "badge sample"]


def test_settings_in_words() -> None:
    assert flat({"a": {"b": (1, 2)}, "c": None, "d": {}, "e": [[1], [2]], "f": False}) == [
        ("a.b", "1, 2"),
        ("c", "none"),
        ("d", "{}"),
        ("e", "[[1], [2]]"),
        ("f", "no"),
    ]
    assert words([]) == "none"
