"""The other half of `realign bench trajectory`: the same SiT, weights, batches and noise in PyTorch.

Reads a safetensors file, trains as its sizes say, and prints the loss of every step as one line of JSON.
"""


def main():
    size, tensors = json.loads(sys.argv[2]), read(sys.argv[1])
    torch.set_num_threads(size["threads"])
    weights = {name[len("param."):]: value for name, value in tensors.items() if name.startswith("param.")}
    params = [value.requires_grad_() for name, value in weights.items() if name != "pos_embed"]
    optimizer = torch.optim.AdamW(params, lr=size["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(size["steps"]):
        loss = loss_of(weights, tensors, step, size)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    print(json.dumps({"version": torch.__version__, "losses": losses}))


main()
