"""Invalid names are refused before anything is requested or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kandinsky_export import hub
from kandinsky_runtime.errors import UsageError
from tests.export.hub.checkpoint import NAME
from tests.export.hub.fake_server import FakeServer

BAD_NAMES = [
    "",
    "name",
    "owner/",
    "/name",
    "owner/name/",
    "owner/name/more",
    "../name",
    "owner/..",
    "owner/a..b",
    "owner/.hidden",
    "owner/-option",
    "owner/name.",
    "a--b/c",
    "owner\\name",
    "owner/na me",
    "owner/näme",
    "owner/name\n",
    "owner/name?x",
    "./name",
    "~/name",
    "owner/" + "n" * 97,
]


@pytest.mark.parametrize("name", [NAME, "a/b", "Owner_1/name-2.2.x", "1/2", "o/" + "n" * 96])
def test_hub_names_are_recognised(name: str) -> None:
    assert hub.looks_like_hub_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("which", ["huggingface", "paddle"])
def test_bad_names_are_refused_before_anything_is_asked_or_written(
    name: str, which: hub.Hub, tmp_path: Path, store: FakeServer
) -> None:
    assert not hub.looks_like_hub_name(name)
    with pytest.raises(UsageError, match="is not a hub name"):
        hub.fetch_checkpoint(name, hub=which, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert store.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hub": "elsewhere"}, "no hub is called 'elsewhere'"),
        ({"hub": "paddle", "revision": "main"}, "keeps no revisions"),
        ({"hub": "huggingface", "revision": "../main"}, "is not a revision"),
        ({"hub": "huggingface", "revision": ""}, "is not a revision"),
        ({"hub": "paddle", "variant": "../fp16"}, "is not a variant"),
        ({"hub": "paddle", "components": ("unet", "..")}, "is not a component"),
    ],
)
def test_other_arguments_that_cannot_be_meant_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hub.fetch_checkpoint(NAME, **arguments)
