"""One reading of a file, or an error that says in one line why there is none, or lists those that there are."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterable

import torch

from converters import architectures
from converters.census.limits import clip
from converters.errors import UserError
from converters.families import matching, refusal, said
from converters.families.content import Content
from converters.families.frameworks import FRAMEWORKS
from converters.families.layout import Layout, describe
from converters.families.matching import Candidate
from converters.families.reading import Reading
from converters.families.self_supervised import SELF_SUPERVISED

LAYOUTS: tuple[Layout, ...] = (*SELF_SUPERVISED, *FRAMEWORKS)
"""The table. Of several layouts that mean the same, the most specific one names the reading, then the first."""


def choose(content: Content, how: Reading) -> Candidate:
    """The one reading of a file.

    Raises:
        UserError: if there is none, several that differ, a tensor that no rule accounts for, or an alias that is none.
    """
    found = _found(content, how)
    clean = [candidate for candidate in found if not candidate.strays]
    if not clean:
        raise _unaccounted(content, found, how)
    if how.family is None:
        decided = [candidate for candidate in clean if candidate.layout.says is not None]
        clean = decided or said.agreeing(clean, content)
    if len({candidate.meaning for candidate in clean}) > 1:
        raise _ambiguous(content, clean, how)
    best = max(clean, key=lambda candidate: len(candidate.layout.signature))  # the first of equals
    if how.encoder is not None and not best.two and best.encoder != how.encoder:
        raise UserError(
            expected=f"two encoders, of which {how.encoder} is wanted",
            found="one" + (f", {best.encoder}" if best.encoder else ""),
            where=content.path,
            cure="leave out --encoder",
        )
    _prove_aliases(best, content)
    if how.family is None:
        _check_statistics(best, content, how)
    return best


def _check_statistics(best: Candidate, content: Content, how: Reading) -> None:
    """Norms without statistics leave the input open, where names alone tell it and the file does not.

    Raises:
        UserError: if they do.
    """
    plain = how.prefix is not None or best.found.prefix in ("", "backbone.")
    named = best.two or best.layout.signature or best.layout.says is not None or best.layout.naming != "torchvision"
    if not plain or named or said.convention(best, content) is not None or not refusal.affine_only(best):
        return
    rgb = "openmmlab-rgb" if best.found.prefix.endswith("backbone.") else "torchvision"
    raise UserError(
        expected="batch norms with statistics of their own",
        found="mean 0 and variance 1 in each: weights of Caffe2 (BGR, stride in the 1x1) or untrained ones (RGB)",
        where=content.path,
        cure=f"choose with --family: {rgb} or openmmlab-bgr",
    )


def _found(content: Content, how: Reading) -> list[Candidate]:
    layouts = [
        layout for layout in LAYOUTS if how.family == layout.family or (how.family is None and not layout.declared)
    ]
    if how.prefix is not None:
        if how.encoder is not None:
            raise UserError(
                expected="--encoder or --prefix", found="both", where="--encoder", cure="a prefix declares one encoder"
            )
        if how.family is None:
            layouts = [layout for layout in layouts if layout.family in ("torchvision", "lightly")]
        found = matching.declared(content, layouts, how.prefix)
        if len(found) == 1:
            return found if how.family is not None else [said.told_by(found[0], content)]
        if found:
            raise UserError(
                expected=f"one encoder under the prefix {clip(how.prefix)}",
                found="several, below "
                + ", ".join(_place(candidate.found.container) or "the top level" for candidate in found),
                where=content.path,
            )
        raise _unknown(content, f"a ResNet encoder under the prefix {clip(how.prefix)}")
    found = matching.candidates(content, layouts, how)
    if not found and how.family is not None:
        # What tells a family from others need not be there once it is declared.
        layouts = [dataclasses.replace(layout, signature=(), says=None) for layout in layouts]
        found = matching.candidates(content, layouts, how)
    if not found:
        raise _unknown(content, "a ResNet encoder" + (f" of the family {how.family}" if how.family else ""))
    return found


def _unknown(content: Content, expected: str) -> UserError:
    network = refusal.network(content)
    if network is not None:
        return refusal.of(network, content.path)
    places = sorted(set(content.first_convolutions()))
    if places:
        prefixes = [prefix for _, prefix in places]
        one = f"declare it with: --prefix {shlex.quote(prefixes[0])}"
        return UserError(
            expected=expected,
            found="one under the prefix " + " and one under ".join(map(clip, prefixes[:5])),
            where=content.path,
            cure=one if len(set(prefixes)) == 1 else "declare which with: --prefix PREFIX",
        )
    return UserError(
        expected=expected,
        found=_groups(content),
        where=content.path,
        cure=f"known families: {', '.join(sorted({layout.family for layout in LAYOUTS}))}",
    )


def _groups(content: Content) -> str:
    """What is there instead, in a few words."""
    if not content.groups:
        return "no named tensors"
    counts = Counter(
        name.split(".", 1)[0] + "." * ("." in name) for group in content.groups.values() for name in group.tensors
    )
    return "only tensors under: " + ", ".join(f"{_place(name)} ({count})" for name, count in counts.most_common(5))


def _place(name: str) -> str:
    """A stranger's name without quotes, escaped and not longer than a line."""
    return clip(name).strip("'\"")


def _listed(candidates: Iterable[Candidate], *, settings: bool) -> str:
    """Each meaning once: its families, where it is, and what it says of the input."""
    by_meaning: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        by_meaning.setdefault(candidate.meaning, []).append(candidate)
    words = []
    for group in by_meaning.values():
        one = group[0]
        place = f"{_place(one.found.container) or 'top level'}: {_place(one.prefix) or 'no prefix'}"
        families = "/".join(dict.fromkeys(candidate.layout.family for candidate in group))
        words.append(f"{families} ({describe(one.layout.convention) if settings else place})")
    return ", ".join(dict.fromkeys(words))


def _ambiguous(content: Content, clean: list[Candidate], how: Reading) -> UserError:
    places = {(candidate.found.container, candidate.prefix) for candidate in clean}
    return UserError(
        expected="one reading",
        found="several: " + _listed(clean, settings=len(places) == 1),
        where=content.path,
        cure="choose with --family" if how.family is None else "choose with --prefix",
    )


def _unaccounted(content: Content, found: list[Candidate], how: Reading) -> UserError:
    best = min(found, key=lambda candidate: candidate.strays)
    network = refusal.network(content) or refusal.stem(best)
    if network is not None:
        return refusal.of(network, content.path)
    if best.another and len({candidate.found.container for candidate in found}) > 1:
        several = len({candidate.layout.family for candidate in found}) > 1 and how.family is None
        return UserError(
            expected="one encoder",
            found=f"several: {_listed(found, settings=False)}",
            where=content.path,
            cure="remove one from the file" if not several else "choose with --family, or remove one from the file",
        )
    if not best.outside:
        # A network of other blocks is better told by them than by a name; this raises where they are of none of ours.
        architectures.infer({**best.tensors, **best.inside}, content.path)
    names = [*best.outside, *(best.prefix + name for name in best.inside)]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    # A family is known by what only it has; where others fit as well, it is one of several.
    equals = {candidate.layout.family for candidate in found if candidate.strays == best.strays}
    told = best.layout.signature or len(equals) == 1
    declarable = best.prefix and all(matching.is_head(name) for name in best.inside)
    return UserError(
        expected=f"tensors of the family {best.layout.family} only" if told else "tensors of one known family only",
        found=f"{clip(names[0])}{more}, which no rule accounts for",
        where=content.path,
        cure=f"to read what is under it alone, without its fc., declare: --prefix {shlex.quote(best.prefix)}"
        if declarable
        else None,
    )


def _prove_aliases(candidate: Candidate, content: Content) -> None:
    names = candidate.alias_group.names if candidate.alias_group is not None else {}
    for original, alias in candidate.aliases:
        if not _same(names[original], names[alias]):
            raise UserError(
                expected=f"the same values in {clip(original)} and in {clip(alias)}, which is another name of it",
                found="others",
                where=content.path,
                cure=f"declare the one that is meant with: --prefix {shlex.quote(alias.split('.')[0] + '.')}",
            )


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit: NaN equals itself."""
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.layout != torch.strided or one.is_meta:
        return False
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(one.contiguous().view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8))
