"""Bundles on disk: all faults are reported at once, before a graph is loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kandinsky_runtime.bundle import bundle as bundle_module
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import SCHEMA, Variant
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import BundleError, UsageError
from kandinsky_runtime.files import cache_folder, file_sha256
from tests.damage import flip_a_byte
from tests.runtime import fake_bundle


def faults_on_open(folder: Path | str) -> tuple[str, ...]:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert str(caught.value).startswith(f"bundle {folder}: ")
    return caught.value.faults


def faults_of_content(bundle: Bundle) -> tuple[str, ...]:
    with pytest.raises(BundleError) as caught:
        bundle.check_content()
    return caught.value.faults


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content is read, in order."""
    names: list[str] = []

    def counted(path: Path, bar: object = None) -> str:
        names.append(path.parent.name)
        return file_sha256(path)

    monkeypatch.setattr(bundle_module, "file_sha256", counted)
    return names


def test_sound(bundle: Path, cache: Path) -> None:
    opened = Bundle.open(bundle)
    opened.check_content()
    assert opened.component("unet").variants.keys() == {"fake-fp32"}
    assert opened.paths(opened.component("unet").variants["fake-fp32"]) == {"graph": bundle / "unet" / "graph.txt"}
    assert opened.extra_files() == []


def test_a_relative_path_stays_valid_after_a_change_of_folder(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    opened = Bundle.open(bundle.name)
    monkeypatch.chdir("/")
    opened.check_content()


def test_no_folder(tmp_path: Path) -> None:
    (fault,) = faults_on_open(tmp_path / "nowhere")
    assert fault == "there is no such folder; make a bundle with k22-export bundle CHECKPOINT --out DIR"


def test_a_file(bundle: Path) -> None:
    (fault,) = faults_on_open(bundle / "manifest.json")
    assert fault.startswith("is a file, not a bundle's folder")


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    assert faults_on_open(tmp_path) == ("not a bundle: the folder has no manifest.json",)


@pytest.mark.parametrize("path", [None, 3, [], b"bundle"])
def test_no_path(path: object) -> None:
    with pytest.raises(UsageError, match=f"the bundle is a {type(path).__name__}"):
        Bundle.open(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_impossible_path(path: str) -> None:
    faults_on_open(path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_json(bundle: Path, text: bytes) -> None:
    (bundle / "manifest.json").write_bytes(text)
    (fault,) = faults_on_open(bundle)
    assert fault.startswith("manifest.json ")


def test_manifest_too_large_to_read(bundle: Path) -> None:
    os.truncate(bundle / "manifest.json", 1 << 40)
    assert faults_on_open(bundle) == ("manifest.json has 1,099,511,627,776 bytes; expected at most 16,777,216",)


def test_newer_schema(bundle: Path) -> None:
    fake_bundle.rewrite(bundle, lambda data: data.update(schema=SCHEMA + 1))
    assert faults_on_open(bundle) == (
        f"bundle schema {SCHEMA + 1}; this runtime reads up to {SCHEMA}: upgrade kandinsky22-deploy",
    )


def test_missing_component(bundle: Path) -> None:
    fake_bundle.rewrite(bundle, lambda data: data["components"].pop("unet"))
    assert faults_on_open(bundle) == ("component `unet` is missing",)


def test_missing_changed_and_outside_files_at_once(bundle: Path, tmp_path: Path) -> None:
    (bundle / "unet" / "graph.txt").unlink()
    (bundle / "movq_encoder" / "graph.txt").write_bytes(b"short")
    outside = tmp_path / "outside.txt"
    (bundle / "movq_decoder" / "graph.txt").unlink()
    (bundle / "movq_decoder" / "graph.txt").symlink_to(outside)
    assert faults_on_open(bundle) == (
        "unet/graph.txt is missing",
        "movq_encoder/graph.txt has 5 bytes; the manifest says 18",
        "movq_decoder/graph.txt is a link to a file that does not exist; download or copy the bundle again",
    )


def test_a_link_within_the_bundle_is_sound(bundle: Path, cache: Path) -> None:
    (bundle / "unet").rename(bundle / "elsewhere")
    (bundle / "unet").symlink_to("elsewhere")
    Bundle.open(bundle).check_content()


def test_a_folder_linked_outside(bundle: Path, tmp_path: Path) -> None:
    (bundle / "unet").rename(tmp_path / "elsewhere")
    (bundle / "unet").symlink_to(tmp_path / "elsewhere")
    Bundle.open(bundle).check_content()


def test_a_bundle_in_the_hugging_face_cache(bundle: Path, tmp_path: Path, cache: Path) -> None:
    """Every file of a snapshot is a link to ../../blobs/SHA256. The content behind the links is checked."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for file in [file for file in bundle.rglob("*") if file.is_file()]:
        blob = blobs / file_sha256(file)
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, file.parent))
    Bundle.open(bundle).check_content()
    flip_a_byte((bundle / "unet" / "graph.txt").resolve())
    (fault,) = faults_of_content(Bundle.open(bundle))
    assert fault.startswith("unet/graph.txt has changed")


@pytest.mark.parametrize("target", ["/dev/zero", "/"])
def test_a_link_to_what_cannot_be_checked(target: str, bundle: Path) -> None:
    (bundle / "unet" / "graph.txt").unlink()
    (bundle / "unet" / "graph.txt").symlink_to(target)
    assert faults_on_open(bundle) == ("unet/graph.txt is a folder or a device, not a file",)


def test_a_link_in_a_circle(bundle: Path) -> None:
    (bundle / "unet" / "graph.txt").unlink()
    (bundle / "unet" / "graph.txt").symlink_to("graph.txt")
    (fault,) = faults_on_open(bundle)
    assert fault.startswith("unet/graph.txt ")


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname", "unet\\..\\..\\outside.txt", "x" * 300])
def test_paths_that_no_bundle_has(bundle: Path, path: str) -> None:
    (bundle.parent / "outside.txt").write_text("secret")
    fake_bundle.rewrite(bundle, lambda data: data["files"].update({path: {"bytes": 6, "sha256": "0" * 64}}))
    (fault,) = faults_on_open(bundle)
    assert path in fault.replace("\\\\", "\\")


def test_unknown_fields_and_files_are_ignored(bundle: Path, cache: Path) -> None:
    fake_bundle.rewrite(bundle, lambda data: data.update(future={"a": 1}))
    (bundle / "notes").mkdir()
    (bundle / "notes" / "read me.txt").write_text("mine")
    opened = Bundle.open(bundle)
    opened.check_content()
    assert opened.extra_files() == ["notes/read me.txt"]


def test_unknown_component(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no component `prior`; it has unet, movq_encoder, movq_decoder"):
        Bundle.open(bundle).component("prior")


def test_changed_content_of_the_same_size(bundle: Path, cache: Path) -> None:
    opened = Bundle.open(bundle)
    for name in ("unet", "movq_decoder"):
        flip_a_byte(bundle / name / "graph.txt")
    assert [fault.split(" has changed")[0] for fault in faults_of_content(Bundle.open(bundle))] == [
        "movq_decoder/graph.txt",
        "unet/graph.txt",
    ]
    assert faults_of_content(opened) == faults_of_content(Bundle.open(bundle))


def test_a_check_is_remembered(bundle: Path, cache: Path, settled: None, reads: list[str]) -> None:
    opened = Bundle.open(bundle)
    opened.check_content()
    assert reads == ["movq_decoder", "movq_encoder", "unet"]
    opened.check_content()
    Bundle.open(bundle).check_content()
    assert len(reads) == 3
    assert list(cache.rglob("*.json")) == list(cache.rglob("*.*")), "no temporary file is left"


def test_only_the_wanted_files_are_read(bundle: Path, cache: Path, settled: None, reads: list[str]) -> None:
    opened = Bundle.open(bundle)
    opened.check_content([Variant("fp32", {"graph": "unet/graph.txt"})])
    assert reads == ["unet"]
    opened.check_content()
    assert reads == ["unet", "movq_decoder", "movq_encoder"]


def test_changed_content_after_a_check_that_was_remembered(
    bundle: Path, cache: Path, settled: None, reads: list[str]
) -> None:
    Bundle.open(bundle).check_content()
    wait_for_the_clock_of(bundle)
    flip_a_byte(bundle / "unet" / "graph.txt")
    (fault,) = faults_of_content(Bundle.open(bundle))
    assert fault.startswith("unet/graph.txt has changed")
    assert reads == ["movq_decoder", "movq_encoder", "unet", "unet"]
    assert faults_of_content(Bundle.open(bundle)) == (fault,), "a bad file is never remembered"


def wait_for_the_clock_of(folder: Path) -> None:
    """Wait until a new file gets a time that no existing file has."""
    probe, latest = folder.parent / "probe", max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    while True:
        probe.write_text("")
        if probe.stat().st_ctime_ns > latest:
            return


def test_a_file_replaced_by_another(bundle: Path, cache: Path, settled: None) -> None:
    Bundle.open(bundle).check_content()
    file = bundle / "unet" / "graph.txt"
    other = file.with_name("other")
    other.write_bytes(file.read_bytes().upper())
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert len(faults_of_content(Bundle.open(bundle))) == 1


def test_a_file_changed_only_just_now_is_not_remembered(bundle: Path, cache: Path, reads: list[str]) -> None:
    for _ in range(2):
        Bundle.open(bundle).check_content()
    assert len(reads) == 6


def test_another_manifest_over_the_same_files(bundle: Path, cache: Path, settled: None) -> None:
    Bundle.open(bundle).check_content()
    fake_bundle.rewrite(bundle, lambda data: data["files"]["unet/graph.txt"].update(sha256="0" * 64))
    assert len(faults_of_content(Bundle.open(bundle))) == 1


def test_good_files_are_remembered_even_if_others_are_bad(
    bundle: Path, cache: Path, settled: None, reads: list[str]
) -> None:
    flip_a_byte(bundle / "unet" / "graph.txt")
    for _ in range(2):
        faults_of_content(Bundle.open(bundle))
    assert reads == ["movq_decoder", "movq_encoder", "unet", "unet"]


def test_a_file_that_is_removed_while_the_bundle_is_open(bundle: Path, cache: Path) -> None:
    opened = Bundle.open(bundle)
    (bundle / "unet" / "graph.txt").unlink()
    assert faults_of_content(opened) == ("unet/graph.txt cannot be read (No such file or directory)",)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[1, 2]", b"\xff", b"[" * 100_000, b'{"unet/graph.txt": 3}'])
def test_a_damaged_cache_does_no_harm(
    bundle: Path, cache: Path, settled: None, reads: list[str], content: bytes
) -> None:
    Bundle.open(bundle).check_content()
    (remembered,) = cache.rglob("*.json")
    remembered.write_bytes(content)
    Bundle.open(bundle).check_content()
    assert len(reads) == 6
    assert set(json.loads(remembered.read_text())) == set(Bundle.open(bundle).manifest.files)


def test_an_unusable_cache_folder_does_no_harm(bundle: Path, cache: Path, settled: None) -> None:
    cache.write_text("a file where the folder should be")
    for _ in range(2):
        Bundle.open(bundle).check_content()
    assert cache.read_text() == "a file where the folder should be"


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(bundle: Path, cache: Path, settled: None) -> None:
    Bundle.open(bundle).check_content()
    (remembered,) = cache.rglob("*.json")
    remembered.unlink()
    remembered.mkdir()
    Bundle.open(bundle).check_content()
    assert list(remembered.parent.iterdir()) == [remembered]


def test_a_user_without_a_home_folder(
    bundle: Path, settled: None, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None
    for _ in range(2):
        Bundle.open(bundle).check_content()
    assert len(reads) == 6


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/kandinsky22-deploy")
    monkeypatch.setenv("HOME", "/home/someone")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path("/home/someone/.cache/kandinsky22-deploy")


def test_progress_is_shown_on_stderr_if_reading_takes_a_while(
    bundle: Path, cache: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundle)
    opened.check_content(progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(bundle_module, "_SECONDS_BEFORE_BAR", 0)
    opened.check_content(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "checking" in err


# -- a bundle that is trusted --


def test_a_trusted_bundle_is_not_hashed(bundle: Path, cache: Path, reads: list[str]) -> None:
    opened = Bundle.open(bundle, trust=True)
    opened.check_content()
    assert reads == []
    assert not cache.exists() or not any(cache.rglob("*.json")), "nothing is remembered of it"


def test_the_price_of_trust_is_a_change_that_is_not_noticed(bundle: Path, cache: Path) -> None:
    file = bundle / "unet" / "graph.txt"
    file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    Bundle.open(bundle, trust=True).check_content()
    (fault,) = faults_of_content(Bundle.open(bundle))
    assert "its sha256 differs" in fault


def test_sizes_of_a_trusted_bundle_are_checked(bundle: Path) -> None:
    with (bundle / "unet" / "graph.txt").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"unet/graph.txt has \d+ bytes; the manifest says \d+"):
        Bundle.open(bundle, trust=True)


def test_links_out_of_a_trusted_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    file, outside = bundle / "unet" / "graph.txt", tmp_path / "outside.txt"
    file.rename(outside)
    file.symlink_to(outside)
    Bundle.open(bundle)
    with pytest.raises(BundleError, match=r"unet/graph.txt is a link that leaves the folder, and its content is not"):
        Bundle.open(bundle, trust=True)
    with pytest.raises(BundleError, match="is a link that leaves the folder"):
        Bundle.of(Bundle.open(bundle), trust=True)


def test_a_link_within_a_trusted_bundle(bundle: Path) -> None:
    file = bundle / "unet" / "graph.txt"
    file.rename(bundle / "unet" / "own.txt")
    file.symlink_to("own.txt")
    assert Bundle.open(bundle, trust=True).trusted


@pytest.mark.parametrize("trust", [None, 1, "yes", []])
def test_trust_that_is_not_a_bool(bundle: Path, trust: object) -> None:
    with pytest.raises(UsageError, match="trust is .*; expected True or False"):
        Bundle.open(bundle, trust=trust)  # type: ignore[arg-type]


@pytest.mark.parametrize("opened", [False, True])
def test_a_pipeline_of_a_trusted_bundle(
    bundle: Path, cache: Path, reads: list[str], fake_engine: object, opened: bool
) -> None:
    with InpaintPipeline.load(Bundle.open(bundle) if opened else bundle, "fake", trust_bundle=True) as pipeline:
        assert pipeline.bundle.trusted
        pipeline.graphs.load(["unet"])
    assert reads == []
