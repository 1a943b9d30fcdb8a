"""Records a tiny CLIP text encoder of Hugging Face's transformers with its tokenizer, in the layout of the recorded cases.

python tests/python/clip_text_case.py FOLDER && REALIGN_GOLDEN=FOLDER cargo xtask test parity

With `full` as second argument it has the sizes of CLIP-L's text encoder, 12 blocks of width 768 and 77 tokens.
Weights are random; the vocabulary is all bytes and a few merges, so that words are split in several ways.
"""
import collections
import json
import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

IS_FULL = sys.argv[2:] == ["full"]
D, MLP, DEPTH, HEADS, TOKENS, POSITIONS = (768, 3072, 12, 12, 77, 77) if IS_FULL else (24, 40, 2, 3, 12, 16)
TEXT = "a small red circle above a large blue square to the left of the green triangle in the street's rain"
CAPTIONS = [
    "a small red circle",
    "",
    "A  LARGE\tblue square, to the left of the street's 42 triangles",
    "naïve café — über 3½ 日本 🙂!",
    "the the the the the the the the the the the the the the",
    "<|endoftext|> it's rain'll",
]


def byte_letters():
    """The letter that stands for each byte in the vocabulary (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]


def merges(count):
    """The most frequent pairs of TEXT, one after the other."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in TEXT.replace("'", " ").split()]
    found = []
    for _ in range(count):
        pairs = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        if not pairs:
            break
        best = max(sorted(pairs), key=pairs.get)
        found.append(best)
        for word in words:
            i = 0
            while i + 1 < len(word):
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = ["".join(best)]
                i += 1
    return found


def main():
    torch.manual_seed(8)
    pairs = merges(40)
    letters = byte_letters()
    words = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in pairs]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    merge_lines = [" ".join(pair) for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merge_lines) + "\n")
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokenizer_json = tokenizer.backend_tokenizer.to_str()
    ids = tokenizer(CAPTIONS, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    config = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=D, intermediate_size=MLP, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS, hidden_act="quick_gelu",
        bos_token_id=len(vocab) - 2, eos_token_id=len(vocab) - 1,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():  # biases and norms away from 0 and 1
        parameter.data += (0.02 if IS_FULL else 0.2) * torch.randn_like(parameter)
    with torch.no_grad():
        features = model(input_ids=ids).last_hidden_state
    # Published files hold a whole CLIP; its text encoder lies under `text_model`.
    tensors = {f"param.text_model.{name.removeprefix('text_model.')}": v for name, v in model.state_dict().items()}
    tensors |= {"param.logit_scale": torch.tensor(2.0), "param.vision_model.post_layernorm.weight": torch.ones(3)}
    tensors |= {"in.ids": ids, "out.features": features}
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    kinds = {torch.float32: "F32", torch.int64: "I64"}
    sizes = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    sizes += ["max_position_embeddings", "hidden_act", "layer_norm_eps"]
    sidecar = {
        "case": "conditioner_clip_text",
        "variant": "own",
        "seed": 8,
        "config": {
            "captions": CAPTIONS,
            "tokens": TOKENS,
            "config_json": {"model_type": "clip", "text_config": {key: getattr(config, key) for key in sizes}},
            "vocab": vocab,
            "merges": merge_lines,
            "tokenizer_json": json.loads(tokenizer_json),
        },
        "reference": [{"package": "transformers", "version": transformers.__version__,
                       "function": "CLIPTokenizer.__call__, CLIPTextModel.forward"}],
        "torch": torch.__version__,
        "tolerance": {"forward": {"rtol": 1e-4, "atol": 1e-5}},
        "notes": "last hidden state behind the final norm; captions cut and filled up with the token that ends a text, "
                 "no padding mask. The vision tower's and the scale's tensors stand for the rest of a published file.",
        "tensors": {n: {"shape": list(v.shape), "dtype": kinds[v.dtype]} for n, v in tensors.items()},
    }
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "conditioner_clip_text.safetensors")
    (folder / "conditioner_clip_text.json").write_text(json.dumps(sidecar))
    print(ids.tolist())


main()
