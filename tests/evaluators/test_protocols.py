from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from converters.errors import UserError
from evaluators.protocol import KnnSettings, LinearSettings
from evaluators.protocols import CATALOGUE

# sha256 over the settings' JSON. A number is comparable only while these stay: whoever changes a setting gives the
# protocol a new version and adds a line; lines of published versions never change.
FROZEN = {
    "cityscapes-fcn-d8-40k@1": "aced5f48a5bcc8eaf5b148c2d83f843ded673cc2a2b6aa74c8c0d6795f366d38",
    "cityscapes-fcn16-90k@1": "7c2170f784b611b51383d3ba17b7abfb055014ed4c566576e62a8b1b2fa47b4b",
    "knn-dino@1": "261fdd05d6d2ba66b3aa17fab142fd1ebceae57e7c3f6d05149784d757958d07",
    "linear-moco@1": "e902295355891a9a0ac4a9541079c812c9f42277b78823c8f14cf365957661ee",
    "quickstart-detection@1": "96a7ea642b4da969e1b48f28992491f4b49cba91317b9189874350d0e31304f7",
    "quickstart-knn@1": "476cf5a63ad350bab1874f5b294291a2f38fd9a2ab66693e3780f0004efe99ea",
    "quickstart-linear@1": "89b72e8b79e374ff5a0538124efa870cb0b61cd947bc5b998282eff269a3630e",
    "quickstart-segmentation@1": "ee3701e47178efc68bd6a69d9d6ca6280c978eeea22b87a9976aeb552966fa82",
    "voc0712-c4-24k@1": "39597db2a889932c32a2469aca7250a8f9b770be5404fb2d408ae071c9322e50",
}


@pytest.mark.parametrize("protocol_id", sorted(CATALOGUE))
def test_settings_are_frozen(protocol_id: str) -> None:
    found = hashlib.sha256(CATALOGUE[protocol_id].settings.model_dump_json().encode()).hexdigest()
    assert found == FROZEN.get(protocol_id), f"the settings of {protocol_id} changed: bump the version (now {found})"


def test_no_published_protocol_vanished() -> None:
    assert FROZEN.keys() <= CATALOGUE.keys()


def test_linear_moco_is_the_reference_to_the_letter() -> None:
    """facebookresearch/moco@7397dfe main_lincls.py: the defaults of its options, and its transforms."""
    settings = CATALOGUE["linear-moco@1"].settings
    assert settings.model_dump(exclude={"workers"}) == {
        "task": "linear",
        "epochs": 100,
        "batch_size": 256,
        "lr": 30.0,
        "milestones": (60, 80),
        "momentum": 0.9,
        "weight_decay": 0.0,
        "init_std": 0.01,
        "crop": 224,
        "crop_scale": (0.08, 1.0),
        "resize": 256,
        "interpolation": "bilinear",
    }


def test_knn_dino_is_the_reference_to_the_letter() -> None:
    """facebookresearch/dino eval_knn.py."""
    settings = CATALOGUE["knn-dino@1"].settings
    assert settings.model_dump(exclude={"workers", "batch_size"}) == {
        "task": "knn",
        "k": (10, 20, 100, 200),
        "temperature": 0.07,
        "resize": 256,
        "crop": 224,
        "interpolation": "bicubic",
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
        "import sys, evaluators, evaluators.protocols, evaluators.datasets.card, evaluators.datasets.image_folder;"
        "heavy = {'torch', 'torchvision', 'faiss', 'detectron2', 'mmseg', 'mmcv', 'mmengine'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
