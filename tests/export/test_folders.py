"""Folders that appear whole or not at all, whatever happens to the process that writes them."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kandinsky_export.errors import ExportError
from kandinsky_export.folders import check_target, new_folder
from kandinsky_runtime.errors import UsageError

MARKER = "marker"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    (tmp_path / "parent").mkdir()
    return tmp_path / "parent"


def make(target: Path, content: str, *, overwrite: bool = False) -> None:
    with new_folder(target, marker=MARKER, overwrite=overwrite) as folder:
        (folder / MARKER).touch()
        (folder / "sub").mkdir()
        (folder / "sub" / "content").write_text(content)


def content_of(target: Path) -> str:
    assert sorted(path.name for path in target.iterdir()) == [MARKER, "sub"]
    return (target / "sub" / "content").read_text()


def names(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


class TestNewFolder:
    def test_appears_when_the_block_ends(self, parent: Path) -> None:
        with new_folder(parent / "new", marker=MARKER) as folder:
            assert folder.parent == parent
            assert not (parent / "new").exists()
            (folder / MARKER).write_text("here")
        assert names(parent) == ["new"]
        assert (parent / "new" / MARKER).read_text() == "here"
        assert (parent / "new").stat().st_mode & 0o777 == 0o777 & ~_umask()

    def test_an_empty_folder_is_taken(self, parent: Path) -> None:
        (parent / "new").mkdir()
        make(parent / "new", "a")
        assert content_of(parent / "new") == "a"

    def test_one_of_its_kind_is_replaced_when_asked_to(self, parent: Path) -> None:
        make(parent / "new", "a")
        make(parent / "new", "b", overwrite=True)
        assert content_of(parent / "new") == "b"
        assert names(parent) == ["new"]

    def test_a_link_stays_a_link(self, parent: Path) -> None:
        make(parent / "real", "a")
        (parent / "link").symlink_to("real")
        make(parent / "link", "b", overwrite=True)
        assert (parent / "link").is_symlink()
        assert content_of(parent / "real") == "b"
        assert names(parent) == ["link", "real"]

    @pytest.mark.parametrize("name", ["a b", "[ab]*?", ".hidden", "ünï", "x.partial-1234"])
    def test_any_name(self, name: str, parent: Path) -> None:
        make(parent / name, "a")
        make(parent / name, "b", overwrite=True)
        assert names(parent) == [name]

    def test_a_relative_target(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(parent)
        make(Path("new"), "a")
        make(Path("new/../other/"), "b")
        assert names(parent) == ["new", "other"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class TestRefusals:
    """`check_target` refuses before any work; `new_folder` does as well, and leaves everything as it was."""

    def refused(self, target: Path, *, overwrite: bool) -> str:
        with pytest.raises(UsageError) as caught:
            check_target(target, marker=MARKER, overwrite=overwrite)
        with pytest.raises(UsageError) as again, new_folder(target, marker=MARKER, overwrite=overwrite):
            pytest.fail("the block ran")
        assert str(again.value) == str(caught.value)
        return str(caught.value)

    def test_it_exists(self, parent: Path) -> None:
        make(parent / "new", "a")
        assert "replace it with --overwrite" in self.refused(parent / "new", overwrite=False)
        assert content_of(parent / "new") == "a"

    @pytest.mark.parametrize("precious", ["home/precious", "home", MARKER])
    def test_it_is_of_another_kind(self, precious: str, parent: Path) -> None:
        """`--overwrite` with a slip of the finger must not cost somebody a home folder."""
        (parent / precious).parent.mkdir(exist_ok=True)
        (parent / precious).write_text("years of work")
        target = parent / Path(precious).parts[0]
        assert "has no marker in it, so it is not replaced" in self.refused(target, overwrite=True)
        assert (parent / precious).read_text() == "years of work"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_its_parent_is_missing(self, overwrite: bool, parent: Path) -> None:
        message = f"{parent / 'a'} is not a folder; create it first"
        assert self.refused(parent / "a" / "b", overwrite=overwrite) == message
        (parent / "a").touch()
        assert self.refused(parent / "a" / "b", overwrite=overwrite) == message

    @pytest.mark.parametrize("target", [".", "..", "/", "../parent"])
    def test_it_is_where_we_are(self, target: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (parent / "here").mkdir()
        (parent / MARKER).touch()
        monkeypatch.chdir(parent)
        assert "is or contains the current folder" in self.refused(Path(target), overwrite=True)

    def test_it_cannot_be_looked_at(self, parent: Path) -> None:
        with pytest.raises(ExportError, match="was not written: .*File name too long"):
            check_target(parent / ("x" * 300), marker=MARKER, overwrite=False)


class TestFailures:
    """After each of them the parent is as it was."""

    @pytest.fixture(params=["nothing", "an old one"])
    def before(self, request: pytest.FixtureRequest, parent: Path) -> Iterator[str]:
        if request.param == "an old one":
            make(parent / "new", "old")
        yield request.param
        assert names(parent) == ([] if request.param == "nothing" else ["new"])
        if request.param == "an old one":
            assert content_of(parent / "new") == "old"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_in_the_block(self, error: type[BaseException], before: str, parent: Path) -> None:
        def work() -> None:
            with new_folder(parent / "new", marker=MARKER, overwrite=True) as folder:
                (folder / "half").write_text("done")
                raise error

        with pytest.raises(error):
            work()

    def test_a_full_disk(self, before: str, parent: Path) -> None:
        def work() -> None:
            with new_folder(parent / "new", marker=MARKER, overwrite=True) as folder:
                (folder / "half").symlink_to("/dev/full")
                (folder / "half").write_text("done")

        with pytest.raises(ExportError) as caught:
            work()
        assert str(caught.value) == f"cannot write {parent / 'new'}: the disk is full; free some space and try again"

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
    def test_while_it_is_flushed(
        self, error: BaseException, before: str, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: int) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises((ExportError, KeyboardInterrupt)):
                make(parent / "new", "a", overwrite=True)

    @pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
    @pytest.mark.parametrize("moment", [0, 1, 2])
    def test_while_it_is_renamed(
        self, moment: int, error: BaseException, before: str, parent: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The new folder is renamed, which fails where there is an old one; then the old one, then the new one."""
        rename, moments = Path.rename, iter(range(3))

        def failing(path: Path, target: Path) -> Path:
            puts_back = path.name.endswith("-old")
            if (path.name == "new" or ".partial-" in path.name) and not puts_back and next(moments) == moment:
                raise error
            return rename(path, target)

        if before == "nothing" and moment:
            return  # the first rename is the only one
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", failing)
            with pytest.raises((ExportError, KeyboardInterrupt)):
                make(parent / "new", "a", overwrite=True)


PROGRAM = """
    import os, signal, sys
    from pathlib import Path
    from kandinsky_export import folders

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    target, moment = Path(sys.argv[1]), sys.argv[2]
    rename, rmtree = Path.rename, folders.shutil.rmtree

    def renaming(path, to):
        if moment == "between the renames" and list(target.parent.glob("*-old")):
            die()
        return rename(path, to)

    def removing(path, **options):
        if moment == "before the old one is removed" and path.name.endswith("-old") and path.exists():
            die()
        return rmtree(path, **options)

    Path.rename, folders.shutil.rmtree = renaming, removing
    if moment == "before it is flushed":
        folders._flush = die
    with folders.new_folder(target, marker="marker", overwrite=True) as folder:
        (folder / "marker").touch()
        (folder / "sub").mkdir()
        if moment == "in the block":
            die()
        (folder / "sub" / "content").write_text("new")
"""
MOMENTS = ("in the block", "before it is flushed", "between the renames", "before the old one is removed")


class TestKilled:
    @pytest.mark.parametrize("moment", MOMENTS)
    def test_what_is_left_is_whole_and_removed_by_the_next(self, moment: str, parent: Path) -> None:
        make(parent / "new", "old")
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), parent / "new", moment], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(names(parent)) > 1 or moment == "before the old one is removed"
        if (parent / "new").exists():
            assert content_of(parent / "new") == ("new" if moment == "before the old one is removed" else "old")
        else:
            assert moment == "between the renames"
        with pytest.raises(UsageError, match="--overwrite"):
            make(parent / "new", "newer")  # one that was being replaced is back, and counts
        assert names(parent) == ["new"]
        make(parent / "new", "newer", overwrite=True)
        assert content_of(parent / "new") == "newer"
        assert names(parent) == ["new"]

    def test_what_a_living_process_writes_is_left_alone(self, parent: Path) -> None:
        with new_folder(parent / "new", marker=MARKER) as first:
            (first / MARKER).touch()
            make(parent / "other", "a")
            with new_folder(parent / "new", marker=MARKER) as second:
                (second / MARKER).touch()
                assert first.exists()
                assert second != first
            assert names(parent) == [first.name, "new", "other"]
            shutil.rmtree(parent / "new")
        assert names(parent) == ["new", "other"]

    def test_file_systems_without_locks(self, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The leftovers cannot be judged, so they stay; new folders are made nevertheless."""

        def unsupported(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        (parent / ".new.partial-1234").mkdir()
        monkeypatch.setattr(fcntl, "flock", unsupported)
        make(parent / "new", "a")
        assert names(parent) == [".new.partial-1234", "new"]


class TestTwoAtOnce:
    def test_the_second_does_not_replace_the_first_unasked(self, parent: Path) -> None:
        def second() -> None:
            with new_folder(parent / "new", marker=MARKER) as folder:
                (folder / MARKER).write_text("second")
                make(parent / "new", "first")

        with pytest.raises(UsageError, match="was made by another process in the meantime"):
            second()
        assert content_of(parent / "new") == "first"
        assert names(parent) == ["new"]

    def test_many_that_replace_each_other(self, parent: Path) -> None:
        make(parent / "new", "0")
        errors: list[BaseException] = []

        def work(name: str) -> None:
            try:
                for _ in range(20):
                    make(parent / "new", name, overwrite=True)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(str(i),)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert content_of(parent / "new") in set("0123")
        assert names(parent) == ["new"]


def test_a_system_without_fcntl(tmp_path: Path) -> None:
    """As on Windows: folders are made and replaced, and leftovers stay, since nobody can tell whose they are."""
    leftover = tmp_path / ".new.partial-0123abcd"
    leftover.mkdir()
    program = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from kandinsky_export.folders import new_folder
for content in ("one", "two"):
    with new_folder(Path(sys.argv[1]), marker="file", overwrite=True) as folder:
        (folder / "file").write_text(content)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "new")], check=True)
    assert (tmp_path / "new" / "file").read_text() == "two"
    assert {path.name for path in tmp_path.iterdir()} == {"new", leftover.name}
