"""`moco-transfer evaluate`: a number lands as a record, with its proof and the command that makes it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torchvision import datasets, transforms

from converters import families
from tests import image_folders
from transfer.__main__ import main

KNN = ["--set", "k=[1]", "--set", "resize=32", "--set", "crop=32", "--set", "workers=0"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folders.make(tmp_path_factory.mktemp("images"), train=4, val=3)


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def the_record(run: Path) -> dict[str, object]:
    (path,) = (run / "results").glob("*.json")
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_the_record_holds_number_proof_and_command(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "mine"
    words = ["knn-dino@1", "--backbone", "random:resnet18:3", "--data", images, "-o", run, "--name", "my row", *KNN]
    # The headline is top-1 at k = 20, which no longer exists under these settings.
    assert evaluate(*words) == 2
    capsys.readouterr()
    words[-8:] = ["--set", "k=[1, 20]", *KNN[2:]]
    assert evaluate(*words) == 0
    record = the_record(run)

    backbone = families.random_backbone("resnet18", 3)
    assert record["backbone"]["fingerprint"] == backbone.fingerprint  # type: ignore[index]
    receipt = record["receipt"]
    assert receipt["backbone"] == receipt["live"] == receipt["after"] == backbone.fingerprint  # type: ignore[index]
    assert record["backbone"]["name"] == "my row"  # type: ignore[index]
    assert record["pretrain_seed"] == 3
    assert record["protocol"]["overrides"] == ["crop=32", "k=[1, 20]", "resize=32"]  # type: ignore[index]
    assert shlex.split(record["provenance"]["command"]) == ["moco-transfer", "evaluate", *map(str, words)]  # type: ignore[index]

    # The number itself, made again with torchvision and scikit-learn.
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(backbone.preprocess.mean, backbone.preprocess.std)]
    )
    split = {}
    for name in ("train", "val"):
        folder = datasets.ImageFolder(str(images / name), transform)
        features = [backbone.module()(image[None]).detach().flatten().numpy() for image, _ in folder]
        split[name] = (features, folder.targets)
    neighbour = KNeighborsClassifier(n_neighbors=1, metric="cosine").fit(*split["train"])
    expected = 100 * accuracy_score(split["val"][1], neighbour.predict(split["val"][0]))
    metrics = {metric["name"]: metric["value"] for metric in record["metrics"]}  # type: ignore[attr-defined]
    assert metrics["top1_k1"] == pytest.approx(expected)

    # A record that exists is not made again.
    (path,) = (run / "results").glob("*.json")
    before = path.stat().st_mtime_ns
    assert evaluate(*words) == 0
    assert path.stat().st_mtime_ns == before
    shown = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["top1_k1", f"{expected:.2f}"] in shown

    # Nor does it answer to another name.
    words[words.index("my row")] = "another row"
    assert evaluate(*words) == 2
    assert "one named 'my row'" in capsys.readouterr().err


def test_a_seed_is_a_whole_number_from_0(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("-1", "1.5", "9" * 5000):
        with pytest.raises(SystemExit) as caught:
            evaluate("knn-dino@1", "--seed", wrong)
        assert caught.value.code == 2
        assert "whole number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": "knn-dnio@1"}, "did you mean 'knn-dino@1'?"),
        ({"--backbone": "absent.pth"}, "absent.pth"),
        ({"--backbone": "random:resnet19"}, "did you mean 'resnet18'?"),
        ({"--data": "absent"}, "absent"),
        ({"--set": "temprature=1"}, "did you mean 'temperature'?"),
        ({"--set": "temperature"}, "KEY=VALUE"),
        ({"--device": "gpu"}, "cpu or cuda"),
        ({"--processes": "0"}, "--processes"),
        ({"--device": "mps"}, "cpu or cuda"),
        ({"--backbone": None}, "--backbone"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str | None],
    told: str,
) -> None:
    options: dict[str, object] = {"--backbone": "random:resnet18", "--data": images, "-o": tmp_path / "run"} | changes  # type: ignore[assignment]
    protocol = options.pop("protocol", "knn-dino@1")
    words = [word for pair in options.items() if pair[1] is not None for word in pair]
    assert evaluate(protocol, *words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_list_names_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    from evaluators.protocols import CATALOGUE

    assert evaluate("--list") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CATALOGUE)
