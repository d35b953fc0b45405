"""`k22 serve`."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kandinsky_runtime.cli.options import add_declared, add_engine_options, add_tiles
from kandinsky_runtime.cli_support import Parser, path_argument
from kandinsky_runtime.decoder.declarations import declarations
from kandinsky_runtime.decoder.load_options import LOAD_OPTIONS


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    from kandinsky_runtime.serving.settings import Settings

    parser = commands.add_parser(
        "serve",
        help="serve a bundle over HTTP: OpenAI's image API, jobs, the Open Inference Protocol, and a page",
        description="Serve bundles over HTTP. The page is at /, the interface is described at /openapi.json. An"
        " option of the server or the engine can also be an environment variable, such as K22_SERVE_MAX_JOBS or"
        " K22_SERVE_ENGINE, or a line of the file of --config.",
        epilog="examples:\n"
        "  k22 serve bundle\n"
        "  k22 serve inpaint=bundle plain=plain-bundle --size 512x512 --size 768x768 --engine openvino\n"
        "  k22 serve bundle --host 0.0.0.0 --keys keys.txt --log-format json --state /var/lib/k22\n"
        "  k22 serve bundle --ray --threads 8 --replicas 1:4",
    )
    parser.add_argument(
        "bundles", nargs="+", metavar="BUNDLE", help="folder of a bundle, or NAME=FOLDER; requests choose one by name"
    )
    group = parser.add_argument_group("server")
    for name in declarations(Settings):
        add_declared(group, Settings, name, only_given=True)  # a variable or the file may have it otherwise
    group.add_argument(
        "--config", type=path_argument, metavar="F", help="TOML file with these options, such as max_jobs = 8"
    )
    ray = parser.add_argument_group("Ray")
    ray.add_argument(
        "--ray",
        action="store_true",
        help="serve with Ray Serve, on the cluster of RAY_ADDRESS or of this machine, which is started if there is"
        " none; needs --threads, the CPUs of a replica, or --device cuda; a replica takes --max-jobs requests at once,"
        " 16 unless given",
    )
    ray.add_argument(
        "--replicas",
        type=_replicas,
        metavar="N[:MAX]",
        help="with --ray: replicas, or the fewest and the most of them, between which their number follows the requests"
        " (default: 1)",
    )
    add_engine_options(parser, only_given=True)
    add_tiles(parser, only_given=True)
    parser.add_argument("--quiet", action="store_true", help="log warnings only")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_serve)


def _replicas(text: str) -> tuple[int, int]:
    """The fewest and the most replicas."""
    least, colon, most = text.partition(":")
    try:
        found = int(least), int(most if colon else least)
    except ValueError:
        found = (0, 0)
    if not 1 <= found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of replicas such as 2, or a range such as 1:4")
    return found


def _serve(args: argparse.Namespace) -> int:
    from kandinsky_runtime.errors import UsageError
    from kandinsky_runtime.serving.logs import set_up_logs
    from kandinsky_runtime.serving.settings import Settings, gather

    known = {*declarations(Settings), *LOAD_OPTIONS}
    flags = {name: value for name, value in vars(args).items() if name in known}
    if "size" in flags:
        flags["size"] = tuple(flags["size"])
    if args.ray:
        return _serve_on_ray(args, flags)
    if args.replicas is not None:
        raise UsageError("--replicas is for --ray; without it there is one server")
    options, settings = gather(flags, file=args.config)
    set_up_logs(settings, quiet=args.quiet)

    from kandinsky_runtime.serving.models import Models
    from kandinsky_runtime.serving.server import hangups_ignored, serve

    with hangups_ignored():  # the keys are read after this
        models = Models.load(args.bundles, **asdict(options), progress=False)
        return serve(models, settings)


def _serve_on_ray(args: argparse.Namespace, flags: dict[str, Any]) -> int:
    from kandinsky_runtime.errors import UsageError
    from kandinsky_runtime.serving.models import named_bundles
    from kandinsky_runtime.serving.settings import gather

    try:
        from kandinsky_runtime.serving.ray.arguments import MAX_JOBS, Arguments
        from kandinsky_runtime.serving.ray.command import serve_on_ray
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--ray needs Ray Serve, and {error.name} is not installed: pip install 'kandinsky22-deploy[ray]'"
        ) from error
    options, settings = gather(flags, file=args.config, defaults={"max_jobs": MAX_JOBS})
    if settings.keys is not None:
        settings = replace(settings, keys=str(Path(settings.keys).resolve()))
    least, most = args.replicas or (1, 1)
    bundles = [f"{name}={folder.resolve()}" for name, folder in named_bundles(args.bundles).items()]
    arguments = Arguments(bundles=bundles, min_replicas=least, max_replicas=most, quiet=args.quiet, **asdict(options))
    return serve_on_ray(arguments, settings)
