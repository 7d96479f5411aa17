"""The layouts of the table held against a file: which of them account for all that it holds."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from torch import Tensor

from converters.families import naming
from converters.families.content import Content, Group, begins_a_network
from converters.families.layout import Drop, EncoderName, Layout
from converters.families.reading import Reading

DECLARED = "declared prefix"
_ROLES: dict[EncoderName, str] = {"q": "query encoder", "k": "key encoder"}
TRAINING_STATE = "training state"


@dataclass(frozen=True)
class Found:
    """An encoder in a file."""

    group: Group
    prefix: str

    @property
    def container(self) -> str:
        """Where it is."""
        return self.group.container


@dataclass
class Candidate:
    """One reading of a file, and what of the file it accounts for."""

    layout: Layout
    encoder: Literal["", "q", "k"]
    two: bool
    """Whether the file has the other encoder as well."""
    found: Found
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Of the encoder, under torchvision's names."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """Of MoCo's projection head, dropped from the encoder: name behind `layout.head` -> tensor."""
    inside: dict[str, Tensor] = field(default_factory=dict)
    """Below the encoder's prefix, but no tensor of any ResNet: name behind the prefix -> tensor."""
    outside: list[str] = field(default_factory=list)
    """What else no rule accounts for."""
    another: bool = False
    """Whether another network is among what no rule accounts for."""
    dropped: Counter[str] = field(default_factory=Counter)
    aliases: list[tuple[str, str]] = field(default_factory=list)
    """Two names in `alias_group` that must hold the same values."""
    alias_group: Group | None = None

    @property
    def strays(self) -> int:
        """How many names it does not account for."""
        return len(self.inside) + len(self.outside)

    @property
    def prefix(self) -> str:
        """All that was stripped, the wrapper included."""
        return self.found.group.wrapper + self.found.prefix

    @property
    def meaning(self) -> tuple[str, ...]:
        """What two candidates must share to be the same backbone."""
        return (self.found.container, self.prefix, self.layout.naming, self.layout.convention)


def candidates(content: Content, layouts: Iterable[Layout], how: Reading) -> list[Candidate]:
    """Every layout of the table that finds its encoder in the file, in the table's order."""
    return [candidate for layout in layouts for candidate in _of_layout(content, layout, how)]


def _of_layout(content: Content, layout: Layout, how: Reading) -> Iterator[Candidate]:
    if layout.says is not None:
        key, values = layout.says
        said = content.top.get(key)
        if not isinstance(said, str) or said not in values:
            return
    for container in layout.containers:
        group = content.groups.get(container)
        q = _find(group, layout.q, layout)
        if layout.k_containers:
            places = [_find(content.groups.get(name), layout.k, layout) for name in layout.k_containers]
            k = next((place for place in places if place is not None), None)
        else:
            k = _find(group, layout.k, layout)
        groups = [place.group for place in (q, k) if place is not None]
        names = [name for found in groups for name in found.names]
        if not names or not all(_any(pattern, names) for pattern in layout.signature):
            continue
        wanted: EncoderName = how.encoder or layout.default
        if q is not None and k is not None:
            yield _account(content, layout, {"q": q, "k": k}, wanted)
        elif k is not None:
            yield _account(content, layout, {"k": k}, "k")
        elif q is not None:
            yield _account(content, layout, {"q": q}, "q")


def _find(group: Group | None, prefixes: tuple[str, ...], layout: Layout) -> Found | None:
    if group is None:
        return None
    first = naming.first(layout.naming)
    return next((Found(group, prefix) for prefix in prefixes if prefix + first in group.names), None)


def _account(content: Content, layout: Layout, found: dict[EncoderName, Found], which: EncoderName) -> Candidate:
    candidate = Candidate(layout, which if len(found) == 2 or which == "k" else "", len(found) == 2, found[which])
    beside = dict(layout.beside)
    for container, group in content.groups.items():
        if not any(group is place.group for place in found.values()):
            _beside(candidate, group, beside.get(container))
            continue
        for name in group.others:
            if _rule(layout.drops, name) is None:
                candidate.outside.append(f"{_whole_name(candidate, group, name)} (no tensor)")
        for name, tensor in group.names.items():
            _place(candidate, found, group, name, tensor)
    return candidate


def _place(candidate: Candidate, found: dict[EncoderName, Found], group: Group, /, name: str, tensor: Tensor) -> None:
    """Use one tensor, or drop it under a rule, or note that none fits."""
    layout, chosen = candidate.layout, candidate.found
    mine = group is chosen.group and name.startswith(chosen.prefix)
    behind = name.removeprefix(chosen.prefix)
    if mine and (ours := naming.inverse(layout.naming).get(behind)) is not None:
        candidate.tensors[ours] = tensor
    elif (role := _role(candidate, found, group, name)) is not None:
        candidate.dropped[role] += 1
    elif (original := _original(name, group, layout, found.get("q"))) is not None:
        candidate.aliases.append((original, name))
        candidate.alias_group = group
        candidate.dropped["alias"] += 1
    elif (rule := _rule(layout.drops, name)) is not None:
        candidate.dropped[rule] += 1
        if mine and layout.head and behind.startswith(layout.head):
            candidate.head[behind.removeprefix(layout.head)] = tensor
    elif mine:
        candidate.inside[behind] = tensor
    else:
        candidate.outside.append(_whole_name(candidate, group, group.wrapper + name))


def _role(candidate: Candidate, found: dict[EncoderName, Found], group: Group, name: str) -> str | None:
    """The rule of the other encoder: anything below its prefix, head included; without one, what is known."""
    for which, place in found.items():
        if place is candidate.found or group is not place.group:
            continue
        known = naming.inverse(candidate.layout.naming)
        if name.startswith(place.prefix) if place.prefix else name in known:
            return _ROLES[which]
    return None


def _original(name: str, group: Group, layout: Layout, q: Found | None) -> str | None:
    """The name of the trained encoder's tensor of which this one is an alias."""
    if q is None or group is not q.group:
        return None
    for alias in layout.aliases:
        if name.startswith(alias) and (original := q.prefix + name.removeprefix(alias)) in group.names:
            return original
    return None


def _beside(candidate: Candidate, group: Group, rule: str | None) -> None:
    """Tensors next to the weights are the training's own, unless another network is among them."""
    for name, tensor in group.tensors.items():
        if rule is None and begins_a_network(name, tensor):
            candidate.another = True
            candidate.outside.append(_whole_name(candidate, group, name))
        else:
            candidate.dropped[rule or TRAINING_STATE] += 1


def declared(content: Content, layouts: Iterable[Layout], prefix: str) -> list[Candidate]:
    """The encoder at a declared prefix, in each container that has it, as the first of `layouts` that finds it."""
    found = []
    for group in content.groups.values():
        raw = dataclasses.replace(group, wrapper="")  # the declared prefix is the whole one
        for layout in layouts:
            if prefix + naming.first(layout.naming) in raw.names:
                found.append(_outside_dropped(content, layout, Found(raw, prefix)))
                break
    return found


_HEAD = Drop("classifier or projection head", r"(stem\.)?fc\..*")


def is_head(name: str) -> bool:
    """Whether a declared prefix leaves this name behind it out."""
    return _rule((_HEAD,), name) is not None


def _outside_dropped(content: Content, layout: Layout, found: Found) -> Candidate:
    candidate = Candidate(layout, "", False, found)
    for group in content.groups.values():
        for name, tensor in group.tensors.items():
            if group.container != found.container or not name.startswith(found.prefix):
                candidate.dropped["outside the declared prefix"] += 1
                continue
            behind = name.removeprefix(found.prefix)
            if (ours := naming.inverse(layout.naming).get(behind)) is not None:
                candidate.tensors[ours] = tensor
            elif (rule := _rule((_HEAD,), behind)) is not None:
                candidate.dropped[rule] += 1
            elif found.prefix:
                candidate.inside[behind] = tensor
            else:
                candidate.outside.append(name)
    return candidate


def _rule(drops: tuple[Drop, ...], name: str) -> str | None:
    return next((drop.rule for drop in drops if _compiled(drop.pattern).fullmatch(name)), None)


def _any(pattern: str, names: Iterable[str]) -> bool:
    return any(_compiled(pattern).fullmatch(name) for name in names)


def method(candidate: Candidate) -> str:
    """The training method, as far as the names tell."""
    names = candidate.found.group.names
    return next((told for pattern, told in candidate.layout.methods if _any(pattern, names)), "")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _whole_name(candidate: Candidate, group: Group, name: str) -> str:
    """With the container where it is not the encoder's."""
    elsewhere = group.container != candidate.found.container and group.container
    return f"{group.container}.{name}" if elsewhere else name
