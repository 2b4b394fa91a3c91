"""The read-only files of a WASI command, in memory: a tree of names, no host behind.

Pure. Paths come from a hostile guest: they are resolved by name only, never leave the
root, and there are no links to follow.

Not here: descriptors and rights (``wasi``).

Source: WASI preview 1, ``path_open`` and ``fd_readdir``.
"""

from __future__ import annotations

from typing import NamedTuple

from stream_executor.sandbox.wasi_types import Errno, WasiError

MAX_PATH_BYTES = 4096
MAX_DEPTH = 64  # of a file's path; each step is a directory
_ROOT = ()

Path = tuple[str, ...]


class Node(NamedTuple):
    """What a path names: a file's bytes, or None for a directory; and its number."""

    data: bytes | None
    inode: int


class FileTree:
    """Files by absolute path; directories exist because files are in them.

    Args:
        files: path and content.
        under: a tree that is seen through this one and stays as it is: a module's own
            files under a request's.

    Raises:
        ValueError: a path is not absolute and plain, or names a file and a directory,
            or is in the tree under this one.

    Attributes:
        count: of files and directories, all of them.
    """

    def __init__(
        self, files: tuple[tuple[str, bytes], ...], under: FileTree | None = None
    ) -> None:
        self._under = under
        self.count: int = 1 if under is None else under.count
        self._nodes: dict[Path, Node] = {_ROOT: Node(None, 1)}
        self._children: dict[Path, list[str]] = {}
        for name, data in files:
            parts = tuple(name.split("/")[1:])
            plain = all(
                part not in ("", ".", "..") and "\0" not in part for part in parts
            )
            if not name.startswith("/") or not parts or not plain:
                raise ValueError("a file's path is not absolute and plain")
            if len(parts) > MAX_DEPTH:
                raise ValueError("a file's path is too deep")
            for depth in range(1, len(parts)):
                self._add(parts[:depth], None)
            self._add(parts, data)

    def _add(self, path: Path, data: bytes | None) -> None:
        known = self.find(path)
        if known is None:
            self.count += 1
            self._nodes[path] = Node(data, self.count)
            self._children.setdefault(path[:-1], []).append(path[-1])
        elif known.data is not None or data is not None:
            raise ValueError("a file's path is used twice")

    def resolve(self, base: Path, raw: bytes) -> tuple[Path, Node]:
        """Follow a guest's path from a directory.

        Raises:
            WasiError: PERM if it is absolute or leaves the root, NOENT, NOTDIR,
                NAMETOOLONG, ILSEQ.
        """
        if len(raw) > MAX_PATH_BYTES:
            raise WasiError(Errno.NAMETOOLONG)
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise WasiError(Errno.ILSEQ) from None
        if name.startswith("/"):
            raise WasiError(Errno.PERM)
        if not name:
            raise WasiError(Errno.NOENT)
        path = base
        for part in name.split("/"):
            if self.node(path).data is not None:
                raise WasiError(Errno.NOTDIR)
            if part == "..":
                if not path:
                    raise WasiError(Errno.PERM)
                path = path[:-1]
            elif part not in ("", "."):
                path = (*path, part)
        return path, self.node(path)

    def node(self, path: Path) -> Node:
        """Give what a resolved path names.

        Raises:
            WasiError: NOENT.
        """
        node = self.find(path)
        if node is None:
            raise WasiError(Errno.NOENT)
        return node

    def entries(self, path: Path) -> list[tuple[str, Node]]:
        """List a directory: itself, its parent, then its names in order."""
        here = [(".", self.node(path)), ("..", self.node(path[:-1]))]
        names = sorted(self.names(path))
        return here + [(name, self.node((*path, name))) for name in names]

    def find(self, path: Path) -> Node | None:
        """Give what a resolved path names, if anything."""
        node = self._nodes.get(path)
        if node is None and self._under is not None:
            return self._under.find(path)
        return node

    def names(self, path: Path) -> list[str]:
        """Give the names in a directory, in no order."""
        below = [] if self._under is None else self._under.names(path)
        return below + self._children.get(path, [])
