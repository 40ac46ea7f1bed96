"""An export whose blocks are alike is traced from a few of them, and the graph of the others is a copy.

Tracing takes seconds for every block, and the blocks of most networks differ in nothing but their weights. Knows
which blocks are of one kind (`choose`), how a model is made short for the trace (`shortened`), and how the traced
graph becomes that of the whole model (`repeat`). Knows nothing of tracing itself.

Nothing is copied that was not shown to be the same: blocks are of one kind if their modules have equal classes,
settings and shapes of tensors, and all lists in the configuration with an entry per block say the same of them; up
to three blocks of a kind are traced, and the graphs of the last two must be equal node for node. The first of a kind
may compute what all use, such as the length of the past. What is not so is a `UnequalError`, after which the model is
traced whole.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

SCOPES = "pkg.torch.onnx.name_scopes"
TRACED = 3  # of each kind: one that may hold what others share, and two to compare
_CACHE = re.compile(r"(?<=past_key_values\.layers\.)\d+(?=\.)")  # a block's number in the name of its cache
_NUMBER = "layer_idx"  # what modules call the number of their block


class UnequalError(Exception):
    """Why the graph of a block cannot be repeated for another."""


@dataclass(frozen=True)
class Plan:
    """path: of the list of blocks in the model; kinds: of every block; traced: the blocks to be traced, ascending."""

    path: str
    kinds: tuple[int, ...]
    traced: tuple[int, ...]

    def places(self, kind: int) -> list[int]:
        """Where in the trace the blocks of one kind are."""
        return [place for place, number in enumerate(self.traced) if self.kinds[number] == kind]


# ---------------------------------------------------------------- the modules


def choose(model: Any) -> Plan | None:
    """Which blocks to trace; None where a trace of fewer would tell nothing of the others, or would save nothing."""
    config = model.config.get_text_config()
    n = int(getattr(config, "num_hidden_layers", None) or 0)
    lists = _lists(model, n)
    if len(lists) != 1:
        return None
    path, blocks = lists[0]
    tensors = [id(tensor) for block in blocks for tensor in _tensors(block).values()]
    outside = {id(tensor) for name, tensor in _tensors(model).items() if not name.startswith(f"{path}.")}
    if len(set(tensors)) < len(tensors) or outside.intersection(tensors):
        return None  # weights that several places share
    per_block = _per_block(config, n)
    seen: list[Any] = []
    kinds = []
    for i, block in enumerate(blocks):
        settings = ({key: values[i] for key, values in per_block.items()}, _settings(block, i))
        if settings not in seen:
            seen.append(settings)
        kinds.append(seen.index(settings))
    traced = tuple(i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < TRACED)
    return Plan(path, tuple(kinds), traced) if len(traced) < n else None


def _lists(model: Any, n: int) -> list[tuple[str, Any]]:
    """The lists of `n` modules, and where they are; none that lies in another."""
    import torch

    found: list[tuple[str, Any]] = []
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer, _ in found)
        if isinstance(module, torch.nn.ModuleList) and len(module) == n and not inside:
            found.append((path, module))
    return found


def _per_block(config: Any, n: int) -> dict[str, list[Any]]:
    """The settings of a configuration that are lists with an entry per block."""
    return {
        key: list(value) for key, value in vars(config).items() if isinstance(value, list | tuple) and len(value) == n
    }


def _settings(block: Any, number: int) -> list[Any]:
    """All that makes a block's graph but the values of its tensors, to be compared with another's."""
    import torch

    internal = vars(torch.nn.Module()).keys() - {"training"}
    found: list[Any] = []
    for path, module in block.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in internal}
        if own.get(_NUMBER) == number:
            del own[_NUMBER]
        plain = {key: _comparable(value, module) for key, value in own.items()}
        tensors = [(name, tuple(t.shape), t.dtype) for name, t in _tensors(module, recurse=False).items()]
        found.append((path, type(module), plain, tensors))
    return found


def _comparable(value: Any, module: Any) -> Any:
    """Plain data as it is, a module's own method by its function; anything else equals only itself."""
    if isinstance(value, functools.partial):
        return [_comparable(part, module) for part in (value.func, list(value.args), value.keywords)]
    if isinstance(value, dict):
        return {key: _comparable(item, module) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item, module) for item in value]
    if getattr(value, "__self__", None) is module:
        return value.__func__
    return value if isinstance(value, str | int | float | None) else id(value)


def _tensors(module: Any, recurse: bool = True) -> dict[str, Any]:
    """Parameters and buffers by name."""
    return dict((*module.named_parameters(recurse=recurse), *module.named_buffers(recurse=recurse)))


@contextlib.contextmanager
def shortened(model: Any, plan: Plan) -> Iterator[Any]:
    """The model with the traced blocks alone, numbered from 0; inside, the model itself is changed."""
    import torch

    config = model.config.get_text_config()
    parent, _, name = plan.path.rpartition(".")
    owner = model.get_submodule(parent)
    blocks, n = getattr(owner, name), config.num_hidden_layers
    lists = {key: vars(config)[key] for key in _per_block(config, n)}
    numbered = [
        (module, place, number)
        for place, number in enumerate(plan.traced)
        for module in blocks[number].modules()
        if vars(module).get(_NUMBER) == number
    ]
    try:
        setattr(owner, name, torch.nn.ModuleList([blocks[number] for number in plan.traced]))
        config.num_hidden_layers = len(plan.traced)
        for key, values in lists.items():
            setattr(config, key, type(values)(values[number] for number in plan.traced))
        for module, place, _ in numbered:
            setattr(module, _NUMBER, place)
        yield model
    finally:
        setattr(owner, name, blocks)
        config.num_hidden_layers = n
        for key, values in lists.items():
            setattr(config, key, values)
        for module, _, number in numbered:
            setattr(module, _NUMBER, number)


# ---------------------------------------------------------------- the graph


@dataclass
class _Block:
    """A block's part of the graph. given: what the block before hands to it; carry: what it hands on.

    place: its own in the trace, or its template's; shared: what else others read of it.
    """

    place: int
    nodes: list[Any] = field(default_factory=list)
    given: Any = None
    carry: Any = None
    shared: list[Any] = field(default_factory=list)


def weights_read(graph: Any, plan: Plan, model: Any) -> tuple[frozenset[str], ...]:
    """The names, within their block, of the weights that each traced block reads in the graph (onnx_ir.Graph)."""
    read = [value for value in graph.initializers.values() if value.uses()]
    found = []
    for place, number in enumerate(plan.traced):
        names = set(_tensors(_block(model, plan, number)))
        found.append(frozenset(name for value in read if (name := _weight(value, plan, place, names))))
    return tuple(found)


def repeat(graph: Any, plan: Plan, model: Any, weights: tuple[frozenset[str], ...]) -> None:
    """Make the graph (onnx_ir.Graph) of a shortened model that of the whole `model`, in place.

    weights: what each traced block read before the graph was optimized. An optimizer merges weights that happen to be
    equal, such as the norms of two blocks that were never trained, and computes with small ones in advance; a block
    that lacks a weight of its own cannot stand for another. Raises UnequalError there, and where the blocks of a kind
    turn out to differ.
    """
    blocks = _blocks(graph, plan)
    left = weights_read(graph, plan, model)
    for kind in sorted(set(plan.kinds)):
        places = plan.places(kind)
        if len(places) < plan.kinds.count(kind):
            if gone := weights[places[-1]] - left[places[-1]]:
                raise UnequalError(f"block {places[-1]} has lost {min(gone)}")
            _compare(blocks, places[-2], places[-1], plan, weights[places[-1]])
    for block in reversed(blocks):  # from the end, so that a number is free before it is given
        _renumber(graph, block, plan)
    _fill(graph, blocks, plan, model)
    graph.metadata_props.clear()  # it describes the shortened model


def _block(model: Any, plan: Plan, number: int) -> Any:
    return model.get_submodule(f"{plan.path}.{number}")


def _blocks(graph: Any, plan: Plan) -> list[_Block]:
    """The traced blocks with their nodes, and what leaves each."""
    scope = re.compile(rf"'{re.escape(plan.path)}\.(\d+)'")
    blocks = [_Block(place) for place in range(len(plan.traced))]
    owner: dict[Any, int] = {}
    for node in graph:
        if any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values()):
            raise UnequalError(f"a node {node.op_type} has graphs of its own")
        if match := scope.search(node.metadata_props.get(SCOPES, "")):
            owner[node] = int(match.group(1))
            blocks[owner[node]].nodes.append(node)
    for block in blocks:
        for value in (value for node in block.nodes for value in node.outputs):
            if all(owner.get(use.node) == block.place for use in value.uses()):
                continue
            if value.dtype is None or not value.dtype.is_floating_point():
                block.shared.append(value)
            elif block.carry is not None:
                raise UnequalError(f"block {block.place} hands on both {block.carry.name} and {value.name}")
            else:
                block.carry = value
        readers = {owner.get(use.node) for use in block.carry.uses()} - {block.place} if block.carry else None
        if readers != {block.place + 1 if block is not blocks[-1] else None}:
            raise UnequalError(f"others than the next block read what block {block.place} hands on")
    for before, block in itertools.pairwise(blocks):
        block.given = before.carry
    return blocks


def _compare(blocks: list[_Block], first: int, second: int, plan: Plan, weights: AbstractSet[str]) -> None:
    """Raise UnequalError unless the graphs of two traced blocks are equal but for weights, cache and what comes in."""
    a, b = blocks[first], blocks[second]
    if len(a.nodes) != len(b.nodes):
        raise UnequalError(f"blocks of one kind have {len(a.nodes)} and {len(b.nodes)} nodes")
    if b.shared:
        raise UnequalError(f"others read {b.shared[0].name} of block {second}")
    same = {a.given: b.given}
    for left, right in zip(a.nodes, b.nodes, strict=True):
        if _described(left) != _described(right):
            raise UnequalError(f"{left.op_type} stands where {right.op_type} does, or has other attributes")
        for x, y in zip(left.inputs, right.inputs, strict=True):
            if x is None or y is None or x is y:
                equal = x is y
            elif x in same:
                equal = same[x] is y
            else:
                names = [_weight(x, plan, first, weights), _cache(x, first)]
                equal = names == [_weight(y, plan, second, weights), _cache(y, second)]
                equal = equal and (names != [None, None] or _equal_constants(x, y))
            if not equal:
                raise UnequalError(f"{right.op_type} reads {y.name if y else y} where {x.name if x else x} was read")
        same.update(zip(left.outputs, right.outputs, strict=True))
    if same.get(a.carry) is not b.carry:
        raise UnequalError(f"blocks {first} and {second} hand on different values")


def _described(node: Any) -> Any:
    """What a node does, whatever its inputs are."""
    attributes = sorted((name, attribute.type.name, _plain(attribute)) for name, attribute in node.attributes.items())
    return node.domain, node.op_type, node.overload, len(node.inputs), len(node.outputs), attributes


def _plain(attribute: Any) -> str:
    """An attribute's value, so that equal ones are equal texts."""
    if attribute.is_ref():
        return f"its caller's {attribute.ref_attr_name}"
    value = attribute.value
    return f"{value.dtype} {value.shape} {value.tobytes()!r}" if attribute.type.name == "TENSOR" else repr(value)


def _weight(value: Any, plan: Plan, number: int, weights: AbstractSet[str]) -> str | None:
    """A weight's name within its block, None for any other value."""
    if not value.is_initializer() or not value.name.startswith(start := f"{plan.path}.{number}."):
        return None
    name = value.name.removeprefix(start)
    return name if name in weights else None


def _cache(value: Any, number: int) -> str | None:
    """The name of a graph's input that is part of the block's cache, without the number; None for any other value."""
    if not value.is_graph_input() or not (found := _CACHE.search(value.name)) or int(found.group()) != number:
        return None
    return _CACHE.sub("", value.name)


def _equal_constants(x: Any, y: Any) -> bool:
    """Whether two initializers that are no weights hold the same values."""
    if not (x.is_initializer() and y.is_initializer()) or x.is_graph_input() or y.is_graph_input():
        return False
    a, b = x.const_value, y.const_value
    return bool(a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape) and a.tobytes() == b.tobytes())


# ---------------------------------------------------------------- the whole graph


def _renumber(graph: Any, block: _Block, plan: Plan) -> None:
    """Give a traced block's weights, cache and scopes the number that it has in the model."""
    place, number = block.place, plan.traced[block.place]
    if place == number:
        return
    for name, value in list(graph.initializers.items()):
        if name.startswith(start := f"{plan.path}.{place}."):
            value.name = f"{plan.path}.{number}.{name.removeprefix(start)}"
    for value in (*graph.inputs, *graph.outputs):
        if (found := _CACHE.search(value.name)) and int(found.group()) == place:
            value.name = _CACHE.sub(str(number), value.name)
    for node in block.nodes:
        node.metadata_props[SCOPES] = _rescoped(node, plan, place, number)


def _rescoped(node: Any, plan: Plan, old: int, new: int) -> str:
    scopes = node.metadata_props[SCOPES]
    return re.sub(rf"'{re.escape(plan.path)}\.{old}(?=['.])", f"'{plan.path}.{new}", scopes)


def _fill(graph: Any, blocks: list[_Block], plan: Plan, model: Any) -> None:
    """Put a copy for every block that was not traced where it belongs, and hand on from block to block."""
    end = [use for use in blocks[-1].carry.uses() if use.node not in blocks[-1].nodes]
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    before = blocks[0]
    for number, kind in enumerate(plan.kinds[1:], 1):
        if number in plan.traced:
            block = blocks[plan.traced.index(number)]
            for node in block.nodes:
                for index, value in enumerate(node.inputs):
                    if value is block.given:
                        node.replace_input_with(index, before.carry)
            block.given = before.carry
        else:
            template = blocks[plan.places(kind)[-1]]
            values = {template.given: before.carry} | _own_values(graph, template, number, plan, model)
            block = _copy(template, values, number, plan)
            graph.insert_after(before.nodes[-1], block.nodes)
            inputs += [values[value] for value in graph.inputs if value in values]
            outputs += [values[value] for value in graph.outputs if value in values]
        before = block
    for use in end:
        use.node.replace_input_with(use.idx, before.carry)
    for listed, complete in ((graph.inputs, inputs), (graph.outputs, outputs)):
        listed.clear()
        listed.extend(_in_order(complete))


def _own_values(graph: Any, template: _Block, number: int, plan: Plan, model: Any) -> dict[Any, Any]:
    """What block `number` reads in place of its template's weights and cache: value -> new value."""
    import onnx_ir
    from onnx_ir.tensor_adapters import TorchTensor

    tensors, old = _tensors(_block(model, plan, number)), plan.traced[template.place]
    values: dict[Any, Any] = {}
    for value in {value for node in template.nodes for value in node.inputs if value is not None}:
        weight, cache = _weight(value, plan, old, set(tensors)), _cache(value, old)
        if weight is None and cache is None:
            continue
        name = f"{plan.path}.{number}.{weight}" if weight else _CACHE.sub(str(number), value.name)
        values[value] = onnx_ir.Value(name=name, shape=value.shape, type=value.type)
        values[value].metadata_props.update(value.metadata_props)
        if weight:
            values[value].const_value = TorchTensor(tensors[weight], name=name)
            graph.register_initializer(values[value])
    return values


def _copy(template: _Block, values: dict[Any, Any], number: int, plan: Plan) -> _Block:
    """A block like its template that reads and makes the new `values`, to which what it makes is added."""
    import onnx_ir

    old = plan.traced[template.place]
    block = _Block(template.place, given=values[template.given])
    for node in template.nodes:
        copy = onnx_ir.Node(
            node.domain,
            node.op_type,
            [values.get(value, value) for value in node.inputs],
            node.attributes.values(),
            overload=node.overload,
            num_outputs=len(node.outputs),
            version=node.version,
            name=f"{node.name}_{number}",
            metadata_props=node.metadata_props | {SCOPES: _rescoped(node, plan, old, number)},
        )
        for value, new in zip(node.outputs, copy.outputs, strict=True):
            cached = _CACHE.search(value.name) is not None
            new.name = _CACHE.sub(str(number), value.name) if cached else f"{value.name}_{number}"
            new.shape, new.type = value.shape, value.type
            values[value] = new
        block.nodes.append(copy)
    block.carry = values[template.carry]
    return block


def _in_order(values: list[Any]) -> list[Any]:
    """Inputs or outputs of the graph with the parts of the cache by block, at the place of the first of them."""
    numbers = {value: int(found.group()) for value in values if (found := _CACHE.search(value.name))}
    cache = sorted(numbers, key=lambda value: numbers[value])
    first = next((i for i, value in enumerate(values) if value in numbers), len(values))
    others = [value for value in values[first:] if value not in numbers]
    return [*values[:first], *cache, *others]
