"""Read a WebAssembly module's shape before anything else touches its bytes.

A small parser of the sections that decide how a module may be entered: types,
imports, functions, tables, memories, exports, start; and of the module's own files. It
is total: any bytes give a ``ModuleShape`` or ``MalformedError``. Every count, name and
size has a cap, so its cost is bounded by the module's length. Text format, components,
and value types beyond i32, i64, f32, f64 never reach code that could parse or abort on
them.

Not here: validation of code (the engine's ``validate``, which runs after this), and
the decision whether an invocation fits the shape (``guest``).

Source: WebAssembly core specification 5.3 (types) and 5.5 (modules).
"""

from __future__ import annotations

import msgspec

from stream_executor.model.errors import MalformedError
from stream_executor.model.scalars import ValueType
from stream_executor.sandbox.wasi_files import FileTree

MAGIC = b"\0asm\x01\0\0\0"
WASI_MODULE = "wasi_snapshot_preview1"
BUNDLE_SECTION = b"wasm-executor.file"

# Caps. Real modules stay far below (CPython: 40 imports, 9,000 functions); the
# engine's own ceilings are a hundred times higher and cost seconds to reach.
MAX_TYPES = 100_000
MAX_SIGNATURE = 1_000
MAX_IMPORTS = 10_000
MAX_FUNCTIONS = 1_000_000
MAX_TABLES = 100
MAX_MEMORIES = 100
MAX_EXPORTS = 20_000
MAX_NAME_BYTES = 4_096
MAX_BUNDLED_FILES = 4_096

FUNCTION, TABLE, MEMORY, GLOBAL, TAG = range(5)
_SECTION_TYPE, _SECTION_IMPORT, _SECTION_FUNCTION = 1, 2, 3
_SECTION_TABLE, _SECTION_MEMORY = 4, 5
_SECTION_EXPORT, _SECTION_START, _SECTION_LAST = 7, 8, 13

_FUNC_FORM = 0x60
_V128 = 0x7B
_REF_WITH_HEAP_TYPE = (0x63, 0x64)
# Abstract heap types, also as one-byte value types: funcref 0x70, externref 0x6F,
# exnref 0x69, noexn 0x74 and the like.
_REF_TYPES = range(0x65, 0x75)
_OTHER = 0  # how a type outside the four is written in a Signature
_SCALARS = frozenset(ValueType)
_LIMITS_MIN, _LIMITS_MIN_MAX = 0, 1
_LEB_BITS = 7
_BUNDLE_START = bytes([len(BUNDLE_SECTION)]) + BUNDLE_SECTION


class Signature(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Type codes of an exported function, one byte each; 0 is any other type."""

    params: bytes
    results: bytes

    @property
    def callable(self) -> bool:
        """Whether a call can be made with typed scalars alone."""
        return _OTHER not in self.params and _OTHER not in self.results


class Import(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One import: two names and a kind (``FUNCTION`` to ``TAG``)."""

    module: str
    name: str
    kind: int


class BundledFile(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A file that a module carries (``bundle``): ``length`` bytes from ``at`` on.

    ``at`` counts in the module's bytes, and in the shape that comes with a compiled
    module in the artefact's.
    """

    path: str
    at: int
    length: int


class ModuleShape(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is known of a module without running or compiling it.

    Attributes:
        functions: exported functions by name.
        imports: all imports, in order.
        memory: name of the first exported memory, or None.
        memory_pages: minimum size of the module's memory in 64 KiB pages, 0 without.
        table_elements: largest minimum of a table.
        tables: number of tables.
        start: whether instantiation runs a start function.
        bundle: the module's own files, in order.
    """

    functions: dict[str, Signature] = {}
    imports: list[Import] = []
    memory: str | None = None
    memory_pages: int = 0
    table_elements: int = 0
    tables: int = 0
    start: bool = False
    bundle: list[BundledFile] = []


class _Reader:
    """A cursor over one range of the module; every read is bounds-checked."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def byte(self) -> int:
        if self.at >= self.end:
            raise MalformedError(f"the module ends early at byte {self.at}")
        self.at += 1
        return self.data[self.at - 1]

    def unsigned(self, bits: int = 32) -> int:
        """Read an unsigned LEB128 of at most ``bits`` bits."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:  # noqa: PLR2004 - the continuation bit
                break
            shift += _LEB_BITS
            if shift >= bits:
                raise MalformedError(f"an integer is too long at byte {self.at}")
        if value >> bits:
            raise MalformedError(f"an integer is too large at byte {self.at}")
        return value

    def count(self, most: int, what: str) -> int:
        value = self.unsigned()
        if value > most:
            raise MalformedError(f"{value} {what}; at most {most} are accepted")
        return value

    def skip(self, length: int) -> None:
        if length > self.end - self.at:
            raise MalformedError(f"{length} bytes at {self.at} pass the end")
        self.at += length

    def name(self) -> str:
        length = self.count(MAX_NAME_BYTES, "bytes in a name")
        self.skip(length)
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError as error:
            raise MalformedError(f"a name is not UTF-8 at byte {self.at}") from error

    def value_type(self) -> int:
        """Read a value type; give its code, or 0 for one that calls cannot carry."""
        code = self.byte()
        if code in _SCALARS:
            return code
        if code in _REF_WITH_HEAP_TYPE:
            self.unsigned(33)  # an s33 heap type: its length is all that matters
            return _OTHER
        if code == _V128 or code in _REF_TYPES:
            return _OTHER
        raise MalformedError(f"0x{code:02x} is no value type at byte {self.at - 1}")

    def limits(self) -> int:
        """Read limits; give the minimum. Shared, 64-bit, paged forms are refused."""
        flags = self.byte()
        if flags not in (_LIMITS_MIN, _LIMITS_MIN_MAX):
            raise MalformedError(f"limits use a disabled proposal (flags {flags})")
        minimum = self.unsigned()
        if flags == _LIMITS_MIN_MAX:
            self.unsigned()
        return minimum

    def table(self) -> int:
        """Read a table type; give its minimum."""
        if self.value_type() != _OTHER:
            raise MalformedError(f"a table of scalars at byte {self.at}")
        return self.limits()


class _Parse:
    """The state of one parse; ``shape`` is asked for after the last section."""

    def __init__(self) -> None:
        self.types: list[Signature] = []
        self.type_of: list[int] = []  # type index by function index
        self.imports: list[Import] = []
        self.exports: list[tuple[str, int, int]] = []
        self.tables: list[int] = []
        self.memories: list[int] = []
        self.start = False
        self.bundle: list[BundledFile] = []

    def section(self, number: int, reader: _Reader) -> None:
        read = _SECTIONS.get(number)
        if read is None:
            return
        read(self, reader)
        if reader.at != reader.end:
            raise MalformedError(f"section {number} has {reader.end - reader.at} extra")

    def read_types(self, reader: _Reader) -> None:
        for _ in range(reader.count(MAX_TYPES, "types")):
            form = reader.byte()
            if form != _FUNC_FORM:
                raise MalformedError(f"type form 0x{form:02x} is not accepted")
            params = bytes(
                reader.value_type()
                for _ in range(reader.count(MAX_SIGNATURE, "parameters"))
            )
            results = bytes(
                reader.value_type()
                for _ in range(reader.count(MAX_SIGNATURE, "results"))
            )
            self.types.append(Signature(params, results))

    def read_imports(self, reader: _Reader) -> None:
        for _ in range(reader.count(MAX_IMPORTS, "imports")):
            module, name, kind = reader.name(), reader.name(), reader.byte()
            self.imports.append(Import(module, name, kind))
            if kind == FUNCTION:
                self.type_of.append(reader.unsigned())
            elif kind == TABLE:
                self.tables.append(reader.table())
            elif kind == MEMORY:
                self.memories.append(reader.limits())
            elif kind == GLOBAL:
                reader.value_type()
                reader.byte()
            elif kind == TAG:
                reader.byte()
                reader.unsigned()
            else:
                raise MalformedError(f"{kind} is no kind of import")

    def read_functions(self, reader: _Reader) -> None:
        count = reader.count(MAX_FUNCTIONS, "functions")
        unsigned = reader.unsigned
        self.type_of += [unsigned() for _ in range(count)]

    def read_tables(self, reader: _Reader) -> None:
        for _ in range(reader.count(MAX_TABLES, "tables")):
            self.tables.append(reader.table())

    def read_memories(self, reader: _Reader) -> None:
        for _ in range(reader.count(MAX_MEMORIES, "memories")):
            self.memories.append(reader.limits())

    def read_exports(self, reader: _Reader) -> None:
        for _ in range(reader.count(MAX_EXPORTS, "exports")):
            self.exports.append((reader.name(), reader.byte(), reader.unsigned()))

    def read_custom(self, reader: _Reader) -> None:
        """Take a bundled file; other custom sections mean nothing here."""
        if not reader.data.startswith(_BUNDLE_START, reader.at, reader.end):
            return
        if len(self.bundle) == MAX_BUNDLED_FILES:
            raise MalformedError(f"more than {MAX_BUNDLED_FILES} files in the module")
        reader.skip(len(_BUNDLE_START))
        path = reader.name()
        self.bundle.append(BundledFile(path, reader.at, reader.end - reader.at))

    def read_start(self, reader: _Reader) -> None:
        reader.unsigned()
        self.start = True

    def shape(self) -> ModuleShape:
        try:
            FileTree(tuple((file.path, b"") for file in self.bundle))
        except ValueError as error:
            raise MalformedError(f"the module's files: {error}") from error
        functions: dict[str, Signature] = {}
        memory = None
        for name, kind, index in self.exports:
            if kind == FUNCTION:
                functions[name] = self.signature(index)
            elif kind == MEMORY and memory is None:
                memory = name
        return ModuleShape(
            functions=functions,
            imports=self.imports,
            memory=memory,
            memory_pages=max(self.memories, default=0),
            table_elements=max(self.tables, default=0),
            tables=len(self.tables),
            start=self.start,
            bundle=self.bundle,
        )

    def signature(self, index: int) -> Signature:
        try:
            return self.types[self.type_of[index]]
        except IndexError as error:
            raise MalformedError(f"function {index} has no type") from error


_SECTIONS = {
    _SECTION_TYPE: _Parse.read_types,
    _SECTION_IMPORT: _Parse.read_imports,
    _SECTION_FUNCTION: _Parse.read_functions,
    _SECTION_TABLE: _Parse.read_tables,
    _SECTION_MEMORY: _Parse.read_memories,
    _SECTION_EXPORT: _Parse.read_exports,
    _SECTION_START: _Parse.read_start,
}


def inspect_module(data: bytes) -> ModuleShape:
    """Read the shape of a module.

    Code is not looked at: a shape does not mean that the module is valid. Sections
    may come in any order here, but each at most once; the engine is stricter.

    Args:
        data: the module's bytes, of any origin.

    Raises:
        MalformedError: not a core module in binary form, cut off, over a cap, or
            using a proposal that the engine has off.

    Cost: O(len(data)), about 0.3 s for a million functions.
    """
    if not data.startswith(MAGIC):
        raise MalformedError(f"not a WebAssembly binary: starts with {data[:8].hex()}")
    reader = _Reader(data, len(MAGIC), len(data))
    parse, seen = _Parse(), set()
    while reader.at < reader.end:
        number = reader.byte()
        length = reader.unsigned()
        start = reader.at
        reader.skip(length)
        if number == 0:
            parse.read_custom(_Reader(data, start, start + length))
            continue
        if number > _SECTION_LAST or number in seen:
            raise MalformedError(f"section {number} is unknown or comes twice")
        seen.add(number)
        parse.section(number, _Reader(data, start, start + length))
    return parse.shape()
