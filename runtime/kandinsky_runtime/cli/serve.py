"""`k22 serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kandinsky_runtime.cli.options import add_declared, add_engine_options, add_tiles, engine_arguments
from kandinsky_runtime.cli_support import Parser
from kandinsky_runtime.decoder.declarations import declarations


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    from kandinsky_runtime.serving.settings import Settings

    parser = commands.add_parser(
        "serve",
        help="serve a bundle over HTTP: OpenAI's image API, jobs, the Open Inference Protocol, and a page",
        description="Serve bundles over HTTP. The page is at /, the interface is described at /openapi.json. Every"
        " option can also be an environment variable, such as K22_SERVE_MAX_JOBS, or a line of the file of --config.",
        epilog="examples:\n"
        "  k22 serve bundle\n"
        "  k22 serve inpaint=bundle plain=plain-bundle --size 512x512 --size 768x768 --engine openvino\n"
        "  k22 serve bundle --host 0.0.0.0 --keys keys.txt --log-format json --state /var/lib/k22",
    )
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="folder of a bundle, or NAME=FOLDER; requests choose one by name"
    )
    group = parser.add_argument_group("server")
    for name in declarations(Settings):
        add_declared(group, Settings, name, only_given=True)  # a variable or the file may have it otherwise
    group.add_argument("--config", type=Path, metavar="F", help="TOML file with these options, such as max_jobs = 8")
    add_engine_options(parser)
    add_tiles(parser)
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    from kandinsky_runtime.serving.logs import set_up_logs
    from kandinsky_runtime.serving.models import Models
    from kandinsky_runtime.serving.server import serve
    from kandinsky_runtime.serving.settings import Settings

    flags = {name: value for name, value in vars(args).items() if name in declarations(Settings)}
    if "size" in flags:
        flags["size"] = tuple(flags["size"])
    settings = Settings.gather(flags, file=args.config)
    set_up_logs(settings, quiet=args.quiet)
    models = Models.load(args.bundles, tiles=args.tiles, **engine_arguments(args) | {"progress": False})
    return serve(models, settings)
