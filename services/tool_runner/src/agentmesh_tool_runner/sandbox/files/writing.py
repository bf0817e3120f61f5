"""Writing, moving, copying and removing. What is overwritten or removed is kept as a version."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

from agentmesh_tool_runner.sandbox import beneath
from agentmesh_tool_runner.sandbox.model import FileEntry, FileRules, WorkspaceFullError
from agentmesh_tool_runner.sandbox.snapshot import Entry, walk

from . import versions
from .content import is_same, sha256_at
from .drafts import drop_draft, new_name, open_draft, put_draft, write_draft
from .tree import (
    Tree,
    as_entry,
    as_file_entry,
    entry_at,
    inside,
    look,
    make_folders,
    parent_and_name,
    refuse_non_file,
    remove_entry,
    room_is_bounded,
)

_BLOCK: Final = 256 * 1024


def write_file(
    root: int, rules: FileRules, path: str, data: bytes, *, append: bool = False
) -> None:
    """Writes a whole file at once. Appending changes it in place, and overwrites nothing."""
    if append and _append(root, path, data):
        return
    draft = new_name()
    try:
        open_draft(root, rules, draft, path)
        write_draft(root, rules, draft, 0, data)
        put_draft(root, rules, draft, path)
    finally:
        drop_draft(root, draft)


def _append(root: int, path: str, data: bytes) -> bool:
    """False if there is no such file. What does not fit is taken away again."""
    try:
        descriptor = beneath.open_regular(root, inside(path), os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return False
    try:
        before = os.fstat(descriptor).st_size
        left = memoryview(data)
        try:
            with room_is_bounded():
                while left:
                    left = left[os.write(descriptor, left) :]
        except WorkspaceFullError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
    return True


def make_folder(root: int, rules: FileRules, path: str) -> FileEntry:
    """Makes a folder and its parents. One that is there already is no error."""
    plain = inside(path)
    with room_is_bounded():
        make_folders(Tree(root, rules), plain)
    with beneath.directory(root, plain) as folder:
        return as_file_entry(as_entry(os.fstat(folder), plain))


def move(
    root: int, rules: FileRules, path: str, destination: str, *, replace_existing: bool = False
) -> FileEntry:
    """Renames a file or folder. A file that it replaces is kept as a version.

    Raises FileNotFoundError, FileExistsError.
    """
    tree = Tree(root, rules)
    parent, name = parent_and_name(path)
    new_parent, new_name = parent_and_name(destination)
    plain, new_plain = inside(path), inside(destination)
    if f"{new_plain}/".startswith(f"{plain}/"):
        raise beneath.UnsafePathError(f"{path!r} cannot be moved into itself")
    look(root, plain)
    with room_is_bounded():
        make_folders(tree, new_parent)
    with (
        beneath.directory(root, parent) as old,
        beneath.directory(root, new_parent) as new,
    ):
        _make_way(tree, new, new_name, destination, replace_existing=replace_existing)
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        return as_file_entry(entry_at(new, new_name, new_plain))


def _make_way(
    tree: Tree, folder: int, name: str, destination: str, *, replace_existing: bool
) -> None:
    """Keeps the file that is about to be replaced; refuses all else that stands there."""
    try:
        entry_at(folder, name, name)
    except FileNotFoundError:
        return
    if not replace_existing:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)
    refuse_non_file(folder, name)
    versions.keep(tree, folder, name, inside(destination), moves=False)


def copy(
    root: int, rules: FileRules, path: str, destination: str, *, replace_existing: bool = False
) -> FileEntry:
    """Copies a file, or a folder with all below; a folder's destination must not exist.

    Links are copied as links; special files are left out. What does not fit is taken away again.
    """
    parent_and_name(path)  # the workspace itself is not to be copied
    source = look(root, inside(path))
    return _copy(Tree(root, rules), source, destination, replace_existing=replace_existing)


def _copy(tree: Tree, source: Entry, destination: str, *, replace_existing: bool) -> FileEntry:
    new_plain = inside(destination)
    if source.kind == "file":
        return _copy_file(tree, source, destination, replace_existing=replace_existing)
    if source.kind != "directory":
        raise beneath.UnsafePathError(f"{beneath.shown(source.path)!r} is no file or folder")
    if f"{new_plain}/".startswith(f"{source.path}/"):
        raise beneath.UnsafePathError(f"{destination!r} is inside of what is copied")
    parent, name = parent_and_name(destination)
    with room_is_bounded():
        make_folders(tree, parent)
    with beneath.directory(tree.root, parent) as folder:
        _make_way(tree, folder, name, destination, replace_existing=False)
        try:
            _copy_folder(tree, source, new_plain)
        except (OSError, WorkspaceFullError):
            with contextlib.suppress(FileNotFoundError):
                remove_entry(folder, name)
            raise
    return as_file_entry(look(tree.root, new_plain))


def _copy_folder(tree: Tree, source: Entry, new_plain: str) -> None:
    with room_is_bounded():
        make_folders(tree, new_plain)
    for entry in list(walk(tree.root, source.path)):
        target = new_plain + entry.path[len(source.path) :]
        if entry.kind == "directory":
            with room_is_bounded():
                make_folders(tree, target)
        elif entry.kind == "link":
            parent, name = beneath.split(target)
            with beneath.directory(tree.root, parent) as folder, room_is_bounded():
                os.symlink(entry.target, name, dir_fd=folder)
        elif entry.kind == "file":
            _copy_file(tree, entry, beneath.shown(target), replace_existing=False)


def _copy_file(tree: Tree, source: Entry, destination: str, *, replace_existing: bool) -> FileEntry:
    root, rules = tree.root, tree.rules
    draft = new_name()
    try:
        open_draft(root, rules, draft, destination)
        with os.fdopen(beneath.open_regular(root, source.path, os.O_RDONLY), "rb") as file:
            # As far as it was long at first: a program may write on while it is copied.
            at = 0
            while at < source.size and (block := file.read(min(_BLOCK, source.size - at))):
                write_draft(root, rules, draft, at, block)
                at += len(block)
        mode = stat.S_IMODE(source.mode) & 0o777
        return put_draft(
            root, rules, draft, destination, replace_existing=replace_existing, mode=mode
        )
    finally:
        drop_draft(root, draft)


def remove(root: int, rules: FileRules, path: str, *, keeps_version: bool = True) -> str:
    """Removes a file, or a folder with all below; returns the id of the version kept, or "".

    What is larger than versions may be together is removed without one.
    """
    tree = Tree(root, rules)
    parent, name = parent_and_name(path)
    plain = inside(path)
    with beneath.directory(root, parent) as folder:
        kept = ""
        if keeps_version:
            with contextlib.suppress(WorkspaceFullError):
                kept = versions.keep(tree, folder, name, plain, moves=True)
        if not kept:
            remove_entry(folder, name)
    return kept


def restore_version(
    root: int, rules: FileRules, version_id: str, *, replaces: bytes | None = None
) -> FileEntry:
    """Copies a version back to its path; a file that is there now is kept as a version first.

    With `replaces`, the SHA-256 of the file that is to be there, empty for nothing, what is the
    same as the version already stays and is the answer.

    Raises FileNotFoundError for an unknown version; FileExistsError for a folder that is there
    again; OSError with ESTALE if something else is there than what it `replaces`.
    """
    tree = Tree(root, rules)
    kept = versions.find(tree, version_id)
    source = look(root, kept.at)
    if replaces is not None:
        present = _present(root, kept.plain)
        if present is not None and is_same(root, source, present):
            return as_file_entry(present)
        if not _is_replaced(root, present, replaces):
            raise OSError(errno.ESTALE, "it is another file now", beneath.shown(kept.plain))
    return _copy(tree, source, beneath.shown(kept.plain), replace_existing=True)


def _is_replaced(root: int, present: Entry | None, replaces: bytes) -> bool:
    if present is None:
        return not replaces
    return present.kind == "file" and sha256_at(root, present) == replaces


def _present(root: int, plain: str) -> Entry | None:
    try:
        return look(root, plain)
    except (FileNotFoundError, NotADirectoryError):
        return None
