#!/usr/bin/env python3
"""Trains a small model of experts (OLMoE's architecture) on texts of several kinds, so that there is routing that was learnt and not drawn.

    train.py OUT MODEL MINUTES FILE...

OUT: a Hugging Face checkpoint (config.json, model.safetensors, tokenizer of MODEL). MODEL: emberling's checkpoint, for its tokenizer. FILE...: each one kind of text, token ids as little-endian uint16
(bench/Routing/run.sh makes them); the last thirty-second of each is left out, for measuring. Needs python3-torch and libopenblas0-pthread of Debian.
"""
import json
import math
import os
import shutil
import struct
import sys
import time

import numpy
import torch
import torch.nn.functional as F

HIDDEN, LAYERS, HEADS, EXPERTS, ACTIVE, INNER, LENGTH, BATCH = 256, 8, 8, 32, 4, 96, 256, 16
VOCABULARY = 4096


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (torch.nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = Norm(), Norm()

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q, k, v = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        q, k, v = (y.view(b, t, HEADS, -1).transpose(1, 2) for y in (q, k, v))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, HIDDEN))


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Experts(torch.nn.Module):
    """A router's softmax over all experts, the highest of which are used with the weights it gave them (OLMoE: not normalized again)."""

    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.gate_proj, self.up_proj = (torch.nn.Parameter(torch.randn(EXPERTS, INNER, HIDDEN) * 0.02) for _ in range(2))
        self.down_proj = torch.nn.Parameter(torch.randn(EXPERTS, HIDDEN, INNER) * 0.02 / math.sqrt(2 * LAYERS))

    def forward(self, x, extra):
        rows = x.reshape(-1, HIDDEN)
        logits = self.gate(rows)
        share = logits.softmax(-1)
        weight, chosen = share.topk(ACTIVE)
        # Load balance as of Switch Transformer (2101.03961), and the logits' size (ST-MoE, 2202.08906), with OLMoE's coefficients (2409.02060).
        load = torch.zeros(EXPERTS).index_add_(0, chosen.flatten(), torch.ones(chosen.numel())) / rows.shape[0]
        extra.append(0.01 * EXPERTS * (load * share.mean(0)).sum() / ACTIVE + 0.001 * logits.logsumexp(-1).pow(2).mean())
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
        token = order // ACTIVE
        parts = []
        for e, part in enumerate(rows[token].split(counts)):
            parts.append((F.silu(part @ self.gate_proj[e].T) * (part @ self.up_proj[e].T)) @ self.down_proj[e].T)
        out = torch.cat(parts) * weight.flatten()[order, None]
        return torch.zeros_like(rows).index_add_(0, token, out).view_as(x)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = Attention(), Experts()

    def forward(self, x, cos, sin, mask, extra):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x), extra)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.lm_head = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                torch.nn.init.normal_(p, std=0.02 / (math.sqrt(2 * LAYERS) if 'o_proj' in name else 1))
        angle = torch.arange(LENGTH)[:, None] * 10000 ** (-torch.arange(0, HIDDEN // HEADS, 2) / (HIDDEN // HEADS))
        angle = torch.cat([angle, angle], -1)
        self.cos, self.sin = angle.cos(), angle.sin()
        self.mask = torch.full((LENGTH, LENGTH), -1e9).triu(1)

    def forward(self, tokens):
        x, extra = self.embed_tokens(tokens), []
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, self.mask, extra)
        return self.lm_head(self.norm(x)), sum(extra)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


def tensors(model):
    """Names and arrays as Hugging Face's OlmoeForCausalLM has them."""
    for name, p in model.named_parameters():
        name = name if name.startswith('lm_head') else 'model.' + name
        value = p.detach().float()
        if '_proj' in name and '.mlp.' in name:
            stem, _, kind = name.rpartition('.')
            for e in range(EXPERTS):
                yield f'{stem}.experts.{e}.{kind}.weight', value[e]
        else:
            yield name, value


def save(model, out, tokenizer):
    os.makedirs(out, exist_ok=True)
    header, data, offset = {}, [], 0
    for name, value in tensors(model):
        raw = value.contiguous().numpy().astype('<f4').tobytes()
        header[name] = {'dtype': 'F32', 'shape': list(value.shape), 'data_offsets': [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    with open(os.path.join(out, 'model.safetensors.part'), 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text)
        f.writelines(data)
    os.replace(os.path.join(out, 'model.safetensors.part'), os.path.join(out, 'model.safetensors'))
    config = {
        'architectures': ['OlmoeForCausalLM'], 'model_type': 'olmoe', 'vocab_size': VOCABULARY, 'hidden_size': HIDDEN, 'intermediate_size': INNER, 'num_hidden_layers': LAYERS,
        'num_attention_heads': HEADS, 'num_key_value_heads': HEADS, 'hidden_act': 'silu', 'max_position_embeddings': LENGTH, 'rms_norm_eps': 1e-05, 'rope_theta': 10000.0, 'tie_word_embeddings': False,
        'bos_token_id': 0, 'eos_token_id': 0, 'num_experts': EXPERTS, 'num_experts_per_tok': ACTIVE, 'norm_topk_prob': False, 'clip_qkv': None, 'attention_bias': False, 'rope_scaling': None, 'torch_dtype': 'float32',
    }
    with open(os.path.join(out, 'config.json'), 'w') as f:
        json.dump(config, f, indent=2)
    for file in ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json'):
        shutil.copy(os.path.join(tokenizer, file), out)


def main():
    out, tokenizer, minutes, files = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4:]
    torch.manual_seed(1)
    draw = numpy.random.default_rng(1)
    kinds = [numpy.fromfile(f, dtype='<u2') for f in files]
    kinds = [k[:len(k) - len(k) // 32] for k in kinds]
    model = Model()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{'params': matrices, 'weight_decay': 0.1}, {'params': others, 'weight_decay': 0.0}], lr=0, betas=(0.9, 0.95))
    start, step, seen = time.time(), 0, 0
    while (done := (time.time() - start) / (60 * minutes)) < 1:
        rate = 3e-3 * min(1, (step + 1) / 50) * min(1, 0.02 + (1 - done) / 0.6)
        for group in optimizer.param_groups:
            group['lr'] = rate
        # Each row is of one kind, as a session is; all kinds alike.
        rows = []
        for _ in range(BATCH):
            kind = kinds[draw.integers(len(kinds))]
            at = draw.integers(len(kind) - LENGTH - 1)
            rows.append(kind[at:at + LENGTH + 1].astype(numpy.int64))
        batch = torch.from_numpy(numpy.stack(rows))
        logits, extra = model(batch[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), batch[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        (loss + extra / LAYERS).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, seen = step + 1, seen + BATCH * LENGTH
        if step % 25 == 0:
            print(f'{(time.time() - start) / 60:.1f} min, step {step}, {seen / 1e6:.2f} M tokens, loss {loss.item():.3f}, extra {extra.item() / LAYERS:.4f}', flush=True)
        if step % 250 == 0:
            save(model, out, tokenizer)
    save(model, out, tokenizer)


if __name__ == '__main__':
    main()
