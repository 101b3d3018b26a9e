"""Greedy conversation of many sessions at once, with a key/value cache; float32 by default."""

import torch
import torch.nn.functional as F

from .model import pad_bias, rms_norm, rotate


class Cache:
    """Answers for rows of different lengths: each row keeps its own position."""

    def __init__(self, model, stm, limit, no_memory=False):
        self.model, self.kv = model, [m.permute(2, 0, 3, 1, 4).unbind(0) for m in model.read(stm)]
        self.limit, self.no_memory = limit, no_memory
        self.keys = [None] * (1 + model.shape.n_layer)
        self.values = [None] * (1 + model.shape.n_layer)

    def _attend(self, i, x, w, at):
        """Self-attention of the tokens x [N,t,D] at positions at [N,t], over all before."""
        m, s = self.model, self.model.shape
        n, t, _ = x.shape
        hd, n_q, n_kv = s.head_dim, s.dec_q, s.dec_kv
        h = F.linear(rms_norm(x, w["norm1"]), w["qkvg"])
        q, k, v, gate = h.split([n_q * hd, n_kv * hd, n_kv * hd, n_q * hd], -1)
        cos, sin = m.cos[at][:, :, None], m.sin[at][:, :, None]
        q = rotate(q.view(n, t, n_q, hd), cos, sin).transpose(1, 2)
        k = rotate(k.view(n, t, n_kv, hd), cos, sin)
        if self.keys[i] is None:
            size = (n, self.limit, n_kv, hd)
            self.keys[i], self.values[i] = x.new_zeros(size), x.new_zeros(size)
        place = at[:, :, None, None].expand(n, t, n_kv, hd)
        self.keys[i].scatter_(1, place, k)
        self.values[i].scatter_(1, place, v.view(n, t, n_kv, hd))
        seen = torch.arange(self.limit, device=x.device)[None, None] <= at[:, :, None]
        k, v = [y.transpose(1, 2).repeat_interleave(n_q // n_kv, 1) for y in (self.keys[i], self.values[i])]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        y = y.transpose(1, 2).reshape(n, t, n_q * hd)
        return x + F.linear(y * torch.sigmoid(gate), w["out"])

    def _cross(self, x, w, at, k, v):
        m, s = self.model, self.model.shape
        n, t, _ = x.shape
        q = F.linear(rms_norm(x, w["norm2"]), w["cross_q"]).view(n, t, s.dec_q, s.head_dim)
        q = rotate(q, m.cos[at][:, :, None], m.sin[at][:, :, None]).transpose(1, 2)
        k, v = [y.repeat_interleave(s.dec_q // s.dec_kv, 1) for y in (k, v)]
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        return x if self.no_memory else x + F.linear(y, w["cross_out"])

    def step(self, ids, at):
        """Hidden states [N,t,D] after the head norm."""
        m = self.model
        x = F.embedding(ids, m.p["embedding"])
        (first,) = m.layers("first")
        x = m._ff(self._attend(0, x, first, at), first)
        for i, w in enumerate(m.layers("decoder")):
            x = self._attend(i + 1, x, w, at)
            x = self._cross(x, w, at, *self.kv[i])
            x = m._ff(x, w)
        return rms_norm(x, m.p["head_norm"])


@torch.no_grad()
def answer(model, stm, prompts, eos, most=48, no_memory=False, temperature=0.0, seed=0):
    """Token lists that answer the prompts [BOS][Q]...[A], each reading its row of stm [L,N,S,D].

    At temperature 0 greedy. An answer ends with eos or, unfinished, at `most` tokens."""
    device, n = stm.device, len(prompts)
    random = torch.Generator(device).manual_seed(seed)
    size = torch.tensor([len(p) for p in prompts], device=device)
    width = max(len(p) for p in prompts)
    ids = torch.zeros((n, width), dtype=torch.long)
    for i, p in enumerate(prompts):
        ids[i, : len(p)] = torch.tensor(p)
    cache = Cache(model, stm, width + most, no_memory)
    at = torch.arange(width, device=device).expand(n, width)
    h = cache.step(ids.to(device), at)
    h = h[torch.arange(n, device=device), size - 1]
    done = torch.zeros(n, dtype=torch.bool, device=device)
    out = []
    for step in range(most):
        logits = model.logits(h).float()
        if temperature:
            p = torch.softmax(logits / temperature, -1)
            token = torch.multinomial(p, 1, generator=random)[:, 0]
        else:
            token = logits.argmax(-1)
        token = torch.where(done, 0, token)
        out.append(token)
        done |= token == eos
        if step + 1 == most or (step % 4 == 3 and bool(done.all())):
            break
        h = cache.step(token[:, None], (size + step)[:, None])[:, 0]
    rows = torch.stack(out, 1).cpu().tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@torch.no_grad()
def remember(model, stm, rows):
    """stm [L,N,S,D] after the whole interactions rows, lists of ids; padding is masked."""
    width = max(len(r) for r in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    for i, r in enumerate(rows):
        ids[i, : len(r)] = torch.tensor(r)
    ids = ids.to(stm.device)
    bias = pad_bias(ids)
    k, v = model.encoded(ids, bias)
    return model.update(stm, k, v, bias)
