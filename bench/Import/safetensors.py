#!/usr/bin/env python3
"""A checkpoint of random weights in bf16 safetensors shards: safetensors.py llama-2-7b|qwen3-30b-a3b LAYERS FOLDER. Tensors stand in the order in which published checkpoints have them, experts one by one."""
import json
import os
import random
import struct
import sys

shape, layers, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
         "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
QWEN = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": True, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
config = {"llama-2-7b": LLAMA, "qwen3-30b-a3b": QWEN}[shape] | {"num_hidden_layers": layers, "tie_word_embeddings": False, "hidden_act": "silu"}
d, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
head = config.get("head_dim", d // heads)


def feed_forward(at, size):
    return [(f"{at}.gate_proj.weight", (size, d)), (f"{at}.up_proj.weight", (size, d)), (f"{at}.down_proj.weight", (d, size))]


tensors = [[("model.embed_tokens.weight", (config["vocab_size"], d)), ("model.norm.weight", (d,)), ("lm_head.weight", (config["vocab_size"], d))]]
for i in range(layers):
    at = f"model.layers.{i}."
    layer = [(at + "input_layernorm.weight", (d,)), (at + "post_attention_layernorm.weight", (d,)), (at + "self_attn.q_proj.weight", (heads * head, d)), (at + "self_attn.k_proj.weight", (kv * head, d)),
             (at + "self_attn.v_proj.weight", (kv * head, d)), (at + "self_attn.o_proj.weight", (d, heads * head))]
    if "num_experts" in config:
        layer += [(at + "self_attn.q_norm.weight", (head,)), (at + "self_attn.k_norm.weight", (head,)), (at + "mlp.gate.weight", (config["num_experts"], d))]
        for e in range(config["num_experts"]):
            layer += feed_forward(f"{at}mlp.experts.{e}", config["moe_intermediate_size"])
    else:
        layer += feed_forward(at + "mlp", config["intermediate_size"])
    tensors.append(layer)

os.makedirs(folder)
with open(os.path.join(folder, "config.json"), "w") as f:
    json.dump(config, f)
draw = random.Random(0)
# bf16 from 2^-8 to 2^-5 of either sign; an odd length, so that no two rows are alike.
pattern = b"".join(struct.pack("<H", draw.choice((0, 1)) << 15 | draw.randint(119, 121) << 7 | draw.getrandbits(7)) for _ in range((1 << 20) + 17))
names, at = {}, 0
for k, shard in enumerate(tensors):
    file, header, end = f"model-{k + 1:05}-of-{len(tensors):05}.safetensors", {}, 0
    for name, dims in shard:
        size = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [end, end + size]}
        names[name] = file
        end += size
    with open(os.path.join(folder, file), "wb") as f:
        text = json.dumps(header).encode()
        f.write(struct.pack("<Q", len(text)) + text)
        while end > 0:
            piece = pattern[at:at + end]
            f.write(piece)
            end -= len(piece)
            at = (at + len(piece)) % len(pattern)
with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
    json.dump({"weight_map": names}, f)
