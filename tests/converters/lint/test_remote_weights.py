"""A file that lies elsewhere, and files in a list of `init_cfg`: a name is no proof."""

from __future__ import annotations

from pathlib import Path

from converters import families, to_openmmlab
from converters.lint import lint
from converters.lint.fix import write_fixed
from converters.metadata import BackboneMetadata, Origin
from tests import checkpoints
from tests.lint_configs import CITYSCAPES_FCN, MOCO, python_config, voc_yaml

INIT = "model['backbone']['init_cfg']"
RESNET18 = (
    CITYSCAPES_FCN.replace("depth=50", "depth=18")
    .replace("in_channels=2048", "in_channels=512")
    .replace("in_channels=1024", "in_channels=256")
)


def errors(path: Path, metadata: BackboneMetadata = MOCO, source: Path | None = None) -> list[tuple[str, str]]:
    """Rule and key of each."""
    found = lint(path, metadata, source=source).findings
    return [(finding.rule, finding.key) for finding in found if finding.severity == "error"]


def test_another_networks_file_of_the_same_name_is_not_these_weights(tmp_path: Path) -> None:
    """detectron2://ImageNetPretrained has an MSRA/R-50.pkl, for BGR, and a torchvision/R-50.pkl, for RGB."""
    mine = MOCO.model_copy(update={"origin": Origin(file="R-50.pkl", sha256="2" * 64, family="detectron2")})
    path = voc_yaml(tmp_path, 'MODEL.WEIGHTS: "detectron2://ImageNetPretrained/MSRA/R-50.pkl"')
    assert errors(path, mine) == [("weights-remote", "MODEL.WEIGHTS")]
    (finding,) = lint(path, mine).findings
    assert finding.fix == "download it, and name the copy in MODEL.WEIGHTS"
    # A raw checkpoint that detectron2 would not match, wherever it lies.
    raw = voc_yaml(tmp_path, "MODEL.WEIGHTS: https://x.org/moco_v2_200ep_pretrain.pth.tar")
    assert errors(raw, MOCO) == [("weights-names", "MODEL.WEIGHTS")]


def test_a_remote_raw_checkpoint_needs_its_prefix(tmp_path: Path) -> None:
    remote = ("weights-remote", "model.backbone.init_cfg")
    assert errors(python_config(tmp_path, CITYSCAPES_FCN)) == [remote]
    path = python_config(tmp_path, CITYSCAPES_FCN, f"del {INIT}['prefix']")
    assert errors(path) == [remote, ("init-prefix", "model.backbone.init_cfg.prefix")]
    # With the file at hand, --fix names that, with the prefix.
    source = tmp_path / MOCO.origin.file
    fixed = write_fixed(path, lint(path, MOCO, source=source))
    assert f"checkpoint={str(source)!r}" in fixed.read_text(encoding="utf-8")
    assert "prefix='module.encoder_q.'" in fixed.read_text(encoding="utf-8")
    # And its own file instead, which this toolkit wrote with plain names, without one.
    fixed = write_fixed(path, lint(path, MOCO, source=tmp_path / "moco.pth"), force=True)
    assert "prefix" not in fixed.read_text(encoding="utf-8").replace("init-prefix", "")


def test_a_file_that_mmengine_could_not_use_is_named_wherever_it_lies(tmp_path: Path) -> None:
    mine = MOCO.model_copy(update={"origin": Origin(file="R-50.pkl", sha256="2" * 64, family="detectron2")})
    line = "model['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='https://x.org/R-50.pkl')"
    found = [rule for rule, _ in errors(python_config(tmp_path, CITYSCAPES_FCN, line), mine)]
    assert found == ["weights-remote", "weights-names"]


def test_the_pretrained_entry_of_a_list_is_found(tmp_path: Path) -> None:
    raw = checkpoints.write(tmp_path / "moco.pth.tar", checkpoints.moco("resnet18"))
    mine, other = families.read(raw), families.random_backbone("resnet18", 1)
    to_openmmlab.write_weights(mine, tmp_path / "mine.pth")
    to_openmmlab.write_weights(other, tmp_path / "other.pth")

    def config(name: str, more: str = "") -> Path:
        pretrained = f"dict(type='Pretrained', checkpoint={str(tmp_path / name)!r}{more})"
        line = f"{INIT} = [dict(type='Kaiming', layer='Conv2d'), {pretrained}]"
        return python_config(tmp_path, RESNET18, line)

    assert errors(config("mine.pth"), mine.metadata) == []
    assert errors(config("other.pth"), mine.metadata) == [("weights-other", "model.backbone.init_cfg")]
    assert errors(config("moco.pth.tar", ", prefix='module.encoder_q.'"), mine.metadata) == []
    path = config("moco.pth.tar")
    assert errors(path, mine.metadata) == [("init-prefix", "model.backbone.init_cfg[1].prefix")]
    assert errors(write_fixed(path, lint(path, mine.metadata)), mine.metadata) == []
    nothing = python_config(tmp_path, RESNET18, f"{INIT} = [dict(type='Kaiming', layer='Conv2d')]")
    assert errors(nothing, mine.metadata) == [("weights-absent", "model.backbone.init_cfg")]
