"""`coderv2 bench`: what this machine's kernels do, and `--tune` to make them do it better."""

import click

from coderv2.errors import Unsupported

# Lite's layer: width, width of an expert, experts, experts per token.
_LITE = (2048, 1408, 64, 6)


@click.command()
@click.option("--tune", is_flag=True, help="Time tile sizes on this GPU and keep the best for later runs.")
def bench(tune: bool) -> None:
    """Measure the GPU kernels at the shapes of DeepSeek-Coder-V2-Lite.

    Without --tune it prints what the present tiles reach. Needs a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        raise Unsupported(
            "no GPU here: the kernels are measured on one; `coderv2 doctor` measures the processor"
        )
    from coderv2.kernels.gpu import tiles, tuning
    from coderv2.kernels.gpu.timing import on_gpu

    device = torch.device("cuda", torch.cuda.current_device())
    if tune:
        best, measured = tuning.tune(*_LITE, device)
        click.echo(f"written: {tiles.write_table(tiles.card(device).name, best, measured)}")
        return
    with torch.inference_mode():
        for case in tuning.cases(*_LITE, device):
            click.echo(f"{case.key:50} {on_gpu(case.run) * 1e6:10.1f} µs")
