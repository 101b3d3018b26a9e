"""The optimizer: AdamW on one flat vector of parameters; matrices may take Muon's direction."""

import math

import torch


def adam(p, g, m, v, ema, decay, scalars, direction, beta1, beta2, ema_decay):
    """AdamW on flat vectors, in place. scalars: lr, 1/bias1, 1/bias2, clip, most norm allowed.

    direction: None, or the step of Muon in units of lr; 0 where Adam's is taken."""
    lr, fix1, fix2, clip, most = scalars.unbind(0)
    norm = g.pow(2).sum().sqrt()
    fine = torch.isfinite(norm) & (norm < most)
    g = torch.where(fine, g * (clip / (norm + 1e-6)).clamp(max=1.0), 0.0)
    new_m = torch.where(fine, m + (1 - beta1) * (g - m), m)
    new_v = torch.where(fine, v + (1 - beta2) * (g * g - v), v)
    step = new_m * fix1 / ((new_v * fix2).sqrt() + 1e-8)
    if direction is not None:
        step = torch.where(direction == 0, step, direction)
    new_p = torch.where(fine, p - lr * (step + decay * p), p)
    m.copy_(new_m)
    v.copy_(new_v)
    p.copy_(new_p)
    ema.copy_(ema + (1 - ema_decay) * (new_p - ema))
    return torch.stack([norm, 1.0 - fine.float()])


def decayed(shape, device):
    """1 for the elements of matrices, 0 for gates, biases, norms and the initial memory."""
    parts = []
    for name, size in shape.tensors().items():
        last = name.split(".")[-1]
        keep = "norm" in last or "bias" in last or last in ("mix", "status", "initial")
        parts.append(torch.full((math.prod(size),), 0.0 if keep else 1.0, device=device))
    return torch.cat(parts)


def orthogonal(x, steps=5):
    """Each matrix of x [N,r,c], r <= c, with its singular values moved near 1 (Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = x / (x.pow(2).sum((1, 2), keepdim=True).sqrt() + 1e-20)
    x = x.bfloat16() if x.is_cuda else x
    for _ in range(steps):
        y = x @ x.mT
        x = a * x + (b * y + c * (y @ y)) @ x
    return x.float()


class Muon:
    """The direction of Muon (Jordan et al. 2024) for the projections, a matrix per projection:
    the momentum, orthogonalised, with the size a step of Adam has (Liu et al. 2025)."""

    def __init__(self, shape, grads, m, beta1, gain, pool=None):
        self.grads, self.m, self.beta1, self.gain, self.pool = grads, m, beta1, gain, pool
        self.direction = torch.zeros_like(grads)
        self.groups = {}  # (r, c) -> [(offset, array's shape, first row, last row, transposed)]
        self.graph = None
        offset = 0
        for name, size in shape.tensors().items():
            for first, last in blocks(shape, name, size):
                rows, wide = last - first, size[-1]
                key = min(rows, wide), max(rows, wide)
                self.groups.setdefault(key, []).append((offset, size, first, last, rows > wide))
            offset += math.prod(size)

    def _views(self, flat, group):
        for offset, size, first, last, transposed in group:
            part = flat[offset : offset + math.prod(size)].view(size)[:, first:last]
            yield part.mT if transposed else part

    def _run(self):
        blend = self.beta1 * self.m + (1 - self.beta1) * self.grads
        blend = self.beta1 * blend + (1 - self.beta1) * self.grads
        for (_, wide), group in self.groups.items():
            parts = list(self._views(blend, group))
            found = orthogonal(torch.cat(parts)) * (self.gain * math.sqrt(wide))
            at = 0
            for to in self._views(self.direction, group):
                to.copy_(found[at : at + len(to)])
                at += len(to)

    @torch.no_grad()
    def __call__(self):
        """The direction, from gradients and momentum as they are now."""
        if self.graph is not None:
            self.graph.replay()
        else:
            self._run()
            if self.grads.is_cuda:
                torch.cuda.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph, pool=self.pool):
                    self._run()
        return self.direction


def blocks(shape, name, size):
    """Row ranges of an array [layers, rows, columns] that are projections of their own."""
    last, hd = name.split(".")[-1], shape.head_dim
    if last == "qkvg":
        q, kv = (shape.enc_q, shape.enc_kv) if name.startswith("encoder") else (shape.dec_q, shape.dec_kv)
        widths = [q * hd, kv * hd, kv * hd, q * hd]
    elif last in ("fc1", "kv", "cross_kv"):
        widths = [size[1] // 2] * 2
    elif last in ("out", "fc2", "cross_q", "cross_out", "q"):
        widths = [size[1]]
    else:
        widths = []
    ends = [sum(widths[: i + 1]) for i in range(len(widths))]
    return [(end - width, end) for end, width in zip(ends, widths)]
