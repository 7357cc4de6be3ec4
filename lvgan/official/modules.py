"""Published modules taken apart as data: tensors by name, attributes, sub-modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lvgan.official.machine import Record
from lvgan.official.streams import RefusedError
from lvgan.official.vocabulary import PERSISTENT

_DEEPEST, _MOST, _ENTRIES = 32, 10_000, 1_000_000  # nested modules; modules, and what they hold, in all


@dataclass
class Module:
    """What a published ``nn.Module`` held.

    Attributes:
        name: its class's, without the package.
        tensors: parameters and saved buffers, by dotted name.
        settings: by dotted name, plain values: constructor arguments and attributes.
    """

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def find(self, name: str) -> Any:
        """The setting of this name that stands nearest to the top; None where there is none."""
        found = [key for key in self.settings if key.rpartition(".")[2] == name]
        return self.settings[min(found, key=lambda key: key.count("."))] if found else None


def is_module(value: Any) -> bool:
    """Whether a value from a pickle is a published module."""
    return isinstance(value, Record) and value.kind == PERSISTENT and _parts(value) is not None


def take_apart(record: Record) -> Module:
    """Tensors and settings of a module and all in it.

    Raises:
        RefusedError: it is not built as modules are.
    """
    module = Module("".join(letter for letter in str(record.args[0])[:60] if letter.isprintable()))
    waiting, seen, entries = [("", record, 0)], 0, 0
    while waiting:
        prefix, part, depth = waiting.pop()
        seen, entries = seen + 1, entries + _size(part)
        if depth > _DEEPEST or seen > _MOST or entries > _ENTRIES:
            raise RefusedError("it is damaged: its modules hold each other without end")
        parts = _parts(part)
        if parts is None:
            raise RefusedError(f"it is damaged: {prefix.rstrip('.') or 'the network'} is no module")
        tensors, settings, children = parts
        module.tensors |= {prefix + name: tensor for name, tensor in tensors.items()}
        module.settings |= {prefix + name: value for name, value in settings.items()}
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children.items())]
    return module


def _parts(record: Any) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]] | None:
    """Tensors, settings and sub-modules of one module; None where it is none."""
    state = record.state if isinstance(record, Record) else None
    if not isinstance(state, dict):
        return None
    groups = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]
    if not all(isinstance(group, dict) and all(isinstance(key, str) for key in group) for group in groups):
        return None
    parameters, buffers, modules = (group or {} for group in groups)
    unsaved = state.get("_non_persistent_buffers_set")
    unsaved = unsaved if isinstance(unsaved, (set, frozenset)) else ()
    tensors = {**parameters, **{name: value for name, value in buffers.items() if name not in unsaved}}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    if not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return None
    arguments = state.get("_init_kwargs")
    settings = {**(arguments if isinstance(arguments, dict) else {}), **state}
    plain = {name: value for name, value in settings.items() if isinstance(name, str) and _is_plain(value)}
    return tensors, plain, {name: child for name, child in modules.items() if child is not None}


def _size(record: Any) -> int:
    """How many entries there are to look at."""
    state = record.state if isinstance(record, Record) and isinstance(record.state, dict) else {}
    return len(state) + sum(len(group) for group in state.values() if isinstance(group, dict))


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))
