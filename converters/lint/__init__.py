"""Finds the traps in a detectron2 YAML or an OpenMMLab Python configuration that would spoil a transfer number.

`lint` reads the configuration as data: it executes nothing, and needs no framework.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import UserError
from converters.lint.finding import Change, Finding, Findings, Framework, Report
from converters.metadata import BackboneMetadata

__all__ = ["Change", "Finding", "Report", "lint"]


def lint(
    config: Path,
    metadata: BackboneMetadata,
    *,
    gpus: int | None = None,
    execute: bool = False,
    source: Path | None = None,
) -> Report:
    """Hold a training configuration against the backbone that it is meant for.

    Args:
        config: a detectron2 YAML, or a Python configuration of mmseg, mmdet or mmpretrain.
        metadata: what the backbone's file says of it.
        gpus: how many devices will train; 0 is a CPU, None is not known.
        execute: run a Python configuration as code (mmengine's loader): only for a file that you trust.
        source: the file of the backbone: what a fix names as weights where the framework reads it.

    Raises:
        UserError: if the configuration cannot be read as data, or is of no known kind.
        MissingPackage: for `execute` without mmengine.
    """
    # Inside: the rules need the converters, which load torch.
    from converters.lint import detectron2_rules, openmmlab_config, openmmlab_rules, openmmlab_view, yaml_config

    if config.suffix in (".yaml", ".yml"):
        content = yaml_config.read(config)
        if "model" in content and "MODEL" not in content:
            raise UserError(
                expected="a detectron2 YAML (with MODEL)", found="an OpenMMLab YAML", where=config, cure="give its .py"
            )
        found = detectron2_rules.check(content, config, metadata, gpus, source)
        return _report(config, "detectron2", metadata, found)
    if config.suffix == ".py":
        values = openmmlab_config.execute(config) if execute else openmmlab_config.read(config)
        framework = openmmlab_view.framework_of(values, config)
        found = openmmlab_rules.check(values, config, metadata, gpus, source)
        return _report(config, framework, metadata, found)
    raise UserError(
        expected="a detectron2 .yaml, or a .py of mmseg, mmdet or mmpretrain", found=repr(config.name), where=config
    )


def _report(config: Path, framework: Framework, metadata: BackboneMetadata, found: Findings) -> Report:
    return Report(
        config=str(config),
        framework=framework,
        arch=metadata.arch,
        fingerprint=metadata.fingerprint,
        findings=tuple(found.found),
        notes=tuple(found.notes),
    )
