"""A small tokenizer as transformers 5 saves it, and its tokens.

    python -m scripts.goldens.tokenizer_json tests/golden

writes the folder tokenizer_json: tokenizer.json, tokenizer_config.json, and tokens.json with the ids of some texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = (
    "a photo of a cat",
    "Straße, 42 häuser!",
    "  two   spaces\nand a line ",
    "<|endoftext|> inside <|STARTOFTEXT|>",
    "don't",
    "图 😀",
    "",
)


def main() -> None:
    """Write the files to the folder given on the command line."""
    sys.path[:0] = [str(ROOT / "export"), str(ROOT / "runtime")]
    from transformers import CLIPTokenizer

    from kandinsky_export.random_weights.vocabulary import small_vocabulary

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write the files to")
    out = parser.parse_args().folder / "tokenizer_json"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(small_vocabulary().ids()), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text(small_vocabulary().merges_text(), encoding="utf-8")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(out)
    tokens = {text: tokenizer(text).input_ids for text in TEXTS}
    (out / "tokens.json").write_text(json.dumps(tokens, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
