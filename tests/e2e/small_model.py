"""A model small enough for the emulated device: a golden folder and a tokenizer of single bytes."""

import json
import pathlib

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "beta-tiny"
SPECIAL = {0: "[PAD]", 1: "[BOS]", 2: "[UNK]", 3: "[EOS]", 4: "[Q]", 5: "[A]", 6: "[T]", 7: "[C]",
           8: "[U]", 9: "[I]"}  # as its config.json says


def byte_characters():
    """The character of the byte alphabet for each byte. Spec 4, step 4."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in own]
    return [chr(b) if b in own else chr(256 + rest.index(b)) for b in range(256)]


def tokenizer(n_vocab):
    names = [SPECIAL[i] for i in sorted(SPECIAL)] + byte_characters()[1:]  # clients take no NUL
    names += [f"<{i}>" for i in range(len(names), n_vocab)]
    added = [{"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, text in SPECIAL.items()]
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "[UNK]",
                  "vocab": {text: i for i, text in enumerate(names)}, "merges": []},
    }


def write(folder):
    """Makes the folder; returns it."""
    folder = pathlib.Path(folder)
    folder.mkdir()
    config = json.loads((GOLDEN / "config.json").read_text())
    config["stm_init"] = "checkpoint"  # of all sessions the same
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").symlink_to(GOLDEN / "model.safetensors")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(config["decoder_config"]["vocab_size"])))
    return folder
