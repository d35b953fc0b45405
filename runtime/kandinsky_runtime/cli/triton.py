"""`k22 triton`."""

from __future__ import annotations

import argparse

from kandinsky_runtime.cli.options import add_declared, add_engine_options, add_tiles, load_arguments
from kandinsky_runtime.cli_support import Parser, path_argument, print_done


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    from kandinsky_runtime.serving.settings import Settings
    from kandinsky_runtime.serving.triton.parameters import SETTINGS

    parser = commands.add_parser(
        "triton",
        help="write a model repository for NVIDIA's Triton Inference Server",
        description="Write a model repository for NVIDIA's Triton Inference Server: a model for each bundle, which runs"
        " in Triton's\nPython backend. The options become parameters in config.pbtxt, where they can be changed later.",
        epilog="examples:\n"
        "  k22 triton bundle --out models\n"
        "  k22 triton inpaint=bundle plain=plain-bundle --out models --engine openvino --size 768x768\n"
        "  tritonserver --model-repository models",
    )
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="folder of a bundle, or NAME=FOLDER; NAME is the model's name"
    )
    parser.add_argument("--out", type=path_argument, required=True, metavar="REPOSITORY", help="folder of the models")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--bundle-path",
        metavar="F",
        help="the bundle's folder as the server sees it, such as /bundles/inpaint in a container (default: where it is"
        " now)",
    )
    for name in SETTINGS:
        add_declared(group, Settings, name, only_given=True)
    add_engine_options(parser)
    add_tiles(parser)
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_write)


def _write(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.errors import UsageError
    from kandinsky_runtime.serving.models import named_bundles, served_task
    from kandinsky_runtime.serving.triton.parameters import SETTINGS, read_parameters, written
    from kandinsky_runtime.serving.triton.repository import check_name, check_place, write_model

    if args.bundle_path and len(args.bundles) > 1:
        raise UsageError("--bundle-path is for one bundle; call k22 triton once for each")
    settings = {name: value for name, value in vars(args).items() if name in SETTINGS}
    models = []
    for name, folder in named_bundles(args.bundles).items():
        check_name(name)
        check_place(args.out, name)
        place = args.bundle_path or str(folder.resolve())
        parameters = written(place, load_arguments(args), settings)
        read_parameters(parameters)
        models.append((name, served_task(Bundle.open(folder)), parameters))
    for name, task, parameters in models:
        made = write_model(args.out, name, task, parameters)
        if not args.quiet:
            print_done(f"wrote {made}")
    return 0
