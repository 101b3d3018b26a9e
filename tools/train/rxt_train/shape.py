"""The shape of a model, its config.json, and the published names of its tensors.

The trainer keeps the tensors of equal layers in one array, layer first, and fuses projections that
read the same input. `published` lists how these arrays become the tensors of a checkpoint.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Letters as in the specification; one dense stateless layer, then n_layer stateful ones."""

    vocab: int = 6144
    dim: int = 256
    heads: int = 8  # head_dim = dim / heads
    n_layer: int = 6
    n_slot: int = 128
    ff: int = 768
    dec_q: int = 4
    dec_kv: int = 2
    enc_q: int = 4
    enc_kv: int = 4
    mem_q: int = 4
    mem_kv: int = 4
    seq_len: int = 256
    max_seq_len: int = 192
    rope_base: float = 10000.0

    @property
    def head_dim(self):
        return self.dim // self.heads

    @staticmethod
    def of_config(config):
        """The shape a config.json describes; ValueError if this trainer cannot build it."""
        dec, enc = config["decoder_config"], config["encoder_config"]
        mem = config["memory_attention_config"]
        needed = [
            (config["memory_attention_variant"], "self-interlayer"),
            (config.get("rope_layout"), "interleaved"),
            (dec.get("stateless_layers_config"), ["dense"]),
            (dec.get("use_gated_attention"), True),
            (mem.get("residual_gate_type"), "linear"),
            (mem.get("residual_gate_slot_status_type"), "linear"),
        ]
        for found, want in needed:
            if found != want:
                raise ValueError(f"config.json: {found!r} where this trainer has only {want!r}")
        return Shape(
            vocab=dec["vocab_size"],
            dim=dec["embed_dim"],
            heads=dec["att_heads"],
            n_layer=dec["num_layers"],
            n_slot=dec["stm_size"],
            ff=dec["ff_dim"],
            dec_q=dec["att_query_groups"],
            dec_kv=dec["att_groups"],
            enc_q=enc["att_query_groups"],
            enc_kv=enc["att_groups"],
            mem_q=mem["att_query_groups"],
            mem_kv=mem["att_groups"],
            seq_len=dec["seq_len"],
            max_seq_len=config.get("max_seq_len", dec["seq_len"]),
            rope_base=float(dec["rope_base"]),
        )

    def config(self, token_ids):
        """config.json; token_ids maps pad, bos, eos, query and answer to ids."""
        shared = {
            "att_heads": self.heads,
            "cross_att_type": "sqa",
            "embed_dim": self.dim,
            "ff_activation": "silu",
            "ff_dim": self.ff,
            "ff_dropout": 0.0,
            "num_layers": self.n_layer,
            "rope_base": int(self.rope_base),
            "self_att_type": "sqa",
            "seq_len": self.seq_len,
            "stm_size": self.n_slot,
            "use_attention_output_bias": False,
            "use_flash_attention": False,
            "use_gated": True,
            "use_gated_attention": True,
            "use_rms_norm": True,
            "vocab_size": self.vocab,
        }
        return {
            "decoder_config": {
                **shared,
                "att_groups": self.dec_kv,
                "att_query_groups": self.dec_q,
                "dense_layer_dim": self.ff,
                "head_norm_type": "rms_norm",
                "stateless_layers_config": ["dense"],
                "use_gated_cross_attention": False,
                "use_head_norm": True,
                "use_moe": False,
            },
            "encoder_config": {
                **shared,
                "att_groups": self.enc_kv,
                "att_query_groups": self.enc_q,
                "skip_memory_cross_attention": True,
            },
            "memory_attention_config": {
                "att_groups": self.mem_kv,
                "att_heads": self.heads,
                "att_query_groups": self.mem_q,
                "att_type": "sqa",
                "embed_dim": self.dim,
                "interlayer_att_groups": self.mem_kv,
                "interlayer_att_query_groups": self.mem_q,
                "interlayer_att_type": "sqa",
                "norm_type": "classic-rms",
                "num_layers": self.n_layer,
                "residual_gate_slot_status_type": "linear",
                "residual_gate_type": "linear",
                "residual_per_slot_gate": True,
                "rope_base": int(self.rope_base),
                "seq_len": self.seq_len,
                "stm_size": self.n_slot,
                "use_flash_attention": False,
                "use_gated_residual": True,
                "use_tanh_residual_gate": False,
            },
            "memory_attention_variant": "self-interlayer",
            "rope_layout": "interleaved",
            "max_seq_len": self.max_seq_len,
            "stm_init": "checkpoint",
            "tokenizer_config": {f"{name}_token_id": i for name, i in sorted(token_ids.items())},
        }

    def tensors(self):
        """The trainer's arrays: name -> shape. Order is the order of the flat parameter vector."""
        d, hd, f, n, s = self.dim, self.head_dim, self.ff, self.n_layer, self.n_slot

        def block(prefix, layers, q, kv):
            return {
                f"{prefix}.norm1": (layers, d),
                f"{prefix}.qkvg": (layers, (2 * q + 2 * kv) * hd, d),
                f"{prefix}.out": (layers, d, q * hd),
                f"{prefix}.norm3": (layers, d),
                f"{prefix}.fc1": (layers, 2 * f, d),
                f"{prefix}.fc1_bias": (layers, 2 * f),
                f"{prefix}.fc2": (layers, d, f),
                f"{prefix}.fc2_bias": (layers, d),
            }

        def gate(prefix):
            return {
                f"{prefix}.mix": (n, s, s),
                f"{prefix}.mix_bias": (n, s),
                f"{prefix}.status": (n, d),
                f"{prefix}.status_bias": (n, 1),
            }

        q, kv = self.mem_q * hd, self.mem_kv * hd
        out = {"embedding": (self.vocab, d), "head": (self.vocab, d), "head_bias": (self.vocab,)}
        out["head_norm"] = (d,)
        out |= block("first", 1, self.dec_q, self.dec_kv)
        out |= block("decoder", n, self.dec_q, self.dec_kv)
        out |= {
            "decoder.norm2": (n, d),
            "decoder.stm_norm": (n, d),
            "decoder.cross_q": (n, self.dec_q * hd, d),
            "decoder.cross_kv": (n, 2 * self.dec_kv * hd, d),
            "decoder.cross_out": (n, d, self.dec_q * hd),
        }
        out |= block("encoder", n, self.enc_q, self.enc_kv)
        for name in ("main", "mean"):
            out |= {
                f"memory.{name}.norm": (n, d),
                f"memory.{name}.q": (n, q, d),
                f"memory.{name}.kv": (n, 2 * kv, d),
                f"memory.{name}.out": (n, d, q),
                f"memory.{name}.out_bias": (n, d),
            }
        out |= {"memory.in_norm": (n, d), "memory.all_norm": (d,)}
        out |= gate("memory.gate_main") | gate("memory.gate_mean") | gate("memory.gate_mix")
        out["memory.initial"] = (n, s, d)
        return out

    def published(self):
        """Rows (published name, array, layer or None, first row, last row, published shape).

        A row says: the published tensor is array[layer][first:last], reshaped.
        """
        hd, f, d, s = self.head_dim, self.ff, self.dim, self.n_slot
        rows = []

        def add(name, array, layer, shape, first=0, last=None):
            rows.append((name, array, layer, first, shape[0] if last is None else last, shape))

        def split(name, array, layer, widths):
            first = 0
            for part, width in widths:
                shape = (width, d)
                add(f"{name}.{part}.weight", array, layer, shape, first, first + width)
                first += width

        def block(name, array, i, q, kv):
            qkvg = [("q_proj", q), ("k_proj", kv), ("v_proj", kv), ("gate_proj", q)]
            add(f"{name}.norm1.weight", f"{array}.norm1", i, (d,))
            split(f"{name}.attention", f"{array}.qkvg", i, [(p, w * hd) for p, w in qkvg])
            add(f"{name}.attention.out_proj.weight", f"{array}.out", i, (d, q * hd))
            add(f"{name}.norm3.weight", f"{array}.norm3", i, (d,))
            add(f"{name}.ff.fc1.linear.weight", f"{array}.fc1", i, (2 * f, d))
            add(f"{name}.ff.fc1.linear.bias", f"{array}.fc1_bias", i, (2 * f,))
            add(f"{name}.ff.fc2.weight", f"{array}.fc2", i, (d, f))
            add(f"{name}.ff.fc2.bias", f"{array}.fc2_bias", i, (d,))

        def gate(name, array, i):
            add(f"{name}.{i}.gate.weight", f"{array}.mix", i, (s, s))
            add(f"{name}.{i}.gate.bias", f"{array}.mix_bias", i, (s,))
            add(f"{name}.{i}.slot_status.weight", f"{array}.status", i, (1, d), 0, d)
            add(f"{name}.{i}.slot_status.bias", f"{array}.status_bias", i, (1,))

        add("decoder.model.embedding.weight", "embedding", None, (self.vocab, d))
        add("decoder.model.head.weight", "head", None, (self.vocab, d))
        add("decoder.model.head.bias", "head_bias", None, (self.vocab,))
        add("decoder.model.head_norm.weight", "head_norm", None, (d,))
        block("decoder.model.stateless_layers.0", "first", 0, self.dec_q, self.dec_kv)
        for i in range(self.n_layer):
            name = f"decoder.model.layers.{i}"
            block(name, "decoder", i, self.dec_q, self.dec_kv)
            add(f"{name}.norm2.weight", "decoder.norm2", i, (d,))
            add(f"{name}.stm_norm.weight", "decoder.stm_norm", i, (d,))
            cross = f"{name}.memory_cross_attention"
            split(cross, "decoder.cross_q", i, [("q_proj", self.dec_q * hd)])
            kv = [("k_proj", self.dec_kv * hd), ("v_proj", self.dec_kv * hd)]
            split(cross, "decoder.cross_kv", i, kv)
            add(f"{cross}.out_proj.weight", "decoder.cross_out", i, (d, self.dec_q * hd))
            block(f"encoder.model.layers.{i}", "encoder", i, self.enc_q, self.enc_kv)
        memory = "memory_attention.model"
        for i in range(self.n_layer):
            for layers, norm, array in [
                ("attention_layers", "memory_norm_layers", "memory.main"),
                ("mean_attention_layers", "mean_memory_norm_layers", "memory.mean"),
            ]:
                name = f"{memory}.{layers}.{i}"
                q, kv = self.mem_q * hd, self.mem_kv * hd
                add(f"{memory}.{norm}.{i}.weight", f"{array}.norm", i, (d,))
                split(name, f"{array}.q", i, [("q_proj", q)])
                split(name, f"{array}.kv", i, [("k_proj", kv), ("v_proj", kv)])
                add(f"{name}.out_proj.weight", f"{array}.out", i, (d, q))
                add(f"{name}.out_proj.bias", f"{array}.out_bias", i, (d,))
            add(f"{memory}.memory_input_norm_layers.{i}.weight", "memory.in_norm", i, (d,))
            gate(f"{memory}.residual_gate_layers", "memory.gate_main", i)
            gate(f"{memory}.mean_residual_gate_layers", "memory.gate_mean", i)
            gate(f"{memory}.interlayer_gate_layers", "memory.gate_mix", i)
        add(f"{memory}.mean_stm_norm.weight", "memory.all_norm", None, (d,))
        n = self.n_layer
        add(f"{memory}.stm.memory", "memory.initial", None, (n, 1, s, d), 0, n)
        return rows
