"""Hostile and damaged pickles, and a process that reads them under watch: ``python -m tests.official.hostile``.

It prints one JSON object: how many were read, refused and otherwise, what was run or opened, how far memory grew.
"""

from __future__ import annotations

import codecs
import io
import json
import pickle
import random
import resource
import struct
import sys
import tempfile
import typing
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvgan.errors import CheckpointError
from lvgan.models.lr_generator import BlockSpec, LrGenerator
from lvgan.official.importing import import_file
from tests.official.published import EasyDict, dumps, published_lr_generator, tree

FOOTPRINTS = (4.0, 8.0)
ALLOWANCE = 512 << 20  # bytes of address space beyond what the process has when it begins
CALLS = ("os\nsystem", "posix\nsystem", "builtins\neval", "builtins\nexec", "builtins\n__import__", "subprocess\nPopen",
         "builtins\ngetattr", "functools\npartial", "operator\nattrgetter", "torch.hub\nload", "torch\nload",
         "pickle\nloads", "builtins\nopen", "importlib\nimport_module", "torch.storage\n_load_from_bytes.__call__",
         "builtins\nset.__class__", "collections\nOrderedDict.__init__", "numpy.core.multiarray\nfromfile",
         "torch._utils\n_rebuild_tensor_v2.__globals__", "torch.serialization\n_load", "code\ninteract")  # fmt: skip


def small_network() -> LrGenerator:
    torch.manual_seed(0)
    return LrGenerator(
        4, 4, noise_channels=1, filters=2, footprint_min=FOOTPRINTS[0], footprint_max=FOOTPRINTS[1], latent=3,
        mapping_layers=1, input_channels=2, blocks=(BlockSpec(2, 1),),
    )  # fmt: skip


def good_values() -> list[Any]:
    """Values in the published form: a network that can be imported, and bits of a training state."""
    torch.manual_seed(0)
    bits = {
        "augment_pipe": tree("Pipe", {"p": torch.tensor(0.5), "filter": torch.randn(2, 3)}),
        "args": EasyDict(a=1, b=[2.5, (1, 2, 3, 4), {"x"}], path="data", long=2**90, none=None),
        "array": np.arange(6.0).reshape(2, 3), "number": np.float32(1.5), "bytes": b"\x00\xff" * 3000,
        "parameter": torch.nn.Parameter(torch.randn(4)), "size": torch.Size([2]), "type": torch.float32,
    }  # fmt: skip
    return [{"G_ema": published_lr_generator(small_network(), FOOTPRINTS), "step": 3}, bits]


# --- written by hand --------------------------------------------------------------------------------


def hostile() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of pickles that want something to happen."""
    yield from _calls()
    yield from _sizes()
    yield from _graphs()
    yield from _tensors()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _calls() -> Iterator[tuple[str, bytes]]:
    argument = b"Vtouch executed\n"
    for name in CALLS:
        label = name.replace("\n", ".")
        module, _, attribute = name.partition("\n")
        plain = b"c" + name.encode() + b"\n"
        stacked = b"\x80\x04" + _text(module) + _text(attribute) + b"\x93"
        for form, given in (("GLOBAL", plain), ("STACK_GLOBAL", stacked)):
            yield f"{label} {form} REDUCE", given + b"(" + argument + b"tR."
            yield f"{label} {form} NEWOBJ", given + b"(" + argument + b"t\x81."
            yield f"{label} {form} NEWOBJ_EX", given + b"(" + argument + b"t}\x92."
            yield f"{label} {form} BUILD", given + b"}(Vx\n" + given + b"ub."
        yield f"{label} INST", b"(" + argument + b"i" + name.encode() + b"\n."
        yield f"{label} OBJ", b"(" + plain + argument + b"o."
        nested = b"(" + argument + b"i" + name.encode() + b"\n."
        yield f"{label} nested", b"ctorch.storage\n_load_from_bytes\n(C" + bytes([len(nested)]) + nested + b"tR."
        yield f"{label} reconstructor", b"ccopyreg\n_reconstructor\n(" + plain + plain + b"NtR."
        yield f"{label} persistent", plain + b"Q."
        yield f"{label} kept for a text", b"0".join([plain + b"(tR"] * 3) + b"."
    for code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        yield f"EXT {code!r}", code + b"(tR."
    yield "PERSID", b"Pos.system\n."
    yield "buffer", b"\x97\x98."
    yield "class with a state", b"ccollections\nOrderedDict\n}(V__call__\nV__reduce__\nub."
    yield "setstate", b"ctorch.optim.adam\nAdam\n)\x81}(V__setstate__\ncos\nsystem\nub."
    yield "call of a record", b"ctorch.optim.adam\nAdam\n)\x81)R."
    yield "call of a text", b"Vos.system\n)R."
    yield "call of a bound method", b"}Vpop\n\x93."
    yield "bytes by number", b"cbuiltins\nbytearray\n(L99999999999L\ntR."
    yield "list of a range", b"cbuiltins\nlist\n(cbuiltins\nrange\n(L99999999999L\ntRtR."
    yield "tuple of a text", b"cbuiltins\ntuple\n(Vabc\ntR."
    yield "codec", b"c_codecs\nencode\n(Vabc\nVrot13\ntR."


def _sizes() -> Iterator[tuple[str, bytes]]:
    huge = 2**62
    for code in (b"\x8d", b"\x8e", b"\x96"):
        for size in (huge, 2**63 - 1, 2**64 - 1, 10**10):
            yield f"{code!r} of {size} bytes", code + struct.pack("<Q", size) + b"abc."
    for code in (b"X", b"B", b"T"):
        yield f"{code!r} of 4 GB", code + struct.pack("<I", 2**32 - 1) + b"abc."
    for size in (2**31 - 1, -1):
        yield f"LONG4 of {size}", b"\x8b" + struct.pack("<i", size) + b"\x01."
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"K\x01."
    yield "memo", b"Nr" + struct.pack("<I", 2**32 - 1) + b"."
    yield "memo by line", b"Np99999999999999999\n."
    yield "integer of many digits", b"I" + b"9" * 2_000_000 + b"\n."
    yield "long of many digits", b"L" + b"9" * 2_000_000 + b"L\n."
    yield "line without end", b"V" + b"a" * 6_000_000
    yield "many empty values", b"}" * 3_000_000 + b"."
    yield "many marks", b"(" * 3_000_000 + b"."
    yield "many memos", b"N" + b"\x94" * 3_000_000 + b"."
    yield "wide text", (b"X" + struct.pack("<I", 4_000_000) + b"a" * 3_999_996 + "\U0001f600".encode()) * 12 + b"."
    colliding = b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 50_000))
    yield "colliding keys", b"}(" + colliding + b"u."


def _graphs() -> Iterator[tuple[str, bytes]]:
    yield "deep lists", b"]" * 60_000 + b"a" * 59_999 + b"."
    yield "deep tuples", b")" + b"\x85" * 60_000 + b"."
    yield "deep tuples as a key", b"}" + b")" + b"\x85" * 60_000 + b"Ns."
    yield "deep tuples in a set", b"\x8f()" + b"\x85" * 60_000 + b"\x90."
    yield "deep tuples as a frozenset", b"()" + b"\x85" * 60_000 + b"\x91."
    for call in ("numpy\ndtype", "torch\ndevice", "_codecs\nencode", "torch\nSize"):
        yield f"deep tuples for {call!r}", b"c" + call.encode() + b"\n)" + b"\x85" * 400_000 + b"R."
    yield "deep dicts", b"}" + b"K\x00}" * 60_000 + b"s" * 60_000 + b"."
    yield "cycle of a list", b"]q\x00h\x00a."
    yield "cycle of a dict", b"}q\x00Vx\nh\x00s."
    yield "doubling", b"]q\x00" + b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00lq\x00" * 40 + b"."
    copies = b"cbuiltins\nlist\n(" + b"(" + b"N" * 100_000 + b"lq\x00tR0"
    yield "copies of a list", copies + b"cbuiltins\nlist\n(h\x00tR" * 60_000 + b"."
    meta = b"(Vtype\nVclass\nVversion\nK\x06Vclass_name\nVVideoGenerator\nVmodule_src\nVimport os\nVstate\n%sd"
    make = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(" + meta + b"tR"
    module = b"(V_parameters\n}V_buffers\n}V_modules\n}q\x01d"
    yield "module in itself", make % module + b"q\x020h\x01Vchild\nh\x02s0h\x02."
    wide = make % module + b"q\x030"
    for level in range(3, 25):  # nine times the one before
        children = b"".join(b"V%d\nh%c" % (n, level) for n in range(9))
        state = b"(V_parameters\n}V_buffers\n}V_modules\n}(" + children + b"ud"
        wide += make % state + b"q%c0" % (level + 1)
    yield "modules that fan out", wide + b"h\x19."
    yield "object without a state", make % b"N" + b"."
    yield "object that is no class", b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(}tR."


def _storage(count: int, data: bytes, said: int | None = None) -> bytes:
    """A storage in torch's older form."""
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, facts)]
    key = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nL%dL\nNtQ." % count
    keys = pickle.dumps(["0"], 2)
    return b"".join([*parts, key, keys, struct.pack("<q", count if said is None else said), data])


def _loaded(nested: bytes) -> bytes:
    return b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(nested)) + nested + b"tR"


def _tensors() -> Iterator[tuple[str, bytes]]:
    four = bytes(16)
    for label, nested in (
        ("larger than its bytes", _storage(5, four)), ("of two sizes", _storage(4, four, 2)),
        ("of a huge size", _storage(2**47, four)), ("of a negative size", _storage(-4, four)),
        ("in a storage", _loaded(_loaded(b"N.") + b".") + b"."), ("of nothing", b""), ("of noise", bytes(range(256))),
    ):  # fmt: skip
        yield f"storage {label}", _loaded(nested) + b"."
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _loaded(_storage(4, four)) + b"L%dL\n%s%sI00\n}tR."
    for label, offset, size, stride in (
        ("beyond its storage", 0, b"(K\x05t", b"(K\x01t"), ("shown a million times", 0, b"(J\0\0\0\x40t", b"(K\x00t"),
        ("before its storage", -1, b"(K\x02t", b"(K\x01t"), ("with a stride back", 3, b"(K\x04t", b"(I-1\nt"),
        ("of half a shape", 0, b"(K\x02K\x02t", b"(K\x01t"), ("of text", 0, b"(VK\nt", b"(K\x01t"),
        ("far away", 2**46, b"(K\x01t", b"(K\x01t"), ("of deep tuples", 0, b")" + b"\x85" * 100_000, b"(K\x01t"),
    ):  # fmt: skip
        yield f"tensor {label}", tensor % (offset, size, stride)
    many = _storage(250_000, bytes(1_000_000))
    unaligned = b"ctorch.storage\n_load_from_bytes\n(B" + struct.pack("<I", len(many)) + many + b"q\x00tR"
    yield "one storage many times", unaligned + b"ctorch.storage\n_load_from_bytes\n(h\x00tR" * 3000 + b"."
    dtype = b"cnumpy\ndtype\n(Vf8\nI00\nI01\ntR(K\x03V<\nNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR(K\x01%s%sI00\n%stb."
    yield "array of a huge shape", array % (b"(L999999999999L\nt", dtype, b"C\x08" + bytes(8))
    yield "array of objects", array % (b"(K\x01t", dtype.replace(b"Vf8", b"VO8"), b"]Na")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", bytes(300 << 20))
    yield "compressed archive", archive.getvalue()
    yield "compressed archive within", _loaded(archive.getvalue()) + b"."
    torch.save(torch.zeros(3), archive := io.BytesIO())
    yield "archive of another thing", archive.getvalue()
    yield "cut archive", archive.getvalue()[:-30]
    # A table of contents that is said to take 4 GB.
    table = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, 2**32 - 2, 0, 0)
    yield "archive of a huge table", archive.getvalue()[:-22] + table


# --- by chance --------------------------------------------------------------------------------------


def mutants(seed: int, count: int, bases: list[bytes]) -> Iterator[bytes]:
    """Good pickles with some bytes changed, cut out, doubled, or moved."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(bases))
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(data))
            end = min(len(data), at + chance.choice((1, 2, 8, 60)))
            act = chance.randrange(6)
            if act == 0:
                data[at] = chance.randrange(256)
            elif act == 1:
                data[at] ^= 1 << chance.randrange(8)
            elif act == 2 and len(data) > 99:
                del data[at:end]
            elif act == 3:
                data[at:at] = data[at:end]
            elif act == 4:
                place = chance.randrange(len(data))
                data[place:place] = data[at:end]
            elif len(data) > 99 and chance.random() < 0.3:
                del data[at:]
        yield bytes(data)


def programs(seed: int, count: int) -> Iterator[bytes]:
    """Sequences of instructions that mostly find what they need."""
    chance = random.Random(seed)
    names = ["ccollections\nOrderedDict\n", "cbuiltins\nset\n", "cbuiltins\nlist\n", "ctorch\nFloatStorage\n",
             "ctorch._utils\n_rebuild_tensor_v2\n", "ctorch_utils.persistence\n_reconstruct_persistent_obj\n",
             "ctorch._utils\n_rebuild_parameter\n", "cnumpy\ndtype\n", "cnumpy.core.multiarray\n_reconstruct\n",
             "ccopyreg\n_reconstructor\n", "ctorch.optim.adam\nAdam\n", "c_codecs\nencode\n",
             *(f"c{name}\n" for name in CALLS[:4])]  # fmt: skip
    pieces = [b"(", b")", b"]", b"}", b"N", b"K\x07", b"Vstate\n", b"Vf4\n", b"0", b"1", b"2", b"t", b"l", b"d", b"a",
              b"e", b"s", b"u", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x94", b"h\x00", b"h\x01",
              b"R", b"R", b"R", b"\x81", b"\x92", b"b", b"b", b"Q", b"i", b"o", b"C\x04abcd", b"G" + bytes(8),
              *(name.encode() for name in names)]  # fmt: skip
    for _ in range(count):
        yield b"".join(chance.choices(pieces, k=chance.randrange(3, 60))) + b"."


# --- the process ------------------------------------------------------------------------------------


def main() -> None:
    """Read them all, watched."""
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    path = folder / "x.pkl"
    bases = [dumps(value, protocol) for value in good_values() for protocol in (2, 4)]
    cases = [*hostile()]
    report: dict[str, Any] = {"read": 0, "refused": 0, "wrong": [], "events": []}

    def attempt(label: str, data: bytes) -> None:
        path.write_bytes(data)
        try:
            import_file(path)
            report["read"] += 1
            if not label.startswith("by chance"):
                report["wrong"].append(f"{label}: read")
        except CheckpointError as error:
            report["refused"] += 1
            message = str(error)
            if "\n" in message or len(message) > 1200 or str(path) not in message:
                report["wrong"].append(f"{label}: {message[:300]}")
        except BaseException as error:
            report["wrong"].append(f"{label}: {type(error).__name__} {str(error)[:300]}")

    codecs.lookup("cp437")  # zipfile's, for names of members; what is loaded on first use is loaded now
    for data in (*bases, b"cos\nsystem\n."):
        attempt("by chance", data)
    if report["read"] != 2:
        report["wrong"].append(f"{report['read']} of 2 good files were read")

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args and str(args[0]) == str(path):
            return
        if event in ("object.__getattr__", "sys._getframe", "gc.collect", "builtins.id"):
            return
        if sys._getframe(1).f_code.co_filename != typing.__file__:  # which evaluates our own annotations
            report["events"].append(f"{event} {str(args)[:200]}")

    sys.addaudithook(watch)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    report["events"].clear()  # of that look
    space = pages * resource.getpagesize() + ALLOWANCE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    report["events"].clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for label, data in cases:
        attempt(label, data)
    for data in mutants(1, int(sys.argv[2]), bases):
        attempt("by chance", data)
    for data in programs(2, 2 * int(sys.argv[2])):
        attempt("by chance", data)
    report["grown"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    events, report["events"] = list(report["events"]), []
    left = sorted(file.name for file in folder.iterdir())
    print(json.dumps({**report, "events": events[:20], "hostile": len(cases), "left": left}))


if __name__ == "__main__":
    main()
