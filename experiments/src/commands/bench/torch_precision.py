"""The other half of `realign bench precision`: gradients of the same SiT with and without autocast.

Reads lines from stdin: the path of a safetensors file with weights, batch and noise; answers with the loss, the gradient's
norm, and the error that autocast to bf16 makes of it. An empty line ends.
"""


def gradients(size, tensors, is_autocast):
    weights = {name[len("param."):]: value for name, value in tensors.items() if name.startswith("param.")}
    params = [value.requires_grad_() for name, value in weights.items() if name != "pos_embed"]
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        loss = loss_of(weights, tensors, 0, size)
    return loss.item(), torch.autograd.grad(loss, params)


def norm(tensors):
    return math.sqrt(sum(tensor.double().square().sum().item() for tensor in tensors))


def main():
    size = json.loads(sys.argv[1])
    torch.set_num_threads(size["threads"])
    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        tensors = read(line.strip())
        loss, exact = gradients(size, tensors, False)
        _, rounded = gradients(size, tensors, True)
        error = norm(a - b for a, b in zip(rounded, exact)) / norm(exact)
        print(json.dumps({"loss": loss, "norm": norm(exact), "error": error}), flush=True)


main()
