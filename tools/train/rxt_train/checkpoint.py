"""Reads and writes published checkpoints (config.json, model.safetensors) with numpy alone."""

import json
import os
import struct

import numpy as np

from .shape import Shape


def to_bf16(x):
    """float32 -> bfloat16 bits, to the nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path, tensors):
    """tensors: name -> float32 array; stored as BF16, names in sorted order."""
    header, offset, parts = {"__metadata__": {"format": "pt"}}, 0, []
    for name in sorted(tensors):
        bits = to_bf16(tensors[name])
        end = offset + bits.nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        parts.append(bits.astype("<u2").tobytes())
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".new", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.writelines(parts)
    os.replace(path + ".new", path)


def read_safetensors(path):
    """name -> float32 array, from BF16 or F32."""
    with open(path, "rb") as f:
        (size,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            values = from_bf16(np.frombuffer(data[first:last], "<u2"))
        elif entry["dtype"] == "F32":
            values = np.frombuffer(data[first:last], "<f4")
        else:
            raise ValueError(f"{path}: {name} is {entry['dtype']}, not BF16 or F32")
        out[name] = values.reshape(entry["shape"])
    return out


def to_published(shape, arrays):
    """The trainer's arrays (float32 numpy) as published tensors."""
    out = {}
    for name, array, layer, first, last, to_shape in shape.published():
        source = arrays[array] if layer is None else arrays[array][layer]
        out[name] = np.ascontiguousarray(source[first:last]).reshape(to_shape)
    return out


def from_published(shape, tensors):
    """The inverse of to_published; strict, but for RoPE tables and aliases of shared tensors."""
    arrays = {name: np.full(size, np.nan, np.float32) for name, size in shape.tensors().items()}
    left = {name for name in tensors if ".rope." not in name}
    left -= {"encoder.model.embedding.weight", "decoder.model.stm.memory"}
    for name, array, layer, first, last, to_shape in shape.published():
        source = name
        if name == "decoder.model.embedding.weight" and "encoder.model.embedding.weight" in tensors:
            source = "encoder.model.embedding.weight"
        if source not in tensors:
            raise ValueError(f"model.safetensors has no tensor {source}")
        if tuple(tensors[source].shape) != tuple(to_shape):
            raise ValueError(f"{source}: shape {tensors[source].shape}, config.json says {to_shape}")
        target = arrays[array] if layer is None else arrays[array][layer]
        target[first:last] = tensors[source].reshape(target[first:last].shape)
        left.discard(name)
    if left:
        raise ValueError(f"model.safetensors: tensors without a place: {sorted(left)}")
    return arrays


def load(folder):
    """(shape, config, arrays) of a checkpoint folder."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    shape = Shape.of_config(config)
    tensors = read_safetensors(os.path.join(folder, "model.safetensors"))
    return shape, config, from_published(shape, tensors)


def save(folder, shape, arrays, token_ids, tokenizer):
    """Writes config.json, model.safetensors (BF16) and tokenizer.json (text) into folder."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as f:
        json.dump(shape.config(token_ids), f, indent=1, sort_keys=True)
        f.write("\n")
    with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as f:
        f.write(tokenizer)
    path = os.path.join(folder, "model.safetensors")
    write_safetensors(path, to_published(shape, arrays))
    return os.path.getsize(path)
