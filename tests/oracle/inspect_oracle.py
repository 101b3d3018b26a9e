#!/usr/bin/env python3
"""Holds the figures of `rxt inspect` against numpy.

Plays a conversation with the bundled model, exports the session after every turn, reads memory and
token ids out of the exported bytes, and computes from them and the weights alone, in float64, what
an update did to every slot (docs/rxt.md 2.7) and what a question reads of a memory (1.3, 2.4). The
tool must show the same, to the rounding of its float32.

usage: inspect_oracle.py --rxt PROGRAM --model FOLDER
"""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

SAID = ["My name is Anna.", "i live in Oslo", "My dog is called Bruno.", "What is my name?"]
EPS = 1.1920929e-7
STEPS = 3  # roundings on the way to a gate: of norm, projections, attention and the sum itself

# ---- bytes ----------------------------------------------------------------------------------


def bf16(raw):
    return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")


def read_weights(path):
    data = path.read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    weights = {}
    for name, t in json.loads(data[8 : 8 + n]).items():
        if name == "__metadata__":
            continue
        first, last = t["data_offsets"]
        raw = data[8 + n + first : 8 + n + last]
        values = bf16(raw) if t["dtype"] == "BF16" else np.frombuffer(raw, "<f4")
        weights[name] = values.astype(np.float64).reshape(t["shape"])
    return weights


def read_export(path):
    """The newest image [L,S,D] with its hash, and the ids of the rows (store/export_impl.h)."""
    data = path.read_bytes()
    assert data[:12] == b"RXTSESSN" + struct.pack("<I", 2)
    at, ids = 16, {}
    while True:
        kind, _, n = struct.unpack("<IIQ", data[at : at + 16])
        body = data[at + 16 : at + 16 + n]
        at += 16 + n + 8
        if kind == 1:
            dtype, *shape = struct.unpack("<4I", body[16:32])
            assert dtype == 0, "float32"
        elif kind == 2:
            stm_hash, values = body[:16].hex(), body[16 + 24 + 32 :]
            stm = np.frombuffer(values, "<f4").astype(np.float64).reshape(shape)
        elif kind == 3:
            n_ids, version = struct.unpack("<I", body[24:28])[0], struct.unpack("<Q", body[52:60])[0]
            first = 16 + 24 + 12 + 40 + 64
            ids[version] = np.frombuffer(body[first : first + 4 * n_ids], "<i4")
        else:
            return stm, stm_hash, ids


# ---- the model, as the text says --------------------------------------------------------------


def rms_norm(x, w):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def rotate(x, base):
    """Heads [n, H, hd] at the positions 0.. (2.3, interleaved in and out)."""
    n, _, hd = x.shape
    angle = np.arange(n)[:, None, None] * base ** (-np.arange(0, hd, 2) / hd)
    u, v = x[..., 0::2], x[..., 1::2]
    out = np.empty_like(x)
    out[..., 0::2] = u * np.cos(angle) - v * np.sin(angle)
    out[..., 1::2] = u * np.sin(angle) + v * np.cos(angle)
    return out


class Model:
    def __init__(self, folder):
        self.cfg = json.loads((folder / "config.json").read_text())
        self.w = read_weights(folder / "model.safetensors")
        assert self.cfg["memory_attention_variant"] == "self-interlayer"
        memory = self.cfg["memory_attention_config"]
        assert memory["residual_gate_type"] == memory["residual_gate_slot_status_type"] == "linear"
        # one table for both: files hold it once or twice (0, 3.2)
        self.embedding = self.w.get("encoder.model.embedding.weight",
                                    self.w.get("decoder.model.embedding.weight"))
        self.head = memory["embed_dim"] // memory["att_heads"]

    def weights(self, name, q, kv, causal=False, rope_q=0, rope_k=0):
        """Shares [Hq, n, m] and values [Hq, m, hd] of one attention (2.4)."""
        heads = [x @ self.w[f"{name}.{p}_proj.weight"].T for p, x in (("q", q), ("k", kv), ("v", kv))]
        q, k, v = (x.reshape(len(x), -1, self.head) for x in heads)
        if rope_q:
            q = rotate(q, rope_q)
        if rope_k:
            k = rotate(k, rope_k)
        k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
        score = np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(self.head)
        if causal:
            score[:, np.triu(np.ones(score.shape[1:], bool), 1)] = -np.inf
        share = np.exp(score - score.max(-1, keepdims=True))
        return share / share.sum(-1, keepdims=True), v.transpose(1, 0, 2)

    def attention(self, name, q, kv, gated=False, **how):
        share, v = self.weights(name, q, kv, **how)
        context = (share @ v).transpose(1, 0, 2).reshape(len(q), -1)
        if gated:
            context = context * sigmoid(q @ self.w[f"{name}.gate_proj.weight"].T)
        bias = self.w.get(f"{name}.out_proj.bias", 0)
        return context @ self.w[f"{name}.out_proj.weight"].T + bias

    def feed_forward(self, name, x):
        h = x @ self.w[f"{name}.fc1.linear.weight"].T + self.w[f"{name}.fc1.linear.bias"]
        a, g = np.split(h, 2, axis=-1)
        return a * g * sigmoid(g) @ self.w[f"{name}.fc2.weight"].T + self.w[f"{name}.fc2.bias"]

    def encode(self, ids):
        x, base, encoded = self.embedding[ids], 10000, []
        for i in range(self.cfg["encoder_config"]["num_layers"]):
            layer = f"encoder.model.layers.{i}"
            n = rms_norm(x, self.w[f"{layer}.norm1.weight"])
            x = x + self.attention(f"{layer}.attention", n, n, True, rope_q=base, rope_k=base)
            x = x + self.feed_forward(f"{layer}.ff", rms_norm(x, self.w[f"{layer}.norm3.weight"]))
            encoded.append(x)
        return encoded

    def read(self, ids, stm):
        """Shares [L, n, S], mean over heads, and entropies [L, n] of memory cross-attention."""
        x, base, shares, entropy = self.embedding[ids], 10000, [], []
        for layer in ["stateless_layers.0"] + [f"layers.{i}" for i in range(len(stm))]:
            layer = f"decoder.model.{layer}"
            n = rms_norm(x, self.w[f"{layer}.norm1.weight"])
            x = x + self.attention(f"{layer}.attention", n, n, True, causal=True, rope_q=base, rope_k=base)
            if f"{layer}.norm2.weight" in self.w:
                n = rms_norm(x, self.w[f"{layer}.norm2.weight"])
                slots = rms_norm(stm[len(shares)], self.w[f"{layer}.stm_norm.weight"])
                name = f"{layer}.memory_cross_attention"
                share, _ = self.weights(name, n, slots, rope_q=base)
                x = x + self.attention(name, n, slots, rope_q=base)
                shares.append(share.mean(0))
                entropy.append(-(share * np.log2(np.maximum(share, 1e-300))).sum(-1).mean(0))
            x = x + self.feed_forward(f"{layer}.ff", rms_norm(x, self.w[f"{layer}.norm3.weight"]))
        return np.array(shares), np.array(entropy)

    def gate(self, name, old, new):
        """What is taken of new, [S,1], the blend, and how far float32 may be off what is taken.

        z is a sum of S * D products that may be thousands and cancel: half an ulp of each of them,
        and as much for each of the steps that made old and new, times the slope of the sigmoid.
        """
        mix, look = self.w[f"{name}.gate.weight"], self.w[f"{name}.slot_status.weight"].T
        status = (old + new) @ look + self.w[f"{name}.slot_status.bias"]
        g = sigmoid(mix @ status + self.w[f"{name}.gate.bias"][:, None])
        size = np.abs(mix) @ ((np.abs(old) + np.abs(new)) @ np.abs(look))
        return g, g * new + (1 - g) * old, STEPS * 2.0**-24 * size * g * (1 - g) + 2e-6

    def remember(self, stm, ids):
        """The next memory and, by name, [L,S] of what each slot went through."""
        w, room = self.w, "memory_attention.model"
        encoded, after = self.encode(ids), []
        seen = {key: [] for key in ("take", "mean", "interlayer", "offer", "take_off", "mean_off")}
        m = rms_norm(stm.mean(0), w[f"{room}.mean_stm_norm.weight"])
        for i, old in enumerate(stm):
            n = rms_norm(old, w[f"{room}.mean_memory_norm_layers.{i}.weight"])
            mix, c, _ = self.gate(f"{room}.interlayer_gate_layers.{i}", n, m)
            u = self.attention(f"{room}.mean_attention_layers.{i}", n, c)
            mean, x, mean_off = self.gate(f"{room}.mean_residual_gate_layers.{i}", old, u)
            q = rms_norm(x, w[f"{room}.memory_norm_layers.{i}.weight"])
            kv = rms_norm(encoded[i], w[f"{room}.memory_input_norm_layers.{i}.weight"])
            u = self.attention(f"{room}.attention_layers.{i}", q, kv, rope_k=10000)
            take, new, take_off = self.gate(f"{room}.residual_gate_layers.{i}", x, u)
            for key, value in (("take", take), ("mean", mean), ("interlayer", mix),
                               ("take_off", take_off), ("mean_off", mean_off)):
                seen[key].append(value[:, 0])
            seen["offer"].append(np.sqrt((u * u).mean(-1)))
            after.append(new)
        return np.array(after), {key: np.array(value) for key, value in seen.items()}


# ---- the comparison -----------------------------------------------------------------------------


class Judge:
    def __init__(self):
        self.n, self.worst = 0, {}

    def near(self, what, got, want, bound):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape, (what, got.shape, want.shape)
        error = float(np.abs(got - want).max())
        over = float((np.abs(got - want) - bound).max())
        assert over <= 0, f"{what}: off by {error}, which is {over} more than is allowed"
        self.n += got.size
        self.worst[what] = max(error, self.worst.get(what, 0))


def rms(x, axis=-1):
    return np.sqrt((x * x).mean(axis))


def check_version(judge, model, shown, before, after, ids):
    computed, seen = model.remember(before, ids)
    judge.near("memory", computed, after, 5e-5 * np.abs(after).max())
    change = rms(after - before)
    cosine = (after * before).sum(-1) / np.sqrt((after**2).sum(-1) * (before**2).sum(-1))
    judge.near("norm", shown["norm"]["values"], rms(after), 1e-6 * np.abs(after).max())
    judge.near("change", shown["slot_change"]["values"], change, 1e-6)
    judge.near("cosine", shown["slot_cosine"]["values"], cosine, 1e-6)
    judge.near("change of all", shown["version"]["change"], rms(change, None), 1e-6)
    take = seen["take"]
    off, off_mean = seen["take_off"], seen["mean_off"]
    judge.near("take", shown["gate_take"]["values"], take, off)
    judge.near("keep", shown["gate_keep"]["values"], (1 - take) * (1 - seen["mean"]), off + off_mean)
    judge.near("saturation", shown["gate_saturation"]["values"], np.abs(2 * take - 1), 2 * off)
    for i, layer in enumerate(shown["layers"]):
        judge.near("layer rms", layer["rms"], rms(rms(after[i])), 1e-5)
        judge.near("layer largest", layer["max"], np.abs(after[i]).max(), 1e-5)
        judge.near("layer take", layer["take"], take[i].mean(), 2e-5)
        judge.near("layer mean gate", layer["take_mean"], seen["mean"][i].mean(), 2e-5)
        judge.near("layer interlayer gate", layer["take_interlayer"], seen["interlayer"][i].mean(), 2e-5)
        judge.near("layer offer", layer["offer"], rms(seen["offer"][i]), 1e-4)


def check_turn(judge, turn, shown):
    for key in ("change", "cosine", "rms"):
        judge.near(f"turn {key}", turn[key], shown["version"][key], 1e-6)
    take, keep = np.array(shown["gate_take"]["values"]), np.array(shown["gate_keep"]["values"])
    judge.near("turn take", turn["take"], take.mean(), 1e-6)
    judge.near("turn keep", turn["keep"], keep.mean(), 1e-6)
    stuck = np.array(shown["gate_saturation"]["values"]) > 0.98
    judge.near("turn stuck", turn["saturated"], stuck.mean(), 1e-6)


def check_holds(judge, timeline, keeps):
    """Half-life and the turn that wrote most of each slot, from what every turn kept."""
    n, shape = len(keeps), keeps[0].shape
    share, holder, half, left = np.zeros(shape), np.zeros(shape), np.full(shape, n + 1.0), np.ones(shape)
    for turns, version in enumerate(range(n, 0, -1), 1):
        keep = keeps[version - 1].clip(0, 1)
        written = left * (1 - keep)
        holder = np.where(written > share, version, holder)
        share = np.maximum(share, written)
        left = left * keep
        half = np.where((left < 0.5) & (half > n), turns, half)
    holder = np.where(left > share, 0, holder)
    judge.near("holder", timeline["holder"]["values"], holder, 0)
    judge.near("half-life", timeline["half_life"]["values"], half, 0)


def check_query(judge, model, shown, stm, ids):
    shares, entropy = model.read(ids, stm)
    judge.near("entropy", shown["entropy"]["values"], entropy, 2e-4)
    judge.near("read by all", shown["attention_slots"]["values"], shares.mean(1), 2e-5)
    judge.near("read by the last", shown["attention_last"]["values"], shares[:, -1], 2e-5)
    judge.near("read in layer 3", shown["attention_layer_3"]["values"], shares[3], 2e-5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rxt", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    options = parser.parse_args()
    model, judge = Model(options.model), Judge()

    def rxt(*arguments, text=None):
        done = subprocess.run([options.rxt, *map(str, arguments), "--model", options.model],
                              input=text, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, (arguments, done.stderr)
        return done.stdout

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        store, where = folder / "a.db", ["--session", "s", "--store", folder / "a.db"]
        stm = [model.w["memory_attention.model.stm.memory"][:, 0]]
        keeps, turns = [], []
        for v, said in enumerate(SAID, 1):
            spoken = json.loads(rxt("chat", *where, "--seed", 7, "--temperature", 0, "--script", "-",
                                    "--json", text=said + "\n"))
            rxt("session", "export", "s", "--file", folder / f"{v}.rxt", "--store", store)
            image, stm_hash, ids = read_export(folder / f"{v}.rxt")
            stm.append(image)
            # from the store, and from the export: its rows and image alone
            shown = json.loads(rxt("inspect", store, "--session", "s", "--version", v, "--json"))
            alone = json.loads(rxt("inspect", folder / f"{v}.rxt", "--version", v, "--json"))
            assert shown["version"]["stm_hash"] == alone["version"]["stm_hash"] == stm_hash
            assert shown["gate_take"] == alone["gate_take"] and shown["norm"] == alone["norm"]
            check_version(judge, model, shown, stm[v - 1], stm[v], ids[v])
            keeps.append(np.array(shown["gate_keep"]["values"]))
            turns.append(shown)
        timeline = json.loads(rxt("inspect", store, "--session", "s", "--json"))
        for turn, shown in zip(timeline["turns"], turns, strict=True):
            check_turn(judge, turn, shown)
        check_holds(judge, timeline, keeps)
        asked = json.loads(rxt("inspect", store, "--session", "s", "--version", 3, "--query", SAID[-1],
                               "--layer", 3, "--json"))
        check_query(judge, model, asked, stm[3], np.array(spoken["query_ids"]))
    for what, error in judge.worst.items():
        print(f"{what:24} {error:.1e}")
    print(f"{judge.n} figures of rxt inspect are those of numpy")


if __name__ == "__main__":
    sys.exit(main())
