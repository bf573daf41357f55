"""The command `zsad`: your own images, and other packages' commands, imported only when they are called."""

import sys
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import click

from zsad_predict.options import METHODS, THRESHOLDS, read_options

OTHERS = {
    "prepare": "From a public dataset's download to a prepared folder.",
    "check": "What a run of the book needs: device, weights, datasets, folders.",
    "verify": "Compare the result files of two runs.",
    "params": "The notebooks' parameters, with their meanings.",
}
OPTIONS = ("profile", "model", "weights", "image_size", "device", "cache_dir")  # of `options.Options`
FOLDER, WHOSE, WHOLE = click.Path(path_type=Path), click.Choice(THRESHOLDS), click.Choice(("tiles", "squash"))


@click.group(context_settings={"max_content_width": 110})
@click.version_option(package_name="zsad_core", prog_name="zsad")
def main() -> None:
    """Zero-shot visual anomaly detection with CLIP."""


@main.command(short_help="Score a folder of your own images.")
@click.argument("folder", type=FOLDER)
@click.option("--method", type=click.Choice(list(METHODS)), default="winclip", show_default=True)
@click.option("--normal", type=FOLDER, help="A folder of a few normal images; winclip_plus needs them.")
@click.option("--out", type=FOLDER, help="Where the results go; default: <FOLDER>-scores, here.")
@click.option("--object", "object_name", default="object", show_default=True, help="What the images show.")
@click.option("--labels", help="CSV: file, label; or the word folders: good, ok and normal are normal.")
@click.option("--masks", type=FOLDER, help="Masks called like their images, perhaps with _mask.")
@click.option("--threshold", type=float, help="Decide by this number.")
@click.option("--threshold-from", type=WHOSE, default="auto", help="Whose scores set it; auto: of --normal.")
@click.option("--threshold-quantile", type=float, help="Default: 1 of normal images, 0.9 of the folder.")
@click.option("--prompts", "prompts_file", type=FOLDER, help="For anomalyclip; default: of zsad-mini.")
@click.option("--heat-maps", type=int, help="Draw so many of the highest only; default: all.")
@click.option("--whole", type=WHOLE, default="tiles", help="Images that are not square: cut up, or scaled.")
@click.option("--bits", default=16, show_default=True, help="Of 16-bit files that the camera fills.")
@click.option("--profile", help="A name in profiles/ or a YAML file; default: mini.")
@click.option("--model", help="An open_clip architecture, instead of the profile's.")
@click.option("--weights", help="An open_clip tag, a checkpoint file, or random.")
@click.option("--image-size", type=int, help="Edge of anomalyclip's input in pixels.")
@click.option("--device", help="auto, cpu, cuda, cuda:<number> or mps.")
@click.option("--cache", "cache_dir", help="What is kept between runs; default: the profile's.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def predict(folder: Path, method: str, out: Path | None, quiet: bool, **options: object) -> None:
    """Scores a folder of your own images: a table, decisions, heat maps, and one page to read.

    \b
    zsad predict photos
    zsad predict photos --method winclip_plus --normal good_ones --object "metal bracket"
    zsad predict photos --model ViT-B-16-plus-240 --weights laion400m_e32

    Nothing else is needed: no labels, no masks, no list of files. Broken files are rows with the reason, and
    the others are scored. The same command continues a run that was stopped.

    \b
    exit codes:
      0    every file was scored
      1    nothing was scored: one line says why
      2    the command line is wrong
      3    done, but some files or masks could not be used; the table says which and why
      130  stopped by Ctrl-C
    """
    given = {name: value for name in OPTIONS if (value := options.pop(name)) is not None}
    if method == "anomalyclip":  # which has an encoder of its own
        encoder = given.keys() & {"model", "weights", "image_size"}
        given |= {f"prompt_{name}": given.pop(name) for name in encoder}
    elif "image_size" in given:
        raise click.UsageError("--image-size is for the method anomalyclip; the others take the model's own")
    try:
        own = read_options(**given)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    out = out or Path(f"{folder.resolve().name}-scores")
    try:
        from zsad_predict.result import summary  # here: --help need not wait for torch
        from zsad_predict.run import score_folder

        result = score_folder(folder, method, options=own, out=out, progress=not quiet, **options)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    if not quiet:
        print(summary(result, out))
    sys.exit(3 if len(result.bad) else 0)


def run_other(name: str, arguments: tuple[str, ...]) -> None:
    """Run a command of another package; it ends this process with its own exit code."""
    found = list(entry_points(group="zsad.commands", name=name))
    if not found:
        raise click.ClickException(f"zsad {name} is not installed: `make env` in a checkout installs it")
    command = found[0].load()
    if isinstance(command, click.Command):
        command.main(list(arguments), prog_name=f"zsad {name}")
    sys.exit(command(list(arguments)))


_OPTIONS = {"ignore_unknown_options": True, "help_option_names": []}
for _name, _help in OTHERS.items():
    _arguments = [click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)]
    main.add_command(click.Command(_name, _OPTIONS, partial(run_other, _name), _arguments, _help))

if __name__ == "__main__":
    main(prog_name="zsad")
