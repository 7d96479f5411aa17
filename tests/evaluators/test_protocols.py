from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from converters.errors import UserError
from evaluators.protocols import CATALOGUE
from evaluators.settings.knn import KnnSettings
from evaluators.settings.linear import LinearSettings
from evaluators.settings.svm import SvmSettings

# sha256 over the settings' JSON with sorted keys. A number is comparable only while these stay: whoever changes a
# setting gives the protocol a new version and adds a line; lines of published versions never change.
FROZEN = {
    "cityscapes-fcn-d8-40k@1": "bf1a1a4d52d120040f16e45611b9992eb957491bed5045aa513e6b1acf1ec9be",
    "cityscapes-fcn16-90k@1": "f0035b151cfd3286bf213ecf9bdbd7184525a7ccde5be6e56b69ed6fafbe6b34",
    "fewshot@1": "c31221a348a48b752d8218a00e3a141eb88be1380393d87e7ce422fa1ae6ccc9",
    "finetune-finegrained@1": "ce4c8c796632f3bf4cedde78f7f7b21e403da9af31815e4a7ba7beebe4bb8a49",
    "finetune-imagenet@1": "018d909f73a00af695bc33a0b7d85cc75a4e23ddeb57eff503211122be937ac4",
    "finetune-inat18@1": "9e8a38663839be1a001f1f1340cc8c09c5d152a2211982d769d9b0a071b06161",
    "knn-dino@1": "8cbc92fc0e36c9ff87813f9b4b901406b52c56b5e521d23c75feeb9cf620d374",
    "knn-instdisc@1": "ab9a51f4d7ed28e01051936e756d8b65f8755f8f8d944183a2daf7e2a668e3d6",
    "knn-moco-colab@1": "0a20ceab9f3bad87ab09522b0c7b63d5b63ba24f5291d0bf45a7c44f56882316",
    "knn-msf@1": "42e768bbad27f6b1f3adb55e7d48afc6073ea09c279ebb58e3a5221f741151e7",
    "knn-simsiam@1": "f7db8bf9573641d459794e79bd30eb1eca2d28a3bac2edcc415bb9a59622de7f",
    "linear-cached@1": "b7a12769e7e0ed7f48789ddf9c28ca570f8ea5e362671353c98a324b0afc57c4",
    "linear-moco@1": "d5210d3e52596d16b32c27a32d97375d963987b09cb1ffa3161c86aec51ba849",
    "linear-multihead@1": "f4179c19d816a1ff47fdbbb6e314152eed57264fa6f5e26393d960c697901efc",
    "manyshot-mean@1": "021634e4edd1a502757fc01e5d18e0c7451bbed3b6234bb51846d540d44622e7",
    "manyshot-voc07@1": "72401696b54d99305f488579f3929de6fb9bf775c773073e4c0c8b10ae48035f",
    "manyshot@1": "6c3c1765c295ba6a89be44780b7e238fda09e1422c4874ba5ab5063c4d2e8cba",
    "quickstart-detection@1": "a04e73f820b6993ad91f110dad21c27cda43386f5efc761e94635c72ba2ded04",
    "quickstart-knn@1": "b311f90a412a623da1b986b2469528678ace45891dc22f91424c52b66b59c467",
    "quickstart-linear@1": "7d6e0f7e22f483736e385f1719f9a481e83a66d6fd840b022c337b9d2f68e0b6",
    "quickstart-segmentation@1": "edc6b3ca2a442d6d9227b5efbf24e7b064985523c86dfbfe7ae91acbb9aa5120",
    "semi-10pct@1": "f04252a1c652f10b9d8c790cba4998fa029bd78eee87597377af0ed1e56067df",
    "semi-1pct@1": "cdaca9bff8e826e817299e670fa8b7f6bccb1b0afc214199df8c74eda3596c08",
    "svm-voc07@1": "41b265c5fa12f55bd5622be4347bb0eae5d46d2a942769a38f17ff83f0684487",
    "voc0712-c4-24k@1": "7f569f0148f948dec7b0aacd9419f67d4b0df2b7c9db52c7242b88177421273e",
}


SEARCH = {"search", "probes", "search_memory"}
"""How neighbours are found; of the default, which is exact, no result depends on them."""


@pytest.mark.parametrize("protocol_id", sorted(CATALOGUE))
def test_settings_are_frozen(protocol_id: str) -> None:
    found = hashlib.sha256(
        json.dumps(CATALOGUE[protocol_id].settings.model_dump(mode="json"), sort_keys=True).encode()
    ).hexdigest()
    assert found == FROZEN.get(protocol_id), f"the settings of {protocol_id} changed: bump the version (now {found})"


def test_no_published_protocol_vanished() -> None:
    assert FROZEN.keys() <= CATALOGUE.keys()


def test_linear_moco_is_the_reference_to_the_letter() -> None:
    """facebookresearch/moco@7397dfe main_lincls.py: the defaults of its options, and its transforms."""
    settings = CATALOGUE["linear-moco@1"].settings
    assert settings.model_dump(exclude={"workers"}) == {
        "task": "linear",
        "precision": "fp32",
        "epochs": 100,
        "batch_size": 256,
        "lr": 30.0,
        "milestones": (60, 80),
        "momentum": 0.9,
        "weight_decay": 0.0,
        "init_std": 0.01,
        "crop": 224,
        "geometry": "crop",
        "crop_scale": (0.08, 1.0),
        "resize": 256,
        "interpolation": "bilinear",
    }


def test_knn_dino_is_the_reference_to_the_letter() -> None:
    """facebookresearch/dino eval_knn.py."""
    settings = CATALOGUE["knn-dino@1"].settings
    assert settings.model_dump(exclude={"workers", "batch_size", *SEARCH}) == {
        "task": "knn",
        "layer": "res5",
        "vote": "weighted",
        "precision": "fp32",
        "k": (10, 20, 100, 200),
        "temperature": 0.07,
        "resize": 256,
        "crop": 224,
        "geometry": "crop",
        "interpolation": "bicubic",
    }


@pytest.mark.parametrize(
    ("protocol_id", "layer", "k", "vote", "temperature", "resize", "crop"),
    [
        ("knn-instdisc@1", "head", (200,), "weighted", 0.07, 256, 224),  # lemniscate.pytorch@f7cfe29 main.py, test.py
        ("knn-simsiam@1", "res5", (200,), "weighted", 0.2, 256, 224),  # facebookresearch/simsiam issue 10
        ("knn-moco-colab@1", "head", (200,), "weighted", 0.1, 32, 32),  # facebookresearch/moco@f736491, the notebook
        ("knn-msf@1", "res5", (1, 20), "majority", 1.0, 256, 224),  # UMBCvision/MSF@130191c eval_knn.py
    ],
)
def test_knn_protocols_are_their_sources_to_the_letter(
    protocol_id: str, layer: str, k: tuple[int, ...], vote: str, temperature: float, resize: int, crop: int
) -> None:
    """All resize by torchvision's default, bilinear."""
    assert CATALOGUE[protocol_id].settings.model_dump(exclude={"workers", "batch_size", *SEARCH}) == {
        "task": "knn",
        "layer": layer,
        "vote": vote,
        "precision": "fp32",
        "k": k,
        "temperature": temperature,
        "resize": resize,
        "crop": crop,
        "geometry": "crop",
        "interpolation": "bilinear",
    }


def test_every_knn_protocol_searches_exactly_and_measures_its_headline() -> None:
    for protocol in CATALOGUE.values():
        if isinstance(protocol.settings, KnnSettings):
            assert protocol.settings.search == "exact"
            ties = "_random_ties" if protocol.settings.vote == "majority" else ""
            measured = {f"top1_k{k}{suffix}" for k in protocol.settings.k for suffix in ("", ties)}
            assert {protocol.headline, *(expected.metric for expected in protocol.expected)} <= measured


def test_svm_voc07_is_the_reference_to_the_letter() -> None:
    """open-mmlab/OpenSelfSup@1db69ec benchmarks/svm_tools and openselfsup/models/utils/multi_pooling.py."""
    settings = CATALOGUE["svm-voc07@1"].settings
    assert isinstance(settings, SvmSettings)
    assert {layer.stage: layer.pool for layer in settings.layers} == {
        "stem": (10, 10, 4),
        "res2": (16, 8, 0),
        "res3": (13, 5, 0),
        "res4": (8, 3, 0),
        "res5": (6, 1, 0),
    }
    assert sorted(settings.costs) == [2.0**-power for power in range(19, 3, -1)] + [1.0, 10.0, 100.0]
    assert settings.model_dump(exclude={"workers", "batch_size", "layers", "costs"}) == {
        "task": "svm",
        "precision": "fp32",
        "train_split": "2007_trainval",
        "test_split": "2007_test",
        "resize": 256,
        "crop": 224,
        "geometry": "squash",
        "interpolation": "bilinear",
        "folds": 3,
        "positive_weight": 2.0,
        "ignored_in_training": "negative",
        "intercept_scaling": 1.0,
        "tolerance": 1e-4,
        "max_iterations": 2000,
        "low_shot_k": (1, 2, 4, 8, 16, 32, 64, 96),
        "low_shot_samples": 5,
        "low_shot_negatives": 19,
    }


def test_expected_numbers_are_those_published() -> None:
    for protocol_id in ("knn-dino@1", "linear-moco@1"):
        protocol = CATALOGUE[protocol_id]
        assert {expected.metric for expected in protocol.expected} == {protocol.headline}
    published = {e.method: (e.value, e.spread) for e in CATALOGUE["linear-moco@1"].expected}
    assert published == {"MoCo v1 200ep": (60.8, 0.2), "MoCo v2 200ep": (67.5, 0.1), "MoCo v2 800ep": (71.1, None)}
    assert [e.value for e in CATALOGUE["knn-dino@1"].expected] == [61.9]


def test_overrides_mark_the_result_modified() -> None:
    protocol = CATALOGUE["knn-dino@1"]
    changed = protocol.overridden(("temperature=0.1", "k=[1, 20]"))
    assert isinstance(changed.settings, KnnSettings)
    assert (changed.settings.temperature, changed.settings.k) == (0.1, (1, 20))
    assert changed.modified
    assert not protocol.modified


@pytest.mark.parametrize(
    ("protocol_id", "assignment", "message"),
    [
        ("knn-dino@1", "temprature=0.1", "did you mean 'temperature'"),
        ("knn-dino@1", "crop=300", "crop 300 must not exceed resize 256"),
        ("linear-moco@1", "crop=300", "crop 300 must not exceed resize 256"),
        ("linear-moco@1", "crop_scale=[-1, 1]", r"0 < smallest <= largest <= 1, found \[-1\.0, 1\.0\]"),
        ("finetune-finegrained@1", "crop_scale=[1.0, 0.2]", "0 < smallest <= largest <= 1"),
        ("knn-dino@1", "k=[]", "at least 1 item"),
        ("knn-dino@1", "k=[0]", "greater than 0"),
        ("knn-dino@1", "temperature=0", "greater than 0"),
        ("linear-moco@1", "lr=.nan", "finite"),
        ("linear-moco@1", "init_std=-1", "greater than or equal to 0"),
    ],
)
def test_wrong_overrides(protocol_id: str, assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CATALOGUE[protocol_id].overridden((assignment,))


def test_sample_protocols_fit_the_sample_data() -> None:
    """Images are stored at 64 px, and the report's reader must see what the protocol is for."""
    for protocol_id in ("quickstart-knn@1", "quickstart-linear@1"):
        settings = CATALOGUE[protocol_id].settings
        assert isinstance(settings, KnnSettings | LinearSettings)
        assert settings.crop <= settings.resize <= 64
        assert "sample" in CATALOGUE[protocol_id].citation


def test_protocols_and_data_cards_load_neither_torch_nor_faiss() -> None:
    code = (
        "import sys, evaluators, evaluators.protocols, evaluators.datasets.card, evaluators.datasets.classification;"
        "heavy = {'torch', 'torchvision', 'faiss', 'detectron2', 'mmseg', 'mmcv', 'mmengine'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
