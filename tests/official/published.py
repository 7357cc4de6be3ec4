"""Pickles in the published form, written by the tests: the same reduce call, names and fields, toy classes."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

SOURCE = "import os\nos.environ['LVGAN_SOURCE_RAN'] = '1'\nraise RuntimeError('source text in a pickle was run')\n"


class Published(nn.Module):
    """A module that pickles as published ones do: as its class's source text, its name and its state."""

    def __init__(self, class_name: str, **fields: Any) -> None:
        super().__init__()
        self._class_name = class_name
        self._init_args = ()
        self._init_kwargs = dict(fields)
        for name, value in fields.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "_class_name"}
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self._class_name, "state": state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,), None, None, None


class EasyDict(dict):  # type: ignore[type-arg]
    """A dict whose entries are attributes too."""


@contextmanager
def published_modules() -> Iterator[None]:
    """The modules whose names the pickles hold; they cannot be imported elsewhere."""
    persistence = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
        raise RuntimeError("an object was rebuilt")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = EasyDict  # type: ignore[attr-defined]
    EasyDict.__module__ = util.__name__
    made = {"torch_utils": types.ModuleType("torch_utils"), "dnnlib": types.ModuleType("dnnlib")}
    made |= {"torch_utils.persistence": persistence, "dnnlib.util": util}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def dumps(value: Any, protocol: int = 4) -> bytes:
    """Pickle in the published form."""
    with published_modules():
        return pickle.dumps(value, protocol)


def network(
    class_name: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Mapping[str, Any]] | None = None
) -> Published:
    """A module tree with these parameters and buffers, by dotted name.

    `fields` are constructor arguments by dotted name of the module, "" for the whole. Filters and running
    statistics become buffers; the rest parameters. Children with numbers for names are in a ModuleList.
    """
    fields = fields or {}
    root = Published(class_name, **fields.get("", {}))
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module: nn.Module = root
        for depth, part in enumerate(path):
            if part not in module._modules:
                inner = Published(f"{part.title()}Layer", **fields.get(".".join(path[: depth + 1]), {}))
                listed = depth + 1 < len(path) and path[depth + 1].isdecimal()
                module._modules[part] = nn.ModuleList() if listed else inner
            child = module._modules[part]
            assert child is not None
            module = child
        if any(word in last for word in ("filter", "magnitude_ema", "w_avg", "output_scale", "features")):
            module.register_buffer(last, tensor)
        else:
            module.register_parameter(last, nn.Parameter(tensor))
    return root
