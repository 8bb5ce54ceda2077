#!/usr/bin/env python3
"""What the experts of a model made by train.py do on the texts that it was not trained on, and which of them different rules would have held.

    measure.py CHECKPOINT FILE...

FILE...: as train.py's. Of each, the first two thousand tokens of the part that was left out, in pieces as long as the model was trained on, one after the other: a session of its kind.
"""
import json
import struct
import sys

import numpy
import torch

import train

TOKENS, WARM = 2048, 256


def load(path):
    with open(path + '/model.safetensors', 'rb') as f:
        header = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        data = f.read()
    values = {k: torch.from_numpy(numpy.frombuffer(data[v['data_offsets'][0]:v['data_offsets'][1]], '<f4').reshape(v['shape']).copy()) for k, v in header.items()}
    model = train.Model()
    with torch.no_grad():
        for name, value in train.tensors(model):
            value.copy_(values[name])
    return model


def routes(model, tokens):
    """layers x tokens x active, and the mean loss."""
    seen, losses = [[] for _ in model.layers], []
    for layer, kept in zip(model.layers, seen):
        layer.mlp.gate.register_forward_hook(lambda _, __, logits, kept=kept: kept.append(logits.topk(train.ACTIVE)[1]))
    with torch.no_grad():
        for at in range(0, TOKENS, train.LENGTH):
            piece = torch.from_numpy(tokens[at:at + train.LENGTH + 1].astype(numpy.int64))[None]
            logits, _ = model(piece[:, :-1])
            losses.append(torch.nn.functional.cross_entropy(logits[0], piece[0, 1:]).item())
    for layer in model.layers:
        layer.mlp.gate._forward_hooks.clear()
    return [torch.cat(s).tolist() for s in seen], sum(losses) / len(losses)


def hits(sets, slots, score):
    """Share of uses that were held, by a window that gives away what has the lowest score(last use, decayed count, now)."""
    held, last, count, found, used = set(), [-1] * train.EXPERTS, [0.0] * train.EXPERTS, 0, 0
    for t, chosen in enumerate(sets):
        if t >= WARM:
            found += sum(e in held for e in chosen)
            used += len(chosen)
        count = [c * 0.98 for c in count]
        for e in chosen:
            last[e], count[e] = t, count[e] + 1
        held.update(chosen)
        while len(held) > slots:
            held.remove(min(held - set(chosen) or held, key=lambda e: score(last[e], count[e], t)))
    return found / used


def pinned(sets, slots):
    """Those that were used most while it warmed up stay for good, beside room for one token's."""
    uses = [sum(e in s for s in sets[:WARM]) for e in range(train.EXPERTS)]
    fixed = set(sorted(range(train.EXPERTS), key=lambda e: -uses[e])[:max(0, slots - train.ACTIVE)])
    last = [set()] + [set(s) for s in sets]
    return sum((e in fixed) or (e in last[t]) for t in range(WARM, len(sets)) for e in sets[t]) / sum(len(s) for s in sets[WARM:])


def main():
    checkpoint, files = sys.argv[1], sys.argv[2:]
    model = load(checkpoint)
    all_sets = []
    for file in files:
        tokens = numpy.fromfile(file, dtype='<u2')
        sets, loss = routes(model, tokens[len(tokens) - len(tokens) // 32:][:TOKENS + 1])
        all_sets += sets
        print(f'{file}: loss {loss:.2f} nats a token')
    again = eight = total = 0
    for sets in all_sets:
        for t in range(WARM, len(sets)):
            near = set().union(*sets[t - 8:t])
            again += sum(e in sets[t - 1] for e in sets[t])
            eight += sum(e in near for e in sets[t])
            total += len(sets[t])
    print(f'{len(all_sets)} sequences (layers x kinds): {100 * again / total:.0f} % of a token\'s experts were the last one\'s, {100 * eight / total:.0f} % were used within eight tokens')
    print('| held | recency | mixed | frequency | pinned |\n|---|---|---|---|---|')
    for share in (25, 40, 50, 75):
        slots = train.EXPERTS * share // 100
        mean = lambda rule: sum(rule(s) for s in all_sets) / len(all_sets)
        # Mixed: the score of docs/adr/0005.
        row = [mean(lambda s: hits(s, slots, lambda last, count, now: last)), mean(lambda s: hits(s, slots, lambda last, count, now: count + 2 * 0.7 ** (now - last))),
               mean(lambda s: hits(s, slots, lambda last, count, now: count)), mean(lambda s: pinned(s, slots))]
        print(f'| {share} % | ' + ' | '.join(f'{x:.3f}' for x in row) + ' |', flush=True)


if __name__ == '__main__':
    main()
