"""Loss and gradient of a batch of windows through all memory updates, and their capture as a CUDA
graph."""

import math

import torch

from .model import Model, pad_bias

BUCKETS = ("1", "2-3", "4-8", "9-16", "17+")  # distance from the last mention
N_METRIC = len(BUCKETS)


class Input:
    """A batch on the device, in buffers that keep their place."""

    def __init__(self, phase, device):
        def empty(size, dtype):
            return torch.zeros(size, dtype=dtype, device=device)

        self.phase = phase
        self.ids = empty((phase.rows, phase.length), torch.int16)
        self.mark = empty((phase.rows, phase.length), torch.uint8)
        self.distance = empty(phase.rows, torch.uint8)
        self.order = empty(phase.rows, torch.int64)
        self.order_enc = empty(phase.rows_enc, torch.int64)
        self.borders = torch.tensor([1.5, 3.5, 8.5, 16.5], device=device)

    def copy(self, batch):
        for name in ("ids", "mark", "distance", "order", "order_enc"):
            value = torch.from_numpy(getattr(batch, name))
            if self.ids.is_cuda:
                value = value.pin_memory()
            getattr(self, name).copy_(value, non_blocking=True)


def inverse(order):
    out = torch.empty_like(order)
    return out.scatter_(0, order, torch.arange(len(order), device=order.device))


def row_norm(g):
    """Norm of each row (dimension 1) of g [L,B,S,D], in two steps that read memory in order."""
    each = torch.linalg.vector_norm(g, dim=(2, 3), keepdim=True)
    return torch.linalg.vector_norm(each, dim=0, keepdim=True)


class _Tap(torch.autograd.Function):
    """Passes x on; notes the gradient norm of each row (dimension 1) on its way back."""

    @staticmethod
    def forward(ctx, x, box):
        ctx.box = box
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        ctx.box.append(row_norm(g))
        return g, None


class _Limit(torch.autograd.Function):
    """Passes x on; scales each row's gradient down to the norm that the tap of the box saw."""

    @staticmethod
    def forward(ctx, x, box):
        ctx.box = box
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        norm = row_norm(g)
        return g * (ctx.box.pop() / (norm + 1e-30)).clamp(max=1.0), None


def limited_update(model, stm, k, v, bias):
    """An update whose gradient with respect to the memory does not grow on its way back: through
    dozens of updates it otherwise explodes (README.md, "What we measured")."""
    box = []
    return _Tap.apply(model.update(_Limit.apply(stm, box), k, v, bias), box)


def disturbed(stm, noise):
    """The memory with noise of that share of each slot's size, so that small differences (of
    rounding, of another machine) are not learned to matter."""
    with torch.no_grad():
        size = stm.float().pow(2).mean(-1, keepdim=True).sqrt().to(stm.dtype)
        shift = noise * size * torch.randn_like(stm)
    return stm + shift


def memories(model, x, ids, limit, noise):
    """The memory every row reads: [L, rows, S, D]."""
    phase = x.phase
    k, v = [], []
    for length, first, last in phase.cuts(phase.rows_enc):
        if first == last:
            continue
        part = ids.index_select(0, x.order_enc[first:last])[:, :length]
        pad = (0, 0, 0, 0, 0, phase.length - length)
        for out, found in zip((k, v), model.encoded(part, pad_bias(part))):
            out.append(torch.nn.functional.pad(found, pad))
    place = inverse(x.order_enc)
    each = (phase.turns - 1, phase.batch)
    k, v = [torch.cat(y, 1).index_select(1, place).unflatten(1, each).unbind(1) for y in (k, v)]
    bias = pad_bias(ids[: phase.rows_enc]).unflatten(0, each).unbind(0)
    stm = [model.initial(phase.batch)]
    for t in range(phase.turns - 1):
        update = limited_update if limit else Model.update
        new = update(model, stm[-1], k[t], v[t], bias[t])
        stm.append(disturbed(new, noise) if noise else new)
    return torch.stack(stm, 1).flatten(1, 2)


def loss(model, x, value_weight, limit, noise=0.0, query_weight=0.1):
    """(loss, metrics): answer and query loss, 1, right and asked values by distance."""
    phase, ids = x.phase, x.ids.long()
    kv = model.read(memories(model, x, ids, limit, noise))
    hidden, target, mark = [], [], []
    bad, has = [], []
    for length, first, last in phase.cuts(phase.rows):
        rows = x.order[first:last]
        part = ids.index_select(0, rows)[:, :length]
        h = model.decode(part, kv, rows)
        hidden.append(h[:, :-1].flatten(0, 1))
        target.append(part[:, 1:].flatten())
        mark.append(x.mark.index_select(0, rows)[:, 1:length])
    ce = model.cross_entropy(torch.cat(hidden), model.p["head"], model.p["head_bias"], torch.cat(target))
    target, flat = torch.cat(target), torch.cat([m.flatten() for m in mark])
    weight = (flat == 1) + value_weight * (flat == 2)
    query = (flat == 0) & (target != 0)
    total = weight.sum()
    answer = (weight * ce).sum() / total
    asked = (query * ce).sum() / total
    with torch.no_grad():
        at = 0
        for m in mark:  # a value counts as right where each of its tokens has p > 1/2
            part = ce[at : at + m.numel()].view(m.shape)
            at += m.numel()
            bad.append(((m == 2) & (part > math.log(2))).any(1))
            has.append((m == 2).any(1))
        distance = x.distance.index_select(0, x.order).float()
        bucket = torch.bucketize(distance, x.borders)
        asks = torch.cat(has).float()
        right = asks * ~torch.cat(bad)
        sums = torch.zeros(2, N_METRIC, device=ids.device)
        sums[0].index_add_(0, bucket, right)
        sums[1].index_add_(0, bucket, asks)
        plain = (((flat == 1) * ce).sum() / (flat == 1).sum()).reshape(1)
        metrics = torch.cat([plain, asked.reshape(1), torch.ones_like(plain), sums.flatten()])
    return answer + query_weight * asked, metrics


class Step:
    """Runs loss and gradient of one phase, replayed as a CUDA graph where there is a GPU."""

    def __init__(self, model, grads, metrics, phase, value_weight, limit, noise=0.0, pool=None):
        self.model, self.grads, self.metrics = model, grads, metrics
        self.value_weight, self.limit, self.noise, self.pool = value_weight, limit, noise, pool
        self.x, self.graph = Input(phase, grads.device), None

    def _run(self):
        value, metrics = loss(self.model, self.x, self.value_weight, self.limit, self.noise)
        value.backward()
        self.metrics.add_(metrics.detach())

    def prepare(self, batch):
        """Warms up and captures; leaves gradients and metrics zero."""
        if not self.grads.is_cuda:
            return
        self.x.copy(batch)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.pool):
            self._run()
        self.grads.zero_()
        self.metrics.zero_()

    def __call__(self, batch):
        self.x.copy(batch)
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()
