"""The training run: stages of a plan, checkpoints to resume from, and a CSV row every 20 steps."""

import csv
import itertools
import math
import os
import statistics
import time
import tomllib
from collections import Counter, deque

import torch

from .batches import Phase, Workers
from .model import Model, start
from .optimizer import Muon, adam, decayed
from .shape import Shape
from .unroll import BUCKETS, N_METRIC, Step

LOG_EVERY = 20


def read_plan(path):
    with open(path, "rb") as f:
        return tomllib.load(f)


def shape_of(plan):
    return Shape(**plan["model"])


def phases_of(plan, stage):
    """(generated windows, [windows in between: of real text or of another stage]) of a stage."""

    def phase(name, x):
        profiles, mix = x.get("profiles", {}), x.get("mix", {})
        buckets = tuple((int(length), float(share)) for length, share in x["buckets"])
        rest = tuple(profiles.items()), tuple(mix.items())
        return Phase(name, x["turns"], x["batch"], buckets, *rest)

    known = plan.get("real", {}) | {other["name"]: other for other in plan["stage"]}
    real = [phase(name, known[name]) for name in stage.get("real", [])]
    return phase(stage["name"], stage), real


def rate(plan, step, total):
    """Learning rate at a step: warm-up, the peak for `hold` of the steps, then one cosine."""
    o = plan["optimizer"]
    if step < o["warmup"]:
        return o["peak"] * (step + 1) / o["warmup"]
    hold = max(o["warmup"], o["hold"] * total)
    x = min(1, max(0, step - hold) / max(1, total - hold))
    return o["peak"] * (o["floor"] + (1 - o["floor"]) * 0.5 * (1 + math.cos(math.pi * x)))


class Trainer:
    """Flat vectors of parameters, gradients, moments and their running mean."""

    def __init__(self, plan, seed, device, compiled):
        self.plan, self.seed, self.device = plan, seed, device
        self.shape = shape_of(plan)
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self.model = Model(self.shape, device, dtype, compiled)
        start(self.model, seed)
        torch.manual_seed(seed)  # the noise on the memory
        self.grads = self.model.with_grad()
        self.m, self.v = torch.zeros_like(self.grads), torch.zeros_like(self.grads)
        self.ema = self.model.flat.clone()
        self.decay = decayed(self.shape, device) * plan["optimizer"]["decay"]
        self.metrics = torch.zeros(3 + 2 * N_METRIC, device=device)
        self.value_weight = torch.ones((), device=device)
        self.scalars = torch.zeros(5, device=device)
        self.adam = torch.compile(adam) if compiled else adam
        self.pool = torch.cuda.graph_pool_handle() if device == "cuda" else None
        o = plan["optimizer"]
        self.muon = None
        if o.get("muon"):
            self.muon = Muon(self.shape, self.grads, self.m, o["beta1"], o["muon"], self.pool)
        self.step, self.updates = 0, 0
        self.norms = {}  # phase name -> its last gradient norms
        self.steps = {}

    def state(self):
        names = ("m", "v", "ema")
        out = {name: getattr(self, name).cpu() for name in names}
        out |= {"flat": self.model.flat.cpu(), "step": self.step, "updates": self.updates}
        norms = {name: list(values) for name, values in self.norms.items()}
        return out | {"norms": norms, "seed": self.seed}

    def restore(self, state):
        if state["seed"] != self.seed:
            raise ValueError(f"the checkpoint has seed {state['seed']}, not {self.seed}")
        with torch.no_grad():
            self.model.flat.copy_(state["flat"])
            for name in ("m", "v", "ema"):
                getattr(self, name).copy_(state[name])
        self.step, self.updates = state["step"], state["updates"]
        self.norms = {name: deque(values, maxlen=100) for name, values in state["norms"].items()}

    def begin_with(self, shape, _, arrays):
        """Takes the weights of a checkpoint; moments start anew, so the plan's warm-up holds."""
        if shape != self.shape:
            raise ValueError(f"the checkpoint is {shape}, the plan says {self.shape}")
        self.model.load(arrays)
        self.ema.copy_(self.model.flat)

    def average(self):
        """A float32 model with the running mean of the weights."""
        model = Model(self.shape, self.device)
        model.flat.copy_(self.ema)
        return model

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def prepare(self, phase, batch):
        """Compiles and captures a phase once; say what it costs."""
        if phase.name not in self.steps:
            o = self.plan["optimizer"]
            how = o["limit_memory_gradient"], o.get("memory_noise", 0.0)
            rest = self.metrics, phase, self.value_weight, *how, self.pool
            begin = time.time()
            self.steps[phase.name] = Step(self.model, self.grads, *rest)
            self.steps[phase.name].prepare(batch)
            self.wait()
            print(f"prepared {phase.name} in {time.time() - begin:.1f} s", flush=True)
        return self.steps[phase.name]

    def prepare_all(self, pools):
        """Compiles and captures the phases that pools has; nothing is left to do within the run."""
        for name, pool in pools.items():
            phase = next(p for _, p in schedule(self.plan) if p.name == name)
            self.prepare(phase, pool.peek())
        found = torch._dynamo.utils.counters["aot_autograd"]
        hit, miss = (found[f"autograd_cache_{x}"] for x in ("hit", "miss"))
        print(f"graphs: {miss} compiled, {hit} from the cache", flush=True)

    def costs(self, pools):
        """Seconds a step of every phase takes."""
        cost = {}
        self.prepare_all(pools)
        for name, pool in pools.items():
            batch = pool.peek()
            for count in (3, 8):
                begin = time.time()
                for _ in range(count):
                    self.steps[name](batch)
                self.wait()
            cost[name] = (time.time() - begin) / 8 + 0.002
            print(f"{name}: {1000 * cost[name]:.1f} ms a step", flush=True)
        self.grads.zero_()
        self.metrics.zero_()
        return cost

    def warm_up(self, pools):
        """Runs everything that compiles, the optimizer too; the weights stay."""
        self.costs(pools)
        _, phase = next(schedule(self.plan))
        self._optimize(0.0, 1.0, phase)
        self.wait()
        if self.device == "cuda":
            print(f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB reserved", flush=True)

    def fit(self, pools, end):
        """Scales the stages' steps by one factor, to be done at time `end`."""
        cost = self.costs(pools)
        planned = sum(cost[phase.name] for _, phase in schedule(self.plan))
        left = 0.97 * (end - time.time())  # the rest goes into saving
        for stage in self.plan["stage"]:
            stage["steps"] = max(20, round(stage["steps"] * left / planned / 20) * 20)
        steps = [stage["steps"] for stage in self.plan["stage"]]
        print(f"planned {planned:.0f} s; steps now {steps}", flush=True)

    @torch.no_grad()
    def _optimize(self, lr, clip, phase):
        o = self.plan["optimizer"]
        self.updates += 1
        norms = self.norms.get(phase.name, ())
        median = statistics.median(norms) if len(norms) >= 10 else math.inf
        fix = [1 / (1 - o[beta] ** self.updates) for beta in ("beta1", "beta2")]
        values = torch.tensor([lr, *fix, clip, o["skip"] * median])
        self.scalars.copy_(values.pin_memory() if self.device == "cuda" else values, non_blocking=True)
        flat = (self.model.flat, self.grads, self.m, self.v, self.ema, self.decay)
        direction = self.muon and self.muon()
        out = self.adam(*flat, self.scalars, direction, o["beta1"], o["beta2"], o["ema"])
        self.grads.zero_()
        return out

    def run(self, pools, total, until, log, on_log=None, left=lambda: math.inf):
        """Trains stage by stage up to step `until` of `total`, or until left() seconds are none.
        pools: phase name -> Workers."""
        begin, waited, tokens, pending = time.time(), 0.0, 0, []
        for stage, phase in itertools.islice(schedule(self.plan), self.step, until):
            before = time.time()
            batch = pools[phase.name].get()
            waited += time.time() - before
            step = self.prepare(phase, batch)
            last_tenth = self.step > 0.9 * total
            self.value_weight.fill_(1.0 if last_tenth else self.plan["optimizer"]["value_weight"])
            step(batch)
            tokens += int((batch.ids != 0).sum())
            lr = rate(self.plan, self.step, total) * stage["lr"]
            pending.append((phase.name, self._optimize(lr, stage["clip"], phase)))
            self.step += 1
            over = left() <= 0
            if self.step % LOG_EVERY == 0 or over:
                row = self._row(stage, pending, lr, tokens, time.time() - begin, waited)
                log.write(row)
                if over:
                    return
                if on_log:
                    on_log(self, row)
                begin, waited, tokens, pending = time.time(), 0.0, 0, []

    def _row(self, stage, pending, lr, tokens, seconds, waited):
        """The log row of the last steps; waits for the device."""
        norms = torch.stack([x for _, x in pending]).cpu()
        x = self.metrics.cpu().clone()
        seconds_now = seconds
        self.metrics.zero_()
        skipped = norms[:, 1].sum().item()
        for (name, _), (norm, _) in zip(pending, norms.tolist()):
            if math.isfinite(norm):  # of skipped steps too, or a higher level would never be met
                self.norms.setdefault(name, deque(maxlen=100)).append(norm)
        right, asked = x[3 : 3 + N_METRIC], x[3 + N_METRIC :]
        with torch.no_grad():
            memory = self.model.p["memory.gate_main.mix_bias"].sigmoid().mean().item()
        row = {"step": self.step, "stage": stage["name"], "lr": f"{lr:.2e}"}
        row |= {"answer": x[0].item() / x[2].item(), "query": x[1].item() / x[2].item()}
        row["value"] = (right.sum() / asked.sum().clamp(min=1)).item()
        for name, r, a in zip(BUCKETS, right.tolist(), asked.tolist()):
            row[f"value {name}"] = r / a if a else ""
        row |= {"norm": norms[:, 0].median().item(), "norm max": norms[:, 0].max().item()}
        row |= {"skipped": int(skipped), "gate": memory, "tokens/s": tokens / seconds_now}
        row |= {"ms/step": 1000 * seconds_now / len(pending), "waited": waited / seconds_now}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


class Log:
    """Rows to a CSV file and to the screen."""

    def __init__(self, path):
        self.path, self.begin = path, time.time()

    def write(self, row):
        row = {"minutes": round((time.time() - self.begin) / 60, 2), **row}
        fresh = not os.path.exists(self.path)
        with open(self.path, "a", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def schedule(plan):
    """The phase of every step of the plan, in order: (stage, phase)."""
    at = 0
    for stage in plan["stage"]:
        made, real = phases_of(plan, stage)
        every = stage.get("real_every", 0)
        for step in range(at, at + stage["steps"]):
            if every and step % every == every - 1:
                yield stage, real[step // every % len(real)]
            else:
                yield stage, made
        at += stage["steps"]


def start_workers(plan, source, step, until):
    """Processes for every phase of the steps from `step` to `until`; start them before CUDA."""
    pools, at, data, used = {}, 0, plan["data"], Counter()
    for _, phase in itertools.islice(schedule(plan), step):
        used[phase.name] += 1
    for stage in plan["stage"]:
        first, at = at, at + stage["steps"]
        if at <= step or first >= until:
            continue
        made, real = phases_of(plan, stage)
        for phase, count in [(made, data["workers"])] + [(x, data["real_workers"]) for x in real]:
            if phase.name not in pools:
                pools[phase.name] = Workers(source, phase, used[phase.name], count)
    return pools
