"""The RxT model in PyTorch, written from the specification, shaped for fast training.

With teacher forcing only the memory update is sequential: the encoder runs over all turns of a
window at once, then the update turn by turn, then the decoder over all turns at once, each row
reading the memory of the turn before. Rows are sorted into buckets of two lengths, so that short
turns do not pay for long ones.

Parameters are views of one flat float32 vector; arithmetic runs in `dtype` (bfloat16 to train),
but the residual stream, the memory and its gates stay in float32.
"""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F

EPS = 2.0**-23
# All pieces are compiled through one lambda: their variants share one limit, and a size that
# differs between two pieces is no reason to make it variable.
torch._dynamo.config.automatic_dynamic_shapes = False
torch._dynamo.config.recompile_limit = 256
torch._dynamo.config.accumulated_recompile_limit = 1024


def rms_norm(x, weight):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def rope_table(shape, device):
    """cos and sin, [seq_len, head_dim / 2], float32."""
    pairs = torch.arange(0, shape.head_dim, 2, dtype=torch.float32)
    inverse = 1.0 / shape.rope_base ** (pairs / shape.head_dim)
    angles = torch.outer(torch.arange(shape.seq_len, dtype=torch.float32), inverse)
    return angles.cos().to(device), angles.sin().to(device)


def rotate(x, cos, sin):
    """Interleaved RoPE over the last axis; cos and sin broadcast against [..., head_dim / 2]."""
    u, v = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((u * cos - v * sin, u * sin + v * cos), -1).flatten(-2)


def feed_forward(x, norm, fc1, bias1, fc2, bias2, dtype):
    h = F.linear(rms_norm(x, norm).to(dtype), fc1.to(dtype), bias1.to(dtype))
    value, gate = h.chunk(2, -1)
    return x + F.linear(value * F.silu(gate), fc2.to(dtype), bias2.to(dtype)).float()


def self_attention(x, norm, qkvg, out, cos, sin, bias, n_q, n_kv, dtype):
    """Gated self-attention of rows x [N,T,D]; bias None: causal, else added [N,1,1,T]."""
    n, t, _ = x.shape
    hd = 2 * cos.shape[-1]
    h = F.linear(rms_norm(x, norm).to(dtype), qkvg.to(dtype))
    q, k, v, gate = h.split([n_q * hd, n_kv * hd, n_kv * hd, n_q * hd], -1)
    q = rotate(q.view(n, t, n_q, hd), cos[:t, None], sin[:t, None]).to(dtype).transpose(1, 2)
    k = rotate(k.view(n, t, n_kv, hd), cos[:t, None], sin[:t, None]).to(dtype).transpose(1, 2)
    v = v.view(n, t, n_kv, hd).transpose(1, 2)
    if n_q != n_kv:
        k = k.repeat_interleave(n_q // n_kv, 1)
        v = v.repeat_interleave(n_q // n_kv, 1)
    if bias is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(n, n_q, t, t))
    y = y.transpose(1, 2).reshape(n, t, n_q * hd)
    return x + F.linear(y * torch.sigmoid(gate), out.to(dtype)).float()


def cross_attention(x, norm, w_q, out, cos, sin, k, v, dtype):
    """Reads memory: k and v [N,Hk,S,hd] of rows x [N,T,D]."""
    n, t, _ = x.shape
    n_kv, hd = k.shape[1], k.shape[3]
    q = F.linear(rms_norm(x, norm).to(dtype), w_q.to(dtype)).view(n, t, -1, hd)
    n_q = q.shape[2]
    q = rotate(q, cos[:t, None], sin[:t, None]).to(dtype).transpose(1, 2)
    if n_q != n_kv:
        k = k.repeat_interleave(n_q // n_kv, 1)
        v = v.repeat_interleave(n_q // n_kv, 1)
    y = F.scaled_dot_product_attention(q, k, v)
    y = y.transpose(1, 2).reshape(n, t, n_q * hd)
    return x + F.linear(y, out.to(dtype)).float()


def memory_read(stm, norm, kv, n_kv, dtype):
    """K and V of one layer for memories stm [N,S,D]: [N,S,2,Hk,hd]."""
    n, s, _ = stm.shape
    return F.linear(rms_norm(stm, norm).to(dtype), kv.to(dtype)).view(n, s, 2, n_kv, -1)


def encoded_read(ed, norm, kv, cos, sin, n_kv, dtype):
    """K (rotated) and V of encoded data ed [L,N,T,D]: two [L,N,T,Hk,hd]."""
    layers, n, t, d = ed.shape
    x = rms_norm(ed, norm[:, None, None]).to(dtype).view(layers, n * t, d)
    h = torch.bmm(x, kv.to(dtype).transpose(1, 2)).view(layers, n, t, 2, n_kv, -1)
    k = rotate(h[:, :, :, 0], cos[:t, None], sin[:t, None]).to(dtype)
    return k, h[:, :, :, 1]


def gate(old, new, mix, mix_bias, status, status_bias):
    """Linear gate with linear slot status (spec 2.7), in float32. old, new [L,B,S,D]."""
    s = torch.einsum("lbsd,ld->lbs", old + new, status) + status_bias[:, None]
    z = torch.bmm(s, mix.transpose(1, 2)) + mix_bias[:, None]
    g = torch.sigmoid(z)[..., None]
    return g * new + (1 - g) * old


def slot_attention(q, k, v, w_q, out, out_bias, bias, dtype):
    """q [L,B,S,D] float32, k and v [L,B,M,Hk,hd]; -> [L,B,S,D]."""
    layers, b, s, d = q.shape
    n_kv, hd = k.shape[3], k.shape[4]
    q = torch.bmm(q.to(dtype).view(layers, b * s, d), w_q.to(dtype).transpose(1, 2))
    q = q.view(layers * b, s, -1, hd).transpose(1, 2)
    n_q = q.shape[1]
    k = k.reshape(layers * b, -1, n_kv, hd).transpose(1, 2)
    v = v.reshape(layers * b, -1, n_kv, hd).transpose(1, 2)
    if n_q != n_kv:
        k = k.repeat_interleave(n_q // n_kv, 1)
        v = v.repeat_interleave(n_q // n_kv, 1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    y = y.transpose(1, 2).reshape(layers, b * s, n_q * hd)
    y = torch.bmm(y, out.to(dtype).transpose(1, 2)).view(layers, b, s, d).float()
    return y + out_bias[:, None, None]


def update(stm, k, v, bias, p, n_q, n_kv, dtype):
    """New memory from stm [L,B,S,D] and K, V [L,B,T,Hk,hd] of the interaction; bias [B,T]."""
    layers, b, s, d = stm.shape
    t = k.shape[2]
    old = rms_norm(stm, p["memory.mean.norm"][:, None, None])
    everywhere = rms_norm(stm.mean(0), p["memory.all_norm"]).expand_as(stm)
    context = gate(old, everywhere, *gate_of(p, "memory.gate_mix"))
    w_kv = p["memory.mean.kv"].to(dtype).transpose(1, 2)
    kv = torch.bmm(context.to(dtype).reshape(layers, b * s, d), w_kv)
    kv = kv.view(layers, b, s, 2, n_kv, -1)
    w = [p[f"memory.mean.{name}"] for name in ("q", "out", "out_bias")]
    mean = slot_attention(old, kv[:, :, :, 0], kv[:, :, :, 1], *w, None, dtype)
    x = gate(stm, mean, *gate_of(p, "memory.gate_mean"))
    query = rms_norm(x, p["memory.main.norm"][:, None, None])
    w = [p[f"memory.main.{name}"] for name in ("q", "out", "out_bias")]
    if bias is not None:
        bias = bias.to(dtype).repeat(layers, 1)[:, None, None].expand(layers * b, n_q, s, t)
    new = slot_attention(query, k, v, *w, bias, dtype)
    return gate(x, new, *gate_of(p, "memory.gate_main"))


def gate_of(p, name):
    return [p[f"{name}.{part}"] for part in ("mix", "mix_bias", "status", "status_bias")]


def cross_entropy(hidden, head, bias, target, dtype):
    """-log p of target [M], from hidden [M,D]."""
    logits = F.linear(hidden.to(dtype), head.to(dtype), bias.to(dtype)).float()
    return torch.logsumexp(logits, -1) - logits.gather(-1, target[:, None])[:, 0]


MEMORY = ("memory.main", "memory.mean", "memory.all", "memory.gate")


class Model:
    """Parameters and the pieces of a forward pass. `compiled` wraps the pieces in torch.compile."""

    def __init__(self, shape, device="cpu", dtype=torch.float32, compiled=False):
        self.shape, self.device, self.dtype = shape, device, dtype
        sizes = {name: math.prod(size) for name, size in shape.tensors().items()}
        self.flat = torch.zeros(sum(sizes.values()), device=device)
        self.p, at = {}, 0
        for name, size in shape.tensors().items():
            self.p[name] = self.flat[at : at + sizes[name]].view(size)
            at += sizes[name]
        self.cos, self.sin = rope_table(shape, device)

        def wrap(f, sizes, **fixed):
            """Compiles f; only `sizes` (argument, dimension) may vary, or tracing takes minutes."""
            bound = functools.partial(f, dtype=dtype, **fixed)
            if not compiled:
                return bound
            run = torch.compile(lambda *x: bound(*x))

            def call(*x):
                for i, dim in sizes:
                    if x[i] is not None:
                        torch._dynamo.maybe_mark_dynamic(x[i], dim)
                return run(*x)

            return call

        s, rows = shape, [(0, 0), (0, 1)]
        self._feed_forward = wrap(feed_forward, rows)
        causal, full = rows, rows + [(6, 0), (6, 3)]
        self._decoder_attention = wrap(self_attention, causal, n_q=s.dec_q, n_kv=s.dec_kv)
        self._encoder_attention = wrap(self_attention, full, n_q=s.enc_q, n_kv=s.enc_kv)
        self._cross_attention = wrap(cross_attention, rows + [(6, 0), (7, 0)])
        self._memory_read = wrap(memory_read, [(0, 0)], n_kv=s.dec_kv)
        self._encoded_read = wrap(encoded_read, [(0, 1), (0, 2)], n_kv=s.mem_kv)
        turn = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 0), (3, 1)]
        self._update = wrap(update, turn, n_q=s.mem_q, n_kv=s.mem_kv)
        self.cross_entropy = wrap(cross_entropy, [(0, 0), (3, 0)])

    def with_grad(self):
        """Makes every array a leaf whose gradient is a view of one flat vector; returns that."""
        grads, at = torch.zeros_like(self.flat), 0
        for name, value in self.p.items():
            leaf = value.detach().requires_grad_()
            leaf.grad = grads[at : at + value.numel()].view(value.shape)
            self.p[name] = leaf
            at += value.numel()
        return grads

    def load(self, arrays):
        with torch.no_grad():
            for name, value in arrays.items():
                self.p[name].copy_(torch.from_numpy(np.array(value)))

    def arrays(self):
        return {name: value.detach().float().cpu().numpy() for name, value in self.p.items()}

    def layers(self, prefix):
        """One dict of tensors a layer, for the arrays that begin with prefix."""
        prefix += "."
        names = [name for name in self.p if name.startswith(prefix)]
        split = {name[len(prefix) :]: self.p[name].unbind(0) for name in names}
        count = len(next(iter(split.values())))
        return [{name: parts[i] for name, parts in split.items()} for i in range(count)]

    def _self(self, attention, x, w, bias):
        return attention(x, w["norm1"], w["qkvg"], w["out"], self.cos, self.sin, bias)

    def _ff(self, x, w):
        names = ("norm3", "fc1", "fc1_bias", "fc2", "fc2_bias")
        return self._feed_forward(x, *[w[name] for name in names])

    def encode(self, ids, bias):
        """ED [L,N,T,D] of whole interactions ids [N,T]; bias [N,T]: 0, or -inf on padding."""
        out = []
        x = F.embedding(ids, self.p["embedding"])
        if bias is not None:
            bias = bias.to(self.dtype)[:, None, None]
        else:
            bias = torch.zeros(ids.shape, device=ids.device, dtype=self.dtype)[:, None, None]
        for w in self.layers("encoder"):
            x = self._ff(self._self(self._encoder_attention, x, w, bias), w)
            out.append(x)
        return torch.stack(out)

    def encoded(self, ids, bias):
        """K, V of the main memory attention for interactions ids: [L,N,T,Hk,hd] each."""
        norm, kv = self.p["memory.in_norm"], self.p["memory.main.kv"]
        return self._encoded_read(self.encode(ids, bias), norm, kv, self.cos, self.sin)

    def update(self, stm, k, v, bias):
        p = {name: value for name, value in self.p.items() if name.startswith(MEMORY)}
        return self._update(stm, k, v, bias, p)

    def initial(self, n):
        """The stored memory, n times: [L,n,S,D]."""
        return self.p["memory.initial"][:, None].expand(-1, n, -1, -1).contiguous()

    def read(self, stm):
        """K, V of all decoder layers for memories stm [L,N,S,D]: a list of [N,S,2,Hk,hd]."""
        return [
            self._memory_read(m, w["stm_norm"], w["cross_kv"])
            for m, w in zip(stm.unbind(0), self.layers("decoder"))
        ]

    def decode(self, ids, kv, rows=None):
        """Last hidden state [N,T,D] after the head norm; rows chooses memories of kv for ids."""
        x = F.embedding(ids, self.p["embedding"])
        (first,) = self.layers("first")
        x = self._ff(self._self(self._decoder_attention, x, first, None), first)
        for w, m in zip(self.layers("decoder"), kv):
            x = self._self(self._decoder_attention, x, w, None)
            m = m if rows is None else m.index_select(0, rows)
            k, v = m.permute(2, 0, 3, 1, 4).unbind(0)
            norm_q_out = w["norm2"], w["cross_q"], w["cross_out"]
            x = self._cross_attention(x, *norm_q_out, self.cos, self.sin, k, v)
            x = self._ff(x, w)
        return rms_norm(x, self.p["head_norm"])

    def logits(self, hidden):
        head = self.p["head"].to(self.dtype)
        return F.linear(hidden.to(self.dtype), head, self.p["head_bias"].to(self.dtype))


def pad_bias(ids, pad=0):
    """0 where ids is a token, -inf where it is padding."""
    return torch.where(ids == pad, -torch.inf, 0.0)


def start(model, seed):
    """Initial values: small normal weights, unit norms, gates spread over the slots."""
    random = torch.Generator().manual_seed(seed)
    spread = {"main": (-4.0, 1.0), "mean": (-4.0, -2.0), "mix": (-1.0, 1.0)}
    slots = model.shape.n_slot
    values = {}
    for name, size in model.shape.tensors().items():
        last = name.split(".")[-1]
        if "norm" in last:
            value = torch.ones(size)
        elif last == "mix":
            value = torch.eye(slots) + 0.01 * torch.randn(size, generator=random)
        elif last == "mix_bias":
            low, high = spread[name.split("gate_")[1].split(".")[0]]
            even = torch.linspace(low, high, slots)
            value = torch.stack([even[torch.randperm(slots, generator=random)] for _ in range(size[0])])
        elif last.endswith("bias"):
            value = torch.zeros(size)
        elif last == "initial":
            value = torch.randn(size, generator=random)
        else:
            value = 0.02 * torch.randn(size, generator=random)
        values[name] = value.numpy()
    model.load(values)
